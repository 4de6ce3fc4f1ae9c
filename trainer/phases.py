"""Frozen, then fine-tune: one resumable sequence of phases."""

import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from data_prep import splits
from data_prep.errors import DataError
from data_prep.manifest import Manifest
from trainer import checkpoint
from trainer import head_init
from trainer import history
from trainer import stage as stages
from trainer import stop
from trainer.callbacks import Callbacks
from trainer.checkpointer import Checkpointer
from trainer.checkpointer import State
from trainer.cluster_env import Cluster
from trainer.config import Config
from trainer.config import Phase
from trainer.extractor import Extractor
from trainer.feed import Feed
from trainer.model import set_trainable
from trainer.phase import PhaseRun
from trainer.reader import Reader
from trainer.stage import Stage
from trainer.workers import Workers


def run_phases(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    *,
    cluster: Cluster | None = None,
    log_dir: str = "",
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> State:
    """Trains the model through all phases, from where the last run stopped.

    Afterwards the checkpoint `best_path` holds the model at the epoch with
    the highest validation accuracy, the lower loss deciding a tie.

    Args:
        config: Of the run.
        manifest: Of its data set.
        strategy: That the model was made under.
        model: With the base's weights in place.
        cluster: Of the processes that train together; None for one.
        log_dir: For TensorBoard; "" is in the model directory.
        callbacks: Of Keras; they hear of all phases as of one training.

    Raises:
        Stopped: If a signal asked to stop; the state is saved.
        TrainingError: If the loss is no number any more.
        DataError: If no checkpoint can be read.
    """
    workers = Workers(strategy, cluster)
    say = _print if workers.is_first else _be_silent
    readers = {
        split: Reader(config.data_dir, manifest, split)
        for split in (splits.TRAIN, splits.VALIDATION)
    }
    feed = Feed(
        config,
        readers,
        replicas=workers.replicas,
        worker=workers.index,
        workers=workers.count,
    )
    extractor = None
    if config.feature_cache or config.head_init != "zeros":
        extractor = Extractor(config, manifest, strategy, model, workers)
    heard = Callbacks(
        callbacks,
        model,
        epochs=sum(phase.epochs for phase in config.phases),
        steps=feed.steps[splits.TRAIN],
    )
    heard.begin()
    saved = Checkpointer(
        config,
        model,
        workers,
        steps=feed.steps[splits.TRAIN],
        callbacks=heard,
    )
    _begin(config, model, feed, extractor, workers, saved, say)
    _check_same_everywhere(workers, saved)
    model_dir = pathlib.Path(config.model_dir)
    events = pathlib.Path(log_dir or model_dir / "tensorboard")
    if workers.is_first:
        history.write_metrics(model_dir, saved.state.epochs)

    classes = len(manifest.classes)
    options = stages.step_options(config, readers[splits.TRAIN].labels, classes)
    pictures = stages.of_pictures(config, classes, model, feed)
    stop.begin_training()
    while saved.state.phase < len(config.phases):
        number = saved.state.phase
        phase = config.phases[number]
        _unfreeze(config.phases[: number + 1], model, saved)
        on = _stage(config, phase, model, pictures, extractor)
        phase_run = PhaseRun(
            config, phase, strategy, model, on, options, heard, saved, say
        )
        try:
            while saved.state.phase == number:
                row = phase_run.run_epoch()
                if workers.is_first:
                    history.write_metrics(model_dir, saved.state.epochs)
                    history.write_tensorboard(events, row)
        except checkpoint.NotFinite as error:
            say(saved.go_back(error, phase_run.peak))
    heard.end()
    saved.settle()
    stop.end_training()
    say(history.why(saved.state.epochs, saved.state.best))
    return saved.state


def _begin(
    config: Config,
    model: keras.Model,
    feed: Feed,
    extractor: Extractor | None,
    workers: Workers,
    saved: Checkpointer,
    say: Callable[[str], None],
) -> None:
    """Says where the run goes on, or fits a head and saves the start."""
    if saved.resumed:
        say(
            f"resuming after epoch {len(saved.state.epochs)} and "
            f"{saved.state.step} steps"
        )
        return
    if config.head_init != "zeros":
        best = head_init.initialise(config, model, feed, extractor, workers)
        saved.state.best = best
        say(history.head_line(config.head_init, best))
    saved.begin()


def _unfreeze(
    phases: Sequence[Phase], model: keras.Model, saved: Checkpointer
) -> None:
    """Unfreezes what the last phase trains; what all did is to be saved."""
    for phase in phases:
        set_trainable(model, phase.train_from)
        saved.keep_trainable()


def _stage(
    config: Config,
    phase: Phase,
    model: keras.Model,
    pictures: Stage,
    extractor: Extractor | None,
) -> Stage:
    if config.feature_cache and phase.train_from is None:
        return stages.of_features(config, model, pictures.feed, extractor)
    return pictures


def _check_same_everywhere(workers: Workers, saved: Checkpointer) -> None:
    """Refuses workers that found different checkpoints."""
    mine = saved.steps_done
    total = round(float(workers.sum(mine)))
    if total != mine * workers.count:
        raise DataError(
            f"the workers found different checkpoints in {saved.directory}: "
            f"this one stands at step {mine}, the mean is "
            f"{total / workers.count:g}. --model_dir has to be a folder that "
            "all workers share."
        )


def _print(message: str) -> None:
    print(message, flush=True)


def _be_silent(message: str) -> None:
    """What all workers but the first say."""
