"""MixUp and CutMix: two images and their labels become one.

The partner of an image is its neighbour among the images that its device
computes at once, and shares and centres are drawn per image. So, unlike every
other augmentation, what becomes of an image depends not only on seed, epoch
and image but also on its batch, and on the number of devices and micro-batches
that the batch is split into.
"""

import tensorflow as tf

from trainer.augmentation import random_bits

_STREAM = 16


def shares(alpha: float, seed: int, epoch, ids) -> tf.Tensor:
    """Draws from Beta(alpha, alpha) the share that each image keeps.

    Args:
        alpha: Above 0; 1 makes all shares equally likely, a lesser value
            makes those near 0 and 1 more likely.
        seed: The run's seed.
        epoch: Integer scalar, counted from 0.
        ids: int64 `[B]`.

    Returns:
        float32 `[B]` in [0, 1].
    """
    unit = random_bits.uniform(seed, epoch, ids[:1], 2, stream=_STREAM)
    key = tf.cast(unit[0] * 2.0**24, tf.int32)
    gammas = tf.random.stateless_gamma([2, tf.size(ids)], key, alpha)
    return gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-30)


def mixup(images, targets, share) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image and target with its neighbour's.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.

    Args:
        images: float `[B, H, W, C]`.
        targets: float32 `[B, K]`, probabilities of the K classes.
        share: float32 `[B]` in [0, 1]: each image's own share of the blend.

    Returns:
        Images and targets of the shapes and types given.
    """
    of_image = tf.cast(share, images.dtype)[
        :, tf.newaxis, tf.newaxis, tf.newaxis
    ]
    images = _neighbour(images) + of_image * (images - _neighbour(images))
    return images, _blend(targets, share)


def cutmix(images, targets, share, centre) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of each image's neighbour into it.

    Yun et al., "CutMix", arXiv 1905.04899: the rectangle has the image's
    aspect ratio and covers `1 - share` of it, less what lies outside; targets
    are blended by what is really covered.

    Args:
        images: float `[B, H, W, C]`.
        targets: float32 `[B, K]`, probabilities of the K classes.
        share: float32 `[B]` in [0, 1]: the share of each image that the
            rectangle leaves, where it lies inside.
        centre: float32 `[B, 2]` in [0, 1): centre of the rectangle, as
            fractions of height and width.

    Returns:
        Images and targets of the shapes and types given.
    """
    sides = []
    for axis in (0, 1):
        size = images.shape[1 + axis]
        half = 0.5 * size * tf.sqrt(1.0 - share)
        middle = centre[:, axis] * size
        places = tf.range(size, dtype=tf.float32) + 0.5
        sides.append(
            tf.abs(places - middle[:, tf.newaxis]) < half[:, tf.newaxis]
        )
    inside = sides[0][:, :, tf.newaxis] & sides[1][:, tf.newaxis, :]
    kept = 1.0 - tf.reduce_mean(tf.cast(inside, tf.float32), axis=(1, 2))
    images = tf.where(inside[..., tf.newaxis], _neighbour(images), images)
    return images, _blend(targets, kept)


def centres(seed: int, epoch, ids) -> tf.Tensor:
    """Draws the centres of CutMix's rectangles.

    Args:
        seed: The run's seed.
        epoch: Integer scalar, counted from 0.
        ids: int64 `[B]`.

    Returns:
        float32 `[B, 2]` in [0, 1).
    """
    return random_bits.uniform(seed, epoch, ids, 2, stream=_STREAM + 1)


def _neighbour(values: tf.Tensor) -> tf.Tensor:
    return tf.roll(values, shift=1, axis=0)


def _blend(targets, share) -> tf.Tensor:
    share = share[:, tf.newaxis]
    return share * targets + (1.0 - share) * _neighbour(targets)
