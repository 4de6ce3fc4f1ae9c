"""Whether the files of a data set are what its manifest and index say.

`verify` reads everything. The trainer, when it starts, looks at sizes
(`manifest.load`) and at the first and last record of every shard
(`check_ends`), and checks each record's checksum when it reads it.
"""

import itertools
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError

MANY = 10  # problems named in a message before "and more"


def verify(data_dir: str) -> int:
    """Reads every file of a data set and compares its SHA-256.

    Args:
        data_dir: Folder of the data set. One in object storage is copied to
            the system's folder for temporary files first.

    Returns:
        The number of files, all of them whole.

    Raises:
        DataError: If files are missing, too many, or not what the manifest
            says; it names shard and byte.
    """
    if storage.is_url(data_dir):
        return _verify_copy(data_dir.rstrip("/"))
    manifest = manifest_lib.read(data_dir)
    found = list(itertools.islice(_problems(manifest, data_dir), MANY + 1))
    if found:
        listed = "\n".join(f"  {problem}" for problem in found[:MANY])
        more = "\n  and more" if len(found) > MANY else ""
        raise DataError(
            f"{data_dir} is damaged:\n{listed}{more}\nCopy these files again, "
            "or make the data set again."
        )
    return len(manifest.files)


def check_ends(
    manifest: Manifest, data_dir: str, split: str, index: np.ndarray
) -> None:
    """Checks the first and the last record of every shard of a split.

    It is cheap, and finds a shard that is not the index's: swapped with
    another, or of another data set.

    Args:
        manifest: The data set's manifest.
        data_dir: Its folder.
        split: Name of the split.
        index: Array `[N]` of `records.INDEX_DTYPE`, from
            `manifest.load_index`.

    Raises:
        DataError: If a record is not what the index says.
    """
    shards = manifest.splits[split].shards
    # Records lie in the order of the shards.
    column = np.ascontiguousarray(index["shard"])
    first = np.searchsorted(column, np.arange(len(shards)))
    last = np.append(first[1:], len(index)) - 1
    for shard, *ends in zip(shards, first, last, strict=True):
        path = pathlib.Path(data_dir, shard.name)
        for problem in record_problems(path, index[ends]):
            raise DataError(
                f"{path} is damaged {problem}. Copy it again, or make the data "
                "set again."
            )


def record_problems(path: pathlib.Path, rows: np.ndarray) -> Iterator[str]:
    """Yields where and how records of a shard are not what the index says.

    Args:
        path: The shard's file.
        rows: Array `[n]` of `records.INDEX_DTYPE`, some rows of its index.
    """
    with open(path, "rb") as file:
        for row in rows:
            start = int(row["offset"]) - records.HEADER_BYTES
            length = int(row["bytes"])
            file.seek(start)
            framed = file.read(
                records.HEADER_BYTES + length + records.FOOTER_BYTES
            )
            try:
                record = records.deserialize(
                    records.check_frame(framed, length)
                )
            except ValueError as error:
                yield f"at byte {start}: {error}"
                continue
            if (record.id, record.label) != (row["id"], row["label"]):
                yield f"at byte {start}: it holds another record"


def _verify_copy(url: str) -> int:
    """Verifies a copy of a data set in object storage."""
    names = [name for name in storage.names(url) if "/" not in name]
    with tempfile.TemporaryDirectory() as copy:
        storage.download(url, copy, [(name, name) for name in names])
        try:
            return verify(copy)
        except DataError as error:
            raise DataError(str(error).replace(copy, url)) from None


def _problems(manifest: Manifest, data_dir: str) -> Iterator[str]:
    yield from manifest_lib.file_problems(manifest, data_dir)
    for file in manifest.files:
        path = pathlib.Path(data_dir, file.name)
        if not path.is_file():
            continue  # named above
        entry = manifest_lib.describe(data_dir, file.name)
        if entry.sha256 == file.sha256:
            continue
        yield from _shard_problems(manifest, data_dir, file.name)
        yield (
            f"{path}: its SHA-256 is {entry.sha256}; the manifest says "
            f"{file.sha256}."
        )


def _shard_problems(
    manifest: Manifest, data_dir: str, name: str
) -> Iterator[str]:
    """Yields which records of a file are damaged, if it is a shard."""
    for split, entry in manifest.splits.items():
        names = [shard.name for shard in entry.shards]
        if name not in names:
            continue
        try:
            index = manifest_lib.load_index(manifest, data_dir, split)
        except (DataError, OSError):
            return  # the index itself is named as damaged
        rows = index[index["shard"] == names.index(name)]
        path = pathlib.Path(data_dir, name)
        for problem in record_problems(path, rows):
            yield f"{path} is damaged {problem}."
