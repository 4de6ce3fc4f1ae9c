"""Reads the records of one split by index, from several threads.

The index file of a split holds shard, offset, length, id and label of each
record. So an epoch is a permutation of all records, for splits of any size on
a local disk; records are not streamed. At the start only sizes, indices and
the first and last record of every shard are checked, and the checksum of each
record when it is read; `data_prep.verify` reads everything.
"""

import os

import cv2
import numpy as np

from data_prep.dataset.manifest import Manifest
from data_prep.dataset.manifest import load_index
from data_prep.dataset.records import INDEX_DTYPE
from data_prep.dataset.verification import check_ends
from data_prep.runtime.errors import DataError
from trainer.pipeline.shard_files import ShardFiles
from trainer.pipeline.shard_files import Shards


class Reader:
    """Reads images of one split by index.

    Args:
        data_dir: The data set's folder.
        manifest: The data set's manifest.
        split: Name of the split.

    Attributes:
        manifest: The data set's manifest.
        split: Name of the split.
        shards: The split's files, and how images are stored in them.
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
        self.shards = Shards(
            [
                os.path.join(data_dir, shard.name)
                for shard in manifest.splits[split].shards
            ],
            manifest.encoding,
            manifest.resize,
        )
        self._files = ShardFiles(self.shards)
        self._plain_rows = self._index.view(f"V{INDEX_DTYPE.itemsize}")
        self.count = len(self._index)
        self.labels = np.ascontiguousarray(self._index["label"])
        self.ids = np.ascontiguousarray(self._index["id"])

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
        result[:] = [*self._files.contents(self.rows(indices))]
        return result

    def image_files(self, indices: np.ndarray) -> list[bytes]:
        """Returns images as files that any decoder reads.

        Args:
            indices: int64 `[b]`, indices of records in the split.

        Returns:
            What is stored; where that is pixels, PNG files of them.

        Raises:
            DataError: If a record's checksum does not match its content.
        """
        contents = self.contents(indices)
        if self.shards.encoding != "raw":
            return list(contents)
        rows = self.rows(indices)
        sizes = zip(rows["height"], rows["width"], strict=True)
        return [
            _to_png(np.frombuffer(content, np.uint8).reshape(*size, 3))
            for content, size in zip(contents, sizes, strict=True)
        ]

    def pixels(self, indices: np.ndarray, image_size: int) -> np.ndarray:
        """Returns images, decoded by OpenCV in this thread.

        Args:
            indices: int64 `[b]`, indices of records in the split.
            image_size: S, width and height of the result in pixels.

        Returns:
            uint8 `[b, S, S, 3]`, RGB.

        Raises:
            DataError: If a record's checksum does not match its content, or its
                image cannot be decoded.
        """
        result = np.empty((len(indices), image_size, image_size, 3), np.uint8)
        self._files.decode(self.rows(indices), result)
        return result

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Returns rows of the index, `[b]` of `records.INDEX_DTYPE`.

        Args:
            indices: int64 `[b]`, indices of records in the split.
        """
        # NumPy gathers rows without fields 15 times faster.
        return self._plain_rows[indices].view(INDEX_DTYPE)

    def files(self) -> list[str]:
        """Returns the source-relative path of every image, in record order."""
        result = []
        for first in range(0, self.count, 4096):
            result += self._files.files(self._index[first : first + 4096])
        return result

    def files_of(self, indices: np.ndarray) -> list[str]:
        """Returns the source-relative paths of some images.

        Args:
            indices: int64 `[b]`, indices of records in the split.
        """
        return self._files.files(self.rows(indices))


def _to_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()  # from RGB
