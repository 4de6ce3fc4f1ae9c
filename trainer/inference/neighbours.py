"""The training images that the network finds most like an image.

What is compared is what the base gives, averaged over the image: the cosine
between two such features. They are computed once and kept in the model
directory, with a small picture of each image, so that they outlive the data set.
"""

import pathlib
from typing import NamedTuple

import cv2
import keras
import numpy as np
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.runtime import atomic
from data_prep.runtime.digest import file_sha256
from data_prep.runtime.progress import Progress
from trainer.engine import start_rule
from trainer.inference import cosine
from trainer.inference import sums
from trainer.models.classifier import base_of
from trainer.pipeline import input_pipeline
from trainer.pipeline.decode import decode_image
from trainer.pipeline.reader import Reader

FILE_NAME = "neighbours.npz"
_MODEL = "model.keras"
_MOST = 20_000  # training images that are kept, evenly spaced: 120 MB
_BATCH = 32
_SIDE = 96  # pixels of a picture


class Neighbour(NamedTuple):
    """A training image.

    Attributes:
        file: Path relative to the source of the data set.
        label: Its class.
        similarity: Cosine of the features, in [-1, 1].
        picture: A JPEG file of 96x96 pixels.
    """

    file: str
    label: str
    similarity: float
    picture: bytes


class Neighbours:
    """Finds the nearest training images; see `load`.

    Args:
        base: From images `[B, S, S, 3]` to features `[B, C]`.
        content: What `_compute` returned.
    """

    def __init__(self, base: keras.Model, content: dict[str, np.ndarray]):
        self._base = base
        self._resize = str(content["resize"])
        self._features = content["features"].astype(np.float32)
        self._labels = content["labels"]
        self._files = content["files"]
        self._pictures = content["pictures"].tobytes()
        self._ends = np.cumsum(content["lengths"])

    def nearest(self, content: bytes, count: int) -> list[Neighbour]:
        """Returns the training images that are most like an image.

        Args:
            content: An image, as `plain.convert` returned it.
            count: How many at most.
        """
        size = self._base.input.shape[1]
        image = decode_image(tf.constant(content), size, self._resize)
        (feature,) = _features(self._base, image[None])
        similarity = self._features @ feature
        best = np.argsort(-similarity, kind="stable")[:count]
        return [
            Neighbour(
                str(self._files[row]),
                str(self._labels[row]),
                float(similarity[row]),
                self._picture(row),
            )
            for row in best
        ]

    def _picture(self, row: int) -> bytes:
        start = self._ends[row - 1] if row else 0
        return self._pictures[start : self._ends[row]]


def load(model_dir: str) -> Neighbours:
    """Returns what finds a model's nearest training images.

    It runs the base over the training images where that was not done yet for
    the model that is exported now.

    Args:
        model_dir: What `trainer.task` wrote.

    Raises:
        DataError: If the exported model has changed since, or nothing is kept
            and the data set is gone or has changed.
    """
    keras_file = pathlib.Path(model_dir, _MODEL)
    sums.check(keras_file.parent, _MODEL)
    path = pathlib.Path(model_dir, FILE_NAME)
    digest = file_sha256(keras_file)
    base = _base_of_exported(keras_file)
    if path.exists():
        with np.load(path) as archive:
            if str(archive["model"]) == digest:
                return Neighbours(base, dict(archive))
    content = _compute(model_dir, base)
    with atomic.replacing(path) as incomplete:
        np.savez(incomplete, model=digest, **content)
    return Neighbours(base, content)


def _base_of_exported(keras_file: pathlib.Path) -> keras.Model:
    """Returns the part from images to features `[B, C]`."""
    exported = keras.models.load_model(keras_file, compile=False)
    # With --flip_average the network is a layer of what is exported.
    inner = [x for x in exported.layers if isinstance(x, keras.Model)]
    base = base_of(inner[0] if inner else exported)
    features = base.output
    if len(features.shape) == 4:  # maps, under the head "flatten"
        features = keras.ops.mean(features, axis=(1, 2))
    return keras.Model(base.input, features)


def _features(base: keras.Model, images: tf.Tensor) -> np.ndarray:
    """Returns float32 `[B, C]` of length 1."""
    return cosine.unit(base(images, training=False).numpy())


def _compute(model_dir: str, base: keras.Model) -> dict[str, np.ndarray]:
    """Returns what is kept of the training images."""
    config, manifest = start_rule.load(model_dir)
    reader = Reader(config.data.data_dir, manifest, splits.TRAIN)
    decode = input_pipeline.decoded_exactly(reader, base.input.shape[1])
    count = min(_MOST, reader.count)
    rows = np.linspace(0, reader.count - 1, count).astype(np.int64)
    features, pictures = [], []
    with Progress("nearest images", count) as progress:
        for first in range(0, count, _BATCH):
            images = decode(tf.constant(rows[first : first + _BATCH]))
            features.append(_features(base, images).astype(np.float16))
            pictures += map(_small, images.numpy())
            progress.update(len(images))
    files = reader.files()
    return {
        "features": np.concatenate(features),
        "labels": np.array(manifest.classes)[reader.labels[rows]],
        "files": np.array([files[row] for row in rows]),
        "pictures": np.frombuffer(b"".join(pictures), np.uint8),
        "lengths": np.array([len(picture) for picture in pictures]),
        "resize": np.array(manifest.resize),
    }


def _small(image: np.ndarray) -> bytes:
    """Returns an RGB image as a small JPEG file."""
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small[..., ::-1])[1].tobytes()
