"""Augmentation policies by name, and the function that applies one to a batch.

What becomes of an image depends on seed, epoch and image id alone, so that
replicas and resumed runs change nothing. MixUp and CutMix mix it with the one
before it, which the global batch decides (see `mix`).
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from trainer.augmentation import mix
from trainer.augmentation.affine import AffineRanges
from trainer.augmentation.affine import RandomAffine

AFFINE = {
    "flip": AffineRanges(horizontal_flip=True),
    # Small enough to change a pretrained base's features little.
    "light": AffineRanges(
        rotation_range=8.0,
        width_shift_range=0.05,
        height_shift_range=0.05,
        zoom_range=0.1,
        horizontal_flip=True,
    ),
    # Those of the published cats-and-dogs experiment. Its shear of 0.2 is
    # in degrees, as ImageDataGenerator takes it, so hardly visible.
    "classic": AffineRanges(
        rotation_range=40.0,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=0.2,
        zoom_range=0.2,
        horizontal_flip=True,
    ),
}
# Which affine ranges are applied before the colours are changed.
_COLOUR = {"jitter": "light", "randaugment": "flip"}
_MAGNITUDE = 0.5  # of RandAugment at strength 1, keras-cv's default


@dataclasses.dataclass(frozen=True)
class Policy:
    """How the images of a batch are augmented.

    Attributes:
        name: "none", a key of `AFFINE`, "jitter" (light, then brightness,
            contrast and saturation) or "randaugment" (a flip, then
            RandAugment).
        strength: Factor of every range; 1 is the policy as published.
        mixup: Alpha of MixUp; 0 switches it off.
        cutmix: Alpha of CutMix; 0 switches it off. With both, each is applied
            to half of the images.
        flip: Whether half of the images are mirrored, where the policy does.
        seed: The run's seed.
    """

    name: str
    strength: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    flip: bool = True
    seed: int = 0

    @property
    def mixes(self) -> bool:
        """Whether an image is mixed with the one before it."""
        return bool(self.mixup or self.cutmix)


def create(policy: Policy, num_classes: int) -> Callable:
    """Returns the function that augments a batch in training.

    Args:
        policy: How images are augmented.
        num_classes: Number of classes, K.

    Returns:
        A function of four arguments: `image` uint8 `[B, H, W, 3]` in [0, 255];
        `label` int32 `[B]`, indices of classes; `ids` int64 `[B]`, image ids;
        `epoch`, an integer scalar counted from 0. It returns the images
        `[B, H, W, 3]` in [0, 255], in the compute type of Keras's global dtype
        policy (float32 for "none"), and targets float32 `[B, K]`,
        probabilities of the classes. It draws from a hash of seed, epoch and
        id, so the same arguments give the same result, and an image's result
        does not depend on the rest of the batch. Where the policy mixes, it
        takes B + 1 images, of which the first is only mixed into the second.
    """
    seed = policy.seed
    name = _COLOUR.get(policy.name, policy.name)
    affine = None
    if name in AFFINE:
        ranges = AFFINE[name].scaled(policy.strength)
        if not policy.flip:
            ranges = dataclasses.replace(ranges, horizontal_flip=False)
        affine = RandomAffine(ranges, seed)

    def augment(image, label, ids, epoch):
        if affine is None:
            image = tf.cast(image, tf.float32)
        else:
            image = tf.cast(image, affine.compute_dtype)
            image = affine(image, ids=ids, epoch=epoch, training=True)
        if policy.name in _COLOUR:
            image = _colour(policy, image, ids, epoch)
        targets = tf.one_hot(label, num_classes)
        return _mix(policy, image, targets, ids, epoch)

    return augment


def _colour(policy: Policy, image, ids, epoch) -> tf.Tensor:
    # keras-cv takes seconds to import, and most policies do not use it.
    from trainer.augmentation import colour

    kept = image.dtype
    image = tf.cast(image, tf.float32)
    if policy.name == "jitter":
        image = colour.jitter(image, policy.strength, policy.seed, epoch, ids)
    else:
        magnitude = min(1.0, _MAGNITUDE * policy.strength)
        image = colour.randaugment(image, magnitude, policy.seed, epoch, ids)
    return tf.cast(image, kept)


def _mix(policy: Policy, image, targets, ids, epoch):
    if not policy.mixes:
        return image, targets
    ids = ids[1:]
    results = []
    if policy.mixup:
        share = mix.shares(policy.mixup, policy.seed, epoch, ids)
        results.append(mix.mixup(image, targets, share))
    if policy.cutmix:
        share = mix.shares(policy.cutmix, policy.seed, epoch, ids)
        centre = mix.centres(policy.seed, epoch, ids)
        results.append(mix.cutmix(image, targets, share, centre))
    if len(results) == 1:
        return results[0]
    # A coin per image: of a batch only a part may be here.
    heads = mix.coins(policy.seed, epoch, ids)
    return tuple(
        tf.where(tf.reshape(heads, [-1, *[1] * (one.ndim - 1)]), one, other)
        for one, other in zip(*results, strict=True)
    )
