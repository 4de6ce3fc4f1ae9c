"""Files in object storage, such as gs://bucket/photos/1.jpg, by way of fsspec.

What reads and writes whole files takes local paths too: then who calls it need
not know where they lie. Each raises a DataError where the store refuses, and
Stopped where it does not answer.
"""

import contextlib
import glob
import itertools
import os
import pathlib
import posixpath
import uuid
from collections.abc import Iterable
from collections.abc import Iterator

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError

# Objects that are read at once: a store answers each after tens of
# milliseconds, and many at the same time.
_BATCH = 32
# Of one object. Nothing that may be decoded is larger; a film that lies among
# the photos would fill the memory.
MAX_BYTES = 1 << 29
# Base classes of exceptions, of Python, aiohttp and botocore, that say nothing
# of the request itself; the clients have tried again before they raise them.
_SILENT = {
    "ConnectionError",
    "TimeoutError",
    "ClientConnectionError",
    "HTTPClientError",
}


def is_url(path: str) -> bool:
    """Tells an address in object storage from a path."""
    return "://" in str(path)


def contents(paths: Iterable[str]) -> Iterator[bytes | OSError]:
    """Yields the content of every file, or why that one cannot be read.

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
        system, _ = _open(batch[0])
        # Not `cat`, which takes a name such as [1].jpg for a pattern.
        found = system.cat_ranges(batch, None, None, on_error="return")
        for path, content in zip(batch, found, strict=True):
            if isinstance(content, FileNotFoundError):
                yield FileNotFoundError(2, "does not exist")
            elif isinstance(content, Exception):
                raise _unread(path, content)
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
    """Writes a file, which appears whole or not at all."""
    if is_url(path):
        system, name = _open(path)
        _call(path, system.pipe_file, name, content)
        return
    # Two may write it: whoever renames last leaves a whole file.
    incomplete = pathlib.Path(f"{path}.{uuid.uuid4().hex}")
    try:
        incomplete.write_bytes(content)
        incomplete.replace(path)
    finally:
        incomplete.unlink(missing_ok=True)


def move(path: str, target: str) -> None:
    """Moves a local file to a path on the same file system, or to a store."""
    if not is_url(target):
        os.replace(path, target)
        return
    system, name = _open(target)
    _call(target, system.put_file, path, name)
    os.unlink(path)


def exists(path: str) -> bool:
    """Tells whether there is such a file."""
    system, name = _open(path)
    return _call(path, system.exists, name)


def delete(path: str) -> None:
    """Deletes a file if it exists."""
    if not is_url(path):
        pathlib.Path(path).unlink(missing_ok=True)
        return
    system, name = _open(path)
    with contextlib.suppress(FileNotFoundError):
        _call(path, system.rm_file, name)


def delete_below(url: str) -> None:
    """Deletes all objects below a folder in a store."""
    system, _ = _open(url)
    found = (address for address, _, _ in files(url))
    while batch := list(itertools.islice(found, _BATCH)):
        # What it would take for patterns, one by one.
        odd = [address for address in batch if glob.has_magic(address)]
        for address in odd:
            delete(address)
        plain = [address for address in batch if address not in odd]
        if plain:
            with contextlib.suppress(FileNotFoundError):
                _call(url, system.rm, plain)


def fetch(url: str, folder: str, names: Iterable[str]) -> None:
    """Copies files of a folder in a store to a local one.

    Raises:
        DataError: If one is missing, or cannot be read.
    """
    system, root = _open(url)
    for name in names:
        target = os.path.join(folder, name)
        try:
            _call(url, system.get_file, f"{root}/{name}", target)
        except FileNotFoundError:
            raise DataError(f"{url}/{name} does not exist.") from None


def files(url: str) -> Iterator[tuple[str, str, str]]:
    """Yields all that lies below a folder in a store.

    Yields:
        Address, path relative to the folder, and why it may not be read or "".
    """
    system, root = _open(url)
    scheme = url.partition("://")[0]
    places = [root]
    while places:
        place = places.pop()
        try:
            entries = _call(url, system.ls, place, True)
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
    system, root = _open(url)
    try:
        entries = _call(url, system.ls, root, True)
    except FileNotFoundError:
        return []
    names = [
        posixpath.basename(entry["name"].rstrip("/"))
        for entry in entries
        if entry["type"] == "directory"
    ]
    return sorted(name for name in names if not name.startswith("."))


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


def _call(url: str, function, *words):
    try:
        return function(*words)
    except FileNotFoundError:
        raise
    except Exception as error:  # each store has errors of its own
        raise _unread(url, error) from None


def _unread(url: str, error: Exception) -> DataError | Stopped:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    code = str(getattr(error, "code", ""))  # of gcsfs.retry.HttpError
    if kinds & _SILENT or (code.isdigit() and int(code) >= 500):
        return Stopped(
            f"{url} does not answer: {error!r}. Run the same command again."
        )
    return DataError(
        f"{url} cannot be reached: {error!r}. Check the address and the "
        "credentials."
    )


def _open(url: str):
    """Returns the fsspec file system of an address, and the path in it."""
    try:
        import fsspec

        # Others write there too, and a listing can be long.
        system, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        scheme = url.partition("://")[0]
        extra = {"gs": "gcs"}.get(scheme, scheme)
        raise UsageError(
            f"{url} cannot be opened: {error}. Expected gs:// or s3://, and "
            f"`pip install 'shardtune[{extra}]'`."
        ) from None
    except Exception as error:  # credentials
        raise _unread(url, error) from None
    return system, root.rstrip("/")
