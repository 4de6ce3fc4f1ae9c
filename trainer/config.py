"""What a run is to do: groups of settings, checked together when built.

Imports no TensorFlow, so that a wrong command fails at once.
"""

import dataclasses
from typing import Any

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from trainer import groups
from trainer import recipes
from trainer.models.bases import BASES

FROZEN = "frozen"
FINETUNE = "finetune"


_EPOCHS = ("frozen_epochs", "finetune_epochs")
_RATES = ("frozen_learning_rate", "finetune_learning_rate")
# Names of Keras, PyTorch, timm and Lightning.
_ALSO_CALLED = {
    **dict.fromkeys(("epoch", "epochs", "num_epochs", "max_epochs"), _EPOCHS),
    **dict.fromkeys(("lr", "learning_rate", "base_lr"), _RATES),
    **dict.fromkeys(
        ("arch", "architecture", "backbone", "model", "model_name", "network"),
        ("base",),
    ),
    **dict.fromkeys(
        ("data", "dataset", "data_path", "input_dir", "source", "train_dir"),
        ("data_dir",),
    ),
    **dict.fromkeys(
        (
            "output",
            "output_dir",
            "out",
            "save_dir",
            "checkpoint_dir",
            "log_dir",
        ),
        ("model_dir",),
    ),
    **dict.fromkeys(("img_size", "input_size", "size"), ("image_size",)),
    **dict.fromkeys(("bs", "batch", "b"), ("batch_size",)),
    **dict.fromkeys(("aug", "augmentation", "aa"), ("augment",)),
    **dict.fromkeys(("amp", "fp16", "bf16", "dtype"), ("precision",)),
    **dict.fromkeys(("wd", "decay"), ("weight_decay",)),
    **dict.fromkeys(("pretrained", "pretrained_weights"), ("weights",)),
    **dict.fromkeys(("freeze", "unfreeze", "freeze_until"), ("finetune_from",)),
    **dict.fromkeys(("opt", "optim"), ("optimizer",)),
    **dict.fromkeys(("sched", "scheduler"), ("schedule",)),
    **dict.fromkeys(("ema", "model_ema"), ("average_decay",)),
    **dict.fromkeys(("grad_accum", "accum_iter"), ("accumulation",)),
    **dict.fromkeys(("drop", "drop_rate"), ("dropout",)),
    **dict.fromkeys(("smoothing",), ("label_smoothing",)),
}


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training.

    Attributes:
        name: "frozen" or "finetune"; further phases of fine-tuning are
            "finetune2", "finetune3" and so on.
        epochs: Passes over the training split.
        optimizer: One of `groups.OPTIMIZERS`.
        learning_rate: The highest one.
        train_from: The base's first layer that learns; None freezes it all.
    """

    name: str
    epochs: int
    optimizer: str
    learning_rate: float
    train_from: str | None


class Config(settings.Config):
    """Everything a run depends on; the flags of `trainer.task`.

    Raises:
        UsageError: If a setting is impossible, or some contradict each other.
    """

    data: groups.Data
    run: groups.Run
    model: groups.Model
    optimisation: groups.Optimisation
    augmentation: groups.Augmentation
    features: groups.Features
    checkpoints: groups.Checkpoints
    devices: groups.Devices

    also_called = _ALSO_CALLED

    def __init__(self, *required: Any, **values: Any):
        default = {one.name: one.default for one in self.settings()}["recipe"]
        added: dict[str, Any] = {}
        if recipe := values.get("recipe", default):
            loaded = recipes.load(recipe, self.settings())
            added = {n: v for n, v in loaded.items() if n not in values}
        try:
            super().__init__(*required, **added, **values)
        except UsageError as error:
            said = [
                f"--{name}={value}"
                for name, value in added.items()
                if f"--{name}=" in str(error)
            ]
            if not said:
                raise
            raise UsageError(
                f"{error} ({', '.join(said)} is of --recipe={recipe}; "
                "--recipe= leaves it out.)"
            ) from None

    @property
    def phases(self) -> list[Phase]:
        """The phases in the order they run; one of 0 epochs is left out."""
        chosen = self.optimisation
        phases = [
            Phase(
                FROZEN,
                chosen.frozen_epochs,
                chosen.optimizer,
                chosen.frozen_learning_rate,
                None,
            )
        ]
        for number, layer in enumerate(self._finetune_from, start=1):
            phases.append(
                Phase(
                    FINETUNE if number == 1 else f"{FINETUNE}{number}",
                    chosen.finetune_epochs,
                    chosen.finetune_optimizer or chosen.optimizer,
                    chosen.finetune_learning_rate,
                    layer,
                )
            )
        return [phase for phase in phases if phase.epochs > 0]

    @property
    def _finetune_from(self) -> list[str]:
        names = self.optimisation.finetune_from
        return (names or BASES[self.model.base].finetune_from).split(",")

    def check(self) -> None:
        """Refuses what settings of several groups forbid together."""
        self._check_base()
        if not self.phases and self.features.head_init == "zeros":
            raise UsageError(
                "--frozen_epochs=0 and --finetune_epochs=0 leave nothing to "
                "train. Set one of them to at least 1, or --head_init."
            )
        self._check_features()
        self._refuse_frozen_random_weights()

    def _check_base(self) -> None:
        name, base = self.model.base, BASES[self.model.base]
        if 0 < self.data.image_size < base.min_size:
            raise UsageError(
                f"--image_size={self.data.image_size} is too small: {name} "
                f"needs at least {base.min_size} pixels."
            )
        for layer in self._finetune_from:
            if layer not in base.layers:
                raise UsageError(
                    f"--finetune_from={layer} is no layer of {name} to begin "
                    f"at: {settings.did_you_mean(layer, base.layers)}expected "
                    f"one of {', '.join(base.layers)}."
                )
        if not base.application and self.model.weights != "none":
            raise UsageError(
                f"--base={name} has no weights to start from, and "
                f"--weights={self.model.weights} was given. Pass "
                "--weights=none."
            )

    def _check_features(self) -> None:
        features, augmentation = self.features, self.augmentation
        if features.feature_views and augmentation.augment == "none":
            raise UsageError(
                f"--feature_views={features.feature_views} keeps augmented "
                "views, and --augment=none augments nothing. Pass another "
                "--augment, or leave --feature_views out."
            )
        if features.feature_cache and not self.optimisation.frozen_epochs:
            raise UsageError(
                "--feature_cache trains the frozen phase on features, and "
                "--frozen_epochs=0 leaves that phase out. Leave out one of "
                "them."
            )
        mixes = augmentation.mixes
        if features.feature_cache and mixes:
            raise UsageError(
                "--feature_cache keeps the features of single images, and "
                f"--mixup={augmentation.mixup} --cutmix={augmentation.cutmix} "
                "mixes two. Leave out one of them."
            )
        if features.head_init != "zeros" and self.model.head_units:
            raise UsageError(
                f"--head_init={features.head_init} is a linear classifier, "
                f"and --head_units={self.model.head_units} puts a hidden layer "
                "before it. Leave out one of them."
            )

    def _refuse_frozen_random_weights(self) -> None:
        first = BASES[self.model.base].layers[0]
        frozen_epochs = self.optimisation.frozen_epochs
        everything_learns = (
            frozen_epochs == 0
            and self.optimisation.finetune_epochs > 0
            and self._finetune_from == [first]
            and self.features.head_init == "zeros"
        )
        if (
            self.model.weights == "none"
            and not everything_learns
            and not self.model.freeze_random_weights
        ):
            raise UsageError(
                "--weights=none starts the base from random values, and "
                f"--frozen_epochs={frozen_epochs} with "
                f"--finetune_from={','.join(self._finetune_from)} would keep "
                "some of them so. Train every layer with --frozen_epochs=0 "
                f"--finetune_from={first} --head_init=zeros, give --weights, or pass "
                "--freeze_random_weights if random features are what you want."
            )
