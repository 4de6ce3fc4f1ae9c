"""Labelled images of a TensorFlow Datasets data set.

Only this source takes TensorFlow, and loads it when it is used. The images are
copied to the local disk first, as they were stored, and removed at the end:
that takes twice the room.
"""

import os
from collections.abc import Iterator

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.sources.listing import SPLIT_NAMES
from data_prep.sources.listing import ImageFile
from data_prep.sources.listing import Listing

_FILES_PER_FOLDER = 1000


def list_tfds(name: str, folder: str) -> Listing:
    """Copies the image files out of a data set and lists them.

    They come out as they were put in: encoded, not decoded. An image is
    named after its split and its `tfds_id`, which says where it was stored.

    Args:
        name: A name with perhaps a version (`cats_vs_dogs:4.*.*`), which is
            downloaded and prepared if need be, or a prepared directory.
        folder: Local folder for the files.

    Raises:
        UsageError: If TensorFlow Datasets is not installed.
        DataError: If there is no such data set, or it is not one of labelled
            images.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UsageError(
            f"--source=tfds:{name} needs TensorFlow Datasets: {error}. "
            "`pip install 'shardtune[train]'` brings it."
        ) from None
    builder = _builder(tfds, name)
    features = builder.info.features
    keys = builder.info.supervised_keys or ()
    wanted = [tfds.features.Image, tfds.features.ClassLabel]
    if [type(features[key]) for key in keys] != wanted:
        raise DataError(
            f"--source=tfds:{name} is not a data set of labelled images. "
            "Expected supervised keys of an Image and a ClassLabel; received "
            f"{keys} of {list(features)}."
        )
    image, label = keys
    names = features[label].names
    given = {split: SPLIT_NAMES.get(split) for split in builder.info.splits}
    # A single split is no division of the images.
    if len(given) < 2:
        given = dict.fromkeys(given)
    images = _images(tfds, builder, (image, label), names, given, folder)
    return Listing(images, list(names))


def _builder(tfds, name: str):
    try:
        if os.path.isdir(name):
            return tfds.builder_from_directory(name)
        builder = tfds.builder(name)
        builder.download_and_prepare()
        return builder
    # Unknown names, versions, licences, broken downloads: TFDS and its many
    # builders raise nearly anything.
    except Exception as error:
        raise DataError(
            f"--source=tfds:{name} cannot be had: {error}\nExpected the name "
            "of a data set of TensorFlow Datasets, or a directory that it "
            "prepared. TFDS_DATA_DIR says where prepared ones are."
        ) from None


def _images(
    tfds,
    builder,
    keys: tuple[str, str],
    names: list[str],
    given: dict[str, str | None],
    folder: str,
) -> Iterator[ImageFile]:
    image, label = keys
    for split, standard in given.items():
        examples = builder.as_dataset(
            split=split,
            decoders={image: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(
                add_tfds_id=True, interleave_cycle_length=1, try_autocache=False
            ),
        )
        for number, example in enumerate(examples.as_numpy_iterator()):
            part = f"{number // _FILES_PER_FOLDER:06d}"
            file = f"{split}/{example['tfds_id'].decode()}"
            path = os.path.join(folder, split, part, f"{number}")
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as content:
                content.write(example[image])
            known = 0 <= example[label] < len(names)
            name = names[example[label]] if known else ""
            problem = "" if known else f"has no label: {example[label]}"
            yield ImageFile(path, file, name, standard, problem)
