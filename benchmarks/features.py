"""Images per second of the frozen base's features, beside plain Keras.

python -m benchmarks.features --photos=FOLDER

VGG16 with random weights in float32, from images to files of features. Ours is
what `shardtune features` does, in checked files of float16. The peer is the
script of the book (Chollet, "Deep learning with Python", 2017, 5.3.2) with
today's `image_dataset_from_directory`: `predict` by the batch, `numpy.save`.
"""

import functools
import pathlib
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
from absl import flags

from benchmarks import input_pipeline
from benchmarks import machine
from benchmarks import measure
from benchmarks.measure import Comparison
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import command
from data_prep.runtime.errors import UsageError


def ours(data_dir: str, size: int, batch: int, root: str) -> Callable[[], int]:
    """Our extractor; each pass begins without what the last one kept."""
    import tensorflow as tf

    from trainer.distribution.worker_group import WorkerGroup
    from trainer.feature_extraction.extractor import Extractor
    from trainer.feature_extraction.views import View
    from trainer.groups import Model
    from trainer.models.classifier import build_classifier
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    strategy = tf.distribute.get_strategy()
    manifest = manifest_lib.load(data_dir)
    network = Model()
    extractor = Extractor(
        pathlib.Path(root),
        build_classifier(len(manifest.classes), size, network),
        network,
        manifest,
        strategy,
        WorkerGroup(strategy, None),
        batch,
    )
    reader = Reader(data_dir, manifest, splits.TRAIN)
    images = input_pipeline.decoded_fast(reader, size)

    def epoch() -> int:
        shutil.rmtree(root, ignore_errors=True)
        return extractor.extract(reader, images, View()).count

    return epoch


def plain_keras(
    photos: str, size: int, batch: int, file: str
) -> Callable[[], int]:
    """The book's script."""
    import keras

    base = keras.applications.VGG16(
        include_top=False, weights=None, input_shape=(size, size, 3)
    )
    preprocess = keras.applications.vgg16.preprocess_input
    dataset = keras.utils.image_dataset_from_directory(
        photos, image_size=(size, size), batch_size=batch, verbose=False
    )

    def epoch() -> int:
        features = [
            base.predict(preprocess(images), verbose=0) for images, _ in dataset
        ]
        np.save(file, np.concatenate(features))
        return sum(map(len, features))

    return epoch


def compare(
    photos: str, data_dir: str, size: int, batch: int, rounds: int, runs: int
) -> Comparison:
    """Returns images/s of ours and of plain Keras.

    Args:
        photos: Folder of class folders of JPEGs.
        data_dir: The data set made of them, of one split, "train".
        size: Width and height that the base sees, in pixels.
        batch: Images per batch.
        rounds: Turns of each candidate.
        runs: Passes that count, in each turn.
    """
    part = functools.partial
    shape = {"size": size, "batch": batch}
    with tempfile.TemporaryDirectory() as scratch:
        return measure.in_turns(
            f"Features of VGG16, {size} px, batches of {batch}",
            "images/s",
            {
                "ours": part(
                    ours, data_dir, root=f"{scratch}/features", **shape
                ),
                "plain Keras": part(
                    plain_keras, photos, file=f"{scratch}/peer.npy", **shape
                ),
            },
            rounds,
            runs,
        )


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    if not values.photos:
        raise UsageError("--photos is missing: a folder of class folders.")
    print(machine.line("tensorflow", "keras"))
    size = values.image_size
    with tempfile.TemporaryDirectory() as scratch:
        places = input_pipeline.prepare_all(
            values.photos, size, scratch, ("original",)
        )
        found = compare(
            values.photos,
            places["original"],
            size,
            values.batch_size,
            values.rounds,
            values.runs,
        )
    print(measure.table(found))


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of class folders of JPEGs.")
    flags.DEFINE_integer("image_size", 150, "That the base sees, in pixels.")
    flags.DEFINE_integer("batch_size", 32, "Images per batch.")
    flags.DEFINE_integer("rounds", 2, "Turns of each candidate.")
    flags.DEFINE_integer("runs", 2, "Passes that count, in each turn.")
    command.run(main)
