"""What a run is to do: one frozen dataclass, checked when built.

Imports no TensorFlow, so that a wrong command fails at once.
"""

import dataclasses

from data_prep.errors import UsageError
from trainer import bases
from trainer.bases import BASES

PREPROCESSINGS = ("auto", *bases.PREPROCESSINGS)
HEADS = ("gap", "flatten")
HEAD_INITS = ("zeros", "logistic_regression", "linear_svm")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
AUGMENTS = ("none", "flip", "light", "classic", "jitter", "randaugment")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")
SCHEDULES = ("cosine", "constant", "step")
CLASS_WEIGHTS = ("none", "balanced")
JIT_COMPILE = ("auto", "true", "false")

FROZEN = "frozen"
FINETUNE = "finetune"


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stage of training.

    Attributes:
        name: "frozen" or "finetune"; further stages of fine-tuning are
            "finetune2", "finetune3" and so on.
        epochs: Passes over the training split.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: The highest one.
        train_from: The base's first layer that learns; None freezes it all.
    """

    name: str
    epochs: int
    optimizer: str
    learning_rate: float
    train_from: str | None


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on; the flags of `trainer.task`.

    Attributes:
        data_dir: A finished data set of `data_prep`.
        model_dir: Where everything that is made goes.
        weights: "imagenet", "none" or a file; of the base.
        freeze_random_weights: Allows a frozen layer under `weights` "none".
        image_size: Width and height that the network sees, in pixels.
        preprocessing: "auto" (what the ImageNet weights of the base expect)
            or one of `bases.PREPROCESSINGS`.
        head: "gap" (global average pooling) or "flatten".
        head_units: Size of the hidden layer of the head; 0 has none.
        dropout: Fraction of the head's inputs dropped in training.
        batch_size: Images per step over all replicas.
        optimizer: One of `OPTIMIZERS`.
        frozen_epochs: Epochs of the head alone.
        frozen_learning_rate: Of the first phase.
        finetune_epochs: Epochs of the head and the unfrozen layers.
        finetune_learning_rate: Of the second phase.
        finetune_optimizer: Of the second phase; "" is `optimizer`.
        finetune_from: First layer of the base that the second phase trains;
            several, with commas between, are stages of `finetune_epochs`
            each; "" is the base's own in `BASES`.
        schedule: One of `SCHEDULES`, of the learning rate in every phase.
        warmup_epochs: Epochs of every phase in which its rate rises from 0.
        layer_decay: Factor of the learning rate from each layer of the base
            to the one below it; 1 gives all the same.
        momentum: Of "sgd".
        weight_decay: Of "adamw".
        clip_norm: Norm that all gradients together are scaled down to; 0
            leaves them.
        label_smoothing: Share of every target spread over the classes.
        class_weights: "balanced" weighs a class by the inverse of its images.
        average_decay: Of a moving average of the weights, which is what is
            validated and exported; 0 keeps none.
        early_stopping: Epochs without a better validation after which a phase
            ends; 0 runs them all.
        accumulation: Pieces that a batch is computed in, to save memory.
        augment: One of `AUGMENTS`.
        augment_strength: Factor of the ranges of `augment`.
        mixup: Alpha of MixUp; 0 mixes none.
        cutmix: Alpha of CutMix; 0 mixes none.
        precision: One of `PRECISIONS`.
        strategy: One of `STRATEGIES`.
        virtual_devices: Logical CPU devices to make; 0 uses what is there.
        jit_compile: Whether XLA compiles the model's step; "auto" does so on
            GPUs.
        steps_per_loop: Steps per call of TensorFlow; 0 is 1, or 8 on GPUs.
        checkpoint_steps: Steps between checkpoints; 0 saves by time.
        checkpoint_minutes: Minutes between checkpoints within an epoch; there
            is one at every epoch's end anyway. 0 saves none by time.
        nan_retries: How often a run whose loss is no number goes back to the
            last checkpoint, with half the learning rate.
        startup_timeout: Seconds to wait for the other workers.
        cache_mb: MiB of memory for decoded images; -1 takes up to half of
            what is left, 0 decodes anew in every epoch.
        cache_dir: Folder to keep decoded images in, for sets that memory
            cannot hold; "" keeps none.
        seed: Of the weights, the order and the augmentation.
        deterministic: Use only operations whose result repeats to the bit.
        min_accuracy: Exit with 1 where the evaluation is below it.
        base: One of `BASES`.
        feature_cache: Runs the frozen base once per image, not once per
            epoch, and trains the first phase on what it gives.
        feature_views: Augmented views of each training image to cache, taken
            in turn by epoch; 0 is one per epoch.
        feature_dir: Where features are kept; "" is `model_dir`/features.
        head_init: What the head starts from, one of `HEAD_INITS`.
        flip_average: Predicts with the mean of an image and its mirror.
    """

    data_dir: str
    model_dir: str
    weights: str = "imagenet"
    freeze_random_weights: bool = False
    image_size: int = 200
    preprocessing: str = "auto"
    head: str = "gap"
    head_units: int = 0
    dropout: float = 0.0
    batch_size: int = 32
    optimizer: str = "adam"
    frozen_epochs: int = 3
    frozen_learning_rate: float = 1e-3
    finetune_epochs: int = 3
    finetune_learning_rate: float = 3e-5
    finetune_optimizer: str = ""
    finetune_from: str = ""
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    layer_decay: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.004
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    class_weights: str = "none"
    average_decay: float = 0.0
    early_stopping: int = 0
    accumulation: int = 1
    augment: str = "light"
    augment_strength: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: str = "auto"
    strategy: str = "auto"
    virtual_devices: int = 0
    jit_compile: str = "auto"
    steps_per_loop: int = 0
    checkpoint_steps: int = 0
    checkpoint_minutes: float = 10.0
    nan_retries: int = 0
    startup_timeout: float = 60.0
    cache_mb: int = -1
    cache_dir: str = ""
    seed: int = 0
    deterministic: bool = False
    min_accuracy: float = 0.0
    base: str = "vgg16"
    feature_cache: bool = False
    feature_views: int = 0
    feature_dir: str = ""
    head_init: str = "zeros"
    flip_average: bool = False

    def __post_init__(self) -> None:
        if not self.data_dir:
            raise UsageError(
                "--data_dir is missing: a data set made by "
                "`python -m data_prep.task`."
            )
        if not self.model_dir:
            raise UsageError(
                "--model_dir is missing: where the model and its figures go."
            )
        if self.batch_size < 1:
            raise UsageError(
                f"--batch_size={self.batch_size} is impossible: expected at "
                "least 1 image per step."
            )
        self._check_base()
        if not self.phases and self.head_init == "zeros":
            raise UsageError(
                "--frozen_epochs=0 and --finetune_epochs=0 leave nothing to "
                "train. Set one of them to at least 1, or --head_init."
            )
        self._check_features()
        self._refuse_frozen_random_weights()

    @property
    def phases(self) -> list[Phase]:
        """The phases in the order they run; one of 0 epochs is left out."""
        stages = [
            Phase(
                FROZEN,
                self.frozen_epochs,
                self.optimizer,
                self.frozen_learning_rate,
                None,
            )
        ]
        for number, layer in enumerate(self._finetune_from, start=1):
            stages.append(
                Phase(
                    FINETUNE if number == 1 else f"{FINETUNE}{number}",
                    self.finetune_epochs,
                    self.finetune_optimizer or self.optimizer,
                    self.finetune_learning_rate,
                    layer,
                )
            )
        return [stage for stage in stages if stage.epochs > 0]

    @property
    def _finetune_from(self) -> list[str]:
        names = self.finetune_from or BASES[self.base].finetune_from
        return names.split(",")

    def _check_base(self) -> None:
        base = BASES.get(self.base)
        if base is None:
            raise UsageError(
                f"--base={self.base} is unknown. Expected one of "
                f"{', '.join(BASES)}."
            )
        if self.image_size < base.min_size:
            raise UsageError(
                f"--image_size={self.image_size} is too small: {self.base} "
                f"needs at least {base.min_size} pixels."
            )
        for layer in self._finetune_from:
            if layer not in base.layers:
                raise UsageError(
                    f"--finetune_from={layer} is no layer of {self.base} to "
                    f"begin at. Expected one of {', '.join(base.layers)}."
                )
        if not base.application and self.weights != "none":
            raise UsageError(
                f"--base={self.base} has no weights to start from, and "
                f"--weights={self.weights} was given. Pass --weights=none."
            )

    def _check_features(self) -> None:
        if self.feature_views and self.augment == "none":
            raise UsageError(
                f"--feature_views={self.feature_views} keeps augmented views, "
                "and --augment=none augments nothing. Pass another --augment, "
                "or leave --feature_views out."
            )
        if self.feature_cache and not self.frozen_epochs:
            raise UsageError(
                "--feature_cache trains the frozen phase on features, and "
                "--frozen_epochs=0 leaves that phase out. Leave out one of "
                "them."
            )
        if self.feature_cache and (self.mixup or self.cutmix):
            raise UsageError(
                "--feature_cache keeps the features of single images, and "
                f"--mixup={self.mixup} --cutmix={self.cutmix} mixes two. "
                "Leave out one of them."
            )
        if self.head_init != "zeros" and self.head_units:
            raise UsageError(
                f"--head_init={self.head_init} is a linear classifier, and "
                f"--head_units={self.head_units} puts a hidden layer before "
                "it. Leave out one of them."
            )

    def _refuse_frozen_random_weights(self) -> None:
        first = BASES[self.base].layers[0]
        everything_learns = (
            self.frozen_epochs == 0
            and self.finetune_epochs > 0
            and self._finetune_from == [first]
            and self.head_init == "zeros"
        )
        if (
            self.weights == "none"
            and not everything_learns
            and not self.freeze_random_weights
        ):
            raise UsageError(
                "--weights=none starts the base from random values, and "
                f"--frozen_epochs={self.frozen_epochs} with "
                f"--finetune_from={','.join(self._finetune_from)} would keep "
                "some of them so. Train every layer with --frozen_epochs=0 "
                f"--finetune_from={first}, give --weights, or pass "
                "--freeze_random_weights if random features are what you want."
            )
