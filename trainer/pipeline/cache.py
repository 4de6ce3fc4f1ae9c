"""Decoded images kept in memory, or in a file, as one array.

TensorFlow reads the array in place: gathering a batch, in any order, is one
copy of the pixels, without Python. A file is the same array, memory-mapped.
"""

import mmap
import os
import pathlib
import sys

import numpy as np
import tensorflow as tf

from data_prep.runtime import atomic
from data_prep.runtime import crc32c
from data_prep.runtime import limits
from data_prep.runtime import operating_system
from data_prep.runtime.progress import Progress
from trainer.pipeline.reader import Reader

MIB = 1 << 20
_FOOTER_BYTES = 4  # the pixels' CRC-32C


def decoded_bytes(reader: Reader, image_size: int) -> int:
    """Returns the size of a split's decoded images, in bytes."""
    return reader.count * image_size * image_size * 3


def memory_for_cache(cache_mb: int, processes: int = 1) -> int:
    """Returns how many bytes of memory decoded images may take.

    Args:
        cache_mb: The limit in MiB; -1 takes half of the memory that the
            machine, or the container, has left.
        processes: How many processes share that half.
    """
    if cache_mb >= 0:
        return cache_mb * MIB
    return limits.memory_left() // (2 * processes)


def fill(
    reader: Reader,
    dataset: tf.data.Dataset,
    image_size: int,
    path: pathlib.Path | None,
) -> tf.Tensor:
    """Decodes a whole split.

    Args:
        reader: Reader of the split.
        dataset: Its batches in record order; the last one may be padded.
        image_size: S, in pixels.
        path: File to keep the pixels in; one that is there and whole is used
            as it is. None keeps them in memory.

    Returns:
        uint8 `[N, S, S, 3]`, in record order.
    """
    shape = (reader.count, image_size, image_size, 3)
    size = decoded_bytes(reader, image_size)
    if path is None:
        memory = mmap.mmap(-1, size)  # aligned as TensorFlow needs it
        return _as_tensor(_decode(dataset, memory, shape, reader.split))
    if not _is_whole(path, size):
        with (
            atomic.replacing(path) as incomplete,
            open(incomplete, "w+b") as file,
        ):
            # It fails here if the disk is full.
            operating_system.reserve(file, size + _FOOTER_BYTES)
            with mmap.mmap(file.fileno(), size) as memory:
                _decode(dataset, memory, shape, reader.split)
                memory.flush()
            checksum = crc32c.of_start(file, size)
            file.seek(size)
            file.write(checksum)
    with open(path, "rb") as file:
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)
    return _as_tensor(np.frombuffer(memory, np.uint8).reshape(shape))


def _is_whole(path: pathlib.Path, size: int) -> bool:
    """Returns whether a file holds what was once written; warns if it is damaged.

    It is read once. In a fresh process the first epoch would have to anyway.
    """
    if not path.exists():
        return False
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == size + _FOOTER_BYTES:
            checksum = crc32c.of_start(file, size)
            if file.read() == checksum:
                return True
    print(f"warning: {path} is damaged. Decoding again.", file=sys.stderr)
    return False


def _decode(
    dataset: tf.data.Dataset, memory: mmap.mmap, shape: tuple, split: str
) -> np.ndarray:
    images = np.frombuffer(memory, np.uint8).reshape(shape)
    done = 0
    with Progress(f"decode {split}", len(images)) as progress:
        for batch in dataset:
            count = min(len(images) - done, len(batch.image))
            images[done : done + count] = batch.image[:count]
            done += count
            progress.update(count)
    return images


def _as_tensor(images: np.ndarray) -> tf.Tensor:
    return tf.experimental.dlpack.from_dlpack(images.__dlpack__())
