"""Frozen, then fine-tune: one resumable sequence of phases."""

import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import signals
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.config import Phase
from trainer.distribution.cluster import Cluster
from trainer.distribution.workers import Workers
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.engine import stage as stages
from trainer.engine.callbacks import Callbacks
from trainer.engine.checkpointer import Checkpointer
from trainer.engine.checkpointer import State
from trainer.engine.phase import PhaseRun
from trainer.engine.stage import Stage
from trainer.feature_extraction import extractor as extractor_lib
from trainer.feature_extraction import head_init
from trainer.feature_extraction import views
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.head_init import ViewedSplit
from trainer.models.classifier import set_trainable
from trainer.pipeline.data_loader import Feed
from trainer.pipeline.reader import Reader


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
        split: Reader(config.data.data_dir, manifest, split)
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
    if config.features.feature_cache or config.features.head_init != "zeros":
        extractor = extractor_lib.create(
            config, manifest, strategy, model, workers
        )
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
    _begin(config, model, feed, extractor, saved, say)
    _check_same_everywhere(workers, saved)
    model_dir = pathlib.Path(config.run.model_dir)
    events = pathlib.Path(log_dir or model_dir / "tensorboard")
    if workers.is_first:
        history.write_metrics(model_dir, saved.state.epochs)

    classes = len(manifest.classes)
    options = stages.step_options(config, readers[splits.TRAIN].labels, classes)
    pictures = stages.of_pictures(config, classes, model, feed)
    signals.begin_training()
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
    signals.end_training()
    say(history.why(saved.state.epochs, saved.state.best))
    return saved.state


def _begin(
    config: Config,
    model: keras.Model,
    feed: Feed,
    extractor: Extractor | None,
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
    if config.features.head_init != "zeros":
        best = _fit_head(config, model, feed, extractor)
        saved.state.best = best
        say(history.head_line(config.features.head_init, best))
    saved.begin()


def _fit_head(
    config: Config, model: keras.Model, feed: Feed, extractor: Extractor
) -> dict:
    """Sets the head to a linear classifier; see `head_init.initialise`."""
    fitted_on = views.for_head_fit(
        config.augmentation, config.features, config.run.seed
    )
    chosen_on = views.for_inference(config.model.flip_average)
    train, validation = (
        ViewedSplit(feed.readers[split], feed.images[split], seen)
        for split, seen in (
            (splits.TRAIN, fitted_on),
            (splits.VALIDATION, chosen_on),
        )
    )
    return head_init.initialise(
        model,
        train,
        validation,
        extractor,
        pathlib.Path(config.run.model_dir),
        classifier=config.features.head_init,
        class_weights=config.optimisation.class_weights,
        seed=config.run.seed,
    )


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
    if config.features.feature_cache and phase.train_from is None:
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
