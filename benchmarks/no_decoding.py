"""A decoding process whose decoder does nothing: what is left is our overhead.

`benchmarks.input_pipeline` starts it in place of the real one.
"""

import sys

from trainer.pipeline import decoding_process
from trainer.pipeline import fast_decode

if __name__ == "__main__":
    fast_decode.decode_into = lambda *_: None
    fast_decode.fit_into = lambda *_: None
    decoding_process.main(sys.argv[1:])
