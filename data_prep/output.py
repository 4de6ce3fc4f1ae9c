"""The output folder: whole or absent, and written by one run at a time."""

import contextlib
import fcntl
import os
import pathlib
import shutil
import sqlite3
from collections.abc import Iterator

from data_prep.errors import DataError

SCRATCH = "scratch"  # folder in the working folder; gone when that is renamed


@contextlib.contextmanager
def claim(output_dir: str) -> Iterator[str]:
    """Yields a working folder that becomes `output_dir` if all goes well.

    The folder has a fixed name, so that a run sweeps what a killed one left,
    and is locked, so that two runs cannot write it at once. It holds an empty
    folder `SCRATCH`, for what is not part of the result.

    Args:
        output_dir: Must not exist, or be an empty folder.

    Raises:
        DataError: If the folder is taken or cannot be written.
    """
    target = pathlib.Path(output_dir).absolute()
    _refuse_taken(target, output_dir)
    working = target.with_name(f"incomplete.{target.name}")
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
            working.rename(target)
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
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{output_dir} already exists and is not empty. Pass another "
            "--output_dir, or remove it first."
        )


def _lock(lock: int, working: pathlib.Path, output_dir: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
