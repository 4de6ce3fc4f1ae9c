"""`python -m shardtune`, the same as the console command `shardtune`."""

import os
import pathlib
import sys

# Python puts the current folder first on its path, where the user's own
# trainer.py would be taken for ours. A checkout that is not installed is found
# by it, and stays.
_HOME = str(pathlib.Path(__file__).resolve().parents[1])
if sys.path[0] == os.getcwd() != _HOME:
    del sys.path[0]

# ruff: noqa: E402
from shardtune import cli

if __name__ == "__main__":
    cli.main()
