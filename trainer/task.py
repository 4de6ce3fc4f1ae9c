"""Command line: a data set -> a trained, evaluated, exported classifier.

python -m trainer.task --data_dir=data --model_dir=model
"""

import os
import sys

from data_prep.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from trainer import stop

    stop.watch(EXIT_STOPPED)

# ruff: noqa: E402
from absl import flags

from data_prep import command
from data_prep.errors import Stopped
from data_prep.errors import UsageError
from trainer import cluster_env
from trainer import config as config_lib
from trainer import handover
from trainer import startup
from trainer.bases import BASES
from trainer.config import Config

_HELPS = {
    "data_dir": "Data set made by data_prep.task.",
    "model_dir": "Where the model and its figures go.",
    "weights": "Of the base: imagenet (Keras's download), none, or a file "
    "(.weights.h5, .h5, .keras).",
    "freeze_random_weights": "Allow frozen layers under --weights=none.",
    "image_size": "Width and height that the network sees, in pixels.",
    "preprocessing": "auto is what the ImageNet weights of the base expect; "
    "caffe, tf and torch are Keras's modes; rescale is 1/255.",
    "head": "Global average pooling, or flattening, before the classifier.",
    "head_units": "Size of the head's hidden layer; 0 has none.",
    "dropout": "Fraction of the classifier's inputs dropped in training.",
    "batch_size": "Images per step over all replicas.",
    "optimizer": "Of every phase, made anew in each.",
    "frozen_epochs": "Epochs of the head alone; 0 leaves this phase out.",
    "frozen_learning_rate": "Highest learning rate of the frozen phase.",
    "finetune_epochs": "Epochs of the second phase; 0 leaves it out.",
    "finetune_learning_rate": "Highest learning rate of the second phase.",
    "finetune_optimizer": "Of the second phase; empty is --optimizer.",
    "finetune_from": "First layer of the base that the second phase trains; "
    "several with commas between are stages; empty is the base's own, "
    "block5_conv1 of VGG16.",
    "schedule": "Of the learning rate in every phase; step falls to a tenth at "
    "half of its steps and again at three quarters.",
    "warmup_epochs": "Epochs of every phase in which its rate rises from 0.",
    "layer_decay": "Factor of the learning rate from each layer of the base "
    "to the one below it.",
    "momentum": "Of sgd.",
    "weight_decay": "Of adamw.",
    "clip_norm": "Norm that all gradients together are scaled down to; 0 "
    "leaves them.",
    "label_smoothing": "Share of every target spread over the classes.",
    "class_weights": "balanced weighs a class by the inverse of its images.",
    "average_decay": "Of a moving average of the weights, 0.99 for instance, "
    "which is then validated and exported; 0 keeps none.",
    "early_stopping": "Epochs without a better validation after which a phase "
    "ends; 0 runs them all.",
    "accumulation": "Pieces that a batch is computed in, to save memory.",
    "augment": "light: 8 degrees, shifts 0.05, zoom 0.1, flips. classic: 40 "
    "degrees, shifts and zoom 0.2, flips. jitter: light, brightness, contrast "
    "and saturation. randaugment: after flips.",
    "augment_strength": "Factor of the ranges of --augment.",
    "mixup": "Alpha of MixUp, 0.2 for instance; 0 mixes none.",
    "cutmix": "Alpha of CutMix, 1 for instance; 0 mixes none.",
    "precision": "auto is the 16-bit type that the hardware computes in, "
    "else float32.",
    "strategy": "auto is multi_worker where the platform names several "
    "workers, else mirrored where there is more than one device.",
    "virtual_devices": "Logical CPU devices to train on, to try several "
    "replicas without a GPU; 0 makes none.",
    "jit_compile": "Whether XLA compiles the model's step; auto does on GPUs.",
    "steps_per_loop": "Steps per call of TensorFlow; 0 is 1, or 8 on GPUs.",
    "checkpoint_steps": "Steps between checkpoints; 0 saves by time.",
    "checkpoint_minutes": "Minutes between checkpoints within an epoch; 0 "
    "saves none by time.",
    "nan_retries": "How often a loss that is no number is answered by going "
    "back to the last checkpoint with half the learning rate.",
    "startup_timeout": "Seconds to wait for the other workers.",
    "cache_mb": "Memory for decoded images, in MiB; -1 takes up to half of "
    "what is left, 0 decodes anew in every epoch.",
    "cache_dir": "Folder to keep decoded images in, for sets that memory "
    "cannot hold.",
    "seed": "Of the weights, the order and the augmentation.",
    "deterministic": "Use only operations whose result repeats to the bit.",
    "min_accuracy": "Exit with 1 where the evaluation is below it.",
    "base": "The network under the head; scratch is a small one without "
    "ImageNet weights.",
    "feature_cache": "Run the frozen base once per image, not once per epoch, "
    "and train the first phase on the features.",
    "feature_views": "Augmented views of each training image to cache, taken "
    "in turn by epoch; 0 is one per epoch.",
    "feature_dir": "Where features are kept, for other runs too; empty is "
    "--model_dir/features.",
    "head_init": "What the head starts from: zeros, or a classifier fitted on "
    "the features, its strength chosen on validation.",
    "flip_average": "Predict with the mean of an image and its mirror.",
}
_CHOICES = {
    "base": tuple(BASES),
    "head_init": config_lib.HEAD_INITS,
    "preprocessing": config_lib.PREPROCESSINGS,
    "head": config_lib.HEADS,
    "optimizer": config_lib.OPTIMIZERS,
    "finetune_optimizer": ("", *config_lib.OPTIMIZERS),
    "augment": config_lib.AUGMENTS,
    "precision": config_lib.PRECISIONS,
    "strategy": config_lib.STRATEGIES,
    "schedule": config_lib.SCHEDULES,
    "class_weights": config_lib.CLASS_WEIGHTS,
    "jit_compile": config_lib.JIT_COMPILE,
}
_BOUNDS = {
    "head_units": (0, None),
    "dropout": (0.0, 0.99),
    "frozen_epochs": (0, None),
    "finetune_epochs": (0, None),
    "frozen_learning_rate": (0.0, None),
    "finetune_learning_rate": (0.0, None),
    "warmup_epochs": (0.0, None),
    "layer_decay": (0.01, 1.0),
    "momentum": (0.0, 0.999),
    "weight_decay": (0.0, None),
    "clip_norm": (0.0, None),
    "label_smoothing": (0.0, 0.9),
    "average_decay": (0.0, 0.99999),
    "early_stopping": (0, None),
    "accumulation": (1, None),
    "virtual_devices": (0, None),
    "steps_per_loop": (0, None),
    "checkpoint_steps": (0, None),
    "checkpoint_minutes": (0.0, None),
    "nan_retries": (0, None),
    "startup_timeout": (1.0, None),
    "cache_mb": (-1, None),
    "augment_strength": (0.0, None),
    "mixup": (0.0, None),
    "cutmix": (0.0, None),
    "seed": (0, None),
    "min_accuracy": (0.0, 1.0),
    "feature_views": (0, None),
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; imports no TensorFlow."""
    command.define_flags(
        Config,
        helps=_HELPS,
        choices=_CHOICES,
        bounds=_BOUNDS,
        flag_values=flag_values,
    )


def adopt_platform(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Takes the command line and the defaults as the platform gives them."""
    booleans = {name for name in flag_values if flag_values[name].boolean}
    sys.argv[1:] = cluster_env.arguments(sys.argv[1:], booleans)
    platform = cluster_env.settings(os.environ)
    for name in ("data_dir", "model_dir"):
        if value := getattr(platform, name):
            flag_values.set_default(name, value)


def main() -> None:
    """Builds the config from the flags, runs it, hands over what it made."""
    platform = cluster_env.settings(os.environ)
    try:
        config = command.config_from_flags(Config)
        _refuse_object_storage(config)
        cluster = cluster_env.cluster(os.environ)
        startup.import_tensorflow()
        from trainer import workers
        from trainer.run import run

        with workers.left_at_once(cluster):
            done = run(config, cluster=cluster, log_dir=platform.log_dir or "")
        if workers.is_first(cluster):
            _hand_over(config, platform, done)
    except Stopped:
        raise
    except Exception as error:
        if platform.failure_file:
            handover.report_failure(platform.failure_file, error)
        raise
    print(f"model: {config.model_dir}")


def _refuse_object_storage(config: Config) -> None:
    """A folder called gs: on this disk would be lost with the machine."""
    for name in ("data_dir", "model_dir", "weights"):
        value = getattr(config, name)
        if "://" in value:
            raise UsageError(
                f"--{name}={value} lies in object storage. The same flags after "
                "`python -m launch.staged --` copy it in and out."
            )


def _hand_over(
    config: Config, platform: cluster_env.Settings, done: dict
) -> None:
    if platform.publish_dir:
        handover.publish(config.model_dir, platform.publish_dir)
    if platform.metric_file:
        best = done["exported"]
        handover.report_trial(best["val_accuracy"], best["epoch"])


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(command)  # so that --help lists them
    adopt_platform()
    command.run(main)
