"""Exports or evaluates the best epoch of a model directory."""

import pathlib

from trainer.distribution import devices
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import model_directory
from trainer.engine import start_rule
from trainer.inference import evaluation
from trainer.inference import exporting
from trainer.models.classifier import build_classifier
from trainer.models.classifier import inference_model
from trainer.pipeline.reader import Reader


def export(model_dir: str) -> None:
    """Exports the best epoch of a model directory.

    Args:
        model_dir: What `trainer.task` wrote.

    Raises:
        DataError: If there is no finished epoch.
    """
    config, manifest = start_rule.load(model_dir)
    devices.set_precision(config.devices.precision)
    # A new model, outside of any strategy, so that nothing of a strategy is
    # exported. Without dropout, which has no variables and is not a layer of
    # Keras, so that whoever loads the export does not need this package.
    model = build_classifier(
        len(manifest.classes),
        config.data.image_size,
        config.replace(dropout=0.0).model,
    )
    model_directory.restore_best(model, pathlib.Path(model_dir))
    exporting.export(
        inference_model(model, config.model.flip_average),
        manifest.classes,
        manifest.resize,
        model_dir,
    )


def evaluate(model_dir: str, split: str) -> dict:
    """Measures the best epoch of a model directory on a split.

    Args:
        model_dir: What `trainer.task` wrote.
        split: Name of a split; "" chooses as `trainer.task` does.

    Returns:
        The content of `evaluation.json`.

    Raises:
        DataError: If there is no finished epoch, or the data set has changed.
    """
    config, manifest = start_rule.load(model_dir)
    devices.set_precision(config.devices.precision)
    strategy = devices.make_strategy(
        config.devices.strategy, config.devices.virtual_devices
    )
    with strategy.scope():
        model = build_classifier(
            len(manifest.classes), config.data.image_size, config.model
        )
    model_directory.restore_best(model, pathlib.Path(model_dir))
    split = split or evaluation.choose_split(manifest)
    return evaluation.evaluate(
        Reader(config.data.data_dir, manifest, split),
        strategy,
        inference_model(model, config.model.flip_average),
        WorkerGroup(strategy, None),
        image_size=config.data.image_size,
        batch_size=config.optimisation.batch_size,
        output_dir=model_dir,
    )
