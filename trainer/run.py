"""The story of a run: data and devices -> phases -> export -> evaluation."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence

import keras
import tensorflow as tf

from data_prep import manifest as manifest_lib
from data_prep import splits
from data_prep.errors import DataError
from data_prep.errors import TrainingError
from data_prep.errors import UsageError
from data_prep.manifest import Manifest
from trainer import atomic
from trainer import devices
from trainer import evaluate
from trainer import model_directory
from trainer import rendezvous
from trainer import weights
from trainer.cluster_env import Cluster
from trainer.config import Config
from trainer.export import export
from trainer.model import build_classifier
from trainer.phases import run_phases
from trainer.stage import served
from trainer.workers import Workers
from trainer.workers import is_first
from trainer.workers import lost_ones_named


def run(
    config: Config,
    *,
    cluster: Cluster | None = None,
    log_dir: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> dict:
    """Trains, exports and evaluates, or goes on where an earlier run stopped.

    The start rule, by what `model_dir` holds:
    1. nothing: start;
    2. the config of another run or data set: refuse, naming what differs;
    3. checkpoints: go on after the last step saved;
    4. `DONE.json`: do nothing but return it.

    Args:
        config: What to do.
        cluster: Of the processes that train together; None for one.
        log_dir: For TensorBoard; "" is in the model directory.
        callbacks: Of Keras.

    Returns:
        The content of `DONE.json`.

    Raises:
        UsageError: If the flags fit neither the devices nor the directory.
        DataError: If the data set, weights or checkpoints are unusable.
        TrainingError: If the loss is no number, or `min_accuracy` is missed.
        Stopped: If a signal asked to stop, or another worker is gone.
    """
    start = time.time()
    manifest = manifest_lib.load(config.data_dir)
    model_dir = pathlib.Path(config.model_dir)
    model_directory.check_same_run(config, manifest, model_dir)
    done_path = model_dir / "DONE.json"
    if done_path.exists():
        done = json.loads(done_path.read_text())
        print(f"{model_dir} is finished already; nothing to do.")
    else:
        _check_splits(config, manifest)
        cluster = devices.joined(cluster, config.strategy)
        with lost_ones_named(cluster):
            done = _train(config, manifest, cluster, log_dir, callbacks)
        done["seconds"] = time.time() - start
        if is_first(cluster):
            atomic.write_json(done_path, done)
    accuracy = done["evaluation"]["accuracy"]
    if accuracy < config.min_accuracy:
        raise TrainingError(
            f"{done['evaluation']['split']} accuracy {accuracy:.4f} is below "
            f"--min_accuracy={config.min_accuracy}."
        )
    return done


def _train(
    config: Config,
    manifest: Manifest,
    cluster: Cluster | None,
    log_dir: str,
    callbacks: Sequence[keras.callbacks.Callback],
) -> dict:
    """Returns what goes into `DONE.json`."""
    model_dir = pathlib.Path(config.model_dir)
    if cluster:
        rendezvous.meet(
            cluster.workers,
            cluster.index,
            model_directory.purpose(config, manifest),
            config.startup_timeout,
        )
    strategy, model = make_model(config, manifest, cluster)
    if is_first(cluster):
        environment = model_directory.environment(strategy)
        model_directory.warn_of_changes(
            model_dir / "environment.json", environment
        )
        identity = model_directory.identity(config, manifest)
        atomic.write_json(model_dir / model_directory.CONFIG, identity)
        atomic.sweep(model_dir)
        atomic.write_json(model_dir / "environment.json", environment)
    state = run_phases(
        config,
        manifest,
        strategy,
        model,
        cluster=cluster,
        log_dir=log_dir,
        callbacks=callbacks,
    )
    model_directory.restore_best(model, model_dir)
    if is_first(cluster):
        export_again(config.model_dir)
    evaluation = evaluate.evaluate(
        config,
        manifest,
        strategy,
        served(config, model),
        evaluate.choose_split(manifest),
        config.model_dir,
        cluster,
    )
    if is_first(cluster):
        print(evaluate.table(evaluation))
    Workers(
        strategy, cluster
    ).barrier()  # the first serves the others until the end
    return {
        "exported": state.best,
        "evaluation": {
            name: evaluation[name] for name in ("split", "accuracy", "loss")
        },
    }


def export_again(model_dir: str) -> None:
    """Exports the best epoch of a model directory.

    Raises:
        DataError: If there is none.
    """
    config, manifest = model_directory.load(model_dir)
    devices.set_precision(config.precision)
    # Made anew, under no strategy, so that nothing of one is exported.
    # Without dropout, which does nothing there and is no layer of Keras.
    model = build(dataclasses.replace(config, dropout=0.0), manifest)
    model_directory.restore_best(model, pathlib.Path(model_dir))
    export(served(config, model), manifest.classes, manifest.resize, model_dir)


def evaluate_again(model_dir: str, split: str) -> dict:
    """Measures the best epoch of a model directory on a split.

    Args:
        model_dir: What `run` wrote.
        split: Name of a split; "" chooses as `run` does.

    Raises:
        DataError: If there is no finished epoch, or the data set has changed.
    """
    config, manifest = model_directory.load(model_dir)
    devices.set_precision(config.precision)
    strategy = devices.make_strategy(config.strategy, config.virtual_devices)
    with strategy.scope():
        model = build(config, manifest)
    model_directory.restore_best(model, pathlib.Path(model_dir))
    split = split or evaluate.choose_split(manifest)
    return evaluate.evaluate(
        config, manifest, strategy, served(config, model), split, model_dir
    )


def _check_splits(config: Config, manifest: Manifest) -> None:
    missing = {splits.TRAIN, splits.VALIDATION} - set(manifest.splits)
    if missing:
        raise DataError(
            f"{config.data_dir} has no {missing.pop()} split, only "
            f"{', '.join(manifest.splits)}. Training needs train and "
            "validation, which decides what is exported. Make the data set "
            "again with --splits."
        )
    images = manifest.splits[splits.TRAIN].count
    if config.batch_size > images:
        raise UsageError(
            f"--batch_size={config.batch_size} is impossible: the train split "
            f"has {images} images. Use at most --batch_size={images}."
        )


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
        config.strategy, config.virtual_devices, cluster, config.startup_timeout
    )
    devices.set_precision(config.precision)
    devices.set_seeds(config.seed, config.deterministic)
    replicas, pieces = strategy.num_replicas_in_sync, config.accumulation
    shares = replicas * pieces
    if config.batch_size % shares:
        nearest = max(1, round(config.batch_size / shares)) * shares
        in_pieces = f" in {pieces} pieces each" if pieces > 1 else ""
        raise UsageError(
            f"--batch_size={config.batch_size} cannot be shared evenly by "
            f"{replicas} replicas{in_pieces}. Use --batch_size={nearest}."
        )
    # Read before anything is written, so that a bad file leaves no trace.
    found = (
        {}
        if config.weights == "none"
        else weights.load_base(config.weights, config.base)
    )
    with strategy.scope():
        model = build(config, manifest)
    for name, arrays in found.items():
        model.get_layer(name).set_weights(arrays)
    return strategy, model


def build(config: Config, manifest: Manifest) -> keras.Model:
    return build_classifier(
        len(manifest.classes),
        config.image_size,
        base=config.base,
        preprocessing=config.preprocessing,
        head=config.head,
        head_units=config.head_units,
        dropout=config.dropout,
    )
