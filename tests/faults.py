"""Runs a command and lets something happen at a named moment.

python tests/faults.py WHERE:NUMBER:WHAT[:MODULE] FLAGS...

MODULE is `task`, of trainer, unless given.

WHERE is a function that the run calls; before its NUMBERth call, counted from
1, WHAT happens: a signal's name, several joined by "+" (at once) or by "/" (more
than a second between them), "nan" (that step's loss is no number) or
"full" (the disk has no space left). With the WHERE "memory" NUMBER is how many
images at a time fit into it, in "step" or in "features". Nothing of this is in
the product.
"""

import errno
import importlib
import itertools
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
    if callable(what):
        what()
        return
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
    """Lets `what` happen, or calls it, before a call of `owner.name`."""
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


def nothing(starved):
    """Returns 0.0 by way of memory, of more than there is if `starved`."""
    import numpy as np
    import tensorflow as tf

    # Asked of Python in every step: a constant would be computed beforehand.
    floats = tf.numpy_function(
        lambda now: np.int64(2**51 if now else 1), [starved], tf.int64
    )
    return tf.zeros(tf.reshape(floats, [1]))[0]


def starve_steps(train_step, most):
    """Lets steps ask for more memory than there is, after they have learned."""
    real = train_step.make_replica_step

    def make(model, optimizer, augment, options, replicas):
        import tensorflow as tf

        step = real(model, optimizer, augment, options, replicas)

        def starving(batch, epoch, stop):
            result = step(batch, epoch, stop)
            share = tf.shape(batch.weight)[0] // options.accumulation
            with tf.control_dependencies([result]):
                return result + tf.cast(nothing(share > most), result.dtype)

        return starving

    train_step.make_replica_step = make


def note_images(train_step, notes):
    """Notes, for each replica of each step, who it is and what it trains on.

    Args:
        train_step: The module.
        notes: Gets a replica's number, the epoch, and the ids of its images.
    """
    real = train_step.make_replica_step

    def make(*arguments):
        import numpy as np
        import tensorflow as tf

        step = real(*arguments)

        def note(replica, epoch, ids, weight):
            notes.append((int(replica), int(epoch), ids[weight > 0].tolist()))
            return np.int64(0)

        def noting(batch, epoch, stop):
            context = tf.distribute.get_replica_context()
            which = context.replica_id_in_sync_group
            values = [which, epoch, batch.id, batch.weight]
            noted = tf.numpy_function(note, values, tf.int64)
            with tf.control_dependencies([noted]):
                return step(batch, epoch, stop)

        return noting

    train_step.make_replica_step = make


def poison_pixels(train_step, epoch, value):
    """Adds a value to an image of each batch of an epoch, counted from 0."""
    real = train_step.make_replica_step

    def make(model, optimizer, augment, *rest):
        import tensorflow as tf

        def poisoned(image, label, ids, now):
            image, targets = augment(image, label, ids, now)
            first = tf.one_hot(0, tf.shape(image)[0])
            where = first * tf.cast(tf.equal(now, epoch), tf.float32)
            added = tf.math.multiply_no_nan(tf.constant(value), where)
            return image + added[:, None, None, None], targets

        return real(model, optimizer, poisoned, *rest)

    train_step.make_replica_step = make


def poison_gradients(train_step, number):
    """Lets the NUMBERth step's gradients be no numbers."""
    real = train_step.make_replica_step
    calls = itertools.count(1)

    def make(model, optimizer, *rest):
        import numpy as np
        import tensorflow as tf

        def poison():
            return np.float32("nan" if next(calls) == number else 1)

        apply = optimizer.apply

        def poisoned(gradients, variables):
            factor = tf.numpy_function(poison, [], tf.float32)
            return apply([g * factor for g in gradients], variables)

        optimizer.apply = poisoned
        return real(model, optimizer, *rest)

    train_step.make_replica_step = make


def starve(what, most):
    """Lets steps, or the base, ask for more memory than `most` images do."""
    from trainer.engine import train_step
    from trainer.feature_extraction import extractor

    if what == "step":
        starve_steps(train_step, most)
    else:
        starve_features(extractor, most)


def starve_features(extractor, most):
    """Lets the base ask for more memory than there is."""
    real = extractor.Extractor._features_of

    def starving(self, image):
        import tensorflow as tf

        more = nothing(tf.shape(image)[0] > most)
        return real(self, image) + tf.cast(more, tf.float16)

    extractor.Extractor._features_of = starving


def main():
    where, number, what, *module = sys.argv.pop(1).split(":")
    command_of = importlib.import_module(f"trainer.{(module or ['task'])[0]}")
    startup.import_tensorflow()
    import numpy as np

    from trainer.engine import checkpoint
    from trainer.engine import loop
    from trainer.feature_extraction import writer
    from trainer.inference import exporting
    from trainer.inference import finished

    if where == "memory":
        starve(what, int(number))
    elif where == "half":
        in_the_middle(np, "savez", int(number), what)
    else:
        places = {
            "step": (loop, "timed"),  # of training and of validation
            "trace": (loop, "make_train"),
            "save": (checkpoint, "save"),
            "rename": (pathlib.Path, "replace"),
            "remove": (pathlib.Path, "unlink"),
            "put": (exporting, "_put"),
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
