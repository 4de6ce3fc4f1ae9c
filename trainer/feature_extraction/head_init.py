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

# What a fit costs grows with images, values and classes: 3e9 of their product
# take some 10 minutes on two cores (0.2 us each, all strengths together). But a
# class is to have so many images, if there are as many.
_AFFORDABLE, _OF_A_CLASS = 3e9, 50
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
    classes = model.output.shape[1]
    _check_classes(train.reader, classes, classifier)
    sets = _extract(extractor, train)
    labels = train.reader.labels
    most = _most_images(sets, classes)
    chosen = proportional(labels, most // len(sets), seed)
    if len(chosen) < len(labels):
        extractor.workers.print_once(
            f"the head is fitted on {len(chosen)} of {len(labels)} training "
            "images, of each class its share"
        )
    head = linear_head.fit(
        classifier,
        np.concatenate([_rows(features, chosen) for features in sets]),
        np.tile(labels[chosen], len(sets)),
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
                "images": len(chosen),
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


def _rows(
    features: FeatureSet, indices: np.ndarray | None = None
) -> np.ndarray:
    """Returns some images' features, or those of all, as float32 `[n, F]`."""
    if indices is None:
        indices = np.arange(features.count)
    taken = features.take(indices)
    return taken.reshape(len(indices), -1).astype(np.float32)


def proportional(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Returns some images, drawn at random, of each class its share.

    Args:
        labels: int `[N]`.
        most: About how many; all where there are no more.
        seed: Seed of the draw.

    Returns:
        int64 `[n]`, in rising order, of every class at least one.
    """
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    first = np.repeat(counts.cumsum() - counts, counts)
    within = np.arange(len(labels)) - first
    share = np.ceil(most / len(labels) * counts)
    return np.sort(order[within < np.repeat(share, counts)])


def _check_classes(train: Reader, classes: int, classifier: str) -> None:
    absent = set(range(classes)) - set(train.labels.tolist())
    if absent:
        names = [train.manifest.classes[k] for k in sorted(absent)]
        raise DataError(
            f"--head_init={classifier} cannot learn {', '.join(names)}: "
            "the train split has no image of it. Make the data set again "
            "with other --splits."
        )


def _most_images(sets: list[FeatureSet], classes: int) -> int:
    """Returns on how many images a fit is affordable, over all views.

    Raises:
        DataError: If memory does not hold a few of each class.
    """
    values = int(np.prod(sets[0].shape))
    affordable = max(_AFFORDABLE / (values * classes), _OF_A_CLASS * classes)
    # In float64, centred, scaled and rotated.
    left = 2 * cache.memory_for_cache(-1)
    held = left // (8 * 4 * values)
    wanted = min(_OF_A_CLASS * classes, sum(one.count for one in sets))
    if held < wanted:
        raise DataError(
            f"--head_init fits at least {wanted} images of {sets[0].shape} "
            f"values in memory, which takes {wanted * 32 * values >> 20} MiB; "
            f"{left >> 20} are left. Use --head=gap, fewer --feature_views, or "
            "--feature_cache with --frozen_epochs, which streams them."
        )
    return int(min(affordable, held))
