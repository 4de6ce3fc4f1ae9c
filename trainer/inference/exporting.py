"""Writes the exported model: `model.keras`, `saved_model/` and `labels.txt`."""

import pathlib
import shutil
from collections.abc import Callable

import keras
import tensorflow as tf

from data_prep.dataset import labels
from data_prep.runtime import atomic
from trainer.pipeline.decode import decode_photo
from trainer.pipeline.decode import fit

_EXAMPLE = "image"  # the feature that holds the file, as in TFDS's records
_LAST = "saved_model.pb"  # without it nothing loads the folder


def export(
    model: keras.Model,
    classes: list[str],
    resize: str,
    output_dir: str,
    check: Callable[[pathlib.Path, pathlib.Path], object],
    temperature: float = 1.0,
) -> None:
    """Exports a classifier.

    `model.keras` goes from RGB images `[B, S, S, 3]` in [0, 255] to
    probabilities `[B, K]`. `saved_model/` has three signatures that give
    `probabilities` (float32 `[B, K]`) and `label` (string `[B]`), and that
    resize as training and evaluation do:

    - `serving_default`: `image_bytes`, string `[B]`, the bytes of image files;
    - `images`: `images`, uint8 `[B, H, W, 3]` in [0, 255], RGB of any size;
    - `examples`: `examples`, string `[B]`, serialized `tf.train.Example`s
      whose feature "image" is the bytes of a file.

    Args:
        model: From images to float32 logits, made outside of any strategy.
        classes: K names, in the order of the logits.
        resize: How the data set fits images to a square.
        output_dir: Folder to write to; files of these names are replaced.
        check: Called with both when they are written, before they take their
            places; where it raises, the former ones stay.
        temperature: What logits are divided by.
    """
    output = pathlib.Path(output_dir)
    logits = model.output
    if temperature != 1.0:
        logits = keras.layers.Rescaling(
            1 / temperature, dtype="float32", name="temperature"
        )(logits)
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(
        logits
    )
    classifier = keras.Model(model.input, probabilities, name="classifier")
    module = tf.Module()
    # Each by itself: of a Keras model, only TensorFlow 2 in Python restores the
    # variables; TensorFlow Serving and saved_model_cli find none.
    module.weights = [variable.value for variable in classifier.variables]
    signatures = _make_signatures(classifier, classes, resize)
    incomplete = output / "incomplete.saved_model"
    shutil.rmtree(incomplete, ignore_errors=True)
    try:
        with atomic.replacing(output / "model.keras") as keras_file:
            classifier.save(keras_file)
            tf.saved_model.save(module, incomplete, signatures)
            check(keras_file, incomplete)
    except BaseException:
        shutil.rmtree(incomplete, ignore_errors=True)
        raise
    labels.write(output / labels.FILE_NAME, classes)
    # The former one stays until the new one takes its place.
    former = output / "incomplete.former"
    shutil.rmtree(former, ignore_errors=True)
    if (output / "saved_model").exists():
        atomic.move_folder(output / "saved_model", former, _LAST)
    atomic.move_folder(incomplete, output / "saved_model", _LAST)
    shutil.rmtree(former, ignore_errors=True)


def _make_signatures(
    classifier: keras.Model, classes: list[str], resize: str
) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Returns the functions of the SavedModel, by name; see `export`."""
    size = classifier.input_shape[1]
    square = tf.TensorSpec([size, size, 3], tf.uint8)
    strings = tf.TensorSpec([None], tf.string)

    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        result = classifier(images, training=False)
        return {
            "probabilities": result,
            "label": tf.gather(tf.constant(classes), tf.argmax(result, 1)),
        }

    @tf.function(input_signature=[strings])
    def of_files(image_bytes):
        return answer(
            tf.map_fn(
                lambda content: decode_photo(content, size, resize),
                image_bytes,
                fn_output_signature=square,
            )
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)]
    )
    def of_images(images):
        return answer(
            tf.map_fn(
                lambda image: fit(image, size, resize),
                images,
                fn_output_signature=square,
            )
        )

    @tf.function(input_signature=[strings])
    def of_examples(examples):
        features = {_EXAMPLE: tf.io.FixedLenFeature([], tf.string)}
        return of_files(tf.io.parse_example(examples, features)[_EXAMPLE])

    return {
        "serving_default": of_files,
        "images": of_images,
        "examples": of_examples,
    }
