"""What several processes print: a file of each, shown with the process's rank.

Files, not pipes: what the launcher started outlives it by the time that it
takes to save its state, and would die of writing to a pipe without a reader.
Imports nothing local.
"""

import collections
import contextlib
import os
import pathlib
from typing import BinaryIO
from typing import Self

_LAST_LINES = 10


class WorkerLog:
    """The output of one process, appended to a file.

    Attributes:
        path: The file.
        writer: For the process's standard output and error.
        last_lines: The end of what was shown.
    """

    def __init__(self, folder: pathlib.Path, rank: int) -> None:
        self.path = folder / f"worker-{rank}.log"
        self.writer: BinaryIO = self.path.open("ab")
        self.last_lines: collections.deque[str] = collections.deque(
            maxlen=_LAST_LINES
        )
        self._rank = rank
        self._reader = self.path.open("rb")
        self._reader.seek(self.writer.tell())
        self._begun = b""  # a line whose end is not yet written

    def show(self, ended: bool = False) -> None:
        """Prints what came since the last call, each line with the rank.

        Args:
            ended: The process has ended, so a line without its end is whole.
        """
        *lines, self._begun = (self._begun + self._reader.read()).split(b"\n")
        if ended and self._begun:
            lines.append(self._begun)
            self._begun = b""
        for line in lines:
            text = f"{self._rank}: {line.decode(errors='replace')}"
            self.last_lines.append(text)
            say(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.writer.close()
        self._reader.close()


def say(text: str, descriptor: int = 1) -> None:
    """Prints a line, if there is still somebody to read it.

    Workers need not die because a terminal was closed or `head` has read
    enough: the signal tells them what to do, and their files hold the text.

    Args:
        text: The line.
        descriptor: 1 for standard output, 2 for standard error. Nothing is
            kept in a buffer, which Python would fail to empty at its end.
    """
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{text}\n".encode())
