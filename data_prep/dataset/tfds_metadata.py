"""The files that make the output folder a TensorFlow Datasets data set.

`tfds.builder_from_directory(DIR)` reads them. The formats are those of TFDS
4.9: `proto/dataset_info.proto` and `proto/feature.proto` as JSON. Written
here by hand, so that data_prep needs no TensorFlow.
"""

import json
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence

from data_prep.dataset import labels

VERSION = "1.0.0"

_FEATURES = "tensorflow_datasets.core.features"


def write(
    directory: str,
    *,
    name: str,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[tuple[int, int]]],
    image_size: int,
    encoding: str,
    description: str,
) -> list[str]:
    """Writes the files; returns their names.

    Args:
        directory: The data set's folder.
        name: First part of the names of its shards.
        classes: Names, by label.
        splits: Records and bytes of each shard, by split.
        image_size: Stored width and height in pixels; 0 where they vary.
        encoding: "original", "jpeg" or "raw".
        description: A sentence for readers.
    """
    info = {
        "name": name,
        "version": VERSION,
        "fileFormat": "tfrecord",
        "description": description,
        "supervisedKeys": {
            "tuple": {
                "items": [{"featureKey": "image"}, {"featureKey": "label"}]
            }
        },
        "splits": [_split(split, shards) for split, shards in splits.items()],
    }
    features = _features(image_size, encoding, len(classes))
    files = {
        "dataset_info.json": json.dumps(info, indent=1) + "\n",
        "features.json": json.dumps(features, indent=1) + "\n",
        f"label.{labels.FILE_NAME}": labels.to_lines(classes),
    }
    for file, text in files.items():
        pathlib.Path(directory, file).write_text(text, encoding="utf-8")
    return list(files)


def _split(name: str, shards: Sequence[tuple[int, int]]) -> dict[str, object]:
    return {
        "name": name,
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        "shardLengths": [str(count) for count, _ in shards],
        "numBytes": str(sum(size for _, size in shards)),
    }


def _features(
    image_size: int, encoding: str, classes: int
) -> dict[str, object]:
    """Returns the types of all parts of a record."""
    scalar = {"shape": {}, "dtype": "int64", "encoding": "none"}
    features = {
        "image": _image(image_size, encoding),
        "label": _feature(
            "class_label_feature.ClassLabel",
            classLabel={"numClasses": str(classes)},
        ),
        "file": _feature("text_feature.Text", text={}),
        **{
            key: _feature("scalar.Scalar", tensor=scalar)
            for key in ("id", "width", "height")
        },
    }
    return _feature(
        "features_dict.FeaturesDict", featuresDict={"features": features}
    )


def _image(image_size: int, encoding: str) -> dict[str, object]:
    side = str(image_size or -1)
    shape = {"dimensions": [side, side, "3"]}
    if encoding == "raw":
        return _feature(
            "tensor_feature.Tensor",
            tensor={"shape": shape, "dtype": "uint8", "encoding": "bytes"},
        )
    # Whatever is said here, TFDS decodes by the content, as it must:
    # `original` keeps both.
    return _feature(
        "image_feature.Image",
        image={"shape": shape, "dtype": "uint8", "encodingFormat": "jpeg"},
    )


def _feature(class_name: str, **content: object) -> dict[str, object]:
    return {"pythonClassName": f"{_FEATURES}.{class_name}", **content}
