"""The story of a run: data and devices -> phases -> export -> evaluation."""

import contextlib
import pathlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime import directory_lock
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution import rendezvous
from trainer.distribution.cluster import Cluster
from trainer.distribution.cluster import is_first
from trainer.distribution.worker_group import WorkerGroup
from trainer.distribution.worker_group import stop_when_worker_lost
from trainer.engine import event_file
from trainer.engine import model_directory
from trainer.engine import setup
from trainer.engine import start_rule
from trainer.engine import trackers
from trainer.engine import training as training_lib
from trainer.engine.phases import train_phases
from trainer.engine.training_state import TrainingState
from trainer.feature_extraction import extractor as extractor_lib
from trainer.inference import evaluation as evaluation_lib
from trainer.inference import finished
from trainer.inference import split_prediction
from trainer.pipeline.input_pipeline import naming_failures
from trainer.reporting import card
from trainer.reporting import page


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
        config: All settings of the run.
        cluster: The processes that train together; None for one.
        log_dir: Folder for TensorBoard; "" is in the model directory.
        callbacks: Keras callbacks; to them all phases are one training.

    Returns:
        The content of `DONE.json`.

    Raises:
        UsageError: If the flags fit neither the devices nor the directory.
        DataError: If the data set, weights or checkpoints are unusable.
        TrainingError: If the loss is not a number, or `min_accuracy` is
            missed.
        Stopped: If a signal asked to stop, another worker is gone, or another
            run is in the directory.
    """
    begun_at = time.monotonic()  # clocks are set while a run is under way
    model_dir = pathlib.Path(config.run.model_dir)
    config, manifest = start_rule.check(config)
    done = start_rule.finished(config)
    if done is not None:
        return done
    cluster = devices.cluster_of(config.devices.strategy, cluster)
    with contextlib.ExitStack() as stack:
        if is_first(cluster):  # the only one that writes
            stack.enter_context(directory_lock.held(model_dir))
        stack.enter_context(stop_when_worker_lost(cluster))
        stack.enter_context(naming_failures())
        done = train_and_evaluate(config, manifest, cluster, log_dir, callbacks)
        done["seconds"] = time.monotonic() - begun_at
        if is_first(cluster):
            atomic.write_json(model_dir / start_rule.DONE, done)
    start_rule.check_accuracy(done, config.run.min_accuracy)
    return done


class Trained(NamedTuple):
    """A run whose phases are over.

    Attributes:
        strategy: The strategy that the model was made under.
        model: The classifier, at its last epoch.
        workers: The workers that trained together.
        state: The final state, which names the best epoch.
        log_dir: Folder of TensorBoard's event files.
    """

    strategy: tf.distribute.Strategy
    model: keras.Model
    workers: WorkerGroup
    state: TrainingState
    log_dir: pathlib.Path


def train(
    config: Config,
    manifest: Manifest,
    cluster: Cluster | None = None,
    log_dir: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Trained:
    """Trains what is left of a run.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
        cluster: The processes that train together; None for one.
        log_dir: Folder for TensorBoard; "" is in the model directory.
        callbacks: Keras callbacks.

    Returns:
        The run; its best epoch is among its checkpoints.
    """
    model_dir = pathlib.Path(config.run.model_dir)
    if cluster:
        purpose = start_rule.purpose(config, manifest)
        timeout = config.devices.startup_timeout
        rendezvous.meet(cluster.workers, cluster.index, purpose, timeout)
    strategy, model = setup.make_model(config, manifest, cluster)
    workers = WorkerGroup(strategy, cluster)
    if workers.is_first:
        model_directory.claim(config, manifest, model_dir, strategy)

    loader = setup.make_loader(config, manifest, workers)
    extractor = None
    if config.features.feature_cache or config.features.head_init != "zeros":
        extractor = extractor_lib.create(
            config, manifest, strategy, model, workers
        )

    training, resumed = training_lib.start(
        config, strategy, model, loader, workers, callbacks, log_dir
    )
    if not resumed:
        fitted_head, chosen = None, {}
        if config.features.head_init != "zeros":
            fitted_head, chosen = setup.fit_head(
                config, model, loader, extractor
            )
        training_lib.save_start(training, fitted_head, chosen)
    training = training_lib.with_chosen(training)
    state = train_phases(training, extractor, resumed)
    return Trained(strategy, model, workers, state, training.log_dir)


def train_and_evaluate(
    config: Config,
    manifest: Manifest,
    cluster: Cluster | None,
    log_dir: str,
    callbacks: Sequence[keras.callbacks.Callback],
) -> dict:
    """Trains what is left, exports the best epoch and measures it.

    For the arguments see `train`.

    Returns:
        What goes into `DONE.json`, without the time that it took.
    """
    tracker = trackers.create(config) if is_first(cluster) else None
    if tracker:
        callbacks = [*callbacks, tracker]
    strategy, model, workers, state, events = train(
        config, manifest, cluster, log_dir, callbacks
    )
    model_dir = pathlib.Path(config.run.model_dir)
    model_directory.restore_best(model, model_dir, workers)
    predictor = split_prediction.create(
        config, manifest, strategy, model, workers
    )
    split = evaluation_lib.choose_split(manifest)
    others = [row for row in state.bests.values() if row is not state.best]
    evaluation = finished.measure(
        predictor, config, manifest, split, None, others, exports=True
    )
    workers.print_once(evaluation_lib.table(evaluation))
    if workers.is_first:
        report = page.write(config.run.model_dir, config, manifest, state.best)
        card.write(config.run.model_dir, config, manifest)
        exported = state.best["epoch"]
        figures = {f"{split}_{n}": evaluation[n] for n in ("accuracy", "loss")}
        event_file.add_end(events, config, exported, figures, report.pictures)
        if tracker:
            tracker.log(figures, exported)
            tracker.finish(report.path)
        print(f"report: {report.path}")
    workers.barrier()  # the first hosts TensorFlow's service for the others
    reported = ("split", "accuracy", "loss")
    return {
        "exported": state.best,
        "evaluation": {name: evaluation[name] for name in reported},
    }
