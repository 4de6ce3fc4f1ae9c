"""Holds an export to what it was made from, before it takes its place.

On images of the split that the run is measured on, the exported files must
give what the model in memory gives for evaluation's pixels, and those pixels
must be the ones that training saw.
"""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from data_prep.runtime.errors import TrainingError
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader

IMAGES = 16
# How far a probability may be off. A graph fuses what runs apart in memory:
# GPUs multiply float32 in 10 bits of mantissa, and bfloat16 has 7.
TOLERANCE, TOLERANCE_16_BIT = 1e-3, 2e-2
# How far evaluation's pixels may be from those of training, in 1 of 255, on
# the average of an image. The two decoders differ by up to 2 in single pixels.
PIXEL_TOLERANCE = 2.0


def check(
    model: keras.Model,
    temperature: float,
    reader: Reader,
    keras_file: pathlib.Path,
    saved_model: pathlib.Path,
) -> dict[str, float]:
    """Compares exported files with the model that they were made from.

    Args:
        model: From images `[B, S, S, 3]` to float32 logits.
        temperature: What logits are divided by.
        reader: Reader of the split whose images are compared.
        keras_file: The exported `model.keras`.
        saved_model: The exported folder.

    Returns:
        The greatest difference of each: of probabilities, and of "pixels" in
        1 of 255.

    Raises:
        TrainingError: If one is beyond its tolerance.
    """
    size = model.input_shape[1]
    count = min(IMAGES, reader.count)
    rows = np.linspace(0, reader.count - 1, count).astype(np.int64)
    pixels = input_pipeline.decoded_exactly(reader, size)(tf.constant(rows))
    seen = np.asarray(pixels, np.float32)  # in 8 bits, -1 would be 255
    trained_on = np.asarray(reader.pixels(rows, size), np.float32)
    wanted = tf.nn.softmax(model(pixels, training=False) / temperature)
    # In safe mode, as whoever loads it will.
    loaded = keras.models.load_model(keras_file, compile=False)
    serve = tf.saved_model.load(saved_model).signatures["serving_default"]
    served = serve(image_bytes=_files(reader, rows))["probabilities"]
    differences = {
        "pixels": np.abs(seen - trained_on).mean(axis=(1, 2, 3)).max(),
        "model.keras": np.abs(loaded(pixels, training=False) - wanted).max(),
        "saved_model": np.abs(served - wanted).max(),
    }
    whole = keras.config.dtype_policy().compute_dtype == "float32"
    probability = TOLERANCE if whole else TOLERANCE_16_BIT
    for name, difference in differences.items():
        limit = PIXEL_TOLERANCE if name == "pixels" else probability
        # The other way round, a difference that is no number would pass.
        if not difference <= limit:
            raise TrainingError(
                f"the export was not written: on {count} images of "
                f"{reader.split}, {name} differs from training by "
                f"{difference:.2g}, and expected is {limit:g} at most. The "
                "former export, if there is one, is still there."
            )
    return {name: float(value) for name, value in differences.items()}


def _files(reader: Reader, rows: np.ndarray) -> tf.Tensor:
    """Returns the bytes of image files that hold the records' images."""
    contents = reader.contents(rows)
    manifest = reader.manifest
    if manifest.encoding == "raw":
        side = manifest.image_size
        contents = [
            tf.io.encode_png(
                np.frombuffer(content, np.uint8).reshape(side, side, 3)
            ).numpy()
            for content in contents
        ]
    return tf.constant(list(contents), tf.string)
