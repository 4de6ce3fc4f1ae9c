"""From images to shards: a pure plan, then one writer per shard."""

import dataclasses
import hashlib
import pathlib
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO
from typing import NamedTuple

import numpy as np

from data_prep.config import Records
from data_prep.dataset import records
from data_prep.dataset.manifest import File
from data_prep.images import encoding
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError

MIB = 1 << 20
# A split as large as this is cut at least so often, so that several processes
# can write it, and several hosts read it.
MIN_SHARDS, MIN_SHARD_BYTES = 4, 4 * MIB
# What a process holds in memory of one shard does not grow with the split.
MAX_RECORDS = 1 << 13


class Item(NamedTuple):
    """One image on its way into a record.

    Attributes:
        path: The file, on this machine or in object storage.
        file: Its path relative to the source.
        label: Index of its class in the class list.
        sha256: Digest of the file's content when it was audited, 32 bytes.
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


class Plan(NamedTuple):
    """One shard, before its images are known.

    Attributes:
        name: File name.
        number: Index among the split's shards.
        count: Number of images, at least 1.
    """

    name: str
    number: int
    count: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard that is to be written.

    Attributes:
        name: File name.
        number: Index among the split's shards.
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


def plan(prefix: str, count: int, size: int, shard_mb: int) -> Iterator[Plan]:
    """Cuts one split into shards of about equal numbers of images.

    Args:
        prefix: First part of the file names, such as "photos-train".
        count: Images of the split, at least 1.
        size: Their expected bytes, together.
        shard_mb: Size to aim at, in MiB.

    Yields:
        The shards, in order.
    """
    number = -(-size // (shard_mb * MIB))
    number = max(number, min(MIN_SHARDS, size // MIN_SHARD_BYTES))
    number = max(number, -(-count // MAX_RECORDS), 1)
    number = min(number, count)
    for shard in range(number):
        start, end = (count * n // number for n in (shard, shard + 1))
        name = f"{prefix}.tfrecord-{shard:05d}-of-{number:05d}"
        yield Plan(name, shard, end - start)


def write(
    shard: Shard, directory: str, scratch: str | None, settings: Records
) -> Written:
    """Writes one shard.

    Args:
        shard: Its name and images.
        directory: Folder of the shards, also in object storage; nothing but
            this shard's file is touched.
        scratch: Local folder for what is not finished, on the same file system
            as a local directory; None is that of the system.
        settings: How images are stored.

    Raises:
        DataError: If a file is no longer the one that was audited.
    """
    # Of two workers that were given one shard, each leaves a whole file.
    incomplete = pathlib.Path(scratch or tempfile.gettempdir())
    incomplete /= f"{shard.name}.{uuid.uuid4().hex}"
    try:
        with incomplete.open("wb") as file:
            written = _fill(file, shard, settings)
        storage.move(str(incomplete), f"{directory}/{shard.name}")
    finally:
        incomplete.unlink(missing_ok=True)
    return written


def _fill(file: BinaryIO, shard: Shard, settings: Records) -> Written:
    """Writes the records of a shard to a file."""
    rows = []
    digest = hashlib.sha256()
    end = 0
    contents = storage.contents(item.path for item in shard.items)
    for item, content in zip(shard.items, contents, strict=True):
        image, width, height = _encode(item, content, settings)
        id_ = records.image_id(item.file)
        payload = records.serialize(
            records.Record(image, item.label, id_, item.file, width, height)
        )
        framed = records.frame(payload)
        file.write(framed)
        digest.update(framed)
        rows.append(
            (
                shard.number,
                item.label,
                end + records.HEADER_BYTES,
                len(payload),
                _find(payload, image),
                len(image),
                id_,
                width,
                height,
            )
        )
        end += len(framed)
    return Written(
        File(shard.name, len(rows), end, digest.hexdigest()),
        np.array(rows, records.INDEX_DTYPE),
        b"".join(item.sha256 for item in shard.items),
    )


def _find(payload: bytes, image: bytes) -> int:
    """Returns `payload.index(image)`, which takes ten times as long."""
    offset = payload.index(image[:32])
    while not payload.startswith(image, offset):
        offset = payload.index(image[:32], offset + 1)
    return offset


def _encode(
    item: Item, content: bytes | OSError, settings: Records
) -> tuple[bytes, int, int]:
    """Returns an image as it is stored, its width and its height."""
    if isinstance(content, OSError):
        raise _changed(item, str(content.strerror))
    if hashlib.sha256(content).digest() != item.sha256:
        raise _changed(item, "has another content")
    if settings.encoding == "original" and item.kept:
        return content, item.width, item.height
    return encoding.encode(
        content, settings.image_size, settings.resize, settings.encoding
    )


def _changed(item: Item, problem: str) -> DataError:
    return DataError(
        f"{item.path} was changed after it was audited: {problem}. Run the "
        "command again when nothing writes to the source."
    )
