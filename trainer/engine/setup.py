"""Devices set up and the model made, its base's weights loaded."""

import keras
import tensorflow as tf

from data_prep.dataset.manifest import Manifest
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution.cluster import Cluster
from trainer.models import weights
from trainer.models.classifier import build_classifier


def make_model(
    config: Config, manifest: Manifest, cluster: Cluster | None = None
) -> tuple[tf.distribute.Strategy, keras.Model]:
    """Sets up the devices and makes the model, its base's weights loaded.

    Args:
        config: Of the run.
        manifest: Of its data set.
        cluster: Of the processes that train together; None for one.

    Returns:
        The strategy, and the model made under it.

    Raises:
        UsageError: If the batch size does not fit the devices.
        DataError: If the weights are unusable.
    """
    strategy = devices.make_strategy(
        config.devices.strategy,
        config.devices.virtual_devices,
        cluster,
        config.devices.startup_timeout,
    )
    devices.set_precision(config.devices.precision)
    devices.set_seeds(config.run.seed, config.run.deterministic)
    replicas, pieces = (
        strategy.num_replicas_in_sync,
        config.optimisation.accumulation,
    )
    shares = replicas * pieces
    if config.optimisation.batch_size % shares:
        nearest = (
            max(1, round(config.optimisation.batch_size / shares)) * shares
        )
        in_pieces = f" in {pieces} pieces each" if pieces > 1 else ""
        raise UsageError(
            f"--batch_size={config.optimisation.batch_size} cannot be shared evenly by "
            f"{replicas} replicas{in_pieces}. Use --batch_size={nearest}."
        )
    # Read before anything is written, so that a bad file leaves no trace.
    found = (
        {}
        if config.model.weights == "none"
        else weights.load_base(config.model.weights, config.model.base)
    )
    with strategy.scope():
        model = build(config, manifest)
    for name, arrays in found.items():
        model.get_layer(name).set_weights(arrays)
    return strategy, model


def build(config: Config, manifest: Manifest) -> keras.Model:
    """Builds the network with random weights, as a config describes it."""
    return build_classifier(
        len(manifest.classes),
        config.data.image_size,
        base=config.model.base,
        preprocessing=config.model.preprocessing,
        head=config.model.head,
        head_units=config.model.head_units,
        dropout=config.model.dropout,
    )
