"""Exports or evaluates the best epoch of a model directory."""

import collections
import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np

from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import model_directory
from trainer.engine import start_rule
from trainer.inference import calibration
from trainer.inference import evaluation
from trainer.inference import exporting
from trainer.inference import formats as formats_lib
from trainer.inference import parity
from trainer.inference import split_prediction
from trainer.inference.description import Description
from trainer.inference.split_prediction import SplitPredictor
from trainer.inference.spool import Spool
from trainer.models.classifier import build_classifier
from trainer.models.classifier import inference_model
from trainer.pipeline.reader import Reader

FORMATS_FILE = "formats.json"
SAMPLES = 100  # images that set the ranges of 8-bit integers


def export(
    model_dir: str, calibrate: bool = False, formats: Sequence[str] = ()
) -> list[str]:
    """Exports the best epoch of a model directory.

    Args:
        model_dir: What `trainer.task` wrote.
        calibrate: Divide logits by the temperature from now on, as a run does
            with --calibrate.
        formats: Of `formats.FORMATS`; see `formats.choose`.

    Returns:
        The formats that were written.

    Raises:
        DataError: If there is no finished epoch, or no temperature to take.
        TrainingError: If what was exported does not give what it was made
            from gives; see `parity`.
        UsageError: If a format needs a package that is missing.
    """
    config, manifest = start_rule.load(model_dir)
    formats = formats_lib.choose(formats, model_dir)
    folder = pathlib.Path(model_dir)
    chosen = calibration.load(folder)
    if calibrate and chosen is None:
        raise DataError(
            f"{model_dir} holds no {calibration.FILE_NAME}: `shardtune "
            f"evaluate --model_dir={model_dir}` writes it."
        )
    if chosen and calibrate:
        chosen = dataclasses.replace(chosen, applied=True)
    description = Description(
        manifest.classes,
        config.data.image_size,
        manifest.resize,
        chosen.divisor if chosen else 1.0,
    )
    devices.set_precision(config.devices.precision)
    of_run = keras.config.dtype_policy().name

    @functools.cache
    def make_classifier(policy: str) -> keras.Model:
        with _dtype_policy(policy):
            model = best_model(config, manifest)
            return exporting.with_temperature(
                inference_model(model, config.model.flip_average),
                description.temperature,
            )

    def classifier_of(policy: str) -> keras.Model:
        return make_classifier(policy or of_run)

    def reader_of(split: str) -> Reader:
        return Reader(config.data.data_dir, manifest, split)

    found = exporting.export(
        classifier_of,
        description,
        formats,
        model_dir,
        lambda: parity.spread_pixels(
            reader_of(splits.TRAIN), SAMPLES, description.image_size
        ),
        functools.partial(
            parity.check,
            classifier_of,
            reader_of(evaluation.choose_split(manifest)),
            reader_of(splits.VALIDATION),
            formats,
        ),
    )
    atomic.write_json(folder / FORMATS_FILE, found)
    if chosen and calibrate:  # after what may be refused
        calibration.save(folder, chosen)
    return formats


@contextlib.contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    former = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(former)


def best_model(config: Config, manifest: Manifest) -> keras.Model:
    """Returns the best epoch of a model directory, as it is exported.

    It is a new model, outside of any strategy, so that nothing of a strategy is
    exported; without dropout, which has no variables and is not a layer of
    Keras, so that whoever loads the export does not need this package. It has
    the precision that is set.

    Args:
        config: The run's settings.
        manifest: The data set's manifest.

    Raises:
        DataError: If there is no finished epoch.
    """
    model = build_classifier(
        len(manifest.classes),
        config.data.image_size,
        config.replace(dropout=0.0).model,
    )
    model_directory.restore_best(model, pathlib.Path(config.run.model_dir))
    return model


def evaluate(model_dir: str, split: str, errors: bool = False) -> dict:
    """Measures the best epoch of a model directory on a split.

    Args:
        model_dir: What `trainer.task` wrote.
        split: Name of a split; "" chooses as `trainer.task` does.
        errors: Whether to write also the images by their error.

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
    _, *others = model_directory.bests(pathlib.Path(model_dir))
    return measure(
        predictor, config, manifest, split, chosen, others, errors=errors
    )


def measure(
    predictor: SplitPredictor,
    config: Config,
    manifest: Manifest,
    split: str,
    chosen: calibration.Calibration | None,
    others: Sequence[dict] = (),
    *,
    exports: bool = False,
    errors: bool = False,
) -> dict:
    """Measures a split; what validation is to choose is chosen first.

    The first worker writes the files, and exports where it is told to.

    Args:
        predictor: Predicts with the weights that are measured.
        config: The run's settings.
        manifest: The data set's manifest.
        split: Name of the split.
        chosen: What validation chose; None has it choose now.
        others: Rows of the best epochs of the other phases, which are tested
            for a difference; the model has the last one's weights afterwards.
        exports: Whether to export between choice and measurement.
        errors: Whether to write also the images by their error.

    Returns:
        The content of `evaluation.json`, in every worker.
    """
    model_dir = pathlib.Path(config.run.model_dir)
    workers = predictor.workers
    readers = functools.cache(
        functools.partial(Reader, config.data.data_dir, manifest)
    )
    predict = functools.cache(
        lambda name: _spooled(predictor, readers(name), model_dir)
    )
    if chosen is None:
        sample = predict(splits.VALIDATION)
        if workers.is_first:
            chosen = _choose(readers(splits.VALIDATION), sample, config)
            calibration.save(model_dir, chosen)
    if exports and workers.is_first:
        export(str(model_dir))
    reader, probabilities = readers(split), predict(split)
    of_others = {}
    for row in others:
        strategy, model = predictor.strategy, predictor.model
        model_directory.restore(model, model_dir, row, workers)
        # Anew: what features are kept of depends on the base's weights.
        other = split_prediction.create(
            config, manifest, strategy, model, workers
        )
        of_others[row["phase"]] = _right(other, reader)
    written = ""
    if workers.is_first:
        result = evaluation.write(
            reader, probabilities, chosen, of_others, model_dir, errors
        )
        written = json.dumps(result)
    return json.loads(workers.text_from_first(written))


def _spooled(
    predictor: SplitPredictor, reader: Reader, folder: pathlib.Path
) -> Spool | None:
    """Predicts a split; returns what is predicted in the first worker."""
    parts = predictor.predict(reader)
    if not predictor.workers.is_first:
        collections.deque(parts, maxlen=0)  # takes part, and keeps nothing
        return None
    spool = Spool(folder)
    for part in parts:
        spool.append(part)
    return spool


def _choose(
    reader: Reader, probabilities: Spool, config: Config
) -> calibration.Calibration:
    """Returns what a sample of validation chooses."""
    step = calibration.sample_step(reader.count, len(reader.manifest.classes))
    return calibration.choose(
        probabilities.rows(range(0, reader.count, step)),
        reader.labels[::step],
        config.model.calibrate,
    )


def _right(predictor: SplitPredictor, reader: Reader) -> np.ndarray:
    """Returns which images of a split are classified rightly, bool `[N]`."""
    parts = predictor.predict(reader)
    predicted = np.concatenate([part.argmax(axis=1) for part in parts])
    return predicted == reader.labels
