"""From images to shards: a pure plan, then one writer per shard."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence

import numpy as np

from data_prep import audit
from data_prep import records
from data_prep.manifest import File

MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Item:
    """One image on its way into a record.

    Attributes:
        path: Where the file lies on this machine.
        file: Its path relative to the source.
        label: Position of its class in the class list.
    """

    path: str
    file: str
    label: int


@dataclasses.dataclass(frozen=True)
class Shard:
    """One planned shard.

    Attributes:
        name: File name.
        items: Its images, in record order.
    """

    name: str
    items: tuple[Item, ...]


def plan(
    prefix: str, items: Sequence[Item], sizes: Sequence[int], shard_mb: int
) -> list[Shard]:
    """Cuts one split into shards of about equal numbers of images.

    Args:
        prefix: First part of the file names, such as "photos-train".
        items: The split's images, in record order.
        sizes: Expected bytes of each image.
        shard_mb: Size to aim at, in MiB.

    Returns:
        The shards, none of them empty.
    """
    number = -(-sum(sizes) // (shard_mb * MIB))
    number = max(1, min(number, len(items)))
    bounds = np.linspace(0, len(items), number + 1).astype(int)
    return [
        Shard(
            f"{prefix}.tfrecord-{shard:05d}-of-{number:05d}",
            tuple(items[bounds[shard] : bounds[shard + 1]]),
        )
        for shard in range(number)
    ]


def write(
    shard: Shard, directory: str, image_size: int, resize: str, encoding: str
) -> tuple[File, np.ndarray]:
    """Writes one shard.

    Args:
        shard: What to write.
        directory: Where to; nothing but this shard's file is touched.
        image_size: As in `audit.encode`.
        resize: As in `audit.encode`.
        encoding: As in `audit.encode`.

    Returns:
        The file's entry in the manifest, and its index: an array of
        `records.INDEX_DTYPE` whose `shard` is 0.
    """
    index = np.zeros(len(shard.items), records.INDEX_DTYPE)
    digest = hashlib.sha256()
    position = 0
    with open(pathlib.Path(directory, shard.name), "wb") as file:
        for row, item in zip(index, shard.items, strict=True):
            image, width, height = audit.encode(
                item.path, image_size, resize, encoding
            )
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
            row["offset"] = position + records.HEADER_BYTES
            row["bytes"] = len(payload)
            row["image_offset"] = payload.index(image)
            row["image_bytes"] = len(image)
            row["id"] = record.id
            row["label"] = record.label
            row["width"] = width
            row["height"] = height
            position += len(framed)
    return File(shard.name, len(index), position, digest.hexdigest()), index


def write_index(name: str, directory: str, parts: list[np.ndarray]) -> File:
    """Writes the index of a split.

    Args:
        name: File name.
        directory: Where to write it.
        parts: What `write` returned for each of the split's shards, in order.

    Returns:
        The file's entry in the manifest.
    """
    for shard, part in enumerate(parts):
        part["shard"] = shard
    content = np.concatenate(parts).tobytes()
    pathlib.Path(directory, name).write_bytes(content)
    return File(
        name,
        sum(map(len, parts)),
        len(content),
        hashlib.sha256(content).hexdigest(),
    )
