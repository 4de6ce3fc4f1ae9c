"""Augmentation policies by name."""

from collections.abc import Callable

import tensorflow as tf

from trainer.augmentation.affine import AffineRanges
from trainer.augmentation.affine import RandomAffine

AFFINE = {
    # Of the published cats-and-dogs experiment. Its shear of 0.2 is in
    # degrees, as ImageDataGenerator takes it, so next to nothing.
    "classic": AffineRanges(
        rotation_range=40.0,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
    ),
    # Small enough to keep a pretrained base's features what they are.
    "light": AffineRanges(
        rotation_range=8.0,
        width_shift_range=0.05,
        height_shift_range=0.05,
        zoom_range=0.1,
        horizontal_flip=True,
    ),
}


def create(name: str, seed: int) -> Callable[..., tf.Tensor]:
    """Returns the function that augments a batch in training.

    Args:
        name: "none" or a key of `AFFINE`.
        seed: Of the run.

    Returns:
        A function of `image` uint8 `[B, H, W, 3]` in [0, 255], `ids` int64
        `[B]` and `epoch`, an integer scalar, that returns float32
        `[B, H, W, 3]` in [0, 255].
    """
    if name == "none":
        return lambda image, ids, epoch: tf.cast(image, tf.float32)
    # float32 whatever the policy: coordinates up to the image's size need it.
    layer = RandomAffine(AFFINE[name], seed, dtype="float32")
    return lambda image, ids, epoch: layer(
        tf.cast(image, tf.float32), ids=ids, epoch=epoch, training=True
    )
