"""Augmentation policies by name, and what a batch gets in training."""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from trainer.augmentation import mix
from trainer.augmentation.affine import AffineRanges
from trainer.augmentation.affine import RandomAffine

AFFINE = {
    "flip": AffineRanges(horizontal_flip=True),
    # Small enough to keep a pretrained base's features what they are.
    "light": AffineRanges(
        rotation_range=8.0,
        width_shift_range=0.05,
        height_shift_range=0.05,
        zoom_range=0.1,
        horizontal_flip=True,
    ),
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
}
# Which affine ranges go before the colours.
_COLOUR = {"jitter": "light", "randaugment": "flip"}
_MAGNITUDE = 0.5  # of RandAugment at strength 1, keras-cv's default


@dataclasses.dataclass(frozen=True)
class Policy:
    """What to do to the images of a batch.

    Attributes:
        name: "none", a key of `AFFINE`, "jitter" (light, and brightness,
            contrast and saturation) or "randaugment" (after a flip).
        strength: Factor of every range; 1 is the policy as it is known.
        mixup: Alpha of MixUp; 0 mixes none.
        cutmix: Alpha of CutMix; 0 mixes none. With both, half of the batches
            get one and half the other.
        seed: Of the run.
    """

    name: str
    strength: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    seed: int = 0


def create(policy: Policy, num_classes: int) -> Callable:
    """Returns the function that augments a batch in training.

    Args:
        policy: What to do.
        num_classes: K.

    Returns:
        A function of `image` uint8 `[B, H, W, 3]` in [0, 255], `label` int32
        `[B]`, `ids` int64 `[B]` and `epoch`, an integer scalar. It returns
        images `[B, H, W, 3]` in [0, 255], in the compute type of the global
        policy (float32 for "none"), and targets float32 `[B, K]`, the classes' probabilities.
    """
    seed = policy.seed
    name = _COLOUR.get(policy.name, policy.name)
    affine = None
    if name in AFFINE:
        affine = RandomAffine(AFFINE[name].scaled(policy.strength), seed)

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
    # keras-cv takes seconds to import, so only who needs it waits for it.
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
    def mixup():
        share = mix.shares(policy.mixup, policy.seed, epoch, ids)
        return mix.mixup(image, targets, share)

    def cutmix():
        share = mix.shares(policy.cutmix, policy.seed, epoch, ids)
        centre = mix.centres(policy.seed, epoch, ids)
        return mix.cutmix(image, targets, share, centre)

    if policy.mixup and policy.cutmix:
        # The batch's first centre is as good a coin as any.
        coin = mix.centres(policy.seed, epoch, ids[:1])[0, 0] < 0.5
        return tf.cond(coin, mixup, cutmix)
    if policy.mixup:
        return mixup()
    if policy.cutmix:
        return cutmix()
    return image, targets
