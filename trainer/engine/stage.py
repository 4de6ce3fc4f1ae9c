"""What a phase works on: pictures and the whole model, or features and a head.

The frozen base gives the same features for a picture in every epoch, so it
need not run in every epoch. The head is trained in the same order, on the same
views, by the same steps either way.
"""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from data_prep.dataset import splits
from trainer.augmentation import policies
from trainer.config import Config
from trainer.config import Phase
from trainer.distribution import devices
from trainer.engine import loop
from trainer.engine import optimizers
from trainer.feature_extraction import source as feature_source
from trainer.feature_extraction import views as views_lib
from trainer.feature_extraction.extractor import Extractor
from trainer.models.classifier import flip_averaged
from trainer.models.classifier import head_of
from trainer.pipeline.data_loader import Feed


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
        config.augmentation.augment,
        config.augmentation.augment_strength,
        config.augmentation.mixup,
        config.augmentation.cutmix,
        config.run.seed,
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
    views = views_lib.for_training(
        config.augmentation,
        config.features,
        config.run.seed,
        config.optimisation.frozen_epochs,
    )
    validation = [
        extractor.extract(
            feed.readers[splits.VALIDATION],
            feed.images[splits.VALIDATION],
            view,
        )
        for view in views_lib.for_inference(config.model.flip_average)
    ]
    opened: dict[views_lib.View, Callable] = {}

    def source(split: str, epoch: int) -> Callable:
        if split != splits.TRAIN:
            return feature_source.of_features(*validation)
        view = views[epoch % len(views)]
        if view not in opened:
            opened[view] = feature_source.of_features(
                extractor.extract(feed.readers[split], feed.images[split], view)
            )
        return opened[view]

    return Stage(
        head,
        _averaged_head(head) if config.model.flip_average else head,
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
        momentum=config.optimisation.momentum,
        weight_decay=config.optimisation.weight_decay,
        factors=optimizers.layer_factors(
            model, config.optimisation.layer_decay
        ),
    )


def step_options(
    config: Config, labels: np.ndarray, classes: int
) -> loop.StepOptions:
    """Returns how a batch becomes a step, in every phase.

    Args:
        config: Of the run.
        labels: int `[N]`, of the training images.
        classes: K.
    """
    weights = ()
    if config.optimisation.class_weights == "balanced":
        counts = np.bincount(labels, minlength=classes)
        # scikit-learn's "balanced": n_samples / (n_classes * np.bincount(y)).
        weights = tuple(len(labels) / (classes * np.maximum(counts, 1)))
    return loop.StepOptions(
        seed=config.run.seed,
        jit_compile=devices.compiles(config.devices.jit_compile),
        accumulation=config.optimisation.accumulation,
        clip_norm=config.optimisation.clip_norm,
        label_smoothing=config.optimisation.label_smoothing,
        class_weights=weights,
    )


def served(config: Config, model: keras.Model) -> keras.Model:
    """Returns what predictions come from: the model, or its flip average."""
    return flip_averaged(model) if config.model.flip_average else model


def _averaged_head(head: keras.Model) -> keras.Model:
    """Returns the head on `[B, 2, ...]`: a picture and its mirror."""
    both = keras.Input((2, *head.input.shape[1:]), name="both")
    logits = (head(both[:, 0]) + head(both[:, 1])) / 2.0
    return keras.Model(both, logits, name="averaged_head")
