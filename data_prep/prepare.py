"""The story: source -> audit -> splits -> shards -> manifest."""

import functools
import importlib.metadata
import itertools
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from data_prep.catalogue import assignment
from data_prep.catalogue import findings
from data_prep.catalogue import splitting
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import Row
from data_prep.catalogue.database import facts_row
from data_prep.catalogue.database import finding_rows
from data_prep.config import DEFAULT_SPLITS
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import tfds_metadata
from data_prep.dataset.manifest import Manifest
from data_prep.images import audit
from data_prep.runners.beam import Beam
from data_prep.runners.processes import Processes
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.progress import Progress
from data_prep.sources import file_names
from data_prep.sources import folder
from data_prep.sources import table
from data_prep.sources import tfds
from data_prep.sources.listing import Listing
from data_prep.writers import dataset_writer
from data_prep.writers import output

CHUNK = 64  # images that a process opens in one call


def prepare(config: PrepareConfig) -> Manifest:
    """Makes a data set out of labelled images.

    Raises:
        UsageError: If the output folder lies in the source.
        DataError: If the images cannot make a data set, or the output folder
            is taken; nothing is left in its place but `audit.json`, beside
            it, where the audit stopped the run.
    """
    _refuse_output_in_source(config)
    with (
        output.claim(config.output.output_dir, manifest_lib.FILE_NAME) as place,
        Catalogue(place.scratch) as catalogue,
        _runner(config, place.exchange) as runner,
    ):
        listing = _list(config, place.scratch)
        catalogue.add_files(listing.images)
        _audit(config, catalogue, runner)
        classes = _classes(config, catalogue, listing.classes)
        _group(config, catalogue)
        _assign(config, catalogue, place.scratch)
        written = dataset_writer.write_splits(
            config, place, catalogue, classes, runner
        )
        manifest = _describe(config, place.folder, catalogue, classes, written)
        manifest.save(place.folder)
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
    kind, path = config.source.kind, config.source.place
    inside = False
    if kind == "folder" and storage.is_url(config.output.output_dir):
        inside = f"{config.output.output_dir}/".startswith(
            f"{path.rstrip('/')}/"
        )
    elif kind == "folder":
        target = pathlib.Path(config.output.output_dir).resolve()
        inside = target.is_relative_to(pathlib.Path(path).resolve())
    if inside:
        raise UsageError(
            f"--output_dir={config.output.output_dir} lies in --source="
            f"{config.source.source}, where it would pass for a class. Pass a folder "
            "outside of it."
        )


def _runner(config: PrepareConfig, exchange: str) -> Processes | Beam:
    if config.output.runner == "beam":
        return Beam(config.output.beam_options, exchange)
    return Processes(config.output.workers)


def _list(config: PrepareConfig, scratch: str) -> Listing:
    kind, name = config.source.kind, config.source.place
    if kind == "csv":
        file = name
        if storage.is_url(name):
            url, _, base = name.rpartition("/")
            storage.download(url, scratch, [(base, base)])
            file = os.path.join(scratch, base)
        return table.list_table(name, file)
    if kind == "tfds":
        return tfds.list_tfds(name, os.path.join(scratch, "tfds"))
    if config.source.layout == "file_names":
        return file_names.list_file_names(name, config.source.label_pattern)
    return folder.list_folder(name, config.source.layout)


def _audit(config: PrepareConfig, catalogue: Catalogue, runner) -> None:
    """Opens every image."""
    total = catalogue.value("SELECT COUNT(*) FROM files")
    chunks = _chunks(catalogue.files(), CHUNK)
    inspect = functools.partial(_inspect, seed=config.splits.seed)
    with Progress("audit", total) as progress:
        for facts, found in runner.map(inspect, chunks):
            catalogue.insert("facts", facts)
            catalogue.insert("findings", found)
            progress.update(len(facts))


def _inspect(rows: list[Row], seed: int) -> tuple[list[tuple], list[tuple]]:
    """Returns what goes into two tables of the catalogue.

    As plain tuples, which pass between processes faster than objects.
    """
    facts, found = [], []
    distant = [r.path for r in rows if not r.problem and storage.is_url(r.path)]
    contents = storage.contents(distant)
    for row in rows:
        if row.problem:
            fact = audit.Facts(0, problem=row.problem)
        elif storage.is_url(row.path):
            fact = audit.inspect_content(next(contents), row.path)
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
    if config.checks.on_bad_image == "fail":
        _stop(config, catalogue, ["bad_image"])
    labels = {
        label for (label,) in catalogue.execute("SELECT label FROM files")
    }
    classes = sorted({*labels, *declared} - {""})
    if not labels:
        raise DataError(
            f"{config.source.source} holds no image: its {len(classes)} classes are "
            "empty."
            if classes
            else f"{config.source.source} holds no image of a class."
        )
    if len(classes) < 2:
        raise DataError(
            f"{config.source.source} holds one class only: {classes}. "
            "Expected at least two. If these are folders of classes one "
            "level further down, pass that folder as --source."
        )
    found = {
        label for (label,) in catalogue.execute("SELECT label FROM images")
    }
    for label in classes:
        if label not in found:
            raise DataError(
                f"{config.source.source} has no good image of class {label!r}. Add "
                "some, or remove the folder."
            )
    return classes


def _group(config: PrepareConfig, catalogue: Catalogue) -> None:
    """Finds the images that show one picture, and leaves out copies."""
    given = catalogue.value("SELECT COUNT(given) FROM images")
    findings.find(
        catalogue, splits_kept=bool(given) and not config.splits.splits
    )
    stopping = list(config.checks.fail_on_kinds)
    if config.checks.duplicates == "fail":
        stopping.insert(0, "duplicate")
    _stop(config, catalogue, stopping)
    if config.checks.duplicates == "drop":
        findings.drop_duplicates(catalogue)


def _stop(
    config: PrepareConfig, catalogue: Catalogue, kinds: list[str]
) -> None:
    """Ends the run if there are such findings; names all of them in a file."""
    target = config.output.output_dir.rstrip("/")
    if not storage.is_url(target):
        target = str(pathlib.Path(target).absolute())
    path = f"{target}.{findings.FILE_NAME}"
    try:
        findings.stop(catalogue, kinds)
    except DataError as error:
        if storage.is_url(path):
            with tempfile.TemporaryDirectory() as folder:
                listed = os.path.join(folder, findings.FILE_NAME)
                findings.save(catalogue, listed)
                storage.move(listed, path)
        else:
            findings.save(catalogue, path)
        raise DataError(f"{error} All findings: {path}") from None
    storage.delete(path)  # of a run before this one


def _assign(config: PrepareConfig, catalogue: Catalogue, scratch: str) -> None:
    given = catalogue.value("SELECT COUNT(given) FROM images")
    if given and not config.splits.splits:
        if config.splits.splits_from:
            raise UsageError(
                f"--splits_from={config.splits.splits_from} cannot be followed: "
                f"{config.source.source} gives splits of its own. Pass --splits too, "
                "to split its images anew."
            )
        assignment.keep(catalogue)
    else:
        if config.splits.splits_from:
            former = _former(config.splits.splits_from, scratch)
            assignment.pin(catalogue, former, config.splits.seed)
        amounts = splitting.parse_spec(config.splits.splits or DEFAULT_SPLITS)
        assignment.anew(catalogue, amounts)
    assignment.check(catalogue, config.source.source)


def _former(data_dir: str, scratch: str) -> str:
    """Returns a local folder with what pins take of a former data set."""
    if not storage.is_url(data_dir):
        return data_dir
    url, folder = data_dir.rstrip("/"), os.path.join(scratch, "splits_from")
    os.mkdir(folder)
    name = manifest_lib.FILE_NAME
    storage.download(url, folder, [(name, name)])
    splits_of = manifest_lib.read(folder).splits.values()
    names = [split.fingerprints.name for split in splits_of]
    storage.download(url, folder, [(name, name) for name in names])
    return folder


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
        name=config.source.name,
        classes=classes,
        splits={
            name: [(shard.count, shard.bytes) for shard in split.shards]
            for name, split in written.items()
        },
        image_size=config.records.image_size,
        encoding=config.records.encoding,
        description=f"{config.source.name}, made by data_prep of shardtune",
    )
    number = catalogue.value
    good = number("SELECT COUNT(*) FROM images")
    return Manifest(
        name=config.source.name,
        classes=classes,
        image_size=config.records.image_size,
        resize=config.records.resize,
        encoding=config.records.encoding,
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
        flags=config.identity(),
        versions={
            "python": sys.version.split()[0],
            **{
                name: importlib.metadata.version(name)
                for name in ("shardtune", "pillow", "protobuf", "simplejpeg")
            },
        },
    )
