"""What describes a data set: the audit, the TFDS metadata, the manifest."""

import importlib.metadata
import os
import sys

from data_prep.catalogue import findings
from data_prep.catalogue.database import Catalogue
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import tfds_metadata
from data_prep.dataset.manifest import File
from data_prep.dataset.manifest import Manifest
from data_prep.dataset.manifest import Split
from data_prep.report import audit_page

_COUNT_GOOD = "SELECT COUNT(*) FROM images"
_COUNT_BAD = "SELECT COUNT(*) FROM facts WHERE problem != ''"
_COUNT_DROPPED = "SELECT COUNT(*) FROM dropped"
_COUNT_IGNORED = "SELECT COUNT(*) FROM findings WHERE kind = 'ignored'"


def write(
    config: PrepareConfig,
    directory: str,
    catalogue: Catalogue,
    classes: list[str],
    splits: dict[str, Split],
) -> Manifest:
    """Writes all that describes a data set but its manifest; returns that.

    Args:
        config: All settings, which the manifest records.
        directory: The data set's folder; local.
        catalogue: Holds every image and finding.
        classes: Sorted names; a label is an index into this list.
        splits: Entries of the splits that were written, by name.
    """
    count = catalogue.value
    assigned = sum(split.count for split in splits.values())
    return Manifest(
        name=config.source.name,
        classes=classes,
        image_size=config.records.image_size,
        resize=config.records.resize,
        encoding=config.records.encoding,
        splits=splits,
        findings=findings.count_kinds(catalogue),
        metadata=_write_metadata(config, directory, catalogue, classes, splits),
        skipped=count(_COUNT_BAD),
        dropped=count(_COUNT_DROPPED),
        ignored=count(_COUNT_IGNORED),
        unassigned=count(_COUNT_GOOD) - assigned,
        flags=config.identity(),
        versions={
            "python": sys.version.split()[0],
            **{
                name: importlib.metadata.version(name)
                for name in ("shardtune", "pillow", "protobuf", "simplejpeg")
            },
        },
    )


def _write_metadata(
    config: PrepareConfig,
    directory: str,
    catalogue: Catalogue,
    classes: list[str],
    splits: dict[str, Split],
) -> list[File]:
    """Writes the audit and the TFDS metadata; returns their entries."""
    findings.save(catalogue, os.path.join(directory, findings.FILE_NAME))
    name = config.source.name
    audit_page.write(
        catalogue,
        os.path.join(directory, audit_page.FILE_NAME),
        config.source.name,
    )
    names = tfds_metadata.write(
        directory,
        name=name,
        classes=classes,
        splits={
            name: [(shard.count, shard.bytes) for shard in split.shards]
            for name, split in splits.items()
        },
        image_size=config.records.image_size,
        encoding=config.records.encoding,
        description=f"{name}, made by data_prep of shardtune",
    )
    return [
        manifest_lib.describe(directory, file)
        for file in (findings.FILE_NAME, audit_page.FILE_NAME, *names)
    ]
