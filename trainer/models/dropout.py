"""Dropout whose mask is a pure function of seed, epoch and image.

Keras draws dropout from the state of a generator: the same on every replica,
and lost when a run is resumed.
"""

import contextlib
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from trainer.augmentation import random_bits

_STREAM = 32
_drawn = threading.local()  # MirroredStrategy traces replicas in threads


@contextlib.contextmanager
def drawn_for(seed: int, epoch: tf.Tensor, ids: tf.Tensor) -> Iterator[None]:
    """Says for which images the layers called inside draw their masks.

    Args:
        seed: Of the run.
        epoch: Integer scalar, counted from 0 over all phases.
        ids: int64 `[B]`, of the images in the batch.
    """
    _drawn.key = (seed, epoch, ids)
    try:
        yield
    finally:
        _drawn.key = None


class Dropout(keras.layers.Layer):
    """Sets a fraction of each image's features to 0 and scales up the rest.

    Outside of `drawn_for`, and where nothing learns, it passes its input on.

    Args:
        rate: Fraction dropped, in [0, 1).
    """

    def __init__(self, rate: float, **options):
        super().__init__(**options)
        self.rate = rate
        self.supports_masking = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops features.

        Args:
            inputs: float `[B, F]`.
            training: Whether to drop.
        """
        key = getattr(_drawn, "key", None)
        if not training or key is None:
            return inputs
        seed, epoch, ids = key
        unit = random_bits.uniform(
            seed, epoch, ids, inputs.shape[-1], stream=_STREAM
        )
        kept = tf.cast(unit >= self.rate, inputs.dtype)
        return inputs * kept / tf.cast(1.0 - self.rate, inputs.dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "rate": self.rate}
