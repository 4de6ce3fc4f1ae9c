"""What operating systems have, or lack: the only module that asks.

shardtune runs on Linux, where it is developed and measured. Of what macOS
lacks each function here does the next best thing. Windows lacks too much: locks
of files, reads by position, files that other processes inherit.
"""

import os
import tempfile
from typing import BinaryIO

from data_prep.runtime.errors import UsageError

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None

_BLOCK = bytes(1 << 20)


def is_supported() -> bool:
    """Returns whether shardtune runs on this system."""
    return fcntl is not None


def refuse_unsupported() -> None:
    """Refuses systems on which nothing here would work.

    Raises:
        UsageError: On Windows.
    """
    if not is_supported():
        raise UsageError(
            "shardtune runs on Linux and macOS, and this system has no "
            "POSIX file locks. On Windows, install it in WSL 2 or Docker."
        )


def lock(file: int) -> None:
    """Locks an open file or folder until it is closed, or its process ends.

    Args:
        file: Its descriptor.

    Raises:
        OSError: If another process has it; see flock(2).
    """
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def most_open_files() -> int:
    """Returns how many files this process may have open at once."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def processors() -> int:
    """Returns the processors that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def reserve(file: BinaryIO, size: int) -> None:
    """Makes a new file so long, with room on the disk for all of it.

    A mapped file without that room would end the process when it is written.

    Args:
        file: Open for writing, and empty.
        size: In bytes.

    Raises:
        OSError: If the disk is full.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, len(_BLOCK)):
        file.write(_BLOCK[: size - start])
    file.flush()


def memory_file(name: str) -> int:
    """Returns the descriptor of a file in memory, on macOS of one on disk.

    It has no path, and is gone with the last process that has it open.

    Args:
        name: Shown in /proc, for whoever looks there.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
