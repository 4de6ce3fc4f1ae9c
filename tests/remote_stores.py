"""Stores in a process that sees gs://, used from a test that does not.

A test calls the methods of a store as if it were its own; arguments, results
and exceptions travel through a socket.
"""

import contextlib
import os
import pathlib
import resource
import subprocess
import sys
import time
from multiprocessing import managers

from conftest import ROOT

from launch.staging import stores

_METHODS = ("names", "read", "write", "download", "upload", "delete")
_KEY = b"test"


class Limits:
    """Limits of the process that the stores are in."""

    def file_size(self, size: int) -> None:
        """Sets the longest file that it may write: a disk that is full."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        size = resource.RLIM_INFINITY if size < 0 else size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


class _Manager(managers.BaseManager):
    pass


_Manager.register("open_store", stores.open_store, exposed=_METHODS)
_Manager.register("limits", Limits)


class Remote:
    """What the process offers.

    Attributes:
        limits: Its `Limits`.
    """

    def __init__(self, manager: _Manager):
        self._manager = manager
        self.limits = manager.limits()

    def open_store(self, uri: str) -> stores.Store:
        """As `stores.open_store`."""
        store = self._manager.open_store(uri)
        store.uri = uri
        return store


@contextlib.contextmanager
def remote_stores(service, root: pathlib.Path):
    """Gives a `Remote` inside of a service.

    Args:
        service: Of `gcs_service`.
        root: Folder for the socket.
    """
    address = str(root / "stores")
    process = subprocess.Popen(
        service.inside([sys.executable, __file__, address]),
        env={**os.environ, **service.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        end = time.monotonic() + 60
        while not os.path.exists(address):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        manager = _Manager(address, authkey=_KEY)
        manager.connect()
        yield Remote(manager)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    _Manager(sys.argv[1], authkey=_KEY).get_server().serve_forever()
