"""Errors that are no fault of the software, and the exit codes.

Whatever raises one of these says what was received, what was expected and how
to mend it; `data_prep.runtime.command` prints that text without a traceback.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

# What the system says of a full disk, a used-up quota, a limit on the size of
# files, and a disk that takes no more because it is damaged.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

EXIT_FAILURE = 1
EXIT_USAGE = 64
EXIT_DATA = 65
EXIT_STOPPED = 75


def remedy(error: OSError) -> str:
    """Returns what to do where a file could not be written."""
    if error.errno == errno.EROFS:
        return "make the disk writable, or choose another place"
    return "free some space"


@contextlib.contextmanager
def naming_full_disks(path: os.PathLike) -> Iterator[None]:
    """Raises the system's error where a library keeps but the text of it.

    Args:
        path: What the library writes.

    Raises:
        OSError: If the system refuses to write, with a number of `NO_ROOM`.
    """
    try:
        yield
    except Exception as error:  # each library has its own
        for code in NO_ROOM:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code), str(path)) from None
        raise


class UsageError(Exception):
    """The command itself is wrong: a flag, or a combination of flags."""


class DataError(Exception):
    """The images, records, weights or checkpoint are wrong or damaged."""


class TrainingError(Exception):
    """The training failed: a loss of NaN, an accuracy below what was asked."""


class Stopped(Exception):
    """The run was stopped early; the same command resumes or repeats it."""
