"""MixUp and CutMix: two images and their labels become one.

The partner of an image is the one before it in the global batch, so the images
come with one more, the first one's partner, wherever the batch is split. What
an image keeps, and where the other one lies, is a function of seed, epoch and
the image's id: neither depends on how many devices share a batch.
"""

import numpy as np
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
    from scipy import special

    # The inverse of the distribution function, linear between 4097 points.
    points = np.linspace(0, 1, 4097)
    quantiles = special.betaincinv(alpha, alpha, points).astype(np.float32)
    unit = random_bits.uniform(seed, epoch, ids, 1, stream=_STREAM)[:, 0]
    place = unit * (len(points) - 1)
    below = tf.cast(place, tf.int32)
    low, high = tf.gather(quantiles, below), tf.gather(quantiles, below + 1)
    return low + (place - tf.floor(place)) * (high - low)


def mixup(images, targets, share) -> tuple[tf.Tensor, tf.Tensor]:
    """Blends each image and target with those before it.

    Zhang et al., "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412.

    Args:
        images: float `[B + 1, H, W, C]`; the first is a partner only.
        targets: float32 `[B + 1, K]`, probabilities of the K classes.
        share: float32 `[B]` in [0, 1]: each image's own share of the blend.

    Returns:
        B images and targets.
    """
    of_image = tf.cast(share, images.dtype)[
        :, tf.newaxis, tf.newaxis, tf.newaxis
    ]
    partners, images = images[:-1], images[1:]
    return partners + of_image * (images - partners), _blend(targets, share)


def cutmix(images, targets, share, centre) -> tuple[tf.Tensor, tf.Tensor]:
    """Pastes a rectangle of the image before it into each image.

    Yun et al., "CutMix", arXiv 1905.04899: the rectangle has the image's
    aspect ratio and covers `1 - share` of it, less what lies outside; targets
    are blended by what is really covered.

    Args:
        images: float `[B + 1, H, W, C]`; the first is a partner only.
        targets: float32 `[B + 1, K]`, probabilities of the K classes.
        share: float32 `[B]` in [0, 1]: the share of each image that the
            rectangle leaves, where it lies inside.
        centre: float32 `[B, 2]` in [0, 1): centre of the rectangle, as
            fractions of height and width.

    Returns:
        B images and targets.
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
    images = tf.where(inside[..., tf.newaxis], images[:-1], images[1:])
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


def coins(seed: int, epoch, ids) -> tf.Tensor:
    """Draws for each image which of two ways it is mixed, bool `[B]`."""
    unit = random_bits.uniform(seed, epoch, ids, 1, stream=_STREAM + 2)
    return unit[:, 0] < 0.5


def _blend(targets, share) -> tf.Tensor:
    share = share[:, tf.newaxis]
    return share * targets[1:] + (1.0 - share) * targets[:-1]
