"""What a phase trains: the whole model on images, or its head on features.

The frozen base gives the same features for an image in every epoch, so it need
not run in every epoch. Either way the head is trained by the same steps, in
the same order, on the same augmented views. An epoch's augmentation is a pure
function of seed, epoch and image: that is why it can be cached. Validation
takes the features of images that are decoded as the exported model decodes
them, with `flip_average` those of their mirror images too: what chooses the
epoch is what will predict.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import keras

from data_prep.dataset import splits
from trainer.augmentation import policies
from trainer.feature_extraction import source as feature_source
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.views import View
from trainer.feature_extraction.views import for_inference
from trainer.groups import Augmentation
from trainer.models.classifier import head_of
from trainer.models.classifier import inference_head
from trainer.models.classifier import inference_model
from trainer.pipeline.data_loader import DataLoader
from trainer.pipeline.input_pipeline import Source


class TrainedPart(NamedTuple):
    """The network that a phase trains, and what its batches hold.

    Attributes:
        network: What is trained, from a batch's `image` to float32 logits.
        inference_model: What is validated, from a batch's `image` to logits.
        augment: What `augmentation.policies.create` returned.
        train_source: Returns what training batches hold in an epoch.
        validation_source: What validation batches hold.
    """

    network: keras.Model
    inference_model: keras.Model
    augment: Callable
    train_source: Callable[[int], Source]
    validation_source: Source


def whole_model(
    model: keras.Model,
    loader: DataLoader,
    augment: Callable,
    flip_average: bool,
) -> TrainedPart:
    """Returns the whole model, trained on images.

    Args:
        model: What `build_classifier` returned.
        loader: The batches of both splits.
        augment: What `make_augment` returned.
        flip_average: Whether predictions average an image and its mirror.
    """
    return TrainedPart(
        model,
        inference_model(model, flip_average),
        augment,
        lambda epoch: loader.images[splits.TRAIN],
        loader.images[splits.VALIDATION],
    )


def head_on_features(
    model: keras.Model,
    loader: DataLoader,
    extractor: Extractor,
    views: Sequence[View],
    flip_average: bool,
) -> TrainedPart:
    """Returns the model's head, trained on features of the frozen base.

    The epochs take the views in turn. A view that is not kept yet is extracted
    when its first epoch begins.

    Args:
        model: What `build_classifier` returned.
        loader: The batches of both splits.
        extractor: Extracts features by the model's base.
        views: The views of the training split that the epochs take in turn.
        flip_average: Whether predictions average an image and its mirror.
    """
    head = head_of(model)
    validation = [
        extractor.extract(
            loader.readers[splits.VALIDATION],
            loader.images[splits.VALIDATION],
            view,
        )
        for view in for_inference(flip_average)
    ]
    opened: dict[View, Source] = {}

    def train_source(epoch: int) -> Source:
        view = views[epoch % len(views)]
        if view not in opened:
            found = extractor.extract(
                loader.readers[splits.TRAIN], loader.images[splits.TRAIN], view
            )
            opened[view] = feature_source.of_features(found)
        return opened[view]

    return TrainedPart(
        head,
        inference_head(head, flip_average),
        policies.create(policies.Policy("none"), model.output.shape[1]),
        train_source,
        feature_source.of_features(*validation),
    )


def make_augment(
    settings: Augmentation, seed: int, num_classes: int
) -> Callable:
    """Returns the augmentation of training images, see `policies.create`.

    Args:
        settings: The policy's name, strength, MixUp and CutMix.
        seed: The run's seed.
        num_classes: K.
    """
    policy = policies.Policy(
        settings.augment,
        settings.augment_strength,
        settings.mixup,
        settings.cutmix,
        settings.flips,
        seed,
    )
    return policies.create(policy, num_classes)
