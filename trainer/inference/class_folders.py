"""Sorts files into a folder per class, as links or copies."""

import filecmp
import itertools
import os
import pathlib
import shutil
from collections.abc import Iterator

from data_prep.runtime import storage


def place(file: str, root: str, label: str) -> pathlib.Path:
    """Puts a file into the folder of a class, and overwrites nothing.

    It is a hard link where the file system allows, else a copy. Where another
    file has its name already, it is called NAME-1, NAME-2 and so on; where it
    is there already, nothing is done.

    Args:
        file: Local, or an address in object storage.
        root: Where the folders of classes are; made if need be.
        label: Its class.

    Returns:
        Where it is now.

    Raises:
        OSError: If it cannot be written there.
    """
    folder = pathlib.Path(root, _folder_name(label))
    folder.mkdir(parents=True, exist_ok=True)
    targets = (folder / name for name in _names(pathlib.PurePosixPath(file)))
    return next(target for target in targets if _is_there(file, target))


def _names(path: pathlib.PurePosixPath) -> Iterator[str]:
    yield path.name
    for number in itertools.count(1):
        yield f"{path.stem}-{number}{path.suffix}"


def _is_there(file: str, target: pathlib.Path) -> bool:
    """Puts a file at a place unless it is taken; tells whether it is there."""
    try:
        _create(file, target)
    except FileExistsError:
        return _is_same(file, target)
    return True


def _create(file: str, target: pathlib.Path) -> None:
    if not storage.is_url(file):
        try:
            # A link to a link would lead nowhere from its new place.
            os.link(os.path.realpath(file), target)
            return
        except FileExistsError:
            raise
        except OSError:  # another file system, or one without links
            pass
    with open(target, "xb") as copy:
        try:
            if storage.is_url(file):
                copy.write(storage.read(file))
            else:
                with open(file, "rb") as source:
                    shutil.copyfileobj(source, copy)
        except BaseException:
            target.unlink()
            raise


def _is_same(file: str, target: pathlib.Path) -> bool:
    if storage.is_url(file):
        return target.is_file() and target.read_bytes() == storage.read(file)
    return target.is_file() and filecmp.cmp(file, target, shallow=False)


def _folder_name(label: str) -> str:
    """Returns a class's name as that of one folder; no two get the same."""
    name = label.replace("%", "%25").replace("/", "%2F")
    return name.replace(".", "%2E") if name in (".", "..") else name
