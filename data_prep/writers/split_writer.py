"""From the catalogue to the files of every split, in one stream."""

import functools
import hashlib
import itertools
import os
from collections.abc import Iterable
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from data_prep.catalogue.audit import Runner
from data_prep.catalogue.database import Catalogue
from data_prep.config import Records
from data_prep.dataset.manifest import File
from data_prep.dataset.manifest import Split
from data_prep.dataset.splits import SPLITS
from data_prep.images import encoding
from data_prep.runtime import storage
from data_prep.runtime.progress import Progress
from data_prep.writers import output
from data_prep.writers import shards

_SIZES = """
SELECT bytes, width, height, kept FROM images
JOIN assigned USING (id) WHERE split = ?
"""
# Neighbours in a shard are mixed, for readers that stream.
_IN_RECORD_ORDER = """
SELECT path, file, label, sha256, width, height, kept FROM images
JOIN assigned USING (id) WHERE split = ? ORDER BY place, file
"""


def write_splits(
    name: str,
    settings: Records,
    place: output.Place,
    catalogue: Catalogue,
    classes: list[str],
    runner: Runner,
) -> dict[str, Split]:
    """Writes the shards, indices and fingerprints of all splits.

    Args:
        name: First part of the file names.
        settings: How images are stored.
        place: The output folder.
        catalogue: Says which image is in which split.
        classes: Sorted names; a label is an index into this list.
        runner: Runs the work, here or on other machines.

    Returns:
        The entries of the manifest, by name of split; none of an empty split.
    """
    plans = plan_splits(name, settings, catalogue)
    write = functools.partial(
        shards.write,
        directory=place.shards,
        # A worker of another machine has a place of its own.
        scratch=None if storage.is_url(place.shards) else place.scratch,
        settings=settings,
    )
    total = sum(shard.count for plan in plans.values() for shard in plan)
    result = {}
    with Progress("write", total) as progress:
        written = _count_images(
            runner.map(write, draw_shards(catalogue, plans, classes)), progress
        )
        for split, plan in plans.items():
            prefix = os.path.join(place.folder, f"{name}-{split}")
            part = itertools.islice(written, len(plan))
            result[split] = _write_index(prefix, part, len(classes))
    return result


def plan_splits(
    name: str, settings: Records, catalogue: Catalogue
) -> dict[str, list[shards.Plan]]:
    """Returns the shards of every split that has images.

    Args:
        name: First part of the file names.
        settings: How images are stored.
        catalogue: Says which image is in which split.
    """
    plans = {}
    for split in SPLITS:
        count = size = 0
        side = settings.image_size
        for content, width, height, kept in catalogue.execute(_SIZES, (split,)):
            count += 1
            size += encoding.estimate_bytes(
                content, side or width, side or height, kept, settings.encoding
            )
        if count:
            prefix = f"{name}-{split}"
            plan = shards.plan(prefix, count, size, settings.shard_mb)
            plans[split] = list(plan)
    return plans


def draw_shards(
    catalogue: Catalogue,
    plans: dict[str, list[shards.Plan]],
    classes: list[str],
) -> Iterator[shards.Shard]:
    """Yields what is to be written, in the order of the plans.

    Args:
        catalogue: Says which image is in which split.
        plans: What `plan_splits` returned.
        classes: Sorted names; a label is an index into this list.
    """
    label_of = {name: label for label, name in enumerate(classes)}
    for split, plan in plans.items():
        rows = catalogue.execute(_IN_RECORD_ORDER, (split,))
        items = (
            shards.Item(
                os.fsdecode(path), os.fsdecode(file), label_of[label], *rest
            )
            for path, file, label, *rest in rows
        )
        for shard in plan:
            part = tuple(itertools.islice(items, shard.count))
            yield shards.Shard(shard.name, shard.number, part)


def _count_images(
    written: Iterable[shards.Written], progress: Progress
) -> Iterator[shards.Written]:
    for shard in written:
        progress.update(shard.file.count)
        yield shard


def _write_index(
    prefix: str, written: Iterable[shards.Written], classes: int
) -> Split:
    """Writes index and fingerprints of a split while its shards get done.

    Args:
        prefix: Path of the files but for their endings.
        written: The finished shards, in order.
        classes: Number of classes.
    """
    counts = np.zeros(classes, int)
    files = []
    with (
        _Hashed(f"{prefix}.index") as index,
        _Hashed(f"{prefix}.sha256") as fingerprints,
    ):
        for shard in written:
            files.append(shard.file)
            index.write(shard.index.tobytes())
            fingerprints.write(shard.fingerprints)
            counts += np.bincount(shard.index["label"], minlength=classes)
    count = int(counts.sum())
    return Split(
        count=count,
        class_counts=counts.tolist(),
        shards=files,
        index=index.entry(count),
        fingerprints=fingerprints.entry(count),
    )


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

    def entry(self, count: int) -> File:
        name = os.path.basename(self._path)
        return File(name, count, self._bytes, self._digest.hexdigest())
