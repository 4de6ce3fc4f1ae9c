"""Modules of this project, run as processes of their own.

They find what this process finds, and in its order. `python -m` alone would
look into the current folder first, where a user's own trainer.py may be.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


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


def start_tied(
    words: list[str], environ: Mapping[str, str], output: IO | None = None
) -> subprocess.Popen:
    """Starts a process that this one's end stops, however it ends.

    The process is asked to stop by SIGTERM when the calling thread is gone,
    by SIGKILL as well (Linux; elsewhere it is not). It leads a session of its
    own, so a Ctrl-C reaches it only if it is passed on.

    Args:
        words: Its command.
        environ: Its environment.
        output: A file for all that it prints; by default, it prints where
            this process does.

    Returns:
        The process. Call this from a thread that lives as long as it should.
    """
    parent = os.getpid()
    # Loaded here: a process between fork and exec should not.
    prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def tie() -> None:
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # gone before it was tied
                os.kill(os.getpid(), signal.SIGTERM)

    return subprocess.Popen(
        words,
        env=environ,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=tie,
    )
