"""The files that the words of a command name."""

import glob
import os
import sys
from collections.abc import Iterator

from data_prep.runtime import storage
from data_prep.runtime.errors import DataError


def list_files(paths: list[str]) -> list[str]:
    """Returns the sorted files that paths name, folders searched recursively.

    A file that is named need not exist: who reads it says what is wrong.
    Hidden files in folders, and what is no regular file there, are left out.

    Args:
        paths: Files, folders and patterns, and addresses of objects or folders
            in object storage; "@FILE" and "-" stand for the lines of a file
            and of the standard input.

    Raises:
        DataError: If a pattern matches nothing, a list cannot be read, or
            there is no file at all.
    """
    result: set[str] = set()
    for path in _spelt(paths):
        if storage.is_url(path):
            result.update(_objects(path))
        elif os.path.isdir(path):
            found = [
                os.path.join(place, name)
                for place, _, names in os.walk(path)
                for name in names
                if not name.startswith(".")
            ]
            # Reading a pipe or a device would wait, or never end.
            result |= {file for file in found if os.path.isfile(file)}
        else:
            result.add(path)
    if not result:
        raise DataError(f"there is no file in {', '.join(paths)}.")
    return sorted(result)


def _objects(url: str) -> Iterator[str]:
    """Yields the objects below a folder in a store, or the address itself."""
    below = False
    for address, name, _ in storage.files(url):
        below = True
        if not os.path.basename(name).startswith("."):
            yield address
    if not below:
        yield url


def _spelt(paths: list[str]) -> Iterator[str]:
    """Yields the paths that lists and patterns stand for."""
    for path in paths:
        if storage.is_url(path):  # never a pattern
            yield path
        elif path == "-":
            yield from filter(None, sys.stdin.read().splitlines())
        elif path.startswith("@") and not os.path.lexists(path):
            try:
                with open(path[1:], errors="surrogateescape") as lines:
                    yield from filter(None, lines.read().splitlines())
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error}.") from None
        elif not os.path.lexists(path) and glob.has_magic(path):
            found = glob.glob(path, recursive=True)
            if not found:
                raise DataError(f"no file matches {path}.")
            yield from found
        else:
            yield path
