"""One run at a time in a model directory.

The lock is the operating system's, on a file that says who has it: it is free
again the moment its process ends, however that ends. On NFS it holds between
machines; on file systems that lock within one machine only (such as gcsfuse),
only there.

Imports no TensorFlow, so that a second run is refused at once.
"""

import contextlib
import datetime
import errno
import json
import os
import pathlib
import socket
from collections.abc import Iterator

from data_prep.runtime import operating_system
from data_prep.runtime.errors import Stopped

# Copies of a folder leave it out.
LOCK = "run.lock"
_IN_USE = {errno.EAGAIN, errno.EACCES}


@contextlib.contextmanager
def held(model_dir: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of a model directory while the block runs.

    Args:
        model_dir: The model directory; it is made if need be.

    Raises:
        Stopped: If another run is in it.
    """
    is_new = not model_dir.exists()
    model_dir.mkdir(parents=True, exist_ok=True)
    path = model_dir / LOCK
    file = _open(path)
    try:
        text = json.dumps(
            {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "since": datetime.datetime.now().isoformat(" ", "seconds"),
            }
        )
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
        if is_new:  # and nothing came of it
            with contextlib.suppress(OSError):
                model_dir.rmdir()


def refuse_if_held(model_dir: pathlib.Path) -> None:
    """Refuses a model directory that another run is in.

    Args:
        model_dir: The model directory; it need not exist.

    Raises:
        Stopped: If another run is in it.
    """
    path = model_dir / LOCK
    if path.exists():
        with contextlib.suppress(PermissionError):
            os.close(_open(path))


def _open(path: pathlib.Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            operating_system.lock(file)
        except OSError as error:
            holder = os.pread(file, 1000, 0)
            os.close(file)
            if error.errno in _IN_USE:
                raise Stopped(_message(path, holder)) from None
            raise
        # The one before may have removed it between the two calls.
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)


def _message(path: pathlib.Path, holder: bytes) -> str:
    try:
        who = json.loads(holder)
        by = "process {process} on {host}, since {since}".format(**who)
    except (ValueError, KeyError):  # it has just begun
        by = "another process"
    return (
        f"{path.parent} is in use by {by}. Wait for its end, or pass another "
        "--model_dir."
    )
