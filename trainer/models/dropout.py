"""Dropout whose mask is a pure function of seed, epoch and image.

Keras draws dropout from the state of a generator: the same on every replica,
and lost when a run is resumed. Here the masks are a hash of a key, as the
random numbers of the augmentation are, so that replicas, batches and resumes
change nothing. The exported model has no dropout layer.

Keras calls the layers of a functional model with fixed arguments, so the key
comes from a scope, `mask_key`. A training call outside of it is an error:
passing the input on would silently train without dropout.
"""

import contextlib
import threading
from collections.abc import Iterator

import keras
import tensorflow as tf

from trainer.augmentation import random_bits

_STREAM = 32
_scope = threading.local()  # MirroredStrategy traces replicas in threads


@contextlib.contextmanager
def mask_key(seed: int, epoch: tf.Tensor, ids: tf.Tensor) -> Iterator[None]:
    """Sets what the masks of the layers called inside are drawn from.

    Args:
        seed: The run's seed.
        epoch: Integer scalar, counted from 0 over all phases.
        ids: int64 `[B]`, ids of the images in the batch.
    """
    _scope.key = (seed, epoch, ids)
    try:
        yield
    finally:
        _scope.key = None


class Dropout(keras.layers.Layer):
    """Sets a fraction of each image's features to 0 and scales up the rest.

    It passes its input on unless it is called with `training=True`.

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

        Raises:
            RuntimeError: If it is to drop outside of `mask_key`.
        """
        if not training:
            return inputs
        key = getattr(_scope, "key", None)
        if key is None:
            raise RuntimeError(
                f"the layer {self.name} was called with training=True outside "
                "of dropout.mask_key, which says for which images and epoch "
                "to draw. Call the model inside of that scope, or with "
                "training=False."
            )
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
