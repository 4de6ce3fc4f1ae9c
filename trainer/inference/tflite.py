"""TensorFlow Lite (LiteRT) models, for phones and small machines."""

import pathlib
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from trainer.inference import description as description_lib
from trainer.inference.description import Description


def write(
    classifier: keras.Model,
    description: Description,
    path: pathlib.Path,
    samples: np.ndarray | None = None,
) -> None:
    """Writes a model from one image, float32 `[1, S, S, 3]` in [0, 255].

    Args:
        classifier: From images to probabilities, in float32.
        description: What it says of itself.
        path: The file.
        samples: uint8 `[N, S, S, 3]`, images of training, whose activations
            set the ranges of 8-bit integers; None keeps the weights in float16
            and computes in float32.
    """
    size = description.image_size
    one = tf.TensorSpec([1, size, size, 3], tf.float32, name="image")
    traced = tf.function(
        lambda image: {"probabilities": classifier(image, training=False)},
        autograph=False,
    ).get_concrete_function(one)
    # As constants: with variables, the pass that calibrates integers stops at
    # READ_VARIABLE (TensorFlow 2.21).
    frozen = convert_to_constants.convert_variables_to_constants_v2(traced)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if samples is None:
        converter.target_spec.supported_types = [tf.float16]
    else:
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        ]
        converter.representative_dataset = lambda: (
            [sample[None].astype(np.float32)] for sample in samples
        )
    with warnings.catch_warnings(action="ignore"):
        path.write_bytes(converter.convert())
    description_lib.append(path, description)


def load(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what classifies images, one after the other.

    Args:
        path: What `write` made.

    Returns:
        From uint8 `[B, S, S, 3]` in [0, 255] to float32 `[B, K]`.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    taken = interpreter.get_input_details()[0]["index"]
    given = interpreter.get_output_details()[0]["index"]

    def predict(pixels: np.ndarray) -> np.ndarray:
        result = []
        for image in pixels:
            interpreter.set_tensor(taken, image[None].astype(np.float32))
            interpreter.invoke()
            result.append(interpreter.get_tensor(given)[0])
        return np.stack(result)

    return predict
