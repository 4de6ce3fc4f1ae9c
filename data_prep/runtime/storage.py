"""Files in object storage, such as gs://bucket/photos/1.jpg, by way of fsspec.

The storage layer of all commands: gs:// by gcsfs, s3:// by s3fs. What reads
and writes whole files takes local paths too: then who calls it need not know
where they lie. An exception of a client leaves as a FileNotFoundError, a
DataError or Stopped; see `store_errors`.

Addresses are never patterns: names such as [1].jpg are names of objects.
Listings are never cached, because other machines write to the same place.
"""

import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import posixpath
from collections.abc import Iterable
from collections.abc import Iterator

from data_prep.runtime import atomic
from data_prep.runtime import store_errors
from data_prep.runtime.errors import DataError
from data_prep.runtime.store_clients import call
from data_prep.runtime.store_clients import open_store

# Objects that are read at once: a store answers each after tens of
# milliseconds, and many at the same time.
_BATCH = 32
# Files that are copied at once: one connection alone does not fill a network.
_COPIES = 8
# Of one object. Nothing that may be decoded is larger; a film that lies among
# the photos would fill the memory.
MAX_BYTES = 1 << 29


def is_url(path: str) -> bool:
    """Tells an address in object storage from a path."""
    return "://" in str(path)


def contents(paths: Iterable[str]) -> Iterator[bytes | OSError]:
    """Yields the content of every file, or the error of reading that one.

    Args:
        paths: Local, or of one store.

    Raises:
        DataError: If the store refuses: that is no fault of one file.
        Stopped: If it does not answer.
    """
    paths = iter(paths)
    while batch := list(itertools.islice(paths, _BATCH)):
        if not is_url(batch[0]):
            yield from map(_local_content, batch)
            continue
        system, _ = open_store(batch[0])
        # Not `cat`, which takes a name such as [1].jpg for a pattern.
        found = system.cat_ranges(batch, None, None, on_error="return")
        for path, content in zip(batch, found, strict=True):
            if isinstance(content, FileNotFoundError):
                yield FileNotFoundError(2, "does not exist")
            elif isinstance(content, Exception):
                raise store_errors.translate(path, content)
            else:
                yield content


def read(path: str) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: If that one file cannot be read.
    """
    (content,) = contents([path])
    if isinstance(content, OSError):
        raise content
    return content


def write(path: str, content: bytes) -> None:
    """Writes a file, which appears whole or not at all.

    Raises:
        DataError: If the store refuses; also where there is no such bucket.
    """
    if is_url(path):
        system, name = open_store(path)
        try:
            call(path, system.pipe_file, name, content)
        except FileNotFoundError:
            raise store_errors.no_bucket(path) from None
        return
    # Two may write it: whoever renames last leaves a whole file.
    with atomic.replacing(pathlib.Path(path)) as incomplete:
        incomplete.write_bytes(content)


def upload(path: str | os.PathLike, url: str) -> None:
    """Copies a local file to an object, which appears whole or not at all.

    The file is read in pieces: it may be larger than the memory.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If the store refuses; also where there is no such bucket.
    """
    system, name = open_store(url)
    try:
        call(url, system.put_file, str(path), name)
    except FileNotFoundError:
        if os.path.exists(path):
            raise store_errors.no_bucket(url) from None
        raise


def move(path: str, target: str) -> None:
    """Moves a local file to a path on the same file system, or to a store.

    It is not synced to the disk: that of a whole data set would take longer
    than making it. See `writers.output`.
    """
    if not is_url(target):
        os.replace(path, target)
        return
    upload(path, target)
    os.unlink(path)


def download(
    url: str, folder: str | os.PathLike, copies: Iterable[tuple[str, str]]
) -> None:
    """Copies objects below a folder in a store to files, several at once.

    Each file appears whole or not at all.

    Args:
        url: The folder in the store.
        folder: Local, where to; folders in it are made.
        copies: Path below `url`, and path below `folder`, of each.

    Raises:
        DataError: If an object is missing, or a file would lie outside of the
            folder.
    """
    system, root = open_store(url)

    def copy(names: tuple[str, str]) -> None:
        source, target = names
        if leads_out(target):
            raise DataError(
                f"{url} names the file {target!r}, which leads out of its "
                "folder. Rename or delete it."
            )
        path = pathlib.Path(folder, target)
        try:
            with atomic.replacing(path) as incomplete:
                place = f"{root}/{source}"
                call(url, system.get_file, place, str(incomplete))
        except FileNotFoundError:
            raise DataError(
                f"{url}/{source} is missing. Put it there, or correct "
                "the address."
            ) from None

    with concurrent.futures.ThreadPoolExecutor(_COPIES) as pool:
        # Raises the first error, if any; what waits then is not begun.
        list(pool.map(copy, copies))


def exists(path: str) -> bool:
    """Tells whether there is such a file."""
    system, name = open_store(path)
    return call(path, system.exists, name)


def delete(path: str) -> None:
    """Deletes a file if it exists."""
    if not is_url(path):
        pathlib.Path(path).unlink(missing_ok=True)
        return
    system, name = open_store(path)
    with contextlib.suppress(FileNotFoundError):
        call(path, system.rm_file, name)


def delete_below(url: str) -> None:
    """Deletes all objects below a folder in a store."""
    system, root = open_store(url)

    def remove(name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            # Not `rm`, which takes names for patterns.
            call(url, system.rm_file, f"{root}/{name}")

    with concurrent.futures.ThreadPoolExecutor(_BATCH) as pool:
        list(pool.map(remove, names(url)))


def names(url: str) -> list[str]:
    """Returns the sorted paths of all objects below a folder in a store."""
    return sorted(name for _, name, _ in files(url))


def files(url: str) -> Iterator[tuple[str, str, str]]:
    """Yields all that lies below a folder in a store.

    fsspec lists a folder at once, which takes memory for every object in it.

    Yields:
        Address, path relative to the folder, and the problem for which it may
        not be read, or "".
    """
    system, root = open_store(url)
    scheme = url.partition("://")[0]
    places = [root]
    while places:
        place = places.pop()
        try:
            entries = call(url, system.ls, place, True)
        except FileNotFoundError:
            continue  # a root that is none
        for entry in entries:
            name = entry["name"].rstrip("/")
            if name == place:
                continue  # what some tools leave to stand for a folder
            if entry["type"] == "directory":
                places.append(name)
                continue
            problem = ""
            if (entry["size"] or 0) > MAX_BYTES:
                problem = f"is larger than {MAX_BYTES >> 20} MiB"
            if leads_out(name[len(root) + 1 :]):
                problem = "leads out of the source"
            address = f"{scheme}://{name.lstrip('/')}"
            yield address, name[len(root) + 1 :], problem


def folders(url: str) -> list[str]:
    """Returns the sorted names of the folders right below one in a store."""
    system, root = open_store(url)
    try:
        entries = call(url, system.ls, root, True)
    except FileNotFoundError:
        return []
    found = [
        posixpath.basename(entry["name"].rstrip("/"))
        for entry in entries
        if entry["type"] == "directory"
    ]
    return sorted(name for name in found if not name.startswith("."))


def leads_out(file: str) -> bool:
    """Tells whether a relative path leaves the folder that it starts from."""
    path = pathlib.PurePosixPath(file)
    return path.is_absolute() or ".." in path.parts


def _local_content(path: str) -> bytes | OSError:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        return error
