"""ONNX models, by Keras's own export, for onnxruntime and others."""

import pathlib
import warnings

import keras
import tensorflow as tf

from trainer.inference.description import Description


def write(
    classifier: keras.Model, description: Description, path: pathlib.Path
) -> None:
    """Writes a model from `image`, float32 `[B, S, S, 3]` in [0, 255].

    What it says of itself is among its `metadata_props`.

    Args:
        classifier: From images to probabilities, in float32.
        description: What it says of itself.
        path: The file.
    """
    import onnx

    size = description.image_size
    images = tf.TensorSpec([None, size, size, 3], tf.float32, name="image")
    with warnings.catch_warnings(action="ignore"):
        classifier.export(
            path, format="onnx", verbose=False, input_signature=[images]
        )
    model = onnx.load(path)
    _name_output(model.graph, "probabilities")
    onnx.helper.set_model_props(model, description.files)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _name_output(graph, name: str) -> None:
    """Renames the output of an ONNX graph, which Keras calls Identity:0."""
    (output,) = graph.output
    for node in graph.node:
        node.output[:] = [
            name if one == output.name else one for one in node.output
        ]
    output.name = name
