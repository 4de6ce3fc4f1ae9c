"""Which images and batches each file of a feature set holds.

A file is made of whole batches, and which ones depends on the number of images
alone: so any number of workers writes the same files, and a killed run is
continued by another number of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

FILE_BYTES = 64 << 20  # of a large set
LEAST_FILES = 32  # of a small one, where it has as many batches


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of a set, counted from 0.

    Attributes:
        images: Number of images, N.
        batch_size: Images in a batch; the last one may have fewer.
        batches_per_file: Batches in a file; the last one may have fewer.
    """

    images: int
    batch_size: int
    batches_per_file: int

    @classmethod
    def of(cls, images: int, shape: Sequence[int], batch_size: int) -> Self:
        """Plans the files of a set: small sets have many small ones.

        So they too are shared evenly by workers, and lose little when killed.

        Args:
            images: Number of images, N.
            shape: Shape of one image's features.
            batch_size: Images in a batch.
        """
        batches = -(-images // batch_size)
        batch_bytes = image_bytes(shape) * batch_size
        return cls(
            images,
            batch_size,
            min(
                max(1, FILE_BYTES // batch_bytes),
                -(-batches // LEAST_FILES),
            ),
        )

    @property
    def rows_per_file(self) -> int:
        """Images in a file; the last one may have fewer."""
        return self.batches_per_file * self.batch_size

    @property
    def files(self) -> range:
        """The numbers of all files."""
        return range(-(-self.images // self.rows_per_file))

    def batches(self, file: int) -> range:
        """Returns the batches of a file, counted in record order."""
        first = file * self.batches_per_file
        all_batches = -(-self.images // self.batch_size)
        return range(first, min(first + self.batches_per_file, all_batches))

    def rows(self, file: int) -> int:
        """Returns the number of images in a file."""
        return min(self.rows_per_file, self.images - file * self.rows_per_file)


def image_bytes(shape: Sequence[int]) -> int:
    """Returns the size of one image's features, float16, in bytes."""
    return 2 * int(np.prod(shape))
