"""Runs a function on many items in several processes, in order."""

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.synchronize
import os
import signal
import threading
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from data_prep.images import memory
from data_prep.runtime import limits
from data_prep.runtime.errors import DataError
from data_prep.runtime.lookahead import ahead

# Calls that wait or run for each process: enough to keep it busy, few enough
# to hold only a handful of items and results in memory.
_AHEAD = 2
_STOPS = {signal.SIGINT, signal.SIGTERM}
_KILLED = (
    "one of {} processes was killed: most likely by the system, as memory ran "
    "out. Nothing was written. Pass a smaller --workers, such as 1, or close "
    "other programs."
)


class Processes:
    """Processes of this machine.

    Args:
        workers: How many; 0 is one per processor that this process
            may use, 1 is this very process.
    """

    def __init__(self, workers: int):
        self._workers = workers or limits.processors()
        self._pool = None

    def __enter__(self) -> "Processes":
        if self._workers > 1:
            # "spawn": a forked child of a process with threads can hang.
            context = multiprocessing.get_context("spawn")
            self._pool = _Pool(
                self._workers,
                mp_context=context,
                initializer=_begin,
                initargs=(context.RLock(),),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            # One that still begins needs the locks that this one holds.
            with _stops_wait():
                self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable, items: Iterable) -> Iterator[Any]:
        """Yields `function(item)` of every item, in the order of the items.

        Args:
            function: Can be pickled, as can what it takes and returns.
            items: Drawn from as results are taken.

        Raises:
            DataError: If a process was killed.
        """
        if not self._pool:
            yield from map(function, items)
            return
        try:
            yield from ahead(
                self._pool, function, items, _AHEAD * self._workers
            )
        except BrokenProcessPool:
            raise DataError(_KILLED.format(self._workers)) from None


class _Pool(concurrent.futures.ProcessPoolExecutor):
    """Starts a process, which a call may do, wholly or not at all.

    One that a stop leaves half begun is not known to the pool: it takes what
    was meant for another one, which waits for ever.
    """

    def submit(self, *call: Any, **options: Any) -> concurrent.futures.Future:
        with _stops_wait():
            return super().submit(*call, **options)


@contextlib.contextmanager
def _stops_wait() -> Iterator[None]:
    """Lets a signal to stop wait until the block is left."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in that one
        return
    came: list[int] = []
    # Blocked too, for a process that starts here: it is to ignore Ctrl-C.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    handlers = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in _STOPS
    }
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def _begin(lock: multiprocessing.synchronize.RLock) -> None:
    memory.share(lock)
    # Ctrl-C reaches every process; one of them says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process when its parent is killed; else it would wait on."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
