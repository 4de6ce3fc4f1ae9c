"""What `--recipe=auto` leaves to the images: size, rate, flips, fine-tuning.

How each rule was found by measurement: docs/recipes.md. A choice becomes the
value of the setting that left it open, so nothing else knows of choosing.

Imports no TensorFlow, as size and rate are chosen when a command is checked.
"""

import math
from typing import Any

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from trainer.config import Config
from trainer.models.bases import BASES

LARGEST = 256  # pixels; 320 did no better
# A network sees more of an image that is scaled up a little.
_SCALE = 1.28
_STEP = 32  # VGG16 halves five times
# Adam's first steps, each as long as any, shake a fitted head; a few steps do
# not mend it.
_FEW_STEPS = 100
_FEW_STEPS_RATE, _RATE = 3e-5, 1e-4


def by_images(config: Config, manifest: Manifest) -> Config:
    """Returns the config with size and rate, chosen by the images where 0.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.

    Raises:
        DataError: If the index of the train split is damaged.
    """
    if splits.TRAIN not in manifest.splits:
        return config
    chosen: dict[str, Any] = {}
    if not config.data.image_size:
        chosen["image_size"] = _size(config, manifest)
    if not config.optimisation.finetune_learning_rate:
        epochs = config.optimisation.finetune_epochs
        images = manifest.splits[splits.TRAIN].count
        steps = epochs * math.ceil(images / config.optimisation.batch_size)
        chosen["finetune_learning_rate"] = rate_for(steps)
    return config.replace(**chosen)


def rate_for(steps: int) -> float:
    """Returns the learning rate to fine-tune with.

    Args:
        steps: Number of steps of the phase.
    """
    return _RATE if steps >= _FEW_STEPS else _FEW_STEPS_RATE


def _size(config: Config, manifest: Manifest) -> int:
    index = manifest_lib.load_index(
        manifest, config.data.data_dir, splits.TRAIN
    )
    smallest = BASES[config.model.base].min_size
    return size_for(np.minimum(index["width"], index["height"]), smallest)


def size_for(sides: np.ndarray, smallest: int) -> int:
    """Returns the width and height for images, in pixels.

    Args:
        sides: int32 `[N]`, the shorter side of each image in pixels.
        smallest: The least that the base takes, in pixels.
    """
    steps = round(float(np.median(sides)) * _SCALE / _STEP)
    return int(np.clip(steps * _STEP, smallest, LARGEST))


def after_fit(config: Config, accuracy: float) -> dict[str, int]:
    """Returns the settings that a fitted head's accuracy decides.

    Args:
        config: All settings of the run.
        accuracy: The head's, on validation, in [0, 1].

    Returns:
        `finetune_epochs` of 0 where nothing is to be fine-tuned.
    """
    chosen = config.optimisation
    if not chosen.finetune_epochs or accuracy < chosen.finetune_below:
        return {}
    return {} if chosen.finetune_below == 1 else {"finetune_epochs": 0}
