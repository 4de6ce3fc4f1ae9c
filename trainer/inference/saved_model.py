"""The SavedModel: from files, pixels or examples to classes, all in one graph."""

import pathlib
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from trainer.inference.description import Description
from trainer.pipeline.decode import decode_photo
from trainer.pipeline.decode import fit

_EXAMPLE = "image"  # the feature that holds the file, as in TFDS's records
_EXTRA = "assets.extra"  # what TensorFlow leaves for files of others


def write(
    classifier: keras.Model, description: Description, path: pathlib.Path
) -> None:
    """Writes a SavedModel.

    Its signatures give `probabilities` (float32 `[B, K]`) and `label` (string
    `[B]`), and resize as training and evaluation do:

    - `serving_default`: `image_bytes`, string `[B]`, the bytes of image files;
      a JPEG, PNG or WebP is turned upright as its EXIF says;
    - `images`: `images`, uint8 `[B, H, W, 3]` in [0, 255], RGB of any size;
    - `examples`: `examples`, string `[B]`, serialized `tf.train.Example`s
      whose feature "image" is the bytes of a file.

    Args:
        classifier: From images to probabilities.
        description: What it says of itself.
        path: The folder to make.
    """
    module = tf.Module()
    # Each by itself: of a Keras model, only TensorFlow 2 in Python restores the
    # variables; TensorFlow Serving and saved_model_cli find none.
    module.weights = [variable.value for variable in classifier.variables]
    signatures = _make_signatures(classifier, description)
    tf.saved_model.save(module, path, signatures)
    (path / _EXTRA).mkdir()
    for name, text in description.files.items():
        (path / _EXTRA / name).write_text(text)


def load(path: pathlib.Path) -> Callable[[tf.Tensor], np.ndarray]:
    """Returns what classifies image files.

    Args:
        path: What `write` made.

    Returns:
        From their bytes, string `[B]`, to float32 `[B, K]`.
    """
    serve = tf.saved_model.load(path).signatures["serving_default"]
    return lambda files: serve(image_bytes=files)["probabilities"].numpy()


def _make_signatures(
    classifier: keras.Model, description: Description
) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Returns the functions of the SavedModel, by name; see `write`."""
    size, resize = description.image_size, description.resize
    square = tf.TensorSpec([size, size, 3], tf.uint8)
    strings = tf.TensorSpec([None], tf.string)

    @tf.function(autograph=False)  # traced once, for all three
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        result = classifier(images, training=False)
        names = tf.constant(description.classes)
        return {
            "probabilities": result,
            "label": tf.gather(names, tf.argmax(result, 1)),
        }

    @tf.function(input_signature=[strings], autograph=False)
    def of_files(image_bytes):
        return answer(
            tf.map_fn(
                lambda content: decode_photo(content, size, resize),
                image_bytes,
                fn_output_signature=square,
            )
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)],
        autograph=False,
    )
    def of_images(images):
        return answer(
            tf.map_fn(
                lambda image: fit(image, size, resize),
                images,
                fn_output_signature=square,
            )
        )

    @tf.function(input_signature=[strings], autograph=False)
    def of_examples(examples):
        features = {_EXAMPLE: tf.io.FixedLenFeature([], tf.string)}
        return of_files(tf.io.parse_example(examples, features)[_EXAMPLE])

    return {
        "serving_default": of_files,
        "images": of_images,
        "examples": of_examples,
    }
