"""Signals that ask a run to stop: SIGTERM, SIGUSR1 and SIGINT.

A thread waits for them, so that they are heard while TensorFlow traces, and
so that MultiWorkerMirroredStrategy, which replaces the process's SIGTERM
handler, cannot swallow them. The signals must be blocked before TensorFlow
starts its threads, which inherit the mask.
"""

import os
import signal
import threading

SIGNALS = {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}

_asked: list[str] = []
_saving = threading.Event()


def watch(exit_code: int) -> None:
    """Starts to listen; to be called before TensorFlow is imported.

    Until `begin_training` a signal ends the process at once: there is nothing
    to save.

    Args:
        exit_code: Of a process that ends so.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals are blocked for the main thread's children")
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # While TensorFlow is imported, file 2 leads elsewhere: keep a way out.
    arguments = [exit_code, os.dup(2)]
    threading.Thread(target=_listen, args=arguments, daemon=True).start()


def begin_training() -> None:
    """From here on the loop asks `requested` and saves before it ends."""
    _saving.set()


def end_training() -> None:
    """From here on a signal ends the process at once again."""
    _saving.clear()


def requested() -> str:
    """Returns the name of the signal that asked to stop, "" for none."""
    return _asked[0] if _asked else ""


def _listen(exit_code: int, messages: int) -> None:
    while True:
        name = signal.Signals(signal.sigwait(SIGNALS)).name
        # A second Ctrl-C is a person who will not wait for the saving. What
        # is on disk stays whole: files are replaced by rename.
        impatient = name == "SIGINT" and _asked == ["SIGINT"]
        _asked.append(name)
        if not _saving.is_set() or impatient:
            text = f"error: stopped by {name}. Run the same command again.\n"
            os.write(messages, text.encode())
            os._exit(exit_code)
