"""Images per second of each augmentation, beside Keras's and keras-cv's.

python -m benchmarks.augmentation

Batches of float images in memory, inside a tf.function, on the default device.
"""

import functools
from collections.abc import Callable

import numpy as np
from absl import flags

from benchmarks import machine
from benchmarks import measure
from benchmarks.measure import Comparison
from data_prep.runtime import command

BATCHES = 6  # per pass


def passes(function: Callable, size: int, batch: int) -> Callable[[], int]:
    """Returns a pass: `BATCHES` calls of `function(images, ids)`."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, size, size, 3), np.uint8)
    images = tf.cast(pixels, tf.float32)
    ids = tf.range(batch, dtype=tf.int64)
    compiled = tf.function(function)

    def epoch() -> int:
        for _ in range(BATCHES):
            compiled(images, ids).numpy()
        return batch * BATCHES

    return epoch


def ours(name: str, size: int, batch: int) -> Callable[[], int]:
    """A policy of ours, in float32."""
    import tensorflow as tf

    from trainer.augmentation import policies

    augment = policies.create(policies.Policy(name), 2)
    labels = tf.zeros([batch], tf.int32)
    return passes(lambda x, ids: augment(x, labels, ids, 0)[0], size, batch)


def chain(library: str, size: int, batch: int) -> Callable[[], int]:
    """The five layers of the published experiment, one after the other."""
    import keras

    if library == "keras_cv":
        import keras_cv

        layers = keras_cv.layers
    else:
        layers = keras.layers
    nearest = {"fill_mode": "nearest"}
    model = keras.Sequential(
        [
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(40 / 360, **nearest),
            layers.RandomTranslation(0.2, 0.2, **nearest),
            layers.RandomShear(0.2, 0.2, **nearest),
            layers.RandomZoom(0.2, **nearest),
        ]
    )
    return passes(lambda x, ids: model(x, training=True), size, batch)


def randaugment(library: str, size: int, batch: int) -> Callable[[], int]:
    """RandAugment of Keras or keras-cv."""
    import keras

    if library == "keras_cv":
        import keras_cv

        layer = keras_cv.layers.RandAugment(value_range=(0, 255))
    else:
        layer = keras.layers.RandAugment(value_range=(0, 255))
    return passes(lambda x, ids: layer(x, training=True), size, batch)


def compare(
    size: int, batch: int, rounds: int, runs: int, classic_only: bool = False
) -> list[Comparison]:
    """Returns images/s of our policies and of what peers have of the kind.

    Args:
        size: Of the images, in pixels.
        batch: Images per batch.
        rounds: Turns of each candidate.
        runs: Passes that count, in each turn.
        classic_only: Whether to leave out what `classic` is not held against.
    """
    part = functools.partial
    shape = {"size": size, "batch": batch}
    classic = {
        "ours, classic": part(ours, "classic", **shape),
        "Keras, chain of five": part(chain, "keras", **shape),
        "keras-cv, chain of five": part(chain, "keras_cv", **shape),
    }
    others = {
        "ours, light": part(ours, "light", **shape),
        "ours, jitter": part(ours, "jitter", **shape),
    }
    drawn = {
        "ours, randaugment": part(ours, "randaugment", **shape),
        "keras-cv, RandAugment": part(randaugment, "keras_cv", **shape),
        "Keras, RandAugment": part(randaugment, "keras", **shape),
    }
    where = f"batches of {batch} at {size} px"
    tables = {f"Augmentation, {where}": classic}
    if not classic_only:
        tables = {
            f"Augmentation, {where}": classic | others,
            f"RandAugment, {where}": drawn,
        }
    return [
        measure.in_turns(title, "images/s", makers, rounds, runs)
        for title, makers in tables.items()
    ]


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    print(machine.line("tensorflow", "keras", "keras-cv"))
    for found in compare(
        values.image_size, values.batch_size, values.rounds, values.runs
    ):
        print(measure.table(found))


if __name__ == "__main__":
    flags.DEFINE_integer("image_size", 150, "Of the images, in pixels.")
    flags.DEFINE_integer("batch_size", 64, "Images per batch.")
    flags.DEFINE_integer("rounds", 2, "Turns of each candidate.")
    flags.DEFINE_integer("runs", 4, "Passes that count, in each turn.")
    command.run(main)
