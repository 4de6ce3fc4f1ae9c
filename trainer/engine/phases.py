"""The phases of a run, one after the other.

A loss of NaN, or memory that runs out, sends a phase back to its newest
checkpoint, and it goes on from there with other options.
"""

import dataclasses
import pathlib

import tensorflow as tf

from data_prep.dataset import splits
from data_prep.runtime import signals
from data_prep.runtime.errors import TrainingError
from trainer.config import Phase
from trainer.engine import accumulation
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.engine import train_step
from trainer.engine import trained_part
from trainer.engine.checkpoint import Checkpoint
from trainer.engine.phase import train_phase
from trainer.engine.phase_setup import peak_rate
from trainer.engine.phase_setup import set_up
from trainer.engine.train_step import StepOptions
from trainer.engine.trained_part import TrainedPart
from trainer.engine.training import Training
from trainer.engine.training import finish_saving
from trainer.engine.training_state import TrainingState
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.views import for_training
from trainer.models.classifier import set_trainable


def train_phases(
    training: Training,
    extractor: Extractor | None,
    resumed: Checkpoint | None,
) -> TrainingState:
    """Trains the model through all phases that are left.

    Afterwards the checkpoint `best_path` holds the model at the epoch with
    the highest validation accuracy over all phases, the lower loss breaking a
    tie.

    Args:
        training: What all phases share.
        extractor: Extracts features; needed with `feature_cache`.
        resumed: The checkpoint that the run goes on from; None for a new run.

    Returns:
        The final state.

    Raises:
        Stopped: If a signal asked to stop; the state is saved.
        TrainingError: If the loss is not a number any more.
        DataError: If no checkpoint can be read.
    """
    config, state, loader = training.config, training.state, training.loader
    if training.workers.is_first:
        history.write_metrics(pathlib.Path(config.run.model_dir), state.epochs)
    num_classes = training.model.output.shape[1]
    options = train_step.make_options(
        config.optimisation,
        loader.readers[splits.TRAIN].labels,
        num_classes,
        seed=config.run.seed,
        jit_compile=config.devices.jit_compile,
    )
    options = dataclasses.replace(
        options,
        accumulation=accumulation.of_run(
            options.accumulation,
            pathlib.Path(config.run.model_dir),
            training.workers,
        ),
    )
    whole_model = trained_part.whole_model(
        training.model,
        loader,
        trained_part.make_augment(
            config.augmentation, config.run.seed, num_classes
        ),
        config.model.flip_average,
    )
    signals.defer()
    while state.phase < len(config.phases):
        phase = config.phases[state.phase]
        set_trainable(training.model, phase.train_from)
        on_features = config.features.feature_cache and phase.train_from is None
        part = _head(training, extractor) if on_features else whole_model
        try:
            train_phase(training, set_up(training, part, options, resumed))
            resumed = None
        except checkpoint.NotFinite as error:
            resumed = _go_back(training, phase, error)
        except tf.errors.ResourceExhaustedError as error:
            options = _smaller(training, options, error)
            resumed = _newest(training)
            state.restore(resumed.state)
    training.callbacks.end()
    training.checkpointer.keep_last(state)
    finish_saving(training)
    signals.stop_deferring()
    training.workers.print_once(
        history.export_summary(state.epochs, state.best)
    )
    return state


def _head(training: Training, extractor: Extractor) -> TrainedPart:
    """Returns the head on features, as the frozen phase trains it."""
    config = training.config
    views = for_training(
        config.augmentation,
        config.features,
        config.run.seed,
        config.optimisation.frozen_epochs,
    )
    return trained_part.head_on_features(
        training.model,
        training.loader,
        extractor,
        views,
        config.model.flip_average,
    )


def _go_back(
    training: Training, phase: Phase, error: checkpoint.NotFinite
) -> Checkpoint:
    """Goes back to the newest checkpoint, to halve the learning rate.

    Args:
        training: What all phases share.
        phase: The phase under way.
        error: Says what is not finite.

    Returns:
        The checkpoint that the phase goes on from.

    Raises:
        TrainingError: If no more retries are allowed.
    """
    found = _newest(training)
    state, directory = training.state, training.checkpointer.directory
    allowed = training.config.checkpoints.nan_retries
    if state.retries == allowed:
        raise TrainingError(
            f"{error}. Expected finite numbers: lower this phase's "
            f"learning rate, {peak_rate(phase, state):g} now, or pass "
            "--nan_retries. The last good state is kept in "
            f"{directory}; pass another --model_dir to start again."
        )
    state.retry(found.state)
    training.workers.print_once(
        f"warning: {error}. Going back to {found.path.name} with half the "
        f"learning rate (retry {state.retries} of {allowed})."
    )
    return found


def _smaller(
    training: Training, options: StepOptions, error: Exception
) -> StepOptions:
    """Returns options with which a step takes less memory, or raises."""
    replicas = training.strategy.num_replicas_in_sync
    more = accumulation.raised(
        options.accumulation,
        training.loader.batch_size // replicas,
        training.model,
        pathlib.Path(training.config.run.model_dir),
        replicas,
        error,
    )
    return dataclasses.replace(options, accumulation=more)


def _newest(training: Training) -> Checkpoint:
    """Returns the newest checkpoint, once all is on disk."""
    finish_saving(training)
    return checkpoint.newest_of_first(
        training.checkpointer.directory, training.workers
    )
