"""Images of a page: where the model looked, and what it may have taken them for."""

import io
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep.dataset import records
from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.report import thumbnails
from trainer import groups
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution.worker_group import WorkerGroup
from trainer.feature_extraction import extractor as extractor_lib
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.views import View
from trainer.inference import cosine
from trainer.inference import finished
from trainer.inference import grad_cam
from trainer.models.classifier import base_of
from trainer.pipeline.reader import Reader
from trainer.reporting import augmented
from trainer.reporting.predictions import Example

_BATCH = 8  # images that the network sees at once
_NEAREST = 3  # training images beside each mistake
_SMALL = 96  # pixels of their pictures, at most
_KEPT = 100_000  # training images that are compared, where features are kept
_SAMPLE = 256  # where they are not


class Gallery:
    """Makes the pictures of one model.

    Args:
        model: What `build_classifier` returned, with the exported weights.
        reader: Reader of the split that was measured.
        train: Reader of the training split.
        extractor: Knows the features that are kept of the model's base.
    """

    def __init__(
        self,
        model: keras.Model,
        reader: Reader,
        train: Reader,
        extractor: Extractor,
    ):
        self._model = model
        self._size = model.input.shape[1]
        self._reader = reader
        self._train = train
        self._extractor = extractor

    def show(
        self, examples: Sequence[Example], with_nearest: bool
    ) -> list[dict]:
        """Returns what a page shows of images.

        Args:
            examples: The images.
            with_nearest: Whether to show the training images that are most
                alike to each.

        Returns:
            The fields of each example; `image` and `heat`, pictures as data
            addresses; and `nearest`, dicts of `image`, `label`, `file` and
            `similarity`, a cosine.
        """
        if not examples:
            return []
        rows = self._rows_of([one.file for one in examples])
        names = self._reader.manifest.classes
        numbers = {name: k for k, name in enumerate(names)}
        predicted = np.array([numbers[one.predicted] for one in examples])
        nearest = [[] for _ in examples]
        if with_nearest:
            nearest = self._nearest(rows)
        return [
            {**vars(one), "image": image, "heat": heat, "nearest": near}
            for one, image, heat, near in zip(
                examples,
                [_picture(self._reader, row) for row in rows],
                self._heat(rows, predicted),
                nearest,
                strict=True,
            )
        ]

    def augmented(
        self, settings: groups.Augmentation, seed: int
    ) -> np.ndarray | None:
        """Returns a picture of augmented images; None where nothing augments.

        Args:
            settings: How images are augmented.
            seed: Of the run.

        Returns:
            uint8 `[H, W, 3]`.
        """
        if settings.augment == "none" and not settings.mixes:
            return None
        side = min(self._size, 112)
        return augmented.picture(self._train, settings, side, seed, 4, 5)

    def _rows_of(self, files: Sequence[str]) -> np.ndarray:
        """Returns where in the split some images stand."""
        order = np.argsort(self._reader.ids)
        wanted = np.array([records.image_id(file) for file in files], np.int64)
        return order[np.searchsorted(self._reader.ids, wanted, sorter=order)]

    def _heat(self, rows: np.ndarray, predicted: np.ndarray) -> Iterator[str]:
        """Yields each image as the network sees it, warm where it looked."""
        for first in range(0, len(rows), _BATCH):
            part = slice(first, first + _BATCH)
            images = self._reader.pixels(rows[part], self._size)
            maps = grad_cam.heat(self._model, images, predicted[part])
            for image, one in zip(images, maps, strict=True):
                yield thumbnails.of_image(_overlay(image, one))

    def _nearest(self, rows: np.ndarray) -> list[list[dict]]:
        base = base_of(self._model)
        queries = np.concatenate([*self._features(base, self._reader, rows)])
        kept = self._extractor.kept(self._train, [View()])
        step = -(-self._train.count // (_KEPT if kept else _SAMPLE))
        among = np.arange(0, self._train.count, step)
        if kept:
            parts = (
                kept[0].take(part).reshape(len(part), -1)
                for part in np.array_split(among, -(-len(among) // 1024))
            )
        else:
            parts = self._features(base, self._train, among)
        numbers, cosines = cosine.nearest(queries, parts, _NEAREST)
        found = among[numbers]
        train = self._train
        files = train.files_of(found.reshape(-1)) if found.size else []
        files = np.array(files, object).reshape(found.shape)
        classes = train.manifest.classes
        return [
            [
                {
                    "image": _picture(train, number, _SMALL),
                    "label": classes[train.labels[number]],
                    "file": file,
                    "similarity": float(cosine),
                }
                for number, file, cosine in zip(*of_query, strict=True)
            ]
            for of_query in zip(found, files, cosines, strict=True)
        ]

    def _features(
        self, base: keras.Model, reader: Reader, rows: np.ndarray
    ) -> Iterator[np.ndarray]:
        for first in range(0, len(rows), _BATCH):
            images = reader.pixels(rows[first : first + _BATCH], self._size)
            found = base(images.astype(np.float32), training=False)
            yield np.asarray(found, np.float32).reshape(len(images), -1)


def create(config: Config, manifest: Manifest, split: str) -> Gallery:
    """Returns what makes the pictures of a finished run.

    Args:
        config: The run's settings.
        manifest: The data set's manifest.
        split: The split that was measured.

    Raises:
        DataError: If its best epoch is gone.
    """
    devices.set_precision(config.devices.precision)
    model = finished.best_model(config, manifest)
    strategy = tf.distribute.get_strategy()
    return Gallery(
        model,
        Reader(config.data.data_dir, manifest, split),
        Reader(config.data.data_dir, manifest, splits.TRAIN),
        extractor_lib.create(
            config, manifest, strategy, model, WorkerGroup(strategy, None)
        ),
    )


def as_address(picture: np.ndarray) -> str:
    """Returns a picture uint8 `[H, W, 3]` as a data address, in its size."""
    return thumbnails.of_image(Image.fromarray(picture), max(picture.shape))


def _overlay(image: np.ndarray, heat: np.ndarray) -> Image.Image:
    """Returns an image uint8 `[S, S, 3]` with its heat `[h, w]` over it."""
    from matplotlib import colormaps

    small = Image.fromarray(np.rint(255 * heat).astype(np.uint8))
    size = (image.shape[1], image.shape[0])
    large = np.asarray(small.resize(size, Image.Resampling.BICUBIC))
    colours = colormaps["inferno"](large)[..., :3] * 255
    both = 0.5 * image + 0.5 * colours
    return Image.fromarray(np.rint(both).astype(np.uint8))


def _picture(
    reader: Reader, index: np.int64, side: int = thumbnails.SIDE
) -> str:
    (content,) = reader.image_files(np.array([index]))
    with Image.open(io.BytesIO(content)) as opened:
        return thumbnails.of_image(opened.convert("RGB"), side)
