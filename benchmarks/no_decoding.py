"""Decoding processes whose decoder does nothing, or only sleeps.

With nothing to decode what is left is our overhead. Asleep, one machine stands
in for a host of more processors: what they would compute takes its time and no
processor.
"""

import os
import sys
import time

from trainer.pipeline import decoding_process
from trainer.pipeline import fast_decode
from trainer.pipeline.decoding_pool import DecodingPool
from trainer.pipeline.shard_files import ShardFiles
from trainer.pipeline.shard_files import Shards

_SECONDS = "SHARDTUNE_BENCHMARK_SECONDS_PER_IMAGE"


def pool(
    shards: Shards, image_size: int, seconds: float | None = None
) -> DecodingPool:
    """Returns a pool whose processes decode nothing.

    Args:
        shards: The files that hold the images.
        image_size: Width and height of the result in pixels.
        seconds: What an image takes, asleep, without reading it; None to read
            and check it.
    """
    os.environ[_SECONDS] = "" if seconds is None else str(seconds)
    return DecodingPool(shards, image_size, "benchmarks.no_decoding")


def main(arguments: list[str]) -> None:
    """Serves as `decoding_process.main` does."""
    if seconds := os.environ[_SECONDS]:
        ShardFiles.decode = lambda _, rows, out: time.sleep(
            len(rows) * float(seconds)
        )
    fast_decode.decode_into = lambda *_: None
    fast_decode.fit_into = lambda *_: None
    decoding_process.main(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
