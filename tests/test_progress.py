"""What progress shows: a bar on a terminal, lines in a file."""

import os
import pty
import subprocess
import sys
import termios

from conftest import ROOT

CODE = """
from data_prep.runtime import progress
progress.SECONDS_BETWEEN_LINES = 0
with progress.Progress("frozen 1/3", 20, "compiling") as bar:
    for _ in range(2):
        bar.update(10)
"""


def start(stderr):
    """Starts work of 20 images, whose progress goes to a file descriptor."""
    return subprocess.Popen(
        [sys.executable, "-c", CODE],
        stderr=stderr,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )


def test_a_bar_on_a_terminal():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = start(theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 4096)
        except OSError:  # how a terminal says that nobody writes any more
            break
        if not more:
            break
        shown += more
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out == b""
    text = shown.decode()
    assert "frozen 1/3 (compiling):   0%" in text
    # It disappears: blanks are the last that is written over it.
    *_, last, end = text.split("\r")
    assert last.strip() == end == ""


def test_lines_in_a_file():
    process = start(subprocess.PIPE)
    _, text = process.communicate()
    lines = text.decode().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "frozen 1/3: 10/20 images",
        "frozen 1/3: 20/20 images",
    ]
    assert lines[-1].endswith(" images/s, 0 s left")
