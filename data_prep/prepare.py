"""The story: source -> audit -> splits -> shards -> manifest."""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import importlib.metadata
import multiprocessing
import os
import pathlib
import re
import shutil
import signal
import sys
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from data_prep import audit
from data_prep import manifest as manifest_lib
from data_prep import shards
from data_prep import splits
from data_prep.errors import DataError
from data_prep.errors import UsageError
from data_prep.manifest import Manifest
from data_prep.progress import Progress
from data_prep.sources import folder

DEFAULT_SPLITS = "train:0.8,validation:0.1,test:0.1"
MANY = 10  # names listed in a message before "and N more"


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What `prepare` is to do; the flags of `data_prep.task`.

    Attributes:
        source: Folder of labelled images.
        output_dir: Where the data set goes; must not exist, or be empty.
        layout: "auto", "class_folders" or "split_folders".
        splits: As `splits.parse_spec` takes it; "" keeps the splits that the
            folders give, or takes `DEFAULT_SPLITS` where they give none.
        image_size: Stored width and height in pixels; 0 keeps each size.
        resize: How a picture fits the square: "stretch", "crop" or "pad".
        encoding: "original", "jpeg" or "raw"; "" is "original" where
            the size is kept and "jpeg" where it is not.
        on_bad_image: "fail" or "skip".
        shard_mb: Size of a shard to aim at, in MiB.
        workers: Processes; 0 is one per processor.
        seed: Of the splits and of the order of records.
    """

    source: str
    output_dir: str
    layout: str = "auto"
    splits: str = ""
    image_size: int = 0
    resize: str = "stretch"
    encoding: str = ""
    on_bad_image: str = "fail"
    shard_mb: int = 64
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.source:
            raise UsageError("--source is missing: the folder of images.")
        if not self.output_dir:
            raise UsageError(
                "--output_dir is missing: where the data set goes."
            )
        if self.splits:
            splits.parse_spec(self.splits)
        if self.encoding == "original" and self.image_size:
            raise UsageError(
                "--encoding=original keeps each image's own bytes and so its "
                f"size. Received --image_size={self.image_size}. Use "
                "--encoding=jpeg or raw, or --image_size=0."
            )
        if self.encoding == "raw" and not self.image_size:
            raise UsageError(
                "--encoding=raw stores pixels of one size. Set --image_size."
            )
        if not self.encoding:
            default = "jpeg" if self.image_size else "original"
            object.__setattr__(self, "encoding", default)


def prepare(config: PrepareConfig) -> Manifest:
    """Makes a data set out of a folder of labelled images.

    Raises:
        UsageError: If the output folder lies in the source.
        DataError: If the images cannot make a data set, or the output folder
            is taken; nothing is left in its place.
    """
    source, output = (
        pathlib.Path(p).resolve() for p in (config.source, config.output_dir)
    )
    if output.is_relative_to(source):
        raise UsageError(
            f"--output_dir={config.output_dir} lies in --source="
            f"{config.source}, where it would pass for a class. Pass a folder "
            "outside of it."
        )
    with _output(config.output_dir) as directory:
        listing = folder.list_folder(config.source, config.layout)
        images, facts, skipped = _audit(config, listing)
        assigned = _assign(config, listing.classes, images)
        splits_written = _write(
            config, directory, listing.classes, images, facts, assigned
        )
        manifest = Manifest(
            name=_name(config.source),
            classes=listing.classes,
            image_size=config.image_size,
            resize=config.resize,
            encoding=config.encoding,
            splits=splits_written,
            skipped=skipped,
            ignored=len(listing.ignored),
            unassigned=assigned.count(None),
            flags=dataclasses.asdict(config),
            versions=_versions(),
        )
        manifest.save(directory)
    return manifest


def summary(manifest: Manifest) -> str:
    """Returns a table of images per class and split, and what was left out."""
    width = max(len(name) for name in (*manifest.classes, "class", "all"))
    names = list(manifest.splits)
    lines = [f"{'class':<{width}}" + "".join(f"{n:>12}" for n in names)]
    for label, name in enumerate(manifest.classes):
        counts = [manifest.splits[n].class_counts[label] for n in names]
        lines.append(f"{name:<{width}}" + "".join(f"{c:>12}" for c in counts))
    counts = [manifest.splits[n].count for n in names]
    lines.append(f"{'all':<{width}}" + "".join(f"{c:>12}" for c in counts))
    if manifest.skipped:
        lines.append(f"skipped {len(manifest.skipped)} bad images:")
        lines += [f"  {s['file']} {s['problem']}" for s in manifest.skipped]
    if manifest.unassigned:
        lines.append(f"left {manifest.unassigned} images that no split takes")
    if manifest.ignored:
        lines.append(f"ignored {manifest.ignored} files that are in no class")
    return "\n".join(lines)


@contextlib.contextmanager
def _output(output_dir: str) -> Iterator[str]:
    """Yields a working folder that becomes `output_dir` if all goes well.

    The folder has a fixed name, so that a run sweeps what a killed one left,
    and is locked, so that two runs cannot write it at once.
    """
    target = pathlib.Path(output_dir).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{output_dir} already exists and is not empty. Pass another "
            "--output_dir, or remove it first."
        )
    working = target.with_name(f"incomplete.{target.name}")
    try:
        working.mkdir(parents=True, exist_ok=True)
        lock = os.open(working, os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"--output_dir={output_dir} cannot be made: {error}."
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another run is writing {output_dir} right now. Wait for it, "
                "or pass another --output_dir."
            ) from None
        for entry in working.iterdir():
            entry.unlink()
        try:
            yield str(working)
            working.rename(target)
        except BaseException as error:
            shutil.rmtree(working, ignore_errors=True)
            if isinstance(error, OSError):
                raise DataError(
                    f"{output_dir} could not be written: {error}."
                ) from error
            raise
    finally:
        os.close(lock)


def _audit(
    config: PrepareConfig, listing: folder.Listing
) -> tuple[list[folder.ImageFile], list[audit.Facts], list[dict[str, str]]]:
    """Opens every image; returns the good ones, their facts, and the bad."""
    images = listing.images
    if not images:
        raise DataError(
            f"{config.source} holds no image: its {len(listing.classes)} "
            "class folders are empty."
        )
    if len(listing.classes) < 2:
        raise DataError(
            f"{config.source} holds one class only: {listing.classes}. "
            "Expected at least two class folders. If these are classes one "
            "level further down, pass that folder as --source."
        )
    with Progress("audit", len(images)) as progress:
        facts = list(
            _in_processes(
                audit.inspect,
                [image.path for image in images],
                config.workers,
                lambda _: progress.update(1),
                chunk=32,
            )
        )
    skipped = [
        {"file": image.file, "problem": found.problem}
        for image, found in zip(images, facts, strict=True)
        if found.problem
    ]
    if skipped and config.on_bad_image == "fail":
        names = [f"  {s['file']} {s['problem']}" for s in skipped[:MANY]]
        if len(skipped) > MANY:
            names.append(f"  and {len(skipped) - MANY} more")
        raise DataError(
            f"{len(skipped)} of {len(images)} images are bad:\n"
            + "\n".join(names)
            + "\nMend or remove them, or pass --on_bad_image=skip to leave "
            "them out."
        )
    good = [
        (image, found)
        for image, found in zip(images, facts, strict=True)
        if not found.problem
    ]
    return [image for image, _ in good], [found for _, found in good], skipped


def _assign(
    config: PrepareConfig, classes: list[str], images: list[folder.ImageFile]
) -> list[str | None]:
    """Returns the split of every image, and checks that all can be trained."""
    labels = [image.label for image in images]
    given = [image.split for image in images]
    empty = sorted(set(classes) - set(labels))
    if empty:
        raise DataError(
            f"{config.source} has no good image of class {empty[0]!r}. Add "
            "some, or remove the folder."
        )
    if config.splits or not any(given):
        amounts = splits.parse_spec(config.splits or DEFAULT_SPLITS)
        files = [image.file for image in images]
        return splits.assign(files, labels, amounts, config.seed)
    trained = {
        label
        for label, split in zip(labels, given, strict=True)
        if split == splits.TRAIN
    }
    missing = sorted(set(classes) - trained)
    if missing:
        raise DataError(
            f"class {missing[0]!r} has no image in the train split, so it "
            f"cannot be learnt; its images are in other splits of "
            f"{config.source}. Add some, remove the class, or pass --splits "
            "to split all images anew."
        )
    return given


def _write(
    config: PrepareConfig,
    directory: str,
    classes: list[str],
    images: list[folder.ImageFile],
    facts: list[audit.Facts],
    assigned: list[str | None],
) -> dict[str, manifest_lib.Split]:
    """Writes the shards and indices of all splits; returns their entries."""
    label_of = {name: label for label, name in enumerate(classes)}
    planned: dict[str, list[shards.Shard]] = {}
    for split in splits.SPLITS:
        # Neighbours in a shard are mixed, for readers that stream.
        members = sorted(
            (p for p, name in enumerate(assigned) if name == split),
            key=lambda p: splits.hash_rank(images[p].file, config.seed),
        )
        if members:
            planned[split] = shards.plan(
                f"{_name(config.source)}-{split}",
                [
                    shards.Item(
                        images[p].path,
                        images[p].file,
                        label_of[images[p].label],
                    )
                    for p in members
                ],
                [
                    audit.stored_bytes(
                        facts[p], config.image_size, config.encoding
                    )
                    for p in members
                ],
                config.shard_mb,
            )
    write = functools.partial(
        shards.write,
        directory=directory,
        image_size=config.image_size,
        resize=config.resize,
        encoding=config.encoding,
    )
    everything = [shard for split in planned.values() for shard in split]
    total = sum(len(shard.items) for shard in everything)
    with Progress("write", total) as progress:
        written = _in_processes(
            write,
            everything,
            config.workers,
            lambda result: progress.update(result[0].count),
        )
        written = iter(list(written))
    result = {}
    for split, parts in planned.items():
        files, indices = zip(*(next(written) for _ in parts), strict=True)
        index = shards.write_index(
            f"{_name(config.source)}-{split}.index", directory, list(indices)
        )
        label_counts = [0] * len(classes)
        for part in indices:
            for label in part["label"]:
                label_counts[label] += 1
        result[split] = manifest_lib.Split(
            count=index.count,
            class_counts=label_counts,
            shards=list(files),
            index=index,
        )
    return result


def _in_processes(
    function: Callable,
    items: Iterable,
    workers: int,
    done: Callable[[object], None],
    chunk: int = 1,
) -> Iterator:
    """Yields `function` of every item, in order, from several processes."""
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        results = map(function, items)
        yield from _each(results, done)
        return
    # "spawn" because a forked child of a process with threads can hang.
    with concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        # Ctrl-C reaches every process; one of them says so.
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        try:
            results = pool.map(function, items, chunksize=chunk)
            yield from _each(results, done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _each(results: Iterator, done: Callable[[object], None]) -> Iterator:
    for result in results:
        done(result)
        yield result


def _name(source: str) -> str:
    """Returns the source folder's name as a data set's name."""
    name = pathlib.Path(source).resolve().name
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "images"


def _versions() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        **{
            name: importlib.metadata.version(name)
            for name in ("shardtune", "pillow", "protobuf")
        },
    }
