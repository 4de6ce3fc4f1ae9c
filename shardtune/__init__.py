"""Turns a folder of labelled images into a trained, exported classifier.

    import shardtune

    shardtune.prepare("photos", "data", workers=2)
    done = shardtune.train("data", "model", recipe="best")
    print(done["evaluation"]["accuracy"])
    print(shardtune.Classifier.load("model").predict("new.jpg"))

Importing it takes no time and no TensorFlow: what a name needs is imported
when the name is used.
"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

if TYPE_CHECKING:
    import keras

    from data_prep.config import PrepareConfig
    from data_prep.dataset.manifest import Manifest
    from data_prep.images.plain import BadImage
    from shardtune.classifier import Classifier
    from trainer.config import Config

    __version__: str

__all__ = [
    "BadImage",
    "Classifier",
    "Config",
    "PrepareConfig",
    "__version__",
    "prepare",
    "train",
]

_HOMES = {
    "BadImage": "data_prep.images.plain",
    "Classifier": "shardtune.classifier",
    "Config": "trainer.config",
    "PrepareConfig": "data_prep.config",
}


def __getattr__(name: str) -> Any:
    """Imports what is named when it is first used (PEP 562)."""
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        return metadata.version("shardtune")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Returns the public names, those not yet imported included."""
    return sorted(__all__)


def prepare(source: str, output_dir: str, **settings: Any) -> "Manifest":
    """Audits, splits and shards labelled images; as `shardtune prepare`.

    In a script with `workers` other than 1, call it below
    `if __name__ == "__main__":`, as its processes import the script.

    Args:
        source: Folder of labelled images, "csv:FILE" or "tfds:NAME".
        output_dir: Where the data set goes.
        **settings: Of `PrepareConfig`, by the names of the flags.

    Returns:
        The manifest of the finished data set.

    Raises:
        UsageError: If a setting is impossible.
        DataError: If the images cannot make a data set.
    """
    from data_prep import prepare as story
    from data_prep.config import PrepareConfig

    return story.prepare(PrepareConfig(source, output_dir, **settings))


def train(
    data_dir: str,
    model_dir: str,
    callbacks: "Sequence[keras.callbacks.Callback]" = (),
    **settings: Any,
) -> dict[str, Any]:
    """Trains, exports and evaluates a classifier; as `shardtune train`.

    Goes on where an earlier run with the same settings stopped.

    Args:
        data_dir: Data set made by `prepare`.
        model_dir: Where the model and its figures go.
        callbacks: Keras callbacks, whose state is saved with the run's.
        **settings: Of `Config`, by the names of the flags.

    Returns:
        The content of `DONE.json`: the exported epoch, the evaluation, and
        the seconds that the run took.

    Raises:
        UsageError: If a setting is impossible, or TensorFlow is not installed.
        DataError: If the data set, weights or checkpoints are unusable.
        TrainingError: If the loss is not a number, or `min_accuracy` is
            missed.
        Stopped: If a signal asked the run to stop.
    """
    from data_prep.runtime import startup
    from trainer.config import Config

    config = Config(data_dir, model_dir, **settings)
    startup.import_tensorflow()
    from trainer.run import run

    return run(config, callbacks=callbacks)
