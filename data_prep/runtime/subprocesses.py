"""Modules of this project, run as processes of their own.

They find what this process finds, and in its order. `python -m` alone would
look into the current folder first, where a user's own trainer.py may be.
"""

import os
import sys


def python_module(module: str, *arguments: str) -> list[str]:
    """Returns the words that run a module under this interpreter.

    Args:
        module: Such as "trainer.task".
        *arguments: Its command line.
    """
    # -P: the current folder is not put before the path.
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Returns this process's environment, its sys.path as PYTHONPATH."""
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path}
