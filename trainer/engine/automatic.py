"""What `--recipe=auto` leaves to the images: size, flips, fine-tuning.

How each rule was found by measurement: docs/recipes.md. A choice becomes the
value of the setting that left it open, so nothing else knows of choosing.

Imports no TensorFlow, as the size is chosen when a command is checked.
"""

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


def with_size(config: Config, manifest: Manifest) -> Config:
    """Returns the config with a size, chosen by the images where it is 0.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.

    Raises:
        DataError: If the index of the train split is damaged.
    """
    if config.data.image_size or splits.TRAIN not in manifest.splits:
        return config
    index = manifest_lib.load_index(
        manifest, config.data.data_dir, splits.TRAIN
    )
    smallest = BASES[config.model.base].min_size
    size = size_for(np.minimum(index["width"], index["height"]), smallest)
    return config.replace(image_size=size)


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
