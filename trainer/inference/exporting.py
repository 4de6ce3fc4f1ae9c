"""Writes the exported model: `model.keras`, `saved_model/` and `labels.txt`."""

import pathlib
import shutil

import keras
import tensorflow as tf

from data_prep.dataset import labels
from data_prep.runtime import atomic
from trainer.pipeline.decode import decode_image

_LAST = "saved_model.pb"  # without it nothing loads the folder


def export(
    model: keras.Model,
    classes: list[str],
    resize: str,
    output_dir: str,
    temperature: float = 1.0,
) -> None:
    """Exports a classifier.

    `model.keras` goes from RGB images `[B, S, S, 3]` in [0, 255] to
    probabilities `[B, K]`. `saved_model/` has one signature,
    `serving_default`, from `image_bytes` (string `[B]`, the bytes of image
    files) to `probabilities` (float32 `[B, K]`) and `label` (string `[B]`);
    it decodes and resizes as training and evaluation do.

    Args:
        model: From images to float32 logits, made outside of any strategy.
        classes: K names, in the order of the logits.
        resize: How the data set fits images to a square.
        output_dir: Folder to write to; files of these names are replaced.
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

    labels.write(output / labels.FILE_NAME, classes)

    with atomic.replacing(output / "model.keras") as incomplete:
        classifier.save(incomplete)

    module = tf.Module()
    module.model = classifier
    signatures = {"serving_default": _make_serve(classifier, classes, resize)}
    incomplete = output / "incomplete.saved_model"
    shutil.rmtree(incomplete, ignore_errors=True)
    tf.saved_model.save(module, incomplete, signatures)
    # The former one stays until the new one takes its place.
    former = output / "incomplete.former"
    shutil.rmtree(former, ignore_errors=True)
    if (output / "saved_model").exists():
        atomic.move_folder(output / "saved_model", former, _LAST)
    atomic.move_folder(incomplete, output / "saved_model", _LAST)
    shutil.rmtree(former, ignore_errors=True)


def _make_serve(
    classifier: keras.Model, classes: list[str], resize: str
) -> tf.types.experimental.PolymorphicFunction:
    """Returns the function from the bytes of image files to predictions."""
    image_size = classifier.input_shape[1]

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")]
    )
    def serve(image_bytes):
        images = tf.map_fn(
            lambda content: decode_image(content, image_size, resize),
            image_bytes,
            fn_output_signature=tf.TensorSpec(
                [image_size, image_size, 3], tf.uint8
            ),
        )
        result = classifier(images, training=False)
        return {
            "probabilities": result,
            "label": tf.gather(tf.constant(classes), tf.argmax(result, 1)),
        }

    return serve
