"""Brightness, contrast and saturation, and RandAugment.

The operations are keras-cv's (`augment_images` of its layers). The random
numbers are those of `random_bits`, because keras-cv's cannot be set to a step:
a resumed run, or one with another number of replicas, would draw others.
"""

import functools
import math

import keras_cv
import tensorflow as tf

from trainer.augmentation import affine
from trainer.augmentation import random_bits

_JITTER_STREAM = 1
_RANDAUGMENT_STREAM = 2  # and one more for each further round
_RANGE = (0, 255)

# keras-cv, `layers/preprocessing/rand_augment.py`: its standard policy.
OPERATIONS = (
    "auto_contrast",
    "equalize",
    "solarize",
    "color",
    "contrast",
    "brightness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
ROUNDS = 3  # operations per image
RATE = 10 / 11  # of a round doing anything at all
_SPREAD = 0.15  # standard deviation of the magnitude
_SOLARIZE_ADDITION = 110.0  # more would leave next to nothing of the image


def jitter(images, strength: float, seed: int, epoch, ids) -> tf.Tensor:
    """Changes brightness, contrast and saturation, each by up to 20%.

    Args:
        images: float32 `[B, H, W, 3]` in [0, 255].
        strength: Factor of the 20%, at least 0.
        seed: The run's seed.
        epoch: Integer scalar, counted from 0.
        ids: int64 `[B]`.

    Returns:
        Images of the shape, type and range of `images`.
    """
    unit = random_bits.uniform(seed, epoch, ids, 3, stream=_JITTER_STREAM)
    either_way = (2.0 * unit - 1.0) * 0.2 * strength
    either_way = either_way[:, :, tf.newaxis, tf.newaxis, tf.newaxis]
    layers = _layers()
    images = layers["brightness"].augment_images(
        images, 255.0 * either_way[:, 0]
    )
    images = layers["contrast"].augment_images(images, 1.0 + either_way[:, 1])
    # A negative blend with grey saturates.
    images = layers["color"].augment_images(images, either_way[:, 2])
    return tf.clip_by_value(images, *map(float, _RANGE))


def randaugment(images, magnitude: float, seed: int, epoch, ids) -> tf.Tensor:
    """Applies `ROUNDS` operations to each image, drawn from `OPERATIONS`.

    Cubuk et al., "RandAugment", arXiv 1909.13719, with keras-cv's policy.

    Args:
        images: float32 `[B, H, W, 3]` in [0, 255].
        magnitude: Mean strength of an operation in [0, 1].
        seed: The run's seed.
        epoch: Integer scalar, counted from 0.
        ids: int64 `[B]`.

    Returns:
        Images of the shape, type and range of `images`.
    """
    for number in range(ROUNDS):
        unit = random_bits.uniform(
            seed, epoch, ids, 4, stream=_RANDAUGMENT_STREAM + number
        )
        # An index beyond the last operation leaves the image unchanged.
        choice = tf.cast(unit[:, 0] * (len(OPERATIONS) / RATE), tf.int32)
        level = tf.clip_by_value(
            magnitude + _SPREAD * _normal(unit[:, 1], unit[:, 2]), 0.0, 1.0
        )
        either_way = 2.0 * unit[:, 3] - 1.0
        images = apply(images, choice, level, magnitude * either_way)
    return images


def apply(images, choice, level, signed) -> tf.Tensor:
    """Applies one operation to each image.

    Args:
        images: float32 `[B, H, W, 3]` in [0, 255].
        choice: int32 `[B]`: indices in `OPERATIONS`; a greater index leaves
            the image unchanged.
        level: float32 `[B]` in [0, 1]: strength of the operations that have
            one direction, such as "solarize".
        signed: float32 `[B]` in [-1, 1]: strength and direction of those that
            have two, such as "brightness".

    Returns:
        Images of the shape, type and range of `images`.
    """
    shape = images.shape
    kinds = len(OPERATIONS) + 1
    choice = tf.minimum(choice, len(OPERATIONS))
    rows = tf.dynamic_partition(tf.range(tf.size(choice)), choice, kinds)
    parts = tf.dynamic_partition(images, choice, kinds)
    changed = []
    for name, part, row in zip(OPERATIONS, parts, rows, strict=False):
        part = tf.ensure_shape(part, [None, *shape[1:]])

        def some(name=name, part=part, row=row):
            result = _operate(
                name, part, tf.gather(level, row), tf.gather(signed, row)
            )
            return tf.clip_by_value(result, *map(float, _RANGE))

        changed.append(tf.cond(tf.size(row) > 0, some, lambda part=part: part))
    return tf.ensure_shape(
        tf.dynamic_stitch(rows, [*changed, parts[-1]]), shape
    )


@tf.function  # keras-cv's layers count on AutoGraph, which training leaves out
def _operate(name: str, images, level, signed) -> tf.Tensor:
    layers = _layers()
    as_image = (slice(None), tf.newaxis, tf.newaxis, tf.newaxis)
    height, width = float(images.shape[1]), float(images.shape[2])
    if name in ("auto_contrast", "equalize"):
        return layers[name].augment_images(images, None)
    if name == "solarize":
        return layers[name].augment_images(
            images,
            {
                "additions": (_SOLARIZE_ADDITION * level)[as_image],
                "thresholds": (255.0 - 255.0 * level)[as_image],
            },
        )
    if name == "color":
        return layers[name].augment_images(images, level[as_image])
    if name == "contrast":
        return layers[name].augment_images(images, (1.0 + signed)[as_image])
    if name == "brightness":
        return layers[name].augment_images(images, (255.0 * signed)[as_image])
    zero, one = tf.zeros_like(level), tf.ones_like(level)
    x_of_y, y_of_x, shift_x, shift_y = zero, zero, zero, zero
    if name == "shear_x":  # about the middle row
        x_of_y, shift_x = level, -level * (height - 1) / 2
    elif name == "shear_y":
        y_of_x, shift_y = level, -level * (width - 1) / 2
    elif name == "translate_x":
        shift_x = signed * width
    else:
        shift_y = signed * height
    transforms = [one, x_of_y, shift_x, y_of_x, one, shift_y, zero, zero]
    return affine.resample(images, tf.stack(transforms, axis=1), "reflect")


@functools.cache
def _layers() -> dict:
    """Makes keras-cv's layers; what they would draw from is never used."""
    layers = keras_cv.layers
    # float32: 16 bits cannot count the grey levels of an equalisation.
    options = {"dtype": "float32"}
    return {
        "auto_contrast": layers.AutoContrast(_RANGE, **options),
        "equalize": layers.Equalization(_RANGE, **options),
        "solarize": layers.Solarization(_RANGE, 0.0, 0.0, **options),
        "color": layers.RandomColorDegeneration(0.0, **options),
        "contrast": layers.RandomContrast(_RANGE, 0.5, **options),
        "brightness": layers.RandomBrightness(0.0, _RANGE, **options),
    }


def _normal(first, second) -> tf.Tensor:
    """Returns standard normal numbers from two uniform ones (Box-Muller)."""
    radius = tf.sqrt(-2.0 * tf.math.log(1.0 - first))
    return radius * tf.cos(2.0 * math.pi * second)
