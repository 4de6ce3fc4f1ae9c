"""The output folder: whole or absent, and written by one run at a time.

A local folder is written beside its place and renamed, so a killed run leaves
nothing torn. If there is an empty folder already, it is written inside, and the
manifest moves to its place last. The files are not synced to the disk: after a
power cut, run `data_prep.verify`.

A store has neither rename nor lock. Shards go where they stay, a mark says
that they are not finished, the manifest comes last and the mark goes. A later
run overwrites the mark of a run that is alive, too, which finds that out
before its manifest; a shard that it writes in between is found by `verify`.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator

from data_prep.runtime import atomic
from data_prep.runtime import operating_system
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped

SCRATCH = "scratch"  # folder in the working folder; gone when that is renamed
_INCOMPLETE = "incomplete"  # name of the folder of an unfinished data set
# What an empty folder may hold: what a killed run left, and what the system
# keeps at the top of a disk.
_NOT_CONTENT = {_INCOMPLETE, "lost+found"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run writes.

    Attributes:
        folder: Local folder; all that is in it is part of the result.
        scratch: Local folder on the same file system, for temporary files.
        shards: Folder of the shards: `folder`, or an address in a store.
        exchange: Folder of temporary files that all workers see: `scratch`,
            or an address in a store.
    """

    folder: str
    scratch: str
    shards: str
    exchange: str


@contextlib.contextmanager
def claim(output_dir: str, last: str) -> Iterator[Place]:
    """Yields where to write what becomes `output_dir` if all goes well.

    Args:
        output_dir: Must not exist, or be an empty folder.
        last: Name of the file whose presence means that all are there.

    Raises:
        DataError: If the folder is taken or cannot be written.
    """
    if storage.is_url(output_dir):
        try:
            with _claim_remote(output_dir.rstrip("/"), last) as place:
                yield place
        except sqlite3.OperationalError as error:  # no room for the catalogue
            raise DataError(
                f"{output_dir} could not be made: {error}."
            ) from None
    else:
        with _claim_local(output_dir, last) as folder:
            scratch = os.path.join(folder, SCRATCH)
            yield Place(folder, scratch, folder, scratch)


@contextlib.contextmanager
def _claim_remote(url: str, last: str) -> Iterator[Place]:
    """Writes into the address itself: a store renames no folder.

    A mark in it says that it is not finished, so that a run sweeps what a
    killed one left. Of two runs the later one takes the place over, and the
    earlier one finds another mark at its end.
    """
    mark, own = f"{url}/{_INCOMPLETE}/run", uuid.uuid4().hex.encode()
    if storage.exists(f"{url}/{last}") or not storage.exists(mark):
        if next(storage.files(url), None):
            raise _taken(url)
    storage.delete_below(url)
    storage.write(mark, own)
    try:
        with tempfile.TemporaryDirectory() as local:
            folder, scratch = (f"{local}/{name}" for name in ("data", SCRATCH))
            os.mkdir(folder)
            os.mkdir(scratch)
            yield Place(folder, scratch, url, f"{url}/{_INCOMPLETE}")
            _check_mark(mark, own, url)
            names = sorted(os.listdir(folder))
            for name in sorted(names, key=lambda name: name == last):
                storage.move(f"{folder}/{name}", f"{url}/{name}")
    except BaseException:
        # Whatever stops this run may be why the store cannot be reached; then
        # the mark stays, and the next run sweeps.
        with contextlib.suppress(Exception):
            _check_mark(mark, own, url)
            storage.delete_below(url)
        raise
    # The data set is whole by now, whether this goes well or not.
    with contextlib.suppress(DataError, Stopped):
        storage.delete_below(f"{url}/{_INCOMPLETE}")


def _check_mark(mark: str, own: bytes, url: str) -> None:
    try:
        if storage.read(mark) == own:
            return
    except FileNotFoundError:
        pass
    raise DataError(
        f"another run has begun to write {url} and took it over. Wait for it, "
        "or pass another --output_dir."
    )


@contextlib.contextmanager
def _claim_local(output_dir: str, last: str) -> Iterator[str]:
    """Yields a working folder whose content becomes that of `output_dir`.

    The folder has a fixed name, so that a run sweeps what a killed one left,
    and is locked, so that two runs cannot write it at once. It holds an empty
    folder `SCRATCH`, for what is not part of the result.
    """
    # A link to a folder stays one.
    target = pathlib.Path(os.path.realpath(output_dir))
    # An empty folder may be a mount point, which no other folder can replace.
    working = (
        target / _INCOMPLETE
        if target.is_dir()
        else target.with_name(f"{_INCOMPLETE}.{target.name}")
    )
    _refuse_taken(target, output_dir)
    try:
        working.mkdir(parents=True, exist_ok=True)
        lock = os.open(working, os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"--output_dir={output_dir} cannot be made: {error}."
        ) from None
    try:
        _lock(lock, working, output_dir)
        _refuse_taken(target, output_dir)
        try:
            for entry in working.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            (working / SCRATCH).mkdir()
            yield str(working)
            shutil.rmtree(working / SCRATCH)
            atomic.move_folder(working, target, last)
        except BaseException as error:
            shutil.rmtree(working, ignore_errors=True)
            # SQLite says "disk I/O error" and "database or disk is full".
            if isinstance(error, OSError | sqlite3.OperationalError):
                raise DataError(
                    f"{output_dir} could not be made: {error}."
                ) from error
            raise
    finally:
        os.close(lock)


def _refuse_taken(target: pathlib.Path, output_dir: str) -> None:
    if not target.exists():
        return
    if not target.is_dir() or set(os.listdir(target)) - _NOT_CONTENT:
        raise _taken(output_dir)


def _taken(output_dir: str) -> DataError:
    return DataError(
        f"{output_dir} already exists and is not empty. Pass another "
        "--output_dir, or remove it first."
    )


def _lock(lock: int, working: pathlib.Path, output_dir: str) -> None:
    try:
        operating_system.lock(lock)
        # The other run may have ended between our opening and our locking:
        # then it is the folder it renamed or removed that we hold.
        if os.path.samestat(os.fstat(lock), os.stat(working)):
            return
    except (BlockingIOError, FileNotFoundError):
        pass
    raise DataError(
        f"another run is writing {output_dir} right now. Wait for it, or pass "
        "another --output_dir."
    )
