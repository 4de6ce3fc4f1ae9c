"""Folders in object storage, such as gs://bucket/photos, by way of fsspec.

A source is copied to the local disk and then read as any folder; a data set
is made on the local disk and then copied, its manifest last: in a store that
knows no rename, that one object says that all others are there.
"""

import itertools
import os
import pathlib
import posixpath
from collections.abc import Iterator

from data_prep.errors import DataError
from data_prep.errors import UsageError

_BATCH = 256  # files that are copied at once


def is_url(path: str) -> bool:
    """Tells an address in object storage from a path."""
    return "://" in path


def fetch(url: str, folder: str) -> str:
    """Copies all that is below an address; returns the local folder.

    Args:
        url: Such as gs://bucket/photos.
        folder: Where to; must not exist.

    Raises:
        DataError: If there is nothing, it cannot be read, or the name of an
            object leads out of the folder.
    """
    system, root = _open(url)
    os.makedirs(folder)
    try:
        pairs = _files(system, root, os.path.realpath(folder))
        while batch := list(itertools.islice(pairs, _BATCH)):
            remote, local = zip(*batch, strict=True)
            for path in local:
                os.makedirs(os.path.dirname(path), exist_ok=True)
            system.get(list(remote), list(local))
    except DataError:
        raise
    except Exception as error:  # each store has errors of its own
        raise DataError(f"{url} cannot be read: {error!r}.") from None
    if not os.listdir(folder):
        raise DataError(f"{url} holds nothing. Expected a folder of images.")
    return folder


def refuse_taken(url: str) -> None:
    """Raises a DataError unless there is nothing below an address."""
    system, root = _open(url)
    try:
        taken = system.exists(root) and any(system.ls(root, detail=False))
    except Exception as error:
        raise DataError(f"{url} cannot be read: {error!r}.") from None
    if taken:
        raise DataError(
            f"{url} already exists and is not empty. Pass another "
            "--output_dir, or remove it first."
        )


def publish(folder: str, url: str, last: str) -> None:
    """Copies a folder's files to an address.

    Args:
        folder: Holds files only.
        url: Where to.
        last: Name of the file whose presence means that all are there.

    Raises:
        DataError: If they cannot be written.
    """
    system, root = _open(url)
    names = sorted(os.listdir(folder), key=lambda name: (name == last, name))
    try:
        for name in names:
            system.put_file(os.path.join(folder, name), f"{root}/{name}")
    except Exception as error:
        raise DataError(
            f"{url} could not be written: {error!r}. It holds no {last}, so "
            "nobody takes it for whole; remove what is there, and run the "
            "command again."
        ) from None


def _open(url: str):
    """Returns the fsspec file system of an address, and the path in it."""
    try:
        import fsspec

        system, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{url} cannot be opened: {error}. gs:// takes "
            "`pip install 'shardtune[gcs]'`."
        ) from None
    except Exception as error:  # credentials
        raise DataError(f"{url} cannot be opened: {error!r}.") from None
    return system, root.rstrip("/")


def _files(system, root: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yields every object below `root`, and where it goes."""
    for place, _, names in system.walk(root):
        for name in names:
            remote = f"{place}/{name}"
            file = posixpath.relpath(remote, root)
            local = pathlib.Path(os.path.normpath(os.path.join(folder, file)))
            if ".." in remote.split("/") or not local.is_relative_to(folder):
                raise DataError(
                    f"the object {remote!r} has a name that leads out of its "
                    "folder. Rename it."
                )
            yield remote, str(local)
