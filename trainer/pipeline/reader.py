"""Reads the records of one split by index, from several threads.

The index file of a split holds shard, offset, length, id and label of each
record. So an epoch is a permutation of all records, for splits of any size on
a local disk; records are not streamed. At the start only sizes, indices and
the first and last record of every shard are checked, and the checksum of each
record when it is read; `data_prep.verify` reads everything.
"""

import contextlib
import os
import pathlib
import resource
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from data_prep.dataset import records
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.manifest import load_index
from data_prep.dataset.verification import check_ends
from data_prep.runtime.errors import DataError
from trainer.pipeline import decode

# What readers raised in threads of tf.data, which make other errors of it.
_failures: list[DataError] = []


@contextlib.contextmanager
def naming_failures() -> Iterator[None]:
    """Raises what a reader raised, in place of what TensorFlow makes of it."""
    _failures.clear()
    try:
        yield
    except tf.errors.OpError:
        if _failures:
            raise _failures[0] from None
        raise


class Reader:
    """Reads images of one split by index.

    Args:
        data_dir: The data set's folder.
        manifest: The data set's manifest.
        split: Name of the split.

    Attributes:
        manifest: The data set's manifest.
        split: Name of the split.
        count: Number of records, N.
        labels: int32 `[N]`.
        ids: int64 `[N]`.

    Raises:
        DataError: If there is no such split, its index is damaged, or the
            ends of a shard are not what the index says.
    """

    def __init__(self, data_dir: str, manifest: Manifest, split: str):
        if split not in manifest.splits:
            raise DataError(
                f"{data_dir} has no {split} split, only "
                f"{', '.join(manifest.splits)}. Make it again with --splits."
            )
        self.manifest = manifest
        self.split = split
        self._index = load_index(manifest, data_dir, split)
        check_ends(manifest, data_dir, split, self._index)
        self._paths = [
            pathlib.Path(data_dir, shard.name)
            for shard in manifest.splits[split].shards
        ]
        # The others are opened for each record.
        kept = self._paths[: _most_open_files()]
        self._files = [os.open(path, os.O_RDONLY) for path in kept]
        self.count = len(self._index)
        self.labels = np.ascontiguousarray(self._index["label"])
        self.ids = np.ascontiguousarray(self._index["id"])

    def __del__(self):
        for file in getattr(self, "_files", ()):
            os.close(file)

    def contents(self, indices: np.ndarray) -> np.ndarray:
        """Returns the stored bytes of images.

        Args:
            indices: int64 `[b]`, indices of records in the split.

        Returns:
            Array `[b]` of bytes objects: image files, or pixels where the
            data set's encoding is "raw".

        Raises:
            DataError: If a record's checksum does not match its content.
        """
        result = np.empty(len(indices), object)
        for n, row in enumerate(self._index[indices]):
            result[n] = self._image(row).tobytes()
        return result

    def pixels(self, indices: np.ndarray, image_size: int) -> np.ndarray:
        """Returns images, decoded by OpenCV.

        Args:
            indices: int64 `[b]`, indices of records in the split.
            image_size: S, width and height of the result in pixels.

        Returns:
            uint8 `[b, S, S, 3]`, RGB.

        Raises:
            DataError: If a record's checksum does not match its content, or its
                image cannot be decoded.
        """
        resize = self.manifest.resize
        result = np.empty((len(indices), image_size, image_size, 3), np.uint8)
        for out, row in zip(result, self._index[indices], strict=True):
            image = self._image(row)
            height, width = int(row["height"]), int(row["width"])
            if self.manifest.encoding == "raw":
                decode.fit_into(image.reshape(height, width, 3), resize, out)
                continue
            try:
                decode.decode_into(image, height, width, resize, out)
            except ValueError as error:
                file = records.deserialize(self._payload(row)).file
                raise self._damaged(row, f"{error}, {file}") from None
        return result

    def files(self) -> list[str]:
        """Returns the source-relative path of every image, in record order."""
        return [
            records.deserialize(self._payload(row)).file for row in self._index
        ]

    def _image(self, row: np.void) -> np.ndarray:
        start, length = int(row["image_offset"]), int(row["image_bytes"])
        return np.frombuffer(self._payload(row), np.uint8, length, start)

    def _payload(self, row: np.void) -> bytes:
        try:
            return records.unframe(self._read(row))
        except ValueError as error:
            raise self._damaged(row, error) from None

    def _read(self, row: np.void) -> bytes:
        shard, offset = int(row["shard"]), int(row["offset"])
        size = int(row["bytes"]) + records.FOOTER_BYTES
        if shard < len(self._files):
            return os.pread(self._files[shard], size, offset)
        file = os.open(self._paths[shard], os.O_RDONLY)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)

    def _damaged(self, row: np.void, problem: ValueError | str) -> DataError:
        error = DataError(
            f"{self._paths[row['shard']]} is damaged at byte {row['offset']}: "
            f"{problem}. Copy it again, or make the data set again."
        )
        _failures.append(error)
        return error


def _most_open_files() -> int:
    """Returns how many shards of a split may stay open.

    A quarter of what a process may open, for the splits, TensorFlow and the
    rest share it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, limit // 4)
