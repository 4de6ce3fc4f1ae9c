"""Command line: a data set -> a trained, evaluated, exported classifier.

python -m trainer.task --data_dir=data --model_dir=model
"""

import dataclasses

from absl import flags

from data_prep import command
from trainer import config as config_lib
from trainer import startup
from trainer.config import Config

_HELP = {
    "data_dir": "Data set made by data_prep.task.",
    "model_dir": "Where the model and its figures go.",
    "weights": "Of the base: imagenet (Keras's download), none, or a file "
    "(.weights.h5, .h5, .keras).",
    "freeze_random_weights": "Allow frozen layers under --weights=none.",
    "image_size": "Width and height that the network sees, in pixels.",
    "preprocessing": "caffe is what the ImageNet weights expect; rescale is "
    "1/255.",
    "head": "Global average pooling, or flattening, before the classifier.",
    "head_units": "Size of the head's hidden layer; 0 has none.",
    "dropout": "Fraction of the classifier's inputs dropped in training.",
    "batch_size": "Images per step over all replicas.",
    "optimizer": "Of every phase; its rate falls to 0 along a half cosine.",
    "frozen_epochs": "Epochs of the head alone; 0 leaves this phase out.",
    "frozen_learning_rate": "First learning rate of the frozen phase.",
    "finetune_epochs": "Epochs of the second phase; 0 leaves it out.",
    "finetune_learning_rate": "First learning rate of the second phase.",
    "finetune_optimizer": "Of the second phase; empty is --optimizer.",
    "finetune_from": "First layer of the base that the second phase trains.",
    "augment": "light: 8 degrees, shifts 0.05, zoom 0.1, flips. classic: 40 "
    "degrees, shifts, shear and zoom 0.2, flips.",
    "precision": "auto is the 16-bit type that the hardware computes in, "
    "else float32.",
    "strategy": "auto is mirrored where there is more than one device.",
    "virtual_devices": "Logical CPU devices to train on, to try several "
    "replicas without a GPU; 0 makes none.",
    "seed": "Of the weights, the order and the augmentation.",
    "deterministic": "Use only operations whose result repeats to the bit.",
    "min_accuracy": "Exit with 1 where the evaluation is below it.",
}
_CHOICES = {
    "preprocessing": config_lib.PREPROCESSINGS,
    "head": config_lib.HEADS,
    "optimizer": config_lib.OPTIMIZERS,
    "finetune_optimizer": ("", *config_lib.OPTIMIZERS),
    "augment": config_lib.AUGMENTS,
    "precision": config_lib.PRECISIONS,
    "strategy": config_lib.STRATEGIES,
}
# Bounds of one flag alone; `Config` checks what depends on several.
_BOUNDS = {
    "head_units": (0, None),
    "dropout": (0.0, 0.99),
    "frozen_epochs": (0, None),
    "finetune_epochs": (0, None),
    "frozen_learning_rate": (0.0, None),
    "finetune_learning_rate": (0.0, None),
    "virtual_devices": (0, None),
    "seed": (0, None),
    "min_accuracy": (0.0, 1.0),
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines one flag per field of `Config`, with the field's default."""
    for field in dataclasses.fields(Config):
        name, default = field.name, field.default
        if default is dataclasses.MISSING:
            default = ""
        common = {"help": _HELP[name], "flag_values": flag_values}
        low, high = _BOUNDS.get(name, (None, None))
        if name in _CHOICES:
            flags.DEFINE_enum(name, default, _CHOICES[name], **common)
        elif field.type is bool:
            flags.DEFINE_bool(name, default, **common)
        elif field.type is int:
            flags.DEFINE_integer(
                name, default, lower_bound=low, upper_bound=high, **common
            )
        elif field.type is float:
            flags.DEFINE_float(
                name, default, lower_bound=low, upper_bound=high, **common
            )
        else:
            flags.DEFINE_string(name, default, **common)


def config_from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Config:
    """Builds the config that the flags describe.

    Raises:
        UsageError: If they contradict each other.
    """
    return Config(
        **{
            field.name: getattr(flag_values, field.name)
            for field in dataclasses.fields(Config)
        }
    )


def main() -> None:
    """Builds the config from the flags and runs it."""
    config = config_from_flags()
    startup.import_tensorflow()
    from trainer.run import run

    run(config)
    print(f"model: {config.model_dir}")


if __name__ == "__main__":
    define_flags()
    command.run(main)
