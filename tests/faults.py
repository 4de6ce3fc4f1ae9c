"""Runs a command and lets something happen at a named moment.

python tests/faults.py WHERE:NUMBER:WHAT[:MODULE] FLAGS...

MODULE is `task`, of trainer, unless given.

WHERE is a function that the run calls; before its NUMBERth call, counted from
1, WHAT happens: a signal's name, several joined by "+" (at once) or by "/" (more
than a second between them), "nan" (that step's loss is no number) or
"full" (the disk has no space left). Nothing of this is in the product.
"""

import errno
import importlib
import os
import pathlib
import signal
import sys
import time

from data_prep.runtime import signals
from data_prep.runtime.errors import EXIT_STOPPED

if __name__ == "__main__":
    signals.watch(EXIT_STOPPED)

from data_prep.runtime import startup  # noqa: E402


def happen(what):
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device")
    for count, name in enumerate(what.replace("/", "+").split("+"), 1):
        if count > 1 and "/" in what:
            time.sleep(1.2)
        number = getattr(signal, name)
        os.kill(os.getpid(), number)
        # Another thread takes those that ask to stop: until it has, the work
        # that follows could be over.
        while number in signals.SIGNALS and len(signals._received) < count:
            time.sleep(0.001)


def before(owner, name, number, what):
    """Lets `what` happen before a call of the function `owner.name`."""
    real = getattr(owner, name)
    calls = 0

    def replacement(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == number and what != "nan":
            happen(what)
        result = real(*arguments, **options)
        if calls == number and what == "nan":
            result[0].loss_sum[:] = float("nan")
        return result

    setattr(owner, name, replacement)


def in_the_middle(owner, name, number, what):
    """Lets `what` happen when half of the NUMBERth file is on disk."""
    real = getattr(owner, name)
    calls = 0

    def replacement(file, **arrays):
        nonlocal calls
        calls += 1
        real(file, **arrays)
        if calls == number:
            file.truncate(file.tell() // 2)
            file.flush()
            happen(what)

    setattr(owner, name, replacement)


def main():
    where, number, what, *module = sys.argv.pop(1).split(":")
    command_of = importlib.import_module(f"trainer.{(module or ['task'])[0]}")
    startup.import_tensorflow()
    import numpy as np

    from trainer.engine import checkpoint
    from trainer.engine import loop
    from trainer.feature_extraction import writer
    from trainer.inference import finished

    if where == "half":
        in_the_middle(np, "savez", int(number), what)
    else:
        places = {
            "step": (loop, "timed"),  # of training and of validation
            "trace": (loop, "make_train"),
            "save": (checkpoint, "save"),
            "rename": (pathlib.Path, "replace"),
            "remove": (pathlib.Path, "unlink"),
            "export": (finished, "export"),
            "evaluate": (finished, "measure"),
            "shard": (writer, "_write"),
        }
        # A place that is gone fails every test of faults, not the slow alone.
        for owner, name in places.values():
            getattr(owner, name)
        before(*places[where], int(number), what)
    command_of.cli()


if __name__ == "__main__":
    main()
