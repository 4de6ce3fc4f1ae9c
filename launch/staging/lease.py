"""One run at a time in a model directory that lies in object storage.

A store has no locks. LEASE.json says who writes there, and changes while they
do. Who comes later watches it: if it stays as it is, its owner is gone. That
needs no clocks that agree.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped

LEASE = "LEASE.json"
PATIENCE = 60.0  # seconds; an owner that renews nothing for so long is gone
_RENEWALS = 4  # while others are patient


class Lease:
    """The right to write to a model directory.

    Args:
        url: The model directory in object storage.
        patience: Seconds after which a lease that is not renewed has ended.
    """

    def __init__(self, url: str, patience: float = PATIENCE):
        self._url = url.rstrip("/")
        self._path = f"{self._url}/{LEASE}"
        self._patience = patience
        self._owner = uuid.uuid4().hex
        self._count = 0
        self._ended = threading.Event()
        self._lost = threading.Event()

    @property
    def is_lost(self) -> bool:
        """Whether another run has taken over, as far as is known here."""
        return self._lost.is_set()

    @contextlib.contextmanager
    def held(self) -> Iterator["Lease"]:
        """Holds and renews the lease while the block runs.

        Raises:
            Stopped: If another run has it, or the store does not answer.
            DataError: If the store refuses.
        """
        self.acquire()
        thread = threading.Thread(target=self._keep, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            thread.join()
            with contextlib.suppress(DataError, Stopped, OSError):
                if self._is_ours():
                    storage.delete(self._path)

    def acquire(self) -> None:
        """Takes the lease, once it is clear that nobody has it.

        Raises:
            Stopped: If another run has it, or the store does not answer.
            DataError: If the store refuses.
        """
        found = self._read()
        if found is not None:
            print(
                f"{self._url} was {_said_by(found)}: waiting up to "
                f"{self._patience:g} s to see whether it still is",
                flush=True,
            )
        end = time.monotonic() + self._patience
        while found is not None and time.monotonic() < end:
            time.sleep(min(1.0, self._patience / 10))
            now = self._read()
            if now != found and now is not None:
                raise self._in_use(now)
            found = now
        self._renew()
        # Of two that come at once the later one has it.
        time.sleep(min(1.0, self._patience / 10))
        self.check()

    def check(self) -> None:
        """Refuses to go on if another run has taken over.

        Raises:
            Stopped: If another run has the lease, or the store does not answer.
            DataError: If the store refuses.
        """
        if not self._is_ours():
            self._lost.set()
            raise self._in_use(self._read())

    def _keep(self) -> None:
        while not self._ended.wait(self._patience / _RENEWALS):
            # What does not answer now may do so next time.
            with contextlib.suppress(DataError, Stopped, OSError):
                if not self._is_ours():
                    self._lost.set()
                    return
                self._renew()

    def _renew(self) -> None:
        self._count += 1
        text = json.dumps(
            {
                "owner": self._owner,
                "host": socket.gethostname(),
                "process": os.getpid(),
                "renewed": self._count,
            }
        )
        storage.write(self._path, text.encode())

    def _read(self) -> bytes | None:
        try:
            return storage.read(self._path)
        except FileNotFoundError:
            return None

    def _is_ours(self) -> bool:
        found = self._read()
        return found is not None and self._owner.encode() in found

    def _in_use(self, found: bytes | None) -> Stopped:
        return Stopped(
            f"{self._url} is {_said_by(found)}. Wait for its end, or pass "
            "another --model_dir."
        )


def _said_by(found: bytes | None) -> str:
    try:
        return "in use by process {process} on {host}".format(
            **json.loads(found or b"")
        )
    except (ValueError, KeyError, TypeError):
        return "in use by another process"
