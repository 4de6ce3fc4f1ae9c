"""What a finished data set is: `manifest.json`, written last.

Its presence means that the set is whole. The trainer reads nothing else to
learn classes, counts and files.
"""

import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from data_prep import records
from data_prep.errors import DataError

FILE_NAME = "manifest.json"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class File:
    """One file of the data set.

    Attributes:
        name: Without a folder.
        count: Number of records in it.
        bytes: Its size.
        sha256: Of its content, in hexadecimal.
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
    """

    count: int
    class_counts: list[int]
    shards: list[File]
    index: File


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a data set is and how it was made.

    Attributes:
        name: First part of the file names.
        classes: Sorted class names; a label is a position in this list.
        image_size: Stored width and height in pixels; 0 where each image
            keeps its own.
        resize: How pictures fit a square: "stretch", "crop" or "pad".
        encoding: "original", "jpeg" or "raw".
        splits: By name.
        skipped: Bad images left out: `file` and `problem` of each.
        ignored: Number of files of the source that belong to no class.
        unassigned: Number of good images that the counts of --splits left.
        flags: The flags of the command that made it.
        versions: Of the software that made it.
    """

    name: str
    classes: list[str]
    image_size: int
    resize: str
    encoding: str
    splits: dict[str, Split]
    skipped: list[dict[str, str]]
    ignored: int
    unassigned: int
    flags: dict[str, object]
    versions: dict[str, str]

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
        pathlib.Path(data_dir, FILE_NAME).write_text(
            json.dumps(content, indent=1) + "\n"
        )


def load(data_dir: str) -> Manifest:
    """Reads the manifest of a finished data set and checks every file's size.

    Raises:
        DataError: If there is no manifest, it cannot be read, or a file is
            missing or has another size than the manifest says.
    """
    path = pathlib.Path(data_dir, FILE_NAME)
    make = (
        "Make the data set with `python -m data_prep.task --source=FOLDER "
        f"--output_dir={data_dir}`."
    )
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(
            f"{data_dir} holds no {FILE_NAME}, so it is no finished data set. "
            + make
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}. {make}") from None
    version = content.pop("format_version", None)
    fingerprint = content.pop("fingerprint", None)
    if version != FORMAT_VERSION:
        raise DataError(
            f"{path} has format version {version}, expected {FORMAT_VERSION}. "
            + make
        )
    try:
        splits = {
            name: Split(
                count=split["count"],
                class_counts=split["class_counts"],
                shards=[File(**shard) for shard in split["shards"]],
                index=File(**split["index"]),
            )
            for name, split in content.pop("splits").items()
        }
        manifest = Manifest(splits=splits, **content)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no manifest of this project: {error}. {make}"
        ) from None
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{path} was changed: its fingerprint is {fingerprint}, its "
            f"content gives {manifest.fingerprint}. {make}"
        )
    _check_sizes(manifest, data_dir)
    return manifest


def load_index(manifest: Manifest, data_dir: str, split: str) -> np.ndarray:
    """Returns where every record of a split lies.

    Returns:
        Array `[N]` of `records.INDEX_DTYPE`, in record order.

    Raises:
        DataError: If the index is not the one that the manifest names.
    """
    file = manifest.splits[split].index
    content = pathlib.Path(data_dir, file.name).read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(
            f"{pathlib.Path(data_dir, file.name)} is damaged: its SHA-256 is "
            "not the manifest's. Make the data set again."
        )
    return np.frombuffer(content, records.INDEX_DTYPE)


def _check_sizes(manifest: Manifest, data_dir: str) -> None:
    for split in manifest.splits.values():
        for file in (*split.shards, split.index):
            path = pathlib.Path(data_dir, file.name)
            size = path.stat().st_size if path.is_file() else None
            if size != file.bytes:
                found = "missing" if size is None else f"{size} bytes long"
                raise DataError(
                    f"{path} is {found}; the manifest says {file.bytes} "
                    "bytes. Copy it again, or make the data set again."
                )
