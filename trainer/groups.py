"""The settings of a run, each declared once, in groups by concern.

Imports no TensorFlow, so that a wrong command fails at once.
"""

import dataclasses

from data_prep.images.geometry import MAX_SIDE
from data_prep.runtime import settings
from data_prep.runtime.settings import PROCESS
from data_prep.runtime.settings import START
from data_prep.runtime.settings import setting
from trainer import recipes
from trainer.models import bases
from trainer.models.bases import BASES

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
AUGMENTS = ("none", "flip", "light", "classic", "jitter", "randaugment")


@dataclasses.dataclass(frozen=True)
class Data(settings.Group):
    """Data and decoded images."""

    data_dir: str = setting(
        "",
        "Data set made by data_prep.task.",
        path=settings.Path(settings.READ, stores=True),
        scope=PROCESS,
        required=True,
    )
    image_size: int = setting(
        200,
        "Width and height that the network sees, in pixels; VGG16 takes 32 at "
        "least. 0 follows the images, up to 256.",
        low=0,
        high=MAX_SIDE,
        first=True,
    )
    cache_mb: int = setting(
        -1,
        "Memory for decoded images, in MiB; -1 takes up to half of what is "
        "left, 0 decodes again in every epoch.",
        low=-1,
        scope=PROCESS,
    )
    cache_dir: str = setting(
        "",
        "Folder to keep decoded images in, for sets that memory cannot hold; "
        "used again by later runs.",
        path=settings.Path(settings.WRITTEN),
        scope=PROCESS,
    )


@dataclasses.dataclass(frozen=True)
class Run(settings.Group):
    """The run and its result."""

    model_dir: str = setting(
        "",
        "Where the model and its figures go; a run that was stopped goes on "
        "there.",
        path=settings.Path(settings.WRITTEN, stores=True),
        scope=PROCESS,
        required=True,
    )
    recipe: str = setting(
        "auto",
        "Settings that are known to do well, or to reproduce a published "
        "experiment; what is given beside it wins. Empty leaves the defaults "
        "that stand here. See docs/recipes.md.",
        choices=("", *recipes.names()),
        scope=PROCESS,
        first=True,
    )
    seed: int = setting(
        0,
        "Seed of the weights, the order and the augmentation.",
        low=0,
        high=2**31 - 1,
    )
    deterministic: bool = setting(
        False, "Use only operations whose result repeats to the bit."
    )
    tracker: str = setting(
        "none",
        "Send figures to MLflow or Weights & Biases too, as the environment "
        "variables of each say.",
        choices=("none", "mlflow", "wandb"),
        scope=PROCESS,
    )
    min_accuracy: float = setting(
        0.0,
        "Exit with 1 where the evaluation is below it.",
        low=0,
        high=1,
        scope=PROCESS,
    )


@dataclasses.dataclass(frozen=True)
class Model(settings.Group):
    """The network."""

    base: str = setting(
        "vgg16",
        "The network under the head; scratch is a small one without ImageNet "
        "weights.",
        choices=tuple(BASES),
        first=True,
    )
    weights: str = setting(
        "imagenet",
        "Weights of the base: imagenet (Keras's download), none, or a file "
        "(.weights.h5, .h5, .keras).",
        path=settings.Path(
            settings.READ, stores=True, words=("imagenet", "none")
        ),
        first=True,
    )
    freeze_random_weights: bool = setting(
        False, "Allow frozen layers under --weights=none."
    )
    preprocessing: str = setting(
        "auto",
        "auto is what the ImageNet weights of the base expect; caffe, tf and "
        "torch are Keras's modes; rescale is 1/255.",
        choices=("auto", *bases.PREPROCESSINGS),
    )
    head: str = setting(
        "gap",
        "What comes before the classifier: global average pooling, or "
        "flattening.",
        choices=("gap", "flatten"),
    )
    head_units: int = setting(
        0, "Size of a hidden layer before the classes; 0 has none.", low=0
    )
    dropout: float = setting(
        0.0,
        "Fraction of the classifier's inputs dropped in training.",
        low=0,
        high=0.99,
    )
    flip_average: bool = setting(
        False,
        "Predict with the mean of an image and its mirror, in validation, in "
        "evaluation and in the exported model.",
    )
    calibrate: bool = setting(
        False,
        "Divide logits by the temperature that suits validation best, in "
        "evaluation and in the exported model: probabilities that mean what "
        "they say, and the same decisions.",
    )


@dataclasses.dataclass(frozen=True)
class Optimisation(settings.Group):
    """Phases and optimisation."""

    batch_size: int = setting(
        32, "Images per step over all replicas.", low=1, first=True
    )
    frozen_epochs: int = setting(
        3,
        "Epochs of the first phase, the head alone; 0 leaves it out.",
        low=0,
        first=True,
    )
    frozen_learning_rate: float = setting(
        1e-3, "Highest learning rate of the first phase.", low=0
    )
    finetune_epochs: int = setting(
        3,
        "Epochs of the second phase, with layers of the base unfrozen; 0 "
        "leaves it out.",
        low=0,
        first=True,
    )
    finetune_below: float = setting(
        1.0,
        "Validation accuracy of a fitted head (--head_init) from which on "
        "nothing is fine-tuned; 1 always fine-tunes.",
        low=0,
        high=1,
    )
    finetune_learning_rate: float = setting(
        3e-5,
        "Highest learning rate of the second phase; 0 chooses by its steps, "
        "1e-4 from 100 of them on and 3e-5 below.",
        low=0,
    )
    finetune_optimizer: str = setting(
        "",
        "Optimizer of the second phase; empty is --optimizer.",
        choices=("", *OPTIMIZERS),
    )
    finetune_from: str = setting(
        "",
        "First layer of the base that the second phase trains; several, as "
        "block5_conv1,block4_conv1, are phases of --finetune_epochs each; "
        "empty is the base's own, block5_conv1 of VGG16.",
    )
    optimizer: str = setting(
        "adam",
        "Optimizer of every phase, made again in each.",
        choices=OPTIMIZERS,
    )
    schedule: str = setting(
        "cosine",
        "Learning-rate schedule of every phase: cosine falls to 0 along half a "
        "cosine, step to a tenth at half of the steps and again at three "
        "quarters.",
        choices=("cosine", "constant", "step"),
    )
    warmup_epochs: float = setting(
        0.0, "Epochs of every phase in which its rate rises from 0.", low=0
    )
    layer_decay: float = setting(
        1.0,
        "Factor of the learning rate from each layer of the base to the one "
        "below it.",
        low=0.01,
        high=1,
    )
    momentum: float = setting(0.9, "Momentum of sgd.", low=0, high=0.999)
    weight_decay: float = setting(0.004, "Weight decay of adamw.", low=0)
    clip_norm: float = setting(
        0.0,
        "Norm that all gradients together are scaled down to; 0 leaves them.",
        low=0,
    )
    label_smoothing: float = setting(
        0.0, "Share of every target spread over the classes.", low=0, high=0.9
    )
    class_weights: str = setting(
        "none",
        "balanced weighs a class in the loss by the inverse of its images.",
        choices=("none", "balanced"),
    )
    average_decay: float = setting(
        0.0,
        "Decay of a moving average of the weights, such as 0.99; the average is "
        "then validated and exported. 0 keeps none.",
        low=0,
        high=0.99999,
    )
    early_stopping: int = setting(
        0,
        "Epochs without a better validation after which a phase ends; 0 runs "
        "them all.",
        low=0,
    )
    accumulation: int = setting(
        1,
        "Gradient accumulation: micro-batches that a replica computes its "
        "share of a batch in, to save memory; the step is the same.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class Augmentation(settings.Group):
    """Augmentation."""

    augment: str = setting(
        "light",
        "light: rotation 8 degrees, shifts 0.05, zoom 0.1, flip. classic: "
        "rotation 40 degrees, shifts, shear and zoom 0.2, flip. jitter: "
        "light, then brightness, contrast and saturation by up to 20%. "
        "randaugment: flip, then keras-cv's operations.",
        choices=AUGMENTS,
        first=True,
    )
    augment_strength: float = setting(1.0, "Factor of those ranges.", low=0)
    flip: str = setting(
        "true",
        "Whether augmentation mirrors images; false where a mirror image means "
        "something else (text). auto asks a fitted head (--head_init).",
        choices=("auto", "true", "false"),
    )
    mixup: float = setting(
        0.0, "Alpha of MixUp, such as 0.2; 0 mixes none.", low=0
    )
    cutmix: float = setting(
        0.0,
        "Alpha of CutMix, such as 1; 0 mixes none. With both, each takes half "
        "of the images.",
        low=0,
    )

    @property
    def flips(self) -> bool:
        """Whether images may be mirrored."""
        return self.flip != "false"

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return bool(self.mixup or self.cutmix)


@dataclasses.dataclass(frozen=True)
class Features(settings.Group):
    """Features of the frozen base."""

    feature_cache: bool = setting(
        False,
        "Run the frozen base once per image and view, not once per epoch, and "
        "train the first phase on the features.",
    )
    feature_views: int = setting(
        0,
        "Augmented views of each training image to cache, taken in turn by "
        "epoch; 0 is one per epoch.",
        low=0,
    )
    feature_dir: str = setting(
        "",
        "Where features are kept, for other runs too; empty is features in "
        "the model directory.",
        path=settings.Path(settings.WRITTEN),
        scope=PROCESS,
    )
    head_init: str = setting(
        "zeros",
        "What the head starts from: zeros, or a classifier fitted on the "
        "features, its strength chosen on validation.",
        choices=("zeros", "logistic_regression", "linear_svm"),
    )


@dataclasses.dataclass(frozen=True)
class Checkpoints(settings.Group):
    """Checkpoints."""

    checkpoint_steps: int = setting(
        0,
        "Steps between checkpoints within an epoch; 0 saves none by steps.",
        low=0,
        scope=PROCESS,
    )
    checkpoint_minutes: float = setting(
        10.0,
        "Minutes between checkpoints within an epoch; 0 saves none by time.",
        low=0,
        scope=PROCESS,
    )
    nan_retries: int = setting(
        0,
        "How often a loss that is not a number is answered by going back to "
        "the last checkpoint with half the learning rate.",
        low=0,
        scope=START,
    )


@dataclasses.dataclass(frozen=True)
class Devices(settings.Group):
    """Devices and workers."""

    precision: str = setting(
        "auto",
        "auto is the 16-bit type that the hardware computes in, else float32.",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )
    strategy: str = setting(
        "auto",
        "auto is multi_worker where the platform names several workers, else "
        "mirrored where there is more than one device.",
        choices=("auto", "one_device", "mirrored", "multi_worker"),
        scope=PROCESS,
    )
    virtual_devices: int = setting(
        0,
        "Logical CPU devices to train on, to try several replicas without a "
        "GPU; 0 makes none.",
        low=0,
        scope=PROCESS,
    )
    jit_compile: str = setting(
        "auto",
        "Whether XLA compiles forward and backward pass; auto does on GPUs.",
        choices=("auto", "true", "false"),
    )
    steps_per_loop: int = setting(
        0,
        "Steps per call of TensorFlow; 0 is 1, or 8 on GPUs, where a signal is "
        "then answered within 8 steps.",
        low=0,
        scope=START,
    )
    startup_timeout: float = setting(
        60.0,
        "Seconds to wait for the other workers.",
        low=1,
        scope=PROCESS,
    )
