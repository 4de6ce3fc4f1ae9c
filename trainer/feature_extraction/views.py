"""What the base sees of an image: as it is, mirrored, or augmented.

An augmented view is what an epoch's augmentation makes of an image, which is
a pure function of seed, epoch and image: so features can be kept although
training augments. (Not under MixUp and CutMix, where an image depends on its
batch; `trainer.config` refuses those with features.)
"""

import dataclasses
from typing import Any
from typing import Self

from trainer.groups import Augmentation
from trainer.groups import Features


@dataclasses.dataclass(frozen=True)
class View:
    """One way of looking at every image of a split.

    Attributes:
        augment: Name of an augmentation policy, see
            `trainer.augmentation.policies.Policy`.
        strength: Factor of the policy's ranges.
        seed: Seed of the policy's random numbers.
        epoch: The epoch whose random numbers are drawn, counted from 0; None
            where nothing is drawn.
        flip: Whether the policy mirrors half of the images.
        mirrored: Whether images are flipped left to right; only of images
            that are not augmented.
    """

    augment: str = "none"
    strength: float = 1.0
    seed: int = 0
    epoch: int | None = None
    flip: bool = True
    mirrored: bool = False

    @classmethod
    def augmented(
        cls, augmentation: Augmentation, seed: int, epoch: int
    ) -> Self:
        """Returns the view of an epoch; `PLAIN` where nothing is augmented.

        Args:
            augmentation: The policy and its strength.
            seed: Seed of the run.
            epoch: Counted from 0.
        """
        if augmentation.augment == "none":
            return cls()
        return cls(
            augmentation.augment,
            augmentation.augment_strength,
            seed,
            epoch,
            augmentation.flips,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The view's part of what features depend on.

        Names and values are hashed into the names of folders: another
        spelling would lose what users have extracted.
        """
        if self.epoch is None:
            return {
                "augment": "mirrored" if self.mirrored else "none",
                "view": None,
            }
        return {
            "augment": self.augment,
            "augment_strength": self.strength,
            **({} if self.flip else {"flip": False}),
            "seed": self.seed,
            "view": self.epoch,
        }

    def __str__(self) -> str:
        """What progress shows beside the split's name, "" for `PLAIN`."""
        number = "" if self.epoch is None else f", view {self.epoch + 1}"
        return number + (", mirrored" if self.mirrored else "")


PLAIN = View()
MIRRORED = View(mirrored=True)


def for_inference(flip_average: bool) -> list[View]:
    """Returns the views whose logits a prediction averages.

    Args:
        flip_average: Whether predictions average an image and its mirror.
    """
    return [PLAIN, MIRRORED] if flip_average else [PLAIN]


def for_training(
    augmentation: Augmentation, features: Features, seed: int, epochs: int
) -> list[View]:
    """Returns the views that the epochs of a phase take in turn.

    Args:
        augmentation: The policy and its strength.
        features: `feature_views` is the number of views, 0 for one per epoch.
        seed: Seed of the run.
        epochs: Epochs of the phase, at least 1 where it is to have a view.
    """
    if augmentation.augment == "none":
        return [PLAIN]
    count = min(features.feature_views or epochs, epochs)
    return [View.augmented(augmentation, seed, n) for n in range(count)]


def for_head_fit(
    augmentation: Augmentation, features: Features, seed: int
) -> list[View]:
    """Returns the views that a classical head is fitted on.

    Args:
        augmentation: The policy and its strength.
        features: `feature_views` augmented views are added to the images as
            they are.
        seed: Seed of the run.
    """
    augmented = [
        View.augmented(augmentation, seed, n)
        for n in range(features.feature_views)
    ]
    return [PLAIN, *augmented]


def for_extraction(
    augmentation: Augmentation, features: Features, seed: int, epochs: int
) -> list[View]:
    """Returns the views of the training split that `trainer.features` makes.

    All that a run of the same flags takes, and all `feature_views` that are
    asked for, though its frozen phase may have fewer epochs.

    Args:
        augmentation: The policy and its strength.
        features: What the head starts from, and the number of views.
        seed: Seed of the run.
        epochs: Epochs of the frozen phase.
    """
    fitted = []
    if features.head_init != "zeros":
        fitted = for_head_fit(augmentation, features, seed)
    wanted = max(epochs, features.feature_views)
    trained = for_training(augmentation, features, seed, wanted)
    return list(dict.fromkeys([*fitted, *trained])) or [PLAIN]
