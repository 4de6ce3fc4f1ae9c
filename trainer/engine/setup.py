"""What a run begins with: devices, model and data loader."""

import pathlib
from collections.abc import Sequence

import keras
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution.cluster import Cluster
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import automatic
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.feature_extraction import head_init
from trainer.feature_extraction import views
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.head_init import ViewedSplit
from trainer.models import weights
from trainer.models.classifier import build_classifier
from trainer.models.classifier import learning_layers
from trainer.models.classifier import learns_statistics
from trainer.pipeline.data_loader import DataLoader
from trainer.pipeline.reader import Reader


def make_model(
    config: Config, manifest: Manifest, cluster: Cluster | None = None
) -> tuple[tf.distribute.Strategy, keras.Model]:
    """Sets up the devices and makes the model, its base's weights loaded.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
        cluster: The processes that train together; None for one.

    Returns:
        The strategy, and the model made under it.

    Raises:
        UsageError: If the batch size does not fit the devices, or
            accumulation the network.
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
    _check_batch_size(
        config.optimisation.batch_size,
        strategy.num_replicas_in_sync,
        config.optimisation.accumulation,
    )
    # Read before anything is written, so that a bad file leaves no trace. Where
    # a run goes on, its own files have them.
    start = checkpoint.start_of_run(pathlib.Path(config.run.model_dir))
    loaded = (
        {}
        if start or config.model.weights == "none"
        else weights.load_base(config.model.weights, config.model.base)
    )
    with strategy.scope():
        model = build_classifier(
            len(manifest.classes), config.data.image_size, config.model
        )
    _check_accumulation(config, model)
    for name, arrays in loaded.items():
        model.get_layer(name).set_weights(arrays)
    if start:
        arrays, _ = checkpoint.load(start)
        checkpoint.assign(checkpoint.model_variables(model), arrays, start)
    return strategy, model


def make_loader(
    config: Config,
    manifest: Manifest,
    workers: WorkerGroup,
    wanted: Sequence[str] = (splits.TRAIN, splits.VALIDATION),
) -> DataLoader:
    """Opens splits; decodes them now where decoded images are kept.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
        workers: The workers that train together.
        wanted: Names of the splits.
    """
    return DataLoader(
        config.data,
        {
            split: Reader(config.data.data_dir, manifest, split)
            for split in wanted
        },
        batch_size=config.optimisation.batch_size,
        seed=config.run.seed,
        replicas=workers.replicas,
        rank=workers.rank,
        partners=config.augmentation.mixes,
        workers=workers.count,
        on_host=workers.on_host,
    )


def _check_batch_size(batch_size: int, replicas: int, pieces: int) -> None:
    shares = replicas * pieces
    if batch_size % shares:
        nearest = max(1, round(batch_size / shares)) * shares
        in_pieces = f" in {pieces} micro-batches each" if pieces > 1 else ""
        raise UsageError(
            f"--batch_size={batch_size} cannot be shared evenly by "
            f"{replicas} replicas{in_pieces}. Use --batch_size={nearest}."
        )


def _check_accumulation(config: Config, model: keras.Model) -> None:
    pieces = config.optimisation.accumulation
    if pieces > 1 and any(
        learns_statistics(learning_layers(model, phase.train_from))
        for phase in config.phases
    ):
        raise UsageError(
            f"--accumulation={pieces} is impossible where the whole of "
            f"{config.model.base} learns: its batch normalisation needs the "
            "statistics of the whole batch at once. Pass --accumulation=1 and "
            "a smaller --batch_size, or begin --finetune_from at a later layer."
        )


def fit_head(
    config: Config,
    model: keras.Model,
    loader: DataLoader,
    extractor: Extractor,
) -> tuple[dict, dict]:
    """Sets the model's head to a linear classifier fitted on features.

    Args:
        config: The run's settings; `head_init` names the classifier.
        model: What `build_classifier` returned, without a hidden layer.
        loader: The readers and the images of both splits.
        extractor: Extracts features by the model's base.

    Returns:
        The row of epoch 0 in `metrics.jsonl`: what the head reached; and the
        settings that it decides, by name.
    """
    fitted_on = views.for_head_fit(
        config.augmentation, config.features, config.run.seed
    )
    chosen_on = views.for_inference(config.model.flip_average)
    train, validation = (
        ViewedSplit(loader.readers[split], loader.images[split], seen)
        for split, seen in (
            (splits.TRAIN, fitted_on),
            (splits.VALIDATION, chosen_on),
        )
    )
    row = head_init.initialise(
        model,
        train,
        validation,
        extractor,
        pathlib.Path(config.run.model_dir),
        classifier=config.features.head_init,
        class_weights=config.optimisation.class_weights,
        seed=config.run.seed,
    )
    say = extractor.workers.print_once
    say(history.fitted_head_summary(config.features.head_init, row))
    chosen: dict = automatic.after_fit(config, row["val_accuracy"])
    if "finetune_epochs" in chosen:
        say(
            "nothing is fine-tuned: that accuracy is at least "
            f"--finetune_below={config.optimisation.finetune_below:g}"
        )
    augments = config.augmentation.augment != "none"
    phases = config.replace(**chosen).phases
    if config.augmentation.flip == "auto" and phases and augments:
        flips = head_init.knows_mirrors(model, validation, extractor)
        chosen["flip"] = "true" if flips else "false"
        say(
            "mirrored validation images are "
            + ("known as well" if flips else "not known as well")
            + f": --flip={chosen['flip']}"
        )
    return row, chosen
