"""What a phase works on: pictures and the whole model, or features and a head.

The frozen base gives the same features for a picture in every epoch, so it
need not run in every epoch. The head is trained in the same order, on the same
views, by the same steps either way.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from data_prep import splits
from data_prep.errors import DataError
from trainer import atomic
from trainer import cache
from trainer import classical
from trainer import optimizers
from trainer.augmentation import policies
from trainer.config import Config
from trainer.config import Phase
from trainer.extractor import Extractor
from trainer.extractor import source as feature_source
from trainer.feature_store import FeatureSet
from trainer.feed import Feed
from trainer.model import flip_averaged
from trainer.model import head_of


class Stage(NamedTuple):
    """What the steps of a phase run on.

    Attributes:
        network: What is trained, from a batch's `image` to logits.
        served: What is validated: what predictions will come from.
        feed: The batches of both splits.
        augment: What `augmentation.policies.create` returned.
    """

    network: keras.Model
    served: keras.Model
    feed: Feed
    augment: Callable


def of_pictures(
    config: Config, num_classes: int, model: keras.Model, feed: Feed
) -> Stage:
    """Returns the stage that runs the whole model on pictures.

    Args:
        config: Of the run.
        num_classes: K.
        model: What `build_classifier` returned.
        feed: Of pictures.
    """
    policy = policies.Policy(
        config.augment,
        config.augment_strength,
        config.mixup,
        config.cutmix,
        config.seed,
    )
    return Stage(
        model,
        served(config, model),
        feed,
        policies.create(policy, num_classes),
    )


def of_features(
    config: Config, model: keras.Model, feed: Feed, extractor: Extractor
) -> Stage:
    """Returns the stage that runs the head on features of the frozen base.

    The views are taken in turn by epoch; what is not there yet is extracted
    when its epoch comes.

    Args:
        config: Of the run.
        model: What `build_classifier` returned.
        feed: Of pictures.
        extractor: Of the model.
    """
    head = head_of(model)
    views = extractor.views(config.frozen_epochs)
    validation = _validation_features(config, extractor, feed)
    opened: dict[int, Callable] = {}

    def source(split: str, epoch: int) -> Callable:
        if split != splits.TRAIN:
            return feature_source(*validation)
        view = epoch % views
        if view not in opened:
            opened[view] = feature_source(
                extractor.augmented(
                    feed.readers[split], feed.images[split], view
                )
            )
        return opened[view]

    return Stage(
        head,
        _averaged_head(head) if config.flip_average else head,
        feed.on(source),
        policies.create(policies.Policy("none"), model.output.shape[1]),
    )


def make_optimizer(
    config: Config, phase: Phase, model: keras.Model
) -> keras.optimizers.Optimizer:
    """Makes the optimizer of a phase; under the strategy's scope.

    Args:
        config: Of the run.
        phase: One of its phases.
        model: With the phase's layers unfrozen.
    """
    return optimizers.create(
        phase.optimizer,
        phase.name,
        model.trainable_variables,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        factors=optimizers.layer_factors(model, config.layer_decay),
    )


def served(config: Config, model: keras.Model) -> keras.Model:
    """Returns what predictions come from: the model, or its flip average."""
    return flip_averaged(model) if config.flip_average else model


def initialise_head(
    config: Config,
    model: keras.Model,
    feed: Feed,
    extractor: Extractor,
    write: bool = True,
) -> dict:
    """Sets the head to a classical classifier, fitted on features.

    It is fitted on the training pictures as they are, and on `feature_views`
    augmented views of them besides.

    Args:
        config: Of the run; `head_init` names the classifier.
        model: What `build_classifier` returned, without a hidden layer.
        feed: Of pictures.
        extractor: Of the model.
        write: Whether to write `head_init.json`.

    Returns:
        The row of what it reached, as in `metrics.jsonl`, epoch 0.

    Raises:
        DataError: If a class has no training image, or the features do not
            fit in memory.
    """
    train, pixels = feed.readers[splits.TRAIN], feed.images[splits.TRAIN]
    absent = set(range(model.output.shape[1])) - set(train.labels.tolist())
    if absent:
        names = [train.manifest.classes[k] for k in sorted(absent)]
        raise DataError(
            f"--head_init={config.head_init} cannot learn {', '.join(names)}: "
            "the train split has no image of it. Make the data set again "
            "with other --splits."
        )
    sets = [extractor.plain(train, pixels)]
    if config.augment != "none":
        sets += [
            extractor.augmented(train, pixels, view)
            for view in range(config.feature_views)
        ]
    _check_memory(sets)
    validation = _validation_features(config, extractor, feed)
    views = [_rows(features) for features in validation]
    head = classical.fit(
        config.head_init,
        np.concatenate([_rows(features) for features in sets]),
        np.tile(train.labels, len(sets)),
        np.stack(views, axis=1),
        feed.readers[splits.VALIDATION].labels,
        config.seed,
    )
    model.get_layer("logits").set_weights([head.kernel, head.bias])
    if write:
        atomic.write_json(
            extractor.model_dir / "head_init.json",
            {
                "classifier": config.head_init,
                "chosen": head.chosen,
                "candidates": head.candidates,
            },
        )
    return {"phase": "head_init", "epoch": 0, **head.chosen}


def _validation_features(
    config: Config, extractor: Extractor, feed: Feed
) -> list[FeatureSet]:
    """Returns the features that validation averages over."""
    reader = feed.readers[splits.VALIDATION]
    pixels = feed.images[splits.VALIDATION]
    result = [extractor.plain(reader, pixels)]
    if config.flip_average:
        result.append(extractor.mirrored(reader, pixels))
    return result


def _averaged_head(head: keras.Model) -> keras.Model:
    """Returns the head on `[B, 2, ...]`: a picture and its mirror."""
    both = keras.Input((2, *head.input.shape[1:]), name="both")
    logits = (head(both[:, 0]) + head(both[:, 1])) / 2.0
    return keras.Model(both, logits, name="averaged_head")


def _rows(features: FeatureSet) -> np.ndarray:
    everything = features.take(np.arange(features.count))
    return everything.reshape(features.count, -1).astype(np.float32)


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
