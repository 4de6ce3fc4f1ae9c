"""Takes from every Python that has this on its path what macOS lacks."""

import ctypes
import os
import pathlib
import signal

for name in (
    *("sched_getaffinity", "posix_fallocate", "posix_fadvise"),
    *("memfd_create", "eventfd", "pipe2"),
):
    delattr(os, name)
del signal.pidfd_send_signal


class _Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name == "prctl":
            raise AttributeError(name)
        return super().__getattr__(name)


ctypes.CDLL = _Library
_open = pathlib.Path.open
_exists = pathlib.Path.exists


def _is_linux(path):
    return str(path).startswith(("/proc/", "/sys/"))


def _open_here(self, *arguments, **options):
    if _is_linux(self):
        raise FileNotFoundError(str(self))
    return _open(self, *arguments, **options)


pathlib.Path.open = _open_here
pathlib.Path.exists = lambda self: not _is_linux(self) and _exists(self)
