"""What every source gives: the labelled images, one by one."""

import dataclasses
import glob
import os
import tarfile
import zipfile
from collections.abc import Iterator

from data_prep.runtime import storage
from data_prep.runtime.errors import DataError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "evaluation": "test",
}


@dataclasses.dataclass(frozen=True, slots=True)
class ImageFile:
    """One file of a source.

    Attributes:
        path: The file, on this machine or in object storage.
        file: Path relative to the source, with forward slashes.
        label: Class name, or None where the file belongs to no class.
        split: The split it was found in, or None where the source has none.
        problem: The reason not to open it, or "".
    """

    path: str
    file: str
    label: str | None
    split: str | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a source holds. It is never in memory as a whole.

    Attributes:
        images: Every file, in any order; can be run through once.
        classes: Names of classes that the source declares, those without
            an image included; empty where only the images tell.
    """

    images: Iterator[ImageFile]
    classes: list[str]


def resolve_root(source: str) -> str | None:
    """Returns a folder as `walk` and `folders` take it; None where it is none.

    Of an address in object storage only reading it can tell.
    """
    if storage.is_url(source):
        return source.rstrip("/")
    return os.path.realpath(source) if os.path.isdir(source) else None


def no_folder(source: str, expected: str) -> DataError:
    """Returns what to raise for a source that is no folder.

    Args:
        source: The value of --source.
        expected: What it can be, for the message.
    """
    problem = f"is no folder. Expected {expected}"
    if os.path.isfile(source):
        problem = f"is a file. Expected {expected}"
        if zipfile.is_zipfile(source) or tarfile.is_tarfile(source):
            problem = "is an archive. Unpack it, and pass the folder"
        elif source.lower().endswith((".csv", ".tsv", ".txt")):
            problem = f"is a file. If it is a table, pass --source=csv:{source}"
    elif glob.has_magic(source):
        problem = (
            "is no folder, but a pattern. Pass the folder itself: all below it "
            "is taken"
        )
    return DataError(f"--source={source} {problem}.")


def walk(root: str, below: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields every file below a folder that may be opened, and what may not.

    Links to files are followed while they stay below `root`; nothing outside
    of it is read. Names that begin with a dot are yielded as files and not
    entered.

    Args:
        root: The folder that must not be left, from `resolve_root`.
        below: Folder to begin in, relative to `root`; "" is `root`.

    Yields:
        Path, path relative to `root`, and the reason not to open it or "".
    """
    if storage.is_url(root):
        yield from storage.files(root)
        return
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            file = f"{below}/{entry.name}" if below else entry.name
            hidden = entry.name.startswith(".")
            if entry.is_dir(follow_symlinks=False) and not hidden:
                yield from walk(root, file)
            elif hidden or entry.is_file(follow_symlinks=False):
                yield entry.path, file, ""
            else:
                yield entry.path, file, find_problem(entry.path, root)


def find_problem(path: str, root: str) -> str:
    """Returns the reason not to open a file, or "" where there is none.

    Args:
        path: A file, a link, or nothing at all.
        root: The folder that must not be left, as `os.path.realpath` gives it.
    """
    real = os.path.realpath(path)
    if os.path.commonpath((root, real)) != root:
        return "leads out of the source"
    if os.path.isdir(real):
        return (
            "is a link to a folder" if os.path.islink(path) else "is a folder"
        )
    if not os.path.exists(real):
        return "does not exist"
    return "" if os.path.isfile(real) else "is no regular file"


def folders(parent: str) -> list[str]:
    """Returns the sorted names of the folders in one that are not hidden."""
    if storage.is_url(parent):
        return storage.folders(parent)
    with os.scandir(parent) as entries:
        return sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.is_dir()
        )
