"""The story: source -> audit -> splits -> shards -> manifest."""

import dataclasses
import functools
import importlib.metadata
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from data_prep import assignment
from data_prep import audit
from data_prep import findings
from data_prep import manifest as manifest_lib
from data_prep import output
from data_prep import remote
from data_prep import splits
from data_prep import tfds_metadata
from data_prep import writing
from data_prep.beam import Beam
from data_prep.catalogue import Catalogue
from data_prep.catalogue import Row
from data_prep.catalogue import facts_row
from data_prep.catalogue import finding_rows
from data_prep.config import DEFAULT_SPLITS
from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.errors import UsageError
from data_prep.manifest import Manifest
from data_prep.progress import Progress
from data_prep.sources import file_names
from data_prep.sources import folder
from data_prep.sources import table
from data_prep.sources import tfds
from data_prep.sources.listing import Listing
from data_prep.workers import Processes

CHUNK = 64  # images that a process opens in one call


def prepare(config: PrepareConfig) -> Manifest:
    """Makes a data set out of labelled images.

    Raises:
        UsageError: If the output folder lies in the source.
        DataError: If the images cannot make a data set, or the output folder
            is taken; nothing is left in its place but `audit.json`, beside
            it, where the audit stopped the run.
    """
    if not remote.is_url(config.output_dir):
        return _prepare(config)
    remote.refuse_taken(config.output_dir)
    with tempfile.TemporaryDirectory() as place:
        local = os.path.join(place, "data")
        manifest = _prepare(dataclasses.replace(config, output_dir=local))
        remote.publish(local, config.output_dir, manifest_lib.FILE_NAME)
    return manifest


def _prepare(config: PrepareConfig) -> Manifest:
    _refuse_output_in_source(config)
    with (
        output.claim(config.output_dir) as directory,
        Catalogue(os.path.join(directory, output.SCRATCH)) as catalogue,
        _runner(config, os.path.join(directory, output.SCRATCH)) as runner,
    ):
        listing = _list(config, os.path.join(directory, output.SCRATCH))
        catalogue.add_files(listing.images)
        _audit(config, catalogue, runner)
        classes = _classes(config, catalogue, listing.classes)
        _group(config, catalogue)
        _assign(config, catalogue)
        written = writing.write_splits(
            config, directory, catalogue, classes, runner
        )
        manifest = _describe(config, directory, catalogue, classes, written)
        manifest.save(directory)
    return manifest


def summary(manifest: Manifest) -> str:
    """Returns tables: images per class and split, findings, what was left."""
    width = max(len(name) for name in (*manifest.classes, "class", "all"))
    names = list(manifest.splits)
    lines = [f"{'class':<{width}}" + "".join(f"{n:>12}" for n in names)]
    for label, name in enumerate(manifest.classes):
        counts = [manifest.splits[n].class_counts[label] for n in names]
        lines.append(f"{name:<{width}}" + "".join(f"{c:>12}" for c in counts))
    counts = [manifest.splits[n].count for n in names]
    lines.append(f"{'all':<{width}}" + "".join(f"{c:>12}" for c in counts))
    if manifest.findings:
        lines += ["", f"{'audit':<16}{'count':>8}"]
    for kind, count in manifest.findings.items():
        lines.append(f"{kind:<16}{count:>8}  {findings.KINDS[kind]}")
    if manifest.skipped:
        lines.append(f"skipped {manifest.skipped} bad images")
    if manifest.dropped:
        lines.append(f"dropped {manifest.dropped} duplicates")
    if manifest.unassigned:
        lines.append(f"left {manifest.unassigned} images that no split takes")
    if manifest.ignored:
        lines.append(f"ignored {manifest.ignored} files that are in no class")
    if manifest.findings:
        lines.append(f"{findings.FILE_NAME} names every one of them")
    return "\n".join(lines)


def _refuse_output_in_source(config: PrepareConfig) -> None:
    kind, path = config.source_kind
    target = pathlib.Path(config.output_dir).resolve()
    if kind == "folder" and target.is_relative_to(pathlib.Path(path).resolve()):
        raise UsageError(
            f"--output_dir={config.output_dir} lies in --source="
            f"{config.source}, where it would pass for a class. Pass a folder "
            "outside of it."
        )


def _runner(config: PrepareConfig, scratch: str) -> Processes | Beam:
    if config.runner == "beam":
        return Beam(config.beam_options, scratch)
    return Processes(config.workers)


def _list(config: PrepareConfig, scratch: str) -> Listing:
    kind, name = config.source_kind
    if kind == "csv":
        return table.list_table(name)
    if kind == "tfds":
        return tfds.list_tfds(name, os.path.join(scratch, "tfds"))
    if remote.is_url(name):
        name = remote.fetch(name, os.path.join(scratch, "source"))
    if config.layout == "file_names":
        return file_names.list_file_names(name, config.label_pattern)
    return folder.list_folder(name, config.layout)


def _audit(config: PrepareConfig, catalogue: Catalogue, runner) -> None:
    """Opens every image."""
    total = catalogue.value("SELECT COUNT(*) FROM files")
    chunks = _chunks(catalogue.files(), CHUNK)
    inspect = functools.partial(_inspect, seed=config.seed)
    with Progress("audit", total) as progress:
        for facts, found in runner.map(inspect, chunks):
            catalogue.insert("facts", facts)
            catalogue.insert("findings", found)
            progress.update(len(facts))


def _inspect(rows: list[Row], seed: int) -> tuple[list[tuple], list[tuple]]:
    """Returns what goes into two tables of the catalogue.

    As plain tuples: they pass between processes in a tenth of the time that
    objects take.
    """
    facts, found = [], []
    for row in rows:
        if row.problem:
            fact = audit.Facts(0, problem=row.problem)
        else:
            fact = audit.inspect(row.path)
        facts.append(facts_row(row, fact, seed))
        found += finding_rows(row, fact)
    return facts, found


def _chunks(items: Iterator, size: int) -> Iterator[list]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _classes(
    config: PrepareConfig, catalogue: Catalogue, declared: list[str]
) -> list[str]:
    """Returns the sorted names of the classes, each of which has an image."""
    if config.on_bad_image == "fail":
        _stop(config, catalogue, ["bad_image"])
    labels = {
        label for (label,) in catalogue.execute("SELECT label FROM files")
    }
    classes = sorted({*labels, *declared} - {""})
    if not labels:
        raise DataError(
            f"{config.source} holds no image: its {len(classes)} classes are "
            "empty."
            if classes
            else f"{config.source} holds no image of a class."
        )
    if len(classes) < 2:
        raise DataError(
            f"{config.source} holds one class only: {classes}. "
            "Expected at least two. If these are folders of classes one "
            "level further down, pass that folder as --source."
        )
    found = {
        label for (label,) in catalogue.execute("SELECT label FROM images")
    }
    for label in classes:
        if label not in found:
            raise DataError(
                f"{config.source} has no good image of class {label!r}. Add "
                "some, or remove the folder."
            )
    return classes


def _group(config: PrepareConfig, catalogue: Catalogue) -> None:
    """Finds the images that show one picture, and leaves out copies."""
    given = catalogue.value("SELECT COUNT(given) FROM images")
    findings.find(catalogue, splits_kept=bool(given) and not config.splits)
    stopping = list(config.fail_on_kinds)
    if config.duplicates == "fail":
        stopping.insert(0, "duplicate")
    _stop(config, catalogue, stopping)
    if config.duplicates == "drop":
        findings.drop_duplicates(catalogue)


def _stop(
    config: PrepareConfig, catalogue: Catalogue, kinds: list[str]
) -> None:
    """Ends the run if there are such findings; names all of them in a file."""
    path = pathlib.Path(config.output_dir).absolute()
    path = path.with_name(f"{path.name}.{findings.FILE_NAME}")
    try:
        findings.stop(catalogue, kinds)
    except DataError as error:
        findings.save(catalogue, str(path))
        raise DataError(f"{error} All findings: {path}") from None
    path.unlink(missing_ok=True)  # of a run before this one


def _assign(config: PrepareConfig, catalogue: Catalogue) -> None:
    given = catalogue.value("SELECT COUNT(given) FROM images")
    if given and not config.splits:
        if config.splits_from:
            raise UsageError(
                f"--splits_from={config.splits_from} cannot be followed: "
                f"{config.source} gives splits of its own. Pass --splits too, "
                "to split its images anew."
            )
        assignment.keep(catalogue)
    else:
        if config.splits_from:
            assignment.pin(catalogue, config.splits_from, config.seed)
        amounts = splits.parse_spec(config.splits or DEFAULT_SPLITS)
        assignment.anew(catalogue, amounts)
    assignment.check(catalogue, config.source)


def _describe(
    config: PrepareConfig,
    directory: str,
    catalogue: Catalogue,
    classes: list[str],
    written: dict[str, manifest_lib.Split],
) -> Manifest:
    """Writes `audit.json` and the TFDS metadata; returns the manifest."""
    findings.save(catalogue, os.path.join(directory, findings.FILE_NAME))
    metadata = tfds_metadata.write(
        directory,
        name=config.name,
        classes=classes,
        splits={
            name: [(shard.count, shard.bytes) for shard in split.shards]
            for name, split in written.items()
        },
        image_size=config.image_size,
        encoding=config.encoding,
        description=f"{config.name}, made by data_prep of shardtune",
    )
    number = catalogue.value
    good = number("SELECT COUNT(*) FROM images")
    return Manifest(
        name=config.name,
        classes=classes,
        image_size=config.image_size,
        resize=config.resize,
        encoding=config.encoding,
        splits=written,
        findings=findings.counts(catalogue),
        metadata=[
            manifest_lib.describe(directory, file)
            for file in (findings.FILE_NAME, *metadata)
        ],
        skipped=number("SELECT COUNT(*) FROM facts WHERE problem != ''"),
        dropped=number("SELECT COUNT(*) FROM dropped"),
        ignored=number("SELECT COUNT(*) FROM findings WHERE kind = 'ignored'"),
        unassigned=good - sum(split.count for split in written.values()),
        flags=config.content_flags,
        versions={
            "python": sys.version.split()[0],
            **{
                name: importlib.metadata.version(name)
                for name in ("shardtune", "pillow", "protobuf", "simplejpeg")
            },
        },
    )
