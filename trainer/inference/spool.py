"""Rows of numbers on disk, so that no split is too large for memory.

The probabilities of a million images of a thousand classes are 4 GB. Imports
nothing local.
"""

import pathlib
import tempfile
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

_PART = 2**20  # numbers that are read at once, about


class Spool:
    """Rows of float32 in a file that is gone when the process ends.

    Args:
        folder: Folder on the disk that it takes room of.
    """

    def __init__(self, folder: pathlib.Path):
        self._file = tempfile.TemporaryFile(dir=folder)
        self._columns = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, rows: np.ndarray) -> None:
        """Adds rows at the end.

        Args:
            rows: float32 `[b, K]`, K being the same each time.
        """
        self._columns = rows.shape[1]
        self._count += len(rows)
        self._file.write(np.ascontiguousarray(rows, np.float32))

    def parts(self) -> Iterator[np.ndarray]:
        """Yields all rows in order, float32 `[b, K]`, some at a time."""
        step = max(1, _PART // max(1, self._columns))
        for first in range(0, self._count, step):
            count = min(step, self._count - first)
            yield self._read(first, count)

    def rows(self, indices: Sequence[int]) -> np.ndarray:
        """Returns some rows, at least one, float32 `[n, K]`."""
        return np.concatenate([self._read(index, 1) for index in indices])

    def _read(self, first: int, count: int) -> np.ndarray:
        width = 4 * self._columns  # bytes of a row
        self._file.seek(first * width)
        content = self._file.read(count * width)
        return np.frombuffer(content, np.float32).reshape(count, -1)
