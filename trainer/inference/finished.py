"""A finished model directory: measured and exported again."""

import pathlib

from trainer.distribution import devices
from trainer.engine import model_directory
from trainer.engine import setup
from trainer.engine.stage import served
from trainer.inference import evaluation
from trainer.inference import exporting


def export(model_dir: str) -> None:
    """Exports the best epoch of a model directory.

    Raises:
        DataError: If there is none.
    """
    config, manifest = model_directory.load(model_dir)
    devices.set_precision(config.devices.precision)
    # Made anew, under no strategy, so that nothing of one is exported.
    # Without dropout, which does nothing there and is no layer of Keras.
    model = setup.build(config.replace(dropout=0.0), manifest)
    model_directory.restore_best(model, pathlib.Path(model_dir))
    exporting.export(
        served(config, model), manifest.classes, manifest.resize, model_dir
    )


def evaluate(model_dir: str, split: str) -> dict:
    """Measures the best epoch of a model directory on a split.

    Args:
        model_dir: What `trainer.task` wrote.
        split: Name of a split; "" chooses as `trainer.task` does.

    Raises:
        DataError: If there is no finished epoch, or the data set has changed.
    """
    config, manifest = model_directory.load(model_dir)
    devices.set_precision(config.devices.precision)
    strategy = devices.make_strategy(
        config.devices.strategy, config.devices.virtual_devices
    )
    with strategy.scope():
        model = setup.build(config, manifest)
    model_directory.restore_best(model, pathlib.Path(model_dir))
    split = split or evaluation.choose_split(manifest)
    return evaluation.evaluate(
        config, manifest, strategy, served(config, model), split, model_dir
    )
