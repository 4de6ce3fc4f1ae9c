"""What the head starts from: a linear classifier, fitted on features."""

import pathlib
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from trainer.distribution.worker_group import WorkerGroup
from trainer.feature_extraction import linear_head
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.linear_head import LinearHead
from trainer.feature_extraction.store import FeatureSet
from trainer.feature_extraction.views import MIRRORED
from trainer.feature_extraction.views import PLAIN
from trainer.feature_extraction.views import View
from trainer.models import temperature
from trainer.pipeline import cache
from trainer.pipeline.reader import Reader

# Up to which factor and how many nats more the loss with mirror images counts as
# that without; what is next to nothing may double.
_ALIKE, _NOTHING = 1.05, 0.005


class ViewedSplit(NamedTuple):
    """A split, and the views of it that are used.

    Attributes:
        reader: The split's records.
        images: The source of its pixels, see `input_pipeline.create`.
        views: At least one.
    """

    reader: Reader
    images: Callable
    views: Sequence[View]


def initialise(
    model: keras.Model,
    train: ViewedSplit,
    validation: ViewedSplit,
    extractor: Extractor,
    model_dir: pathlib.Path,
    *,
    classifier: str,
    class_weights: str = "none",
    seed: int = 0,
) -> dict:
    """Sets the head to a linear classifier and writes `head_init.json`.

    Args:
        model: What `build_classifier` returned, without a hidden layer.
        train: What the classifier is fitted on; every view counts alike.
        validation: What its strength is chosen on; scores are averaged over
            the views.
        extractor: The extractor of the model's base; its workers all get what
            the first one fits.
        model_dir: Where the first worker writes `head_init.json`.
        classifier: "logistic_regression" or "linear_svm".
        class_weights: "none" or "balanced", see `linear_head.fit`.
        seed: Seed of the SVM's solver.

    Returns:
        The row of epoch 0 in `metrics.jsonl`: what the head reached.

    Raises:
        DataError: If a class has no training image, or the features do not
            fit in memory.
    """
    _check_classes(train.reader, model.output.shape[1], classifier)
    sets = _extract(extractor, train)
    _check_memory(sets)
    head = linear_head.fit(
        classifier,
        np.concatenate([_rows(features) for features in sets]),
        np.tile(train.reader.labels, len(sets)),
        np.stack([_rows(f) for f in _extract(extractor, validation)], axis=1),
        validation.reader.labels,
        seed,
        class_weights,
    )
    _set_head(model, head, extractor.workers)
    if extractor.workers.is_first:
        atomic.write_json(
            model_dir / "head_init.json",
            {
                "classifier": classifier,
                "chosen": head.chosen,
                "candidates": head.candidates,
            },
        )
    return {"phase": "head_init", "epoch": 0, **head.chosen}


def knows_mirrors(
    model: keras.Model, validation: ViewedSplit, extractor: Extractor
) -> bool:
    """Returns whether mirror images are classified as well as the images are.

    Where a mirror image means something else, as of digits or text, the mean
    over both has a loss that is 13 to 55% higher; of photos it was 8% lower to
    0.2% higher (docs/recipes.md).

    Args:
        model: What `build_classifier` returned, its head fitted.
        validation: The validation split.
        extractor: The extractor of the model's base.
    """
    both = validation._replace(views=[PLAIN, MIRRORED])
    kernel, bias = model.get_layer("logits").get_weights()
    plain, mirrored = (
        _rows(features) @ kernel + bias
        for features in _extract(extractor, both)
    )
    labels = validation.reader.labels
    alone = temperature.loss(plain, labels)
    averaged = temperature.loss((plain + mirrored) / 2, labels)
    mine = extractor.workers.is_first and averaged <= (
        _ALIKE * alone + _NOTHING
    )
    return bool(extractor.workers.sum(float(mine)))


def _extract(extractor: Extractor, split: ViewedSplit) -> list[FeatureSet]:
    return [
        extractor.extract(split.reader, split.images, view)
        for view in split.views
    ]


def _set_head(
    model: keras.Model, head: LinearHead, workers: WorkerGroup
) -> None:
    """Gives all workers the first one's weights.

    Each has fitted its own; the last bits of a machine's linear algebra must
    not make them differ.
    """
    mine = float(workers.is_first)
    fitted = [workers.sum(mine * part) for part in (head.kernel, head.bias)]
    model.get_layer("logits").set_weights(fitted)


def _rows(features: FeatureSet) -> np.ndarray:
    """Returns a whole set as float32 `[N, F]`."""
    everything = features.take(np.arange(features.count))
    return everything.reshape(features.count, -1).astype(np.float32)


def _check_classes(train: Reader, classes: int, classifier: str) -> None:
    absent = set(range(classes)) - set(train.labels.tolist())
    if absent:
        names = [train.manifest.classes[k] for k in sorted(absent)]
        raise DataError(
            f"--head_init={classifier} cannot learn {', '.join(names)}: "
            "the train split has no image of it. Make the data set again "
            "with other --splits."
        )


def _check_memory(sets: list[FeatureSet]) -> None:
    count = sum(features.count for features in sets)
    # In float64, centred, scaled and rotated.
    size = 8 * 4 * count * int(np.prod(sets[0].shape))
    left = 2 * cache.memory_for_cache(-1)
    if size > left:
        raise DataError(
            f"--head_init fits {count} images of {sets[0].shape} values in "
            f"memory, which takes {size >> 20} MiB; {left >> 20} are left. "
            "Use --head=gap, fewer --feature_views, or --feature_cache with "
            "--frozen_epochs, which streams them."
        )
