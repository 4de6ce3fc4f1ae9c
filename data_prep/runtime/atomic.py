"""Files that are whole or absent, whenever their writer is killed.

A file is written under another name, synced to the disk and renamed. So after
a power cut, too, it holds what was written or what was there before; the
folder is not synced, so the last renames before the cut may be undone.

This is for single files: checkpoints, tables, what is copied from a store; and
`move_folder` for those that are whole or absent together.
"""

import contextlib
import csv
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Iterator
from typing import Any
from typing import TextIO

from data_prep.runtime.errors import NO_ROOM

INCOMPLETE = "incomplete."


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path to write to; the file there becomes the one at `path`.

    A reader sees the old file or the whole new one, of one writer where there
    are several, on any host. If the block raises, the old file stays.

    Args:
        path: The file to make or replace; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{INCOMPLETE}{uuid.uuid4().hex}.{path.name}")
    try:
        yield incomplete
        descriptor = os.open(incomplete, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # of the file, whoever wrote to it
        finally:
            os.close(descriptor)
        incomplete.replace(path)
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise


def sweep(folder: pathlib.Path) -> None:
    """Removes the files that killed writers have left in a folder.

    Args:
        folder: A folder that nobody writes to now.
    """
    for leftover in folder.glob(f"{INCOMPLETE}*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)


def move_folder(source: pathlib.Path, target: pathlib.Path, last: str) -> None:
    """Moves a folder within a file system, by one rename where it can.

    Buckets that are mounted rename no folder, as gcsfuse does by default. There,
    and where the target holds the folder, the files are moved one by one.

    Args:
        source: The folder.
        target: Where it goes; what is left there of an earlier try is replaced.
        last: Name of the file whose presence says that all are there.

    Raises:
        OSError: If the disk is full, or the files cannot be moved either.
    """
    try:
        source.rename(target)
        return
    except OSError as error:
        if error.errno in NO_ROOM:
            raise
    files = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == last, path)):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)
    shutil.rmtree(source)


@contextlib.contextmanager
def open_text(path: pathlib.Path) -> Iterator[TextIO]:
    """Yields a text file to write to, whose lines end as told; see `replacing`.

    Names that are no UTF-8 keep their bytes.
    """
    with (
        replacing(path) as incomplete,
        open(
            incomplete,
            "w",
            newline="",
            encoding="utf-8",
            errors="surrogateescape",
        ) as file,
    ):
        yield file


@contextlib.contextmanager
def open_csv(path: pathlib.Path) -> Iterator[Any]:
    """Yields the `csv.writer` of a file; see `open_text`."""
    with open_text(path) as file:
        yield csv.writer(file)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file; see `replacing`."""
    with replacing(path) as incomplete:
        incomplete.write_text(text)


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a dict as JSON; see `replacing`."""
    write_text(path, json.dumps(content, indent=1) + "\n")
