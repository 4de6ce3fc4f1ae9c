"""The story of a run: data and devices -> phases -> export -> evaluation."""

import json
import pathlib
import time
from collections.abc import Sequence

import keras

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution import rendezvous
from trainer.distribution.cluster import Cluster
from trainer.distribution.workers import Workers
from trainer.distribution.workers import is_first
from trainer.distribution.workers import lost_ones_named
from trainer.engine import model_directory
from trainer.engine import setup
from trainer.engine.phases import run_phases
from trainer.engine.stage import served
from trainer.inference import evaluation as evaluation_lib
from trainer.inference import finished


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
    manifest = manifest_lib.load(config.data.data_dir)
    model_dir = pathlib.Path(config.run.model_dir)
    model_directory.check_same_run(config, manifest, model_dir)
    done_path = model_dir / "DONE.json"
    if done_path.exists():
        done = json.loads(done_path.read_text())
        print(f"{model_dir} is finished already; nothing to do.")
    else:
        _check_splits(config, manifest)
        cluster = devices.joined(cluster, config.devices.strategy)
        with lost_ones_named(cluster):
            done = _train(config, manifest, cluster, log_dir, callbacks)
        done["seconds"] = time.time() - start
        if is_first(cluster):
            atomic.write_json(done_path, done)
    accuracy = done["evaluation"]["accuracy"]
    if accuracy < config.run.min_accuracy:
        raise TrainingError(
            f"{done['evaluation']['split']} accuracy {accuracy:.4f} is below "
            f"--min_accuracy={config.run.min_accuracy}."
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
    model_dir = pathlib.Path(config.run.model_dir)
    if cluster:
        rendezvous.meet(
            cluster.workers,
            cluster.index,
            model_directory.purpose(config, manifest),
            config.devices.startup_timeout,
        )
    strategy, model = setup.make_model(config, manifest, cluster)
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
        finished.export(config.run.model_dir)
    evaluation = evaluation_lib.evaluate(
        config,
        manifest,
        strategy,
        served(config, model),
        evaluation_lib.choose_split(manifest),
        config.run.model_dir,
        cluster,
    )
    if is_first(cluster):
        print(evaluation_lib.table(evaluation))
    Workers(
        strategy, cluster
    ).barrier()  # the first serves the others until the end
    return {
        "exported": state.best,
        "evaluation": {
            name: evaluation[name] for name in ("split", "accuracy", "loss")
        },
    }


def _check_splits(config: Config, manifest: Manifest) -> None:
    missing = {splits.TRAIN, splits.VALIDATION} - set(manifest.splits)
    if missing:
        raise DataError(
            f"{config.data.data_dir} has no {missing.pop()} split, only "
            f"{', '.join(manifest.splits)}. Training needs train and "
            "validation, which decides what is exported. Make the data set "
            "again with --splits."
        )
    images = manifest.splits[splits.TRAIN].count
    if config.optimisation.batch_size > images:
        raise UsageError(
            f"--batch_size={config.optimisation.batch_size} is impossible: the train split "
            f"has {images} images. Use at most --batch_size={images}."
        )
