"""Reads and decodes records of a split's shards, by their rows of the index.

It needs no TensorFlow, so that processes which only decode start in 0.2 s.
"""

import dataclasses
import os
from collections.abc import Iterator

import numpy as np

from data_prep.dataset import records
from data_prep.runtime import operating_system
from data_prep.runtime.errors import DataError
from trainer.pipeline import fast_decode


@dataclasses.dataclass(frozen=True)
class Shards:
    """What is the same for all records of a split.

    Attributes:
        paths: The shards, in the order of the index's column "shard".
        encoding: Of the manifest: "raw" holds pixels, all others image files.
        resize: Of the manifest: "stretch", "crop" or "pad".
    """

    paths: list[str]
    encoding: str
    resize: str


class ShardFiles:
    """The open files of a split's shards.

    Args:
        shards: Which they are.
    """

    def __init__(self, shards: Shards):
        self._shards = shards
        # The others are opened for each record.
        kept = shards.paths[: _most_open_files()]
        self._files = [os.open(path, os.O_RDONLY) for path in kept]

    def __del__(self):
        for file in getattr(self, "_files", ()):
            os.close(file)

    def contents(self, rows: np.ndarray) -> Iterator[bytes]:
        """Yields the stored bytes of images.

        Args:
            rows: `[b]` of `records.INDEX_DTYPE`.

        Yields:
            An image file, or pixels where the encoding is "raw".

        Raises:
            DataError: If a record's checksum does not match its content.
        """
        for row in rows.tolist():
            payload = self._payload(*row[:4])
            _, _, _, _, start, length, *_ = row
            yield payload[start : start + length]

    def decode(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Decodes images by OpenCV.

        Args:
            rows: `[b]` of `records.INDEX_DTYPE`.
            out: uint8 `[b, S, S, 3]`, where the RGB pixels go.

        Raises:
            DataError: If a record's checksum does not match its content, or its
                image cannot be decoded.
        """
        resize, raw = self._shards.resize, self._shards.encoding == "raw"
        # A list of tuples: a field of a NumPy row takes as long as all of them.
        for row, square in zip(rows.tolist(), out, strict=True):
            shard, label, offset, size, start, length, _, width, height = row
            payload = self._payload(shard, label, offset, size)
            content = np.frombuffer(payload, np.uint8, length, start)
            try:
                if raw:
                    image = content.reshape(height, width, 3)
                    fast_decode.fit_into(image, resize, square)
                    continue
                fast_decode.decode_into(content, height, width, resize, square)
            except ValueError as error:
                file = self._file(payload, shard, offset)
                raise self._damaged(shard, offset, f"{error}, {file}") from None

    def files(self, rows: np.ndarray) -> list[str]:
        """Returns the source-relative path of images.

        Args:
            rows: `[b]` of `records.INDEX_DTYPE`.
        """
        return [
            self._file(self._payload(*row[:4]), row[0], row[2])
            for row in rows.tolist()
        ]

    def _file(self, payload: bytes, shard: int, offset: int) -> str:
        try:
            return records.deserialize(payload).file
        except ValueError as error:
            raise self._damaged(shard, offset, error) from None

    def _payload(
        self, shard: int, _label: int, offset: int, size: int
    ) -> bytes:
        if shard < len(self._files):
            file = self._files[shard]
            return self._read(file, shard, offset, size)
        file = os.open(self._shards.paths[shard], os.O_RDONLY)
        try:
            return self._read(file, shard, offset, size)
        finally:
            os.close(file)

    def _read(self, file: int, shard: int, offset: int, size: int) -> bytes:
        payload = os.pread(file, size, offset)
        # Read by itself: to cut it from the payload would copy that.
        footer = os.pread(file, records.FOOTER_BYTES, offset + size)
        try:
            records.check_payload(payload, footer)
        except ValueError as error:
            raise self._damaged(shard, offset, error) from None
        return payload

    def _damaged(
        self, shard: int, offset: int, problem: ValueError | str
    ) -> DataError:
        return DataError(
            f"{self._shards.paths[shard]} is damaged at byte {offset}: "
            f"{problem}. Copy it again, or make the data set again."
        )


def _most_open_files() -> int:
    """Returns how many shards of a split may stay open.

    A quarter of what a process may open, for the splits, TensorFlow and the
    rest share it.
    """
    return max(1, operating_system.most_open_files() // 4)
