"""What a phase works with: made, or restored, when it starts."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data_prep.dataset import splits
from trainer.config import Phase
from trainer.engine import checkpoint
from trainer.engine import loop
from trainer.engine import optimizers
from trainer.engine.checkpoint import Checkpoint
from trainer.engine.optimizers import Averages
from trainer.engine.train_step import StepOptions
from trainer.engine.trained_part import TrainedPart
from trainer.engine.training import Training
from trainer.engine.training_state import TrainingState


class PhaseSetup(NamedTuple):
    """What the epochs of a phase work with.

    Attributes:
        phase: The phase's settings.
        part: The network that it trains, and what its batches hold.
        optimizer: The phase's optimizer.
        averages: Averages of what learns; None without `average_decay`.
        train: What `loop.make_train` returned.
        evaluate: What `loop.make_evaluate` returned.
        learned: The model's variables that have learned in this phase or
            before, by name.
        own: The variables of the optimizer and the averages, by name.
    """

    phase: Phase
    part: TrainedPart
    optimizer: keras.optimizers.Optimizer
    averages: Averages | None
    train: Callable[..., tf.Tensor]
    evaluate: Callable[..., tf.Tensor]
    learned: dict[str, keras.Variable]
    own: dict[str, keras.Variable]


def set_up(
    training: Training,
    part: TrainedPart,
    options: StepOptions,
    resumed: Checkpoint | None,
) -> PhaseSetup:
    """Makes what the phase under way works with.

    Args:
        training: What all phases share; the phase's layers are unfrozen.
        part: The network that the phase trains.
        options: How a batch becomes a step.
        resumed: A checkpoint to restore; None where the phase follows the
            one before it.
    """
    model, state = training.model, training.state
    phases = training.config.phases[: state.phase + 1]
    phase, settings = phases[-1], training.config.optimisation
    with training.strategy.scope():
        optimizer = optimizers.for_phase(settings, phase, model)
        averages = None
        if settings.average_decay:
            averages = Averages(
                model.trainable_variables, settings.average_decay
            )
    optimizer.learning_rate.assign(peak_rate(phase, state))
    training.callbacks.begin_phase(optimizer)
    setup = PhaseSetup(
        phase,
        part,
        optimizer,
        averages,
        train=loop.make_train(
            training.strategy,
            part.network,
            optimizer,
            part.augment,
            options,
            averages,
        ),
        evaluate=loop.make_evaluate(training.strategy, part.inference_model),
        learned=checkpoint.learned_variables(model, phases),
        own={v.path: v for v in optimizer.variables}
        | (averages.averages if averages else {}),
    )
    if resumed:
        _restore(training, setup, resumed)
    return setup


def peak_rate(phase: Phase, state: TrainingState) -> float:
    """Returns the highest learning rate, which every retry halves.

    Args:
        phase: The phase's settings.
        state: How far the run has come.
    """
    return phase.learning_rate * 0.5**state.retries


def learning_rates(
    training: Training, setup: PhaseSetup, step: int, count: int
) -> np.ndarray:
    """Returns the learning rates of some steps of the epoch under way.

    Args:
        training: What all phases share.
        setup: What `set_up` returned.
        step: Index of the first step within the epoch.
        count: Number of steps.

    Returns:
        float32 `[count]`.
    """
    settings, phase = training.config.optimisation, setup.phase
    if training.callbacks and settings.schedule == "constant":
        # A callback may have changed it.
        rate = setup.optimizer.learning_rate.numpy()
        return np.full(count, rate, np.float32)
    steps = training.loader.steps[splits.TRAIN]
    first = training.state.phase_epoch * steps + step
    return optimizers.learning_rates(
        settings.schedule,
        peak_rate(phase, training.state),
        first,
        first + count,
        total=phase.epochs * steps,
        warmup=round(settings.warmup_epochs * steps),
    )


def _restore(
    training: Training, setup: PhaseSetup, resumed: Checkpoint
) -> None:
    """Sets all variables and the callbacks to what a checkpoint holds."""
    arrays, path, workers = resumed.arrays, resumed.path, training.workers
    checkpoint.assign_model(training.model, arrays, path, workers)
    if not training.state.starts_phase:
        checkpoint.assign(setup.own, arrays, path, workers)
    elif setup.averages:
        setup.averages.restart()
    training.callbacks.restore(training.state.callbacks)
