"""From images to shards: a pure plan, then one writer per shard."""

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_prep import audit
from data_prep import records
from data_prep.errors import DataError
from data_prep.manifest import File

MIB = 1 << 20
# A split as large as this is cut at least so often, so that several processes
# can write it, and several hosts read it.
MIN_SHARDS, MIN_SHARD_BYTES = 4, 4 * MIB
# What a process holds in memory of one shard does not grow with the split.
MAX_RECORDS = 1 << 13


class Item(NamedTuple):
    """One image on its way into a record.

    Attributes:
        path: Where the file lies on this machine.
        file: Its path relative to the source.
        label: Position of its class in the class list.
        sha256: Of the file's content when it was audited, 32 bytes.
        width: In pixels, as displayed.
        height: In pixels, as displayed.
        kept: Whether `original` encoding stores the file's own bytes.
    """

    path: str
    file: str
    label: int
    sha256: bytes
    width: int
    height: int
    kept: bool


@dataclasses.dataclass(frozen=True)
class Shard:
    """One planned shard.

    Attributes:
        name: File name.
        number: Position among the split's shards.
        items: Its images, in record order.
    """

    name: str
    number: int
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Written:
    """One finished shard.

    Attributes:
        file: Its entry in the manifest.
        index: Array `[n]` of `records.INDEX_DTYPE`.
        fingerprints: n SHA-256 of the source files, 32 bytes each.
    """

    file: File
    index: np.ndarray
    fingerprints: bytes


def plan(prefix: str, count: int, size: int, shard_mb: int) -> Iterator[tuple]:
    """Cuts one split into shards of about equal numbers of images.

    Args:
        prefix: First part of the file names, such as "photos-train".
        count: Images of the split, at least 1.
        size: Their expected bytes, together.
        shard_mb: Size to aim at, in MiB.

    Yields:
        Name, number and count of images of each shard, none of them empty.
    """
    number = -(-size // (shard_mb * MIB))
    number = max(number, min(MIN_SHARDS, size // MIN_SHARD_BYTES))
    number = max(number, -(-count // MAX_RECORDS), 1)
    number = min(number, count)
    for shard in range(number):
        start, end = (count * n // number for n in (shard, shard + 1))
        yield (
            f"{prefix}.tfrecord-{shard:05d}-of-{number:05d}",
            shard,
            end - start,
        )


def write(
    shard: Shard,
    directory: str,
    scratch: str,
    image_size: int,
    resize: str,
    encoding: str,
) -> Written:
    """Writes one shard.

    Args:
        shard: What to write.
        directory: Where to; nothing but this shard's file is touched.
        scratch: Folder on the same file system, for what is not finished.
        image_size: As in `audit.encode`.
        resize: As in `audit.encode`.
        encoding: As in `audit.encode`.

    Raises:
        DataError: If a file is no longer the one that was audited.
    """
    index = np.zeros(len(shard.items), records.INDEX_DTYPE)
    rows = []
    digest = hashlib.sha256()
    position = 0
    # Of two workers that were given one shard, each leaves a whole file.
    incomplete = os.path.join(scratch, f"{shard.name}.{uuid.uuid4().hex}")
    with open(incomplete, "wb") as file:
        for item in shard.items:
            image, width, height = _stored(item, image_size, resize, encoding)
            record = records.Record(
                image=image,
                label=item.label,
                id=records.image_id(item.file),
                file=item.file,
                width=width,
                height=height,
            )
            payload = records.serialize(record)
            framed = records.frame(payload)
            file.write(framed)
            digest.update(framed)
            rows.append(
                (
                    shard.number,
                    record.label,
                    position + records.HEADER_BYTES,
                    len(payload),
                    _offset(payload, image),
                    len(image),
                    record.id,
                    width,
                    height,
                )
            )
            position += len(framed)
    os.replace(incomplete, os.path.join(directory, shard.name))
    index[:] = rows
    return Written(
        File(shard.name, len(index), position, digest.hexdigest()),
        index,
        b"".join(item.sha256 for item in shard.items),
    )


def _offset(payload: bytes, image: bytes) -> int:
    """Returns `payload.index(image)`, which takes ten times as long."""
    offset = payload.index(image[:32])
    while not payload.startswith(image, offset):
        offset = payload.index(image[:32], offset + 1)
    return offset


def _stored(
    item: Item, image_size: int, resize: str, encoding: str
) -> tuple[bytes, int, int]:
    try:
        with open(item.path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise _changed(item, str(error.strerror)) from None
    if hashlib.sha256(content).digest() != item.sha256:
        raise _changed(item, "has another content")
    if encoding == "original" and item.kept:
        return content, item.width, item.height
    return audit.encode_content(content, image_size, resize, encoding)


def _changed(item: Item, what: str) -> DataError:
    return DataError(
        f"{item.path} was changed after it was audited: {what}. Run the "
        "command again when nothing writes to the source."
    )
