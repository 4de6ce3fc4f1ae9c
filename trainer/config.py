"""What a run is to do: one frozen dataclass, checked when built.

Imports no TensorFlow, so that a wrong command fails at once.
"""

import dataclasses

from data_prep.errors import UsageError

MIN_IMAGE_SIZE = 32  # five poolings halve it down to one pixel
BASE_LAYERS = tuple(
    f"block{block}_conv{layer}"
    for block, layers in enumerate((2, 2, 3, 3, 3), start=1)
    for layer in range(1, layers + 1)
)

PREPROCESSINGS = ("caffe", "rescale")
HEADS = ("gap", "flatten")
OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
AUGMENTS = ("none", "flip", "light", "classic", "jitter", "randaugment")
PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
STRATEGIES = ("auto", "one_device", "mirrored")

FROZEN = "frozen"
FINETUNE = "finetune"


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stage of training.

    Attributes:
        name: "frozen" or "finetune".
        epochs: Passes over the training split.
        optimizer: One of `OPTIMIZERS`.
        learning_rate: At the first step; it falls to 0 along a half cosine.
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
        preprocessing: "caffe" (BGR less the ImageNet mean, as the ImageNet
            weights expect) or "rescale" (1/255).
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
        finetune_from: First layer of the base that the second phase trains.
        augment: One of `AUGMENTS`.
        augment_strength: Factor of the ranges of `augment`.
        mixup: Alpha of MixUp; 0 mixes none.
        cutmix: Alpha of CutMix; 0 mixes none.
        precision: One of `PRECISIONS`.
        strategy: One of `STRATEGIES`.
        virtual_devices: Logical CPU devices to make; 0 uses what is there.
        cache_mb: MiB of memory for decoded images; -1 takes up to half of
            what is left, 0 decodes anew in every epoch.
        cache_dir: Folder to keep decoded images in, for sets that memory
            cannot hold; "" keeps none.
        seed: Of the weights, the order and the augmentation.
        deterministic: Use only operations whose result repeats to the bit.
        min_accuracy: Exit with 1 where the evaluation is below it.
    """

    data_dir: str
    model_dir: str
    weights: str = "imagenet"
    freeze_random_weights: bool = False
    image_size: int = 200
    preprocessing: str = "caffe"
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
    finetune_from: str = "block5_conv1"
    augment: str = "light"
    augment_strength: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    precision: str = "auto"
    strategy: str = "auto"
    virtual_devices: int = 0
    cache_mb: int = -1
    cache_dir: str = ""
    seed: int = 0
    deterministic: bool = False
    min_accuracy: float = 0.0

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
        if self.image_size < MIN_IMAGE_SIZE:
            raise UsageError(
                f"--image_size={self.image_size} is too small: VGG16 needs at "
                f"least {MIN_IMAGE_SIZE} pixels."
            )
        if self.batch_size < 1:
            raise UsageError(
                f"--batch_size={self.batch_size} is impossible: expected at "
                "least 1 image per step."
            )
        if self.finetune_from not in BASE_LAYERS:
            raise UsageError(
                f"--finetune_from={self.finetune_from} is no layer of VGG16. "
                f"Expected one of {', '.join(BASE_LAYERS)}."
            )
        if not self.phases:
            raise UsageError(
                "--frozen_epochs=0 and --finetune_epochs=0 leave nothing to "
                "train. Set one of them to at least 1."
            )
        self._refuse_frozen_random_weights()

    @property
    def phases(self) -> list[Phase]:
        """The phases in the order they run; one of 0 epochs is left out."""
        both = [
            Phase(
                FROZEN,
                self.frozen_epochs,
                self.optimizer,
                self.frozen_learning_rate,
                None,
            ),
            Phase(
                FINETUNE,
                self.finetune_epochs,
                self.finetune_optimizer or self.optimizer,
                self.finetune_learning_rate,
                self.finetune_from,
            ),
        ]
        return [phase for phase in both if phase.epochs > 0]

    def _refuse_frozen_random_weights(self) -> None:
        everything_learns = (
            self.frozen_epochs == 0 and self.finetune_from == BASE_LAYERS[0]
        )
        if (
            self.weights == "none"
            and not everything_learns
            and not self.freeze_random_weights
        ):
            raise UsageError(
                "--weights=none starts the base from random values, and "
                f"--frozen_epochs={self.frozen_epochs} with "
                f"--finetune_from={self.finetune_from} would keep some of "
                "them so. Train every layer with --frozen_epochs=0 "
                f"--finetune_from={BASE_LAYERS[0]}, give --weights, or pass "
                "--freeze_random_weights if random features are what you want."
            )
