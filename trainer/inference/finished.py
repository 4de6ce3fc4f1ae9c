"""Exports or evaluates the best epoch of a model directory."""

import dataclasses
import pathlib

import numpy as np

from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import model_directory
from trainer.engine import start_rule
from trainer.inference import calibration
from trainer.inference import evaluation
from trainer.inference import exporting
from trainer.inference import split_prediction
from trainer.inference.split_prediction import SplitPredictor
from trainer.models.classifier import build_classifier
from trainer.models.classifier import inference_model
from trainer.pipeline.reader import Reader


def export(model_dir: str, calibrate: bool = False) -> None:
    """Exports the best epoch of a model directory.

    Args:
        model_dir: What `trainer.task` wrote.
        calibrate: Divide logits by the temperature from now on, as a run does
            with --calibrate.

    Raises:
        DataError: If there is no finished epoch, or no temperature to take.
    """
    config, manifest = start_rule.load(model_dir)
    chosen = calibration.load(pathlib.Path(model_dir))
    if calibrate and chosen is None:
        raise DataError(
            f"{model_dir} holds no {calibration.FILE_NAME}: `shardtune "
            f"evaluate --model_dir={model_dir}` writes it."
        )
    if chosen and calibrate and not chosen.applied:
        chosen = dataclasses.replace(chosen, applied=True)
        calibration.save(pathlib.Path(model_dir), chosen)
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
        chosen.divisor if chosen else 1.0,
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
    predictor = split_prediction.create(
        config, manifest, strategy, model, WorkerGroup(strategy, None)
    )
    split = split or evaluation.choose_split(manifest)
    chosen = calibration.load(pathlib.Path(model_dir))
    return measure(predictor, config, manifest, split, chosen)


def measure(
    predictor: SplitPredictor,
    config: Config,
    manifest: Manifest,
    split: str,
    chosen: calibration.Calibration | None,
    exports: bool = False,
) -> dict:
    """Measures a split; what validation is to choose is chosen first.

    The first worker writes the files, and exports where it is told to.

    Args:
        predictor: Predicts with the weights that are measured.
        config: The run's settings.
        manifest: The data set's manifest.
        split: Name of the split.
        chosen: What validation chose; None has it choose now.
        exports: Whether to export between choice and measurement.

    Returns:
        The content of `evaluation.json`.
    """
    model_dir = config.run.model_dir
    is_first = predictor.workers.is_first
    predicted = {}

    def predict(name: str) -> tuple[Reader, np.ndarray]:
        if name not in predicted:
            reader = Reader(config.data.data_dir, manifest, name)
            predicted[name] = reader, predictor.predict(reader)
        return predicted[name]

    if chosen is None:
        reader, probabilities = predict(splits.VALIDATION)
        chosen = calibration.choose(
            probabilities, reader.labels, config.model.calibrate
        )
        if is_first:
            calibration.save(pathlib.Path(model_dir), chosen)
    if exports and is_first:
        export(model_dir)
    reader, probabilities = predict(split)
    output_dir = pathlib.Path(model_dir) if is_first else None
    return evaluation.write(reader, probabilities, chosen, output_dir)
