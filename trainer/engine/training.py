"""What all phases of a run share, and how a run is found and saved."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.engine.callbacks import Callbacks
from trainer.engine.checkpoint import Checkpoint
from trainer.engine.checkpointer import Checkpointer
from trainer.engine.training_state import TrainingState
from trainer.pipeline.data_loader import DataLoader


class Training(NamedTuple):
    """What all phases of a run share.

    Attributes:
        config: The run's settings.
        strategy: The strategy that the model was made under.
        model: The classifier.
        loader: The batches of both splits.
        workers: The workers that train together.
        callbacks: The user's Keras callbacks.
        checkpointer: Saves the run.
        state: How far the run has come.
        log_dir: Folder for TensorBoard.
    """

    config: Config
    strategy: tf.distribute.Strategy
    model: keras.Model
    loader: DataLoader
    workers: WorkerGroup
    callbacks: Callbacks
    checkpointer: Checkpointer
    state: TrainingState
    log_dir: pathlib.Path


def start(
    config: Config,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    loader: DataLoader,
    workers: WorkerGroup,
    callbacks: Sequence[keras.callbacks.Callback],
    log_dir: str,
) -> tuple[Training, Checkpoint | None]:
    """Finds out where a run goes on, without changing the model.

    Args:
        config: The run's settings.
        strategy: The strategy that the model was made under.
        model: The classifier, with the base's weights in place.
        loader: The batches of both splits.
        workers: The workers that train together.
        callbacks: Keras callbacks; to them all phases are one training.
        log_dir: Folder for TensorBoard; "" is in the model directory.

    Returns:
        What all phases share, and the checkpoint that the run goes on from;
        None for a new run.

    Raises:
        DataError: If no checkpoint can be read, or none is left to export.
    """
    model_dir = pathlib.Path(config.run.model_dir)
    steps = loader.steps[splits.TRAIN]
    callback_list = Callbacks(
        callbacks,
        model,
        epochs=sum(phase.epochs for phase in config.phases),
        steps=steps,
    )
    callback_list.begin()
    checkpointer = Checkpointer(
        model_dir / "checkpoints", config.checkpoints, writes=workers.is_first
    )
    state = TrainingState()
    found = checkpoint.newest_of_first(checkpointer.directory, workers)
    if workers.is_first and not found:
        _refuse_lost_checkpoints(model_dir)
    if found:
        state.restore(found.state)
        _forget_lost_bests(state, checkpointer.directory, workers)
        if state.phase == len(config.phases) and not state.best:
            raise DataError(
                f"{checkpointer.directory} holds no weights that can be "
                "exported: pass another --model_dir to train again."
            )
        workers.print_once(
            f"resuming after epoch {len(state.epochs)} and {state.step} steps"
        )
    training = Training(
        config,
        strategy,
        model,
        loader,
        workers,
        callback_list,
        checkpointer,
        state,
        pathlib.Path(log_dir or model_dir / "tensorboard"),
    )
    return training, found


def with_chosen(training: Training) -> Training:
    """Returns the training with the settings that the run has chosen itself.

    Args:
        training: What all phases share; its state names them.
    """
    chosen = training.state.chosen
    return training._replace(config=training.config.replace(**chosen))


def save_start(
    training: Training, fitted_head: dict | None, chosen: Mapping[str, Any]
) -> None:
    """Saves what a new run starts from.

    Args:
        training: What all phases share.
        fitted_head: The row of a head that was fitted before any epoch, which
            is the best so far; None without one.
        chosen: The settings that the run has chosen itself, by name.
    """
    training.state.chosen = dict(chosen)
    state, checkpointer = training.state, training.checkpointer
    checkpointer.save_start(checkpoint.model_variables(training.model))
    if fitted_head:
        state.keep_if_best(fitted_head)
        checkpointer.save_best(fitted_head, {})  # it is in what was saved
    save(training, {})


def save(training: Training, variables: Mapping[str, keras.Variable]) -> None:
    """Saves how far the run has come.

    Args:
        training: What all phases share.
        variables: All variables that the run needs to go on, by name.

    Raises:
        NotFinite: If one holds a number that is not finite.
    """
    state = dataclasses.replace(
        training.state, callbacks=training.callbacks.state()
    )
    steps = training.loader.steps[splits.TRAIN]
    training.checkpointer.save(state, state.steps_done(steps), variables)


def finish_saving(training: Training) -> None:
    """Returns, in every worker, when everything is on disk.

    Raises:
        TrainingError: If something could not be written.
    """
    training.checkpointer.wait()
    training.workers.barrier()


def _forget_lost_bests(
    state: TrainingState, directory: pathlib.Path, workers: WorkerGroup
) -> None:
    """Forgets, in every worker, best epochs that the first cannot read; says so.

    Args:
        state: How far the run has come.
        directory: Where the first worker has them.
        workers: The workers that train together.
    """
    lost = []
    if workers.is_first:
        for phase, row in state.bests.items():
            try:
                checkpoint.load(checkpoint.best_path(directory, row))
            except DataError as error:
                lost.append(phase)
                print(
                    f"warning: {error} That was epoch {row['epoch']}, the best "
                    f"of the {phase} phase: the best of the others is exported.",
                    file=sys.stderr,
                )
    state.forget_bests(json.loads(workers.text_from_first(json.dumps(lost))))


def _refuse_lost_checkpoints(model_dir: pathlib.Path) -> None:
    """Refuses to begin anew where epochs were finished before."""
    metrics = model_dir / history.METRICS
    if metrics.exists() and metrics.read_text().strip():
        raise DataError(
            f"{model_dir} has finished epochs ({metrics.name}) and no "
            "checkpoint to go on from: checkpoints/step-*.npz are gone. Put "
            "them back, or pass another --model_dir to start again."
        )
