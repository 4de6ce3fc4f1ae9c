"""The story of a run: data and devices -> phases -> export -> evaluation."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import tensorflow as tf

from data_prep import manifest as manifest_lib
from data_prep import splits
from data_prep.errors import DataError
from data_prep.errors import Stopped
from data_prep.errors import TrainingError
from data_prep.errors import UsageError
from data_prep.manifest import Manifest
from trainer import atomic
from trainer import checkpoint
from trainer import devices
from trainer import evaluate
from trainer import rendezvous
from trainer import weights
from trainer.cluster_env import Cluster
from trainer.config import Config
from trainer.export import export
from trainer.model import build_classifier
from trainer.phases import run_phases
from trainer.stage import served

# What may differ between the runs of one model directory: where things lie,
# on how many devices, and what is only asked of the result.
_FREE_FIELDS = (
    "data_dir",
    "model_dir",
    "strategy",
    "virtual_devices",
    "steps_per_loop",
    "checkpoint_steps",
    "checkpoint_minutes",
    "nan_retries",
    "startup_timeout",
    "cache_mb",
    "cache_dir",
    "min_accuracy",
    "feature_dir",
)
# How TensorFlow says that another worker is gone.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


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
    _check_same_run(config, manifest, model_dir)
    done_path = model_dir / "DONE.json"
    if done_path.exists():
        done = json.loads(done_path.read_text())
        print(f"{model_dir} is finished already; nothing to do.")
    else:
        _check_splits(config, manifest)
        if cluster and config.strategy not in ("auto", "multi_worker"):
            cluster = None
        with _lost_peers_named(cluster):
            done = _train(config, manifest, cluster, log_dir, callbacks)
        done["seconds"] = time.time() - start
        if _is_chief(cluster):
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
            _purpose(config, manifest),
            config.startup_timeout,
        )
    strategy, model = make_model(config, manifest, cluster)
    if _is_chief(cluster):
        environment = _environment(strategy)
        _warn_of_changes(model_dir / "environment.json", environment)
        identity = _identity(config, manifest)
        atomic.write_json(model_dir / "config.json", identity)
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
    _restore_best(model, model_dir)
    if _is_chief(cluster):
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
    if _is_chief(cluster):
        print(evaluate.table(evaluation))
    devices.barrier(strategy)  # the chief serves the others until the end
    return {
        "exported": state.best,
        "evaluation": {
            name: evaluation[name] for name in ("split", "accuracy", "loss")
        },
    }


@contextlib.contextmanager
def _lost_peers_named(cluster: Cluster | None) -> Iterator[None]:
    try:
        yield
    except _PEER_ERRORS as error:
        if not cluster:
            raise
        reason = str(error).strip().partition("\n")[0]
        raise Stopped(
            f"another worker is gone ({reason}). The last checkpoint is kept; "
            "start all workers again with the same command."
        ) from None


def _is_chief(cluster: Cluster | None) -> bool:
    return cluster is None or cluster.index == 0


def _purpose(config: Config, manifest: Manifest) -> str:
    """Returns what all workers of a run must have in common, in short."""
    identity = _identity(config, manifest)
    kept = {k: v for k, v in identity.items() if k not in _FREE_FIELDS}
    text = json.dumps([kept, config.steps_per_loop, config.nan_retries])
    return (
        f"{config.model_dir} {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    )


def _warn_of_changes(path: pathlib.Path, environment: dict) -> None:
    """Says in what a resumed run differs that may change its numbers."""
    if not path.exists():
        return
    before = json.loads(path.read_text())
    changes = [
        f"{name} {before['versions'].get(name)} -> {version}"
        for name, version in environment["versions"].items()
        if before["versions"].get(name) != version
    ]
    if before["precision"] != environment["precision"]:
        changes.append(
            f"precision {before['precision']} -> {environment['precision']}"
        )
    if changes:
        print(
            f"warning: begun with other software: {', '.join(changes)}. The "
            "result may differ from an uninterrupted run's.",
            file=sys.stderr,
        )


def export_again(model_dir: str) -> None:
    """Exports the best epoch of a model directory.

    Raises:
        DataError: If there is none.
    """
    config, manifest = _load_run(model_dir)
    devices.set_precision(config.precision)
    # Made anew, under no strategy, so that nothing of one is exported.
    # Without dropout, which does nothing there and is no layer of Keras.
    model = build(dataclasses.replace(config, dropout=0.0), manifest)
    _restore_best(model, pathlib.Path(model_dir))
    export(served(config, model), manifest.classes, manifest.resize, model_dir)


def evaluate_again(model_dir: str, split: str) -> dict:
    """Measures the best epoch of a model directory on a split.

    Args:
        model_dir: What `run` wrote.
        split: Name of a split; "" chooses as `run` does.

    Raises:
        DataError: If there is no finished epoch, or the data set has changed.
    """
    config, manifest = _load_run(model_dir)
    devices.set_precision(config.precision)
    strategy = devices.make_strategy(config.strategy, config.virtual_devices)
    with strategy.scope():
        model = build(config, manifest)
    _restore_best(model, pathlib.Path(model_dir))
    split = split or evaluate.choose_split(manifest)
    return evaluate.evaluate(
        config, manifest, strategy, served(config, model), split, model_dir
    )


def _check_same_run(
    config: Config, manifest: Manifest, model_dir: pathlib.Path
) -> None:
    """Refuses a model directory that another run or data set has begun."""
    path = model_dir / "config.json"
    if not path.exists():
        if model_dir.exists() and any(model_dir.iterdir()):
            raise DataError(
                f"--model_dir={model_dir} is not empty and holds no "
                "config.json, so it is no model directory. Pass another."
            )
        return
    begun = json.loads(path.read_text())
    if begun["data_fingerprint"] != manifest.fingerprint:
        raise DataError(
            f"{model_dir} was trained on another data set: its fingerprint is "
            f"{begun['data_fingerprint'][:12]}..., that of {config.data_dir} "
            f"is {manifest.fingerprint[:12]}.... Pass that data set, or "
            "another --model_dir."
        )
    different = [
        f"--{name}={value} (was {begun.get(name)})"
        for name, value in dataclasses.asdict(config).items()
        if name not in _FREE_FIELDS and begun.get(name) != value
    ]
    if different:
        raise UsageError(
            f"{model_dir} was begun with other flags: "
            f"{', '.join(different)}. Run it with those, or pass another "
            "--model_dir."
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


def _restore_best(model: keras.Model, model_dir: pathlib.Path) -> None:
    found = sorted((model_dir / "checkpoints").glob("best-*.npz"))
    if not found:
        raise DataError(
            f"{model_dir} holds no finished epoch yet: expected "
            "checkpoints/best-*.npz. Run trainer.task to its end first."
        )
    checkpoint.load_model(model, found[-1])


def _load_run(model_dir: str) -> tuple[Config, Manifest]:
    path = pathlib.Path(model_dir, "config.json")
    try:
        begun = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{model_dir} is no model directory: {error}. Expected what "
            "trainer.task wrote."
        ) from None
    fingerprint = begun.pop("data_fingerprint")
    config = Config(**{**begun, "model_dir": model_dir})
    manifest = manifest_lib.load(config.data_dir)
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{config.data_dir} is not the data set that {model_dir} was "
            "trained on: its fingerprint has changed. Put that one back."
        )
    return config, manifest


def _identity(config: Config, manifest: Manifest) -> dict:
    return {
        **dataclasses.asdict(config),
        "data_fingerprint": manifest.fingerprint,
    }


def _environment(strategy: tf.distribute.Strategy) -> dict:
    return {
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("shardtune", "tensorflow", "keras", "numpy")
            },
        },
        "platform": platform.platform(),
        "processors": len(os.sched_getaffinity(0)),
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
        "precision": keras.config.dtype_policy().name,
    }
