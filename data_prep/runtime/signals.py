"""Signals that ask a run to stop: SIGTERM, SIGUSR1, SIGINT and SIGHUP.

SIGHUP is that of a terminal that was closed; `nohup` ignores it, and so do we.

A thread waits for them, so that they are received while TensorFlow traces,
and so that MultiWorkerMirroredStrategy, which replaces the process's SIGTERM
handler, cannot swallow them. The signals must be blocked before TensorFlow
starts its threads, which inherit the mask.
"""

import os
import signal
import threading
import time

from data_prep.runtime import operating_system

SIGNALS = {signal.SIGTERM, signal.SIGINT}
if operating_system.is_supported():
    SIGNALS.add(signal.SIGUSR1)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        SIGNALS.add(signal.SIGHUP)

_MOMENT = 1.0  # seconds

_received: list[str] = []
_deferred = threading.Event()


def watch(exit_code: int) -> None:
    """Starts to listen; call it before TensorFlow is imported.

    Until `defer` is called a signal ends the process at once: there is
    nothing to save.

    Args:
        exit_code: Exit code of a process that a signal ends.
    """
    if not operating_system.is_supported():
        return  # the command says so
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals are blocked for the main thread's children")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # While TensorFlow is imported, file descriptor 2 is redirected: this is
    # a copy of the real one.
    arguments = [exit_code, os.dup(2)]
    threading.Thread(target=_listen, args=arguments, daemon=True).start()


def defer() -> None:
    """Lets a signal only set `requested`: the caller saves, then stops."""
    _deferred.set()


def stop_deferring() -> None:
    """Lets a signal end the process at once again."""
    _deferred.clear()


def requested() -> str:
    """Returns the name of the signal that asked to stop, "" for none."""
    return _received[0] if _received else ""


def _listen(exit_code: int, messages: int) -> None:
    begun = 0.0
    while True:
        name = signal.Signals(signal.sigwait(SIGNALS)).name
        # After another Ctrl-C nothing more is saved. What is on disk stays
        # whole: files are replaced by rename. One within a moment is the same
        # Ctrl-C: `timeout -s INT` sends it to the process and to its group.
        now = time.monotonic()
        later = _received and now - begun >= _MOMENT
        impatient = name == "SIGINT" == requested() and later
        if not _received:
            begun = now
        _received.append(name)
        if not _deferred.is_set() or impatient:
            text = f"error: stopped by {name}. Run the same command again.\n"
            os.write(messages, text.encode())
            os._exit(exit_code)
