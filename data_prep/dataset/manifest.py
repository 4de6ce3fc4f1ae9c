"""What a finished data set is: `manifest.json`, written last.

Its presence means that the set is whole. The trainer reads nothing else to
learn classes, counts and files.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_prep.dataset import records
from data_prep.runtime.errors import DataError

FILE_NAME = "manifest.json"
FORMAT_VERSION = 2
_ROWS = 1 << 12  # of an index, that are looked at together
_PLAIN_NAME = re.compile(r"(?!\.)[\w.-]+")


@dataclasses.dataclass(frozen=True)
class File:
    """One file of the data set.

    Attributes:
        name: Without a folder.
        count: Number of records in it.
        bytes: Its size.
        sha256: The SHA-256 of its content, in hexadecimal.
    """

    name: str
    count: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        count: Number of images.
        class_counts: Images per class, in class order.
        shards: The TFRecord files, in record order.
        index: A NumPy file of `records.INDEX_DTYPE`, one row per record.
        fingerprints: The SHA-256 of every source file, 32 bytes each, in
            record order.
    """

    count: int
    class_counts: list[int]
    shards: list[File]
    index: File
    fingerprints: File

    @property
    def files(self) -> list[File]:
        """All files of the split."""
        return [*self.shards, self.index, self.fingerprints]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data set is and how it was made.

    Attributes:
        name: First part of the file names.
        classes: Sorted class names; a label is an index into it.
        image_size: Stored width and height in pixels; 0 where each image
            keeps its own.
        resize: How images fit a square: "stretch", "crop" or "pad".
        encoding: "original", "jpeg" or "raw".
        splits: By name.
        findings: How many there are of each of `findings.KINDS`.
        metadata: `audit.json`, which names every image that is odd, a
            duplicate, or left out; and what makes the folder a TFDS data set.
        skipped: Number of bad images left out.
        dropped: Number of duplicates left out.
        ignored: Number of files of the source that belong to no class.
        unassigned: Number of good images that the amounts of --splits left.
        flags: The flags of the command that made it, but for those that do
            not change what is made.
        versions: Version of each library that made it, by name.
    """

    name: str
    classes: list[str]
    image_size: int
    resize: str
    encoding: str
    splits: dict[str, Split]
    findings: dict[str, int]
    metadata: list[File]
    skipped: int
    dropped: int
    ignored: int
    unassigned: int
    flags: dict[str, object]
    versions: dict[str, str]

    @property
    def files(self) -> list[File]:
        """All files of the data set but the manifest."""
        parts = [file for s in self.splits.values() for file in s.files]
        return [*parts, *self.metadata]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what a trainer can see: classes, geometry and records."""
        content = {
            "classes": self.classes,
            "image_size": self.image_size,
            "resize": self.resize,
            "encoding": self.encoding,
            "splits": {
                name: [shard.sha256 for shard in split.shards]
                for name, split in self.splits.items()
            },
        }
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(self, data_dir: str) -> None:
        """Writes `manifest.json` into `data_dir`."""
        content = {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            **dataclasses.asdict(self),
        }
        content["checksum"] = _checksum(content)
        pathlib.Path(data_dir, FILE_NAME).write_text(
            json.dumps(content, indent=1) + "\n"
        )


def load(data_dir: str) -> Manifest:
    """Reads the manifest of a finished data set and checks every file's size.

    Raises:
        DataError: If there is no manifest, it cannot be read, a file is
            missing or has another size than the manifest says, or there is a
            shard that it does not name.
    """
    manifest = read(data_dir)
    for problem in file_problems(manifest, data_dir):
        raise DataError(f"{problem} Copy it again, or make the data set again.")
    return manifest


def read(data_dir: str) -> Manifest:
    """Reads the manifest of a data set and looks at no other file.

    Raises:
        DataError: If there is no manifest, or it cannot be read.
    """
    path = pathlib.Path(data_dir, FILE_NAME)
    try:
        return _parse(json.loads(path.read_text()))
    except FileNotFoundError:
        problem = (
            f"{data_dir} holds no {FILE_NAME}, so it is no finished data set"
        )
    except _Invalid as error:
        problem = f"{path} {error}"
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{path} cannot be read: {error}"
    raise DataError(
        f"{problem}. Make the data set with `python -m data_prep.task "
        f"--source=FOLDER --output_dir={data_dir}`."
    )


class _Invalid(Exception):
    """Why the content of a file is no manifest."""


def _parse(content: dict) -> Manifest:
    """Returns the manifest that `Manifest.save` wrote as `content`."""
    if not isinstance(content, dict):
        raise _Invalid("is no manifest of this project: it holds no object")
    checksum = content.pop("checksum", None)
    found = _checksum(content)
    version = content.pop("format_version", None)
    fingerprint = content.pop("fingerprint", None)
    if version != FORMAT_VERSION:
        raise _Invalid(
            f"has format version {version}, expected {FORMAT_VERSION}"
        )
    try:
        splits = {
            name: _parse_split(split)
            for name, split in content.pop("splits").items()
        }
        metadata = [File(**file) for file in content.pop("metadata")]
        manifest = Manifest(splits=splits, metadata=metadata, **content)
        _check(manifest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _Invalid(f"is no manifest of this project: {error}") from None
    if found != checksum or manifest.fingerprint != fingerprint:
        raise _Invalid(
            f"was changed: its checksum is {checksum}, its content gives "
            f"{found}"
        )
    return manifest


def _parse_split(content: dict) -> Split:
    return Split(
        count=content["count"],
        class_counts=content["class_counts"],
        shards=[File(**shard) for shard in content["shards"]],
        index=File(**content["index"]),
        fingerprints=File(**content["fingerprints"]),
    )


def _check(manifest: Manifest) -> None:
    """Raises ValueError unless all is of its type, and files lie in the folder."""
    for name, kind in typing.get_type_hints(Manifest).items():
        if not _is_a(getattr(manifest, name), kind):
            raise ValueError(f"{name} is not what was expected there")
    for file in manifest.files:
        # A name is part of a path: what it may be is what data_prep writes.
        if not _PLAIN_NAME.fullmatch(file.name):
            raise ValueError(f"{file.name!r} is no name of a file")


def _is_a(value: object, kind: Any) -> bool:
    """Tells whether a value is what an annotation of a manifest says."""
    inner = typing.get_args(kind)
    if typing.get_origin(kind) is list:
        return type(value) is list and all(_is_a(v, inner[0]) for v in value)
    if typing.get_origin(kind) is dict:
        return type(value) is dict and all(
            _is_a(v, inner[1]) for v in value.values()
        )
    if dataclasses.is_dataclass(kind):
        return type(value) is kind and all(
            _is_a(getattr(value, name), hint)
            for name, hint in typing.get_type_hints(kind).items()
        )
    return kind is object or type(value) is kind


def describe(data_dir: str, name: str, count: int = 0) -> File:
    """Returns the entry of a file that was just written.

    Args:
        data_dir: The data set's folder.
        name: Without a folder.
        count: Number of records in it.
    """
    with open(pathlib.Path(data_dir, name), "rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        return File(name, count, content.tell(), sha256)


def load_index(manifest: Manifest, data_dir: str, split: str) -> np.ndarray:
    """Returns where every record of a split lies.

    Returns:
        Array `[N]` of `records.INDEX_DTYPE`, in record order.

    Raises:
        DataError: If the index is not the one that the manifest names.
    """
    entry = manifest.splits[split]
    content = _read(entry.index, data_dir)
    index = np.zeros(0, records.INDEX_DTYPE)
    if len(content) == entry.count * records.INDEX_DTYPE.itemsize:
        index = np.frombuffer(content, records.INDEX_DTYPE)
    if len(index) != entry.count or not _leads_to_records(index, entry):
        raise DataError(
            f"{pathlib.Path(data_dir, entry.index.name)} is no index of "
            f"{entry.count} records in these shards. Make the data set again."
        )
    return index


def _leads_to_records(index: np.ndarray, split: Split) -> bool:
    """Tells whether every row names a place inside of a shard."""
    sizes = np.array([shard.bytes for shard in split.shards], np.int64)
    classes = len(split.class_counts)
    # By parts that stay in the processor's cache: 40 ms per million rows.
    return all(
        _rows_lead_to_records(index[first : first + _ROWS], sizes, classes)
        for first in range(0, len(index), _ROWS)
    )


def _rows_lead_to_records(
    rows: np.ndarray, sizes: np.ndarray, classes: int
) -> bool:
    shard, label = rows["shard"], rows["label"]
    if shard.min() < 0 or shard.max() >= len(sizes):
        return False
    # Each is bounded before it is subtracted: sums could overflow.
    end = sizes[shard] - records.FOOTER_BYTES
    offset, size = rows["offset"], rows["bytes"]
    inside = (offset >= records.HEADER_BYTES) & (offset <= end)
    inside &= (size >= 0) & (size <= end - offset)
    start, length = rows["image_offset"], rows["image_bytes"]
    inside &= (start >= 0) & (start <= size)
    inside &= (length > 0) & (length <= size - start)
    inside &= (rows["width"] > 0) & (rows["height"] > 0)
    inside &= (label >= 0) & (label < classes)
    return bool(inside.all())


def load_fingerprints(
    manifest: Manifest, data_dir: str, split: str
) -> np.ndarray:
    """Returns the SHA-256 of the source file of every record of a split.

    Returns:
        uint8 `[N, 32]`, in record order.

    Raises:
        DataError: If the file is not the one that the manifest names.
    """
    entry = manifest.splits[split]
    content = _read(entry.fingerprints, data_dir)
    if len(content) != 32 * entry.count:
        raise DataError(
            f"{pathlib.Path(data_dir, entry.fingerprints.name)} does not hold "
            f"{entry.count} fingerprints. Make the data set again."
        )
    return np.frombuffer(content, np.uint8).reshape(-1, 32)


def _checksum(content: dict) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _read(file: File, data_dir: str) -> bytes:
    path = pathlib.Path(data_dir, file.name)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(
            f"{path} is damaged: its SHA-256 is not the manifest's. Make the "
            "data set again."
        )
    return content


def file_problems(manifest: Manifest, data_dir: str) -> Iterator[str]:
    """Yields a sentence on every file that is missing, too many, or too long."""
    expected = {file.name: file.bytes for file in manifest.files}
    for path in sorted(pathlib.Path(data_dir).glob("*.tfrecord-*")):
        if path.name not in expected:
            yield (
                f"{path} is no shard of this data set: {FILE_NAME} names "
                f"{len(expected)} files, and not this one."
            )
    for name, size in expected.items():
        path = pathlib.Path(data_dir, name)
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            what = "missing" if found is None else f"{found} bytes long"
            yield f"{path} is {what}; the manifest says {size} bytes."
