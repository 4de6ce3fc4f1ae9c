"""Writes a classifier in all formats that are asked for, or in none."""

import pathlib
import shutil
from collections.abc import Callable
from collections.abc import Iterable

import keras
import numpy as np

from data_prep.dataset import labels
from data_prep.runtime import atomic
from data_prep.runtime.errors import naming_full_disks
from trainer.inference import description as description_lib
from trainer.inference import onnx_model
from trainer.inference import saved_model
from trainer.inference import sums
from trainer.inference import tflite
from trainer.inference.description import Description
from trainer.inference.formats import FORMATS
from trainer.inference.formats import policy_of

_LAST = "saved_model.pb"  # without it nothing loads the folder


def export(
    classifier_of: Callable[[str], keras.Model],
    description: Description,
    formats: Iterable[str],
    output_dir: str,
    samples: Callable[[], np.ndarray],
    check: Callable[[pathlib.Path], dict],
) -> dict:
    """Exports a classifier.

    Args:
        classifier_of: Returns the model from RGB images `[B, S, S, 3]` in
            [0, 255] to float32 probabilities, made outside of any strategy,
            by `formats.policy_of`.
        description: Classes, sizes and temperature.
        formats: Of `FORMATS`.
        output_dir: Folder to write to; files of these names are replaced.
        samples: Returns images of training, uint8 `[N, S, S, 3]`.
        check: Called with the folder that holds all of them, before they take
            their places; where it raises, the former ones stay.

    Returns:
        What `check` returned.
    """
    output = pathlib.Path(output_dir)
    staged = output / f"{atomic.INCOMPLETE}export"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    try:
        for name in formats:
            path = staged / FORMATS[name].file
            classifier = classifier_of(policy_of(name))
            with naming_full_disks(path):
                _writer(name, samples)(classifier, description, path)
        found = check(staged)
        labels.write(staged / labels.FILE_NAME, description.classes)
        sums.write(staged)
        # The sums last: what is replaced by half does not agree with them.
        names = [path.name for path in staged.iterdir()]
        for name in sorted(names, key=lambda x: (x == sums.FILE_NAME, x)):
            _put(staged / name, output / name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return found


def with_temperature(model: keras.Model, temperature: float) -> keras.Model:
    """Returns the classifier from images to probabilities.

    Args:
        model: From images to float32 logits `[B, K]`.
        temperature: What logits are divided by.
    """
    logits = model.output
    if temperature != 1.0:
        logits = keras.layers.Rescaling(
            1 / temperature, dtype="float32", name="temperature"
        )(logits)
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(
        logits
    )
    return keras.Model(model.input, probabilities, name="classifier")


def _writer(name: str, samples: Callable[[], np.ndarray]) -> Callable:
    """Returns what writes a format."""
    return {
        "saved_model": saved_model.write,
        "keras": _write_keras,
        "tflite": tflite.write,
        "tflite_int8": lambda *given: tflite.write(*given, samples()),
        "onnx": onnx_model.write,
    }[name]


def _write_keras(
    classifier: keras.Model, description: Description, path: pathlib.Path
) -> None:
    classifier.save(path)
    description_lib.append(path, description)


def _put(staged: pathlib.Path, place: pathlib.Path) -> None:
    """Moves what was exported to its place; the former stays until then."""
    if staged.is_file():
        with atomic.replacing(place) as incomplete:
            staged.replace(incomplete)
        return
    former = place.with_name(f"{atomic.INCOMPLETE}former")
    shutil.rmtree(former, ignore_errors=True)
    if place.exists():
        atomic.move_folder(place, former, _LAST)
    try:
        atomic.move_folder(staged, place, _LAST)
    except OSError:
        if former.exists():
            shutil.rmtree(place, ignore_errors=True)
            atomic.move_folder(former, place, _LAST)
        raise
    shutil.rmtree(former, ignore_errors=True)
