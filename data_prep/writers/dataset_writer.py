"""From the catalogue to the files of every split, in one stream."""

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from data_prep.catalogue.database import Catalogue
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.images import audit
from data_prep.runtime import storage
from data_prep.runtime.progress import Progress
from data_prep.writers import output
from data_prep.writers import shards


def write_splits(
    config: PrepareConfig,
    place: output.Place,
    catalogue: Catalogue,
    classes: list[str],
    runner,
) -> dict[str, manifest_lib.Split]:
    """Writes the shards, indices and fingerprints of all splits.

    Args:
        config: What is asked for.
        place: Where to.
        catalogue: Says which image is in which split.
        classes: Sorted names.
        runner: `workers.Processes`, or what has a `map` like it.

    Returns:
        The entries of the manifest, by name of split.
    """
    planned = {
        split: list(_plan(config, catalogue, split)) for split in splits.SPLITS
    }
    write = functools.partial(
        shards.write,
        directory=place.shards,
        # A worker of another machine has a place of its own.
        scratch=None if storage.is_url(place.shards) else place.scratch,
        image_size=config.records.image_size,
        resize=config.records.resize,
        encoding=config.records.encoding,
    )
    total = sum(count for plan in planned.values() for _, _, count in plan)
    todo = _shards(catalogue, planned, classes)
    result = {}
    with Progress("write", total) as progress:
        written = runner.map(write, todo)
        for split, plan in planned.items():
            if not plan:
                continue
            prefix = os.path.join(place.folder, f"{config.source.name}-{split}")
            counts = np.zeros(len(classes), int)
            files = []
            with (
                _Hashed(f"{prefix}.index") as index,
                _Hashed(f"{prefix}.sha256") as fingerprints,
            ):
                for shard in itertools.islice(written, len(plan)):
                    files.append(shard.file)
                    index.write(shard.index.tobytes())
                    fingerprints.write(shard.fingerprints)
                    labels = shard.index["label"]
                    counts += np.bincount(labels, minlength=len(classes))
                    progress.update(shard.file.count)
            count = int(counts.sum())
            result[split] = manifest_lib.Split(
                count=count,
                class_counts=counts.tolist(),
                shards=files,
                index=index.entry(count),
                fingerprints=fingerprints.entry(count),
            )
    return result


class _Hashed:
    """A file whose SHA-256 is taken as it is written."""

    def __init__(self, path: str):
        self._path = path
        self._digest = hashlib.sha256()
        self._bytes = 0

    def __enter__(self) -> "_Hashed":
        self._file: BinaryIO = open(self._path, "wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._digest.update(content)
        self._bytes += len(content)

    def entry(self, count: int) -> manifest_lib.File:
        name = os.path.basename(self._path)
        digest = self._digest.hexdigest()
        return manifest_lib.File(name, count, self._bytes, digest)


def _plan(
    config: PrepareConfig, catalogue: Catalogue, split: str
) -> Iterator[tuple[str, int, int]]:
    count = size = 0
    side = config.records.image_size
    for content, width, height, kept in catalogue.execute(
        "SELECT bytes, width, height, kept FROM images "
        "JOIN assigned USING (id) WHERE split = ?",
        (split,),
    ):
        count += 1
        size += audit.stored_bytes(
            content,
            side or width,
            side or height,
            kept,
            config.records.encoding,
        )
    prefix = f"{config.source.name}-{split}"
    return shards.plan(prefix, count, size, config.records.shard_mb)


def _shards(
    catalogue: Catalogue, planned: dict[str, list], classes: list[str]
) -> Iterator[shards.Shard]:
    """Yields what is to be written, in the order of the plan."""
    label_of = {name: label for label, name in enumerate(classes)}
    for split, plan in planned.items():
        # Neighbours in a shard are mixed, for readers that stream.
        rows = catalogue.execute(
            "SELECT path, file, label, sha256, width, height, kept "
            "FROM images JOIN assigned USING (id) WHERE split = ? "
            "ORDER BY place, file",
            (split,),
        )
        items = (
            shards.Item(
                os.fsdecode(path), os.fsdecode(file), label_of[label], *rest
            )
            for path, file, label, *rest in rows
        )
        for name, number, count in plan:
            part = tuple(itertools.islice(items, count))
            yield shards.Shard(name, number, part)
