"""Holds an export to what it was made from, before it takes its place.

On images of the split that the run is measured on, the exported files must
give what the model in memory gives for evaluation's pixels, and those pixels
must be the ones that training saw. What was converted is measured on validation
as well: 8-bit integers are held to the accuracy that they have there.
"""

import functools
import pathlib
from collections.abc import Callable
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from data_prep.runtime.errors import TrainingError
from trainer.inference import figures
from trainer.inference import saved_model
from trainer.inference import tflite
from trainer.inference.formats import ALWAYS
from trainer.inference.formats import FORMATS
from trainer.inference.formats import policy_of
from trainer.inference.onnx_session import OnnxSession
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader

Predict = Callable[[np.ndarray], np.ndarray]  # pixels -> probabilities

IMAGES = 16
MEASURED = 1000  # images of validation, at most
BATCH = 32
# How far a probability may be off, in float32 on CPUs. A `.keras` file runs the
# very kernels that the model in memory ran, and so does a SavedModel, but among
# others (0 where it was measured). onnxruntime sums in another order (up to 4e-6,
# VGG16 with 62 classes); TensorFlow Lite has the weights in float16.
TOLERANCES = {
    "saved_model": 1e-5,
    "keras": 0.0,
    "tflite": 1e-2,
    "onnx": 1e-5,
}
# GPUs multiply in 10 bits of mantissa, float16 has 10 too, and bfloat16 has 7.
TOLERANCE_10_BIT, TOLERANCE_7_BIT = 1e-2, 3e-2
# How far evaluation's pixels may be from those of training, in 1 of 255, on
# the average of an image. The two decoders differ by up to 2 in single pixels.
PIXEL_TOLERANCE = 2.0


def check(
    classifier_of: Callable[[str], keras.Model],
    reader: Reader,
    validation: Reader,
    formats: Iterable[str],
    folder: pathlib.Path,
) -> dict:
    """Compares exported files with the models that they were made from.

    Args:
        classifier_of: As `exporting.export` takes it.
        reader: Reader of the split whose images are compared.
        validation: Reader of the split that accuracy is measured on.
        formats: Of `FORMATS`.
        folder: Holds their files.

    Returns:
        What `formats.json` holds: of every format its file, the greatest
        `difference` of a probability and the `tolerance`, and the `accuracy`
        of what was converted, beside that of the model itself.

    Raises:
        TrainingError: If one is beyond its tolerance.
    """
    size = classifier_of("").input_shape[1]
    rows = _spread(reader, IMAGES)
    pixels = input_pipeline.decoded_exactly(reader, size)(tf.constant(rows))
    pixels = np.asarray(pixels)
    _check_pixels(reader, rows, pixels)
    # Once for all formats that are made from one model.
    wanted = functools.cache(
        lambda policy: _as_graph(classifier_of(policy))(pixels)
    )
    whole = tf.config.list_logical_devices("GPU") == []
    files = reader.image_files(rows)
    found, converted = {}, {}
    for name in formats:
        path = folder / FORMATS[name].file
        if name == "saved_model":
            given = saved_model.load(path)(tf.constant(files))
        else:
            predict = _load(name, path)
            given = predict(pixels)
            if name not in ALWAYS:
                converted[name] = predict
        off = np.abs(given - wanted(policy_of(name)))
        found[name] = {
            "file": path.name,
            "difference": float(off.max()),
            "tolerance": _tolerance(name, whole),
        }
        _check_difference(found[name], reader.split, len(rows))
    result = {
        "compared": {"split": reader.split, "images": len(rows)},
        "formats": found,
    }
    if converted:
        predictors = {"model": _as_graph(classifier_of("")), **converted}
        result["measured"] = _measure(predictors, size, validation, found)
    return result


def spread_pixels(reader: Reader, count: int, image_size: int) -> np.ndarray:
    """Returns images of a split, as training sees them.

    Args:
        reader: Reader of the split.
        count: Images, at most.
        image_size: S, width and height in pixels.

    Returns:
        uint8 `[b, S, S, 3]`.
    """
    return reader.pixels(_spread(reader, count), image_size)


def _load(name: str, path: pathlib.Path) -> Predict:
    """Returns what classifies pixels by a file."""
    if name == "keras":
        # In safe mode, as whoever loads it will.
        loaded = keras.models.load_model(path, compile=False)
        return _as_graph(loaded)
    return OnnxSession(path).classify if name == "onnx" else tflite.load(path)


def _as_graph(model: keras.Model) -> Predict:
    """Returns what a model gives as evaluation and a SavedModel run it.

    Layer by layer TensorFlow rounds more often, as it fuses none: in bfloat16 a
    probability of VGG16 was off by 0.031.
    """
    classify = tf.function(
        lambda pixels: model(pixels, training=False),
        autograph=False,
        reduce_retracing=True,
    )
    return lambda pixels: classify(tf.constant(pixels)).numpy()


def _tolerance(name: str, whole: bool) -> float | None:
    """Returns how far a format may be off; None of one held to accuracy."""
    if name == "tflite_int8":
        return None
    of_run = keras.config.dtype_policy().compute_dtype
    if not policy_of(name) and of_run != "float32":
        return TOLERANCE_7_BIT
    return TOLERANCES[name] if whole else TOLERANCE_10_BIT


def _check_pixels(reader: Reader, rows: np.ndarray, pixels: np.ndarray) -> None:
    """Refuses pixels of evaluation that are not those of training."""
    trained_on = reader.pixels(rows, pixels.shape[1])
    # In 8 bits, -1 would be 255.
    off = np.abs(pixels.astype(np.float32) - trained_on).mean(axis=(1, 2, 3))
    _refuse_beyond(
        "pixels", off.max(), PIXEL_TOLERANCE, reader.split, len(rows)
    )


def _check_difference(found: dict, split: str, images: int) -> None:
    limit = found["tolerance"]
    if limit is not None:
        _refuse_beyond(found["file"], found["difference"], limit, split, images)


def _refuse_beyond(
    what: str, difference: float, limit: float, split: str, images: int
) -> None:
    # The other way round, a difference that is no number would pass.
    if not difference <= limit:
        raise TrainingError(
            f"the export was not written: on {images} images of {split}, "
            f"{what} differs from training by {difference:.2g}, and expected "
            f"is {limit:g} at most. The former export, if there is one, is "
            "still there."
        )


def _measure(
    predictors: dict[str, Predict], size: int, reader: Reader, found: dict
) -> dict:
    """Measures the model and what was converted; adds to what was found.

    Args:
        predictors: What classifies pixels, by format; and "model".
        size: Width and height of images, in pixels.
        reader: Reader of the split.
        found: By format, of what was converted.

    Raises:
        TrainingError: If 8-bit integers are worse than chance would have it.
    """
    rows = _spread(reader, MEASURED)
    decode = input_pipeline.decoded_exactly(reader, size)
    right = dict.fromkeys(predictors, 0)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        pixels = np.asarray(decode(tf.constant(batch)))
        for name, predict in predictors.items():
            best = predict(pixels).argmax(axis=1)
            right[name] += int((best == reader.labels[batch]).sum())
    count = len(rows)
    low, high = figures.interval(right["model"], count)
    for name in [name for name in predictors if name != "model"]:
        accuracy = right[name] / count
        found[name]["accuracy"] = accuracy
        found[name]["interval"] = figures.interval(right[name], count)
        if accuracy < low:
            raise TrainingError(
                f"the export was not written: on {count} images of "
                f"{reader.split}, {found[name]['file']} has an accuracy of "
                f"{accuracy:.4f}, and the model's own is "
                f"{right['model'] / count:.4f} (95% interval {low:.4f} to "
                f"{high:.4f}). The former export, if there is one, is still "
                "there."
            )
    return {
        "split": reader.split,
        "images": count,
        "accuracy": right["model"] / count,
        "interval": [low, high],
    }


def _spread(reader: Reader, count: int) -> np.ndarray:
    """Returns that many indices of records, evenly over a split."""
    count = min(count, reader.count)
    return np.linspace(0, reader.count - 1, count).astype(np.int64)
