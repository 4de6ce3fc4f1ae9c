"""One phase: its epochs, each trained, validated and saved."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import psutil
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.runtime import signals
from data_prep.runtime.errors import Stopped
from data_prep.runtime.progress import Progress
from trainer.config import Phase
from trainer.distribution import devices
from trainer.engine import checkpoint
from trainer.engine import event_file
from trainer.engine import history
from trainer.engine import loop
from trainer.engine.optimizers import Averages
from trainer.engine.phase_setup import PhaseSetup
from trainer.engine.phase_setup import learning_rates
from trainer.engine.results import StepResult
from trainer.engine.results import Totals
from trainer.engine.training import Training
from trainer.engine.training import finish_saving
from trainer.engine.training import save
from trainer.engine.training_state import TrainingState


class _StopRequested(Exception):
    """A worker was asked to stop; the state is still to be saved."""


def train_phase(training: Training, setup: PhaseSetup) -> None:
    """Trains the epochs of a phase that are left.

    Args:
        training: What all phases share.
        setup: What `set_up` returned.

    Raises:
        Stopped: If a signal asked to stop; the state is saved.
        NotFinite: If a loss or a variable is not a finite number.
    """
    state, index = training.state, training.state.phase
    model_dir = training.checkpointer.directory.parent
    try:
        while state.phase == index:
            row = _run_epoch(training, setup)
            if training.workers.is_first:
                history.write_metrics(model_dir, state.epochs)
                event_file.add_epoch(training.log_dir, row)
    except _StopRequested:
        save(training, setup.learned | setup.own)
        finish_saving(training)
        raise Stopped(
            f"stopped by {signals.requested() or 'another worker'} after epoch "
            f"{len(state.epochs)} and {state.step} steps, the "
            "state is saved. Run the same command again."
        ) from None


def _run_epoch(training: Training, setup: PhaseSetup) -> dict:
    """Trains, validates and saves; returns the row of `metrics.jsonl`."""
    state, phase = training.state, setup.phase
    epoch = len(state.epochs)
    # Counted over all phases, as metrics.jsonl and TensorBoard count them.
    epochs = sum(one.epochs for one in training.config.phases)
    title = f"{phase.name} {epoch + 1}/{epochs}"
    rate = float(learning_rates(training, setup, 0, 1)[0])
    training.callbacks.begin_epoch(epoch)
    trained = train_epoch(training, setup, title)
    with _averaged_weights(setup.averages):
        validated = validate(training, setup, title)
        memory_mb = psutil.Process().memory_info().rss / 2**20
        row = history.row(
            phase.name, epoch + 1, trained, validated, rate, memory_mb
        )
        if state.keep_if_best(row):
            training.checkpointer.save_best(row, setup.learned)
        stops = training.callbacks.end_epoch(epoch, row)
    training.workers.print_once(history.epoch_summary(title, row))
    state.end_epoch(row)
    patience = training.config.optimisation.early_stopping
    if patience and history.epochs_without_gain(state.phase_rows) >= patience:
        stops = True
    if stops and state.phase_epoch < phase.epochs:
        training.workers.print_once(
            f"{phase.name} ends after {state.phase_epoch} epochs"
        )
    if stops or state.phase_epoch == phase.epochs:
        state.end_phase()
        if setup.averages:
            setup.averages.swap()  # the next phase starts from the averages
    # The next phase has an optimizer of its own.
    save(training, setup.learned | ({} if state.starts_phase else setup.own))
    return row


def train_epoch(training: Training, setup: PhaseSetup, title: str) -> Totals:
    """Trains what is left of an epoch, saving when it is due.

    Args:
        training: What all phases share.
        setup: What `set_up` returned.
        title: Name of the epoch, for the progress shown.

    Raises:
        NotFinite: If a loss or a variable is not a finite number.
    """
    state, loader = training.state, training.loader
    steps, images = loader.steps[splits.TRAIN], loader.counts[splits.TRAIN]
    epoch = len(state.epochs)
    totals = Totals(**state.totals)
    dataset = loader.training(setup.part.train_source(epoch), epoch, state.step)
    batches = iter(devices.distribute(training.strategy, dataset))
    compiled = setup.train.experimental_get_tracing_count()
    first = "" if compiled else "compiling"
    with Progress(title, images, first) as progress:
        if state.step:
            progress.update(min(images, state.step * loader.batch_size))
        for count in _call_sizes(training, steps - state.step):
            result, seconds = loop.timed(
                setup.train,
                batches,
                tf.constant(epoch, tf.int64),
                tf.constant(state.phase_epoch * steps + state.step, tf.int64),
                tf.constant(learning_rates(training, setup, state.step, count)),
                _stop_flag(),
            )
            _check_losses(result, state, setup.phase)
            totals.add(result, seconds)
            state.end_steps(count, totals)
            progress.update(int(result.images.sum()))
            if training.callbacks:
                logs = {"loss": totals.loss, "accuracy": totals.accuracy}
                training.callbacks.end_step(state.step - 1, logs)
            if result.stop_requested.any():
                raise _StopRequested
            due = training.checkpointer.is_due(state.step, count)
            if due and state.step < steps:
                save(training, setup.learned | setup.own)
    return totals


def validate(training: Training, setup: PhaseSetup, title: str) -> Totals:
    """Measures the validation split.

    Args:
        training: What all phases share.
        setup: What `set_up` returned.
        title: Name of the epoch, for the progress shown.

    Raises:
        NotFinite: If the loss is not a finite number.
    """
    loader = training.loader
    totals = Totals()
    dataset = loader.validation(setup.part.validation_source)
    batches = iter(devices.distribute(training.strategy, dataset))
    images = loader.counts[splits.VALIDATION]
    with Progress(f"{title} validation", images) as progress:
        for count in _call_sizes(training, loader.steps[splits.VALIDATION]):
            result, seconds = loop.timed(
                setup.evaluate, batches, tf.constant(count), _stop_flag()
            )
            totals.add(result, seconds)
            progress.update(int(result.images.sum()))
            if result.stop_requested.any():
                raise _StopRequested
    if not math.isfinite(totals.loss):
        raise checkpoint.NotFinite(
            f"the validation loss is {totals.loss} after epoch "
            f"{len(training.state.epochs) + 1} ({setup.phase.name} phase)"
        )
    return totals


def _call_sizes(training: Training, steps: int) -> Iterator[int]:
    per_call = devices.steps_per_loop(training.config.devices.steps_per_loop)
    return loop.call_sizes(steps, per_call)


def _check_losses(
    result: StepResult, state: TrainingState, phase: Phase
) -> None:
    bad = np.flatnonzero(~np.isfinite(result.loss_sum))
    if len(bad):
        raise checkpoint.NotFinite(
            f"the loss is {result.loss_sum[bad[0]]} at step "
            f"{state.step + bad[0] + 1} of epoch "
            f"{len(state.epochs) + 1} ({phase.name} phase)"
        )


@contextlib.contextmanager
def _averaged_weights(averages: Averages | None) -> Iterator[None]:
    """Replaces the trained weights by their averages for a while."""
    if averages:
        averages.swap()
    try:
        yield
    finally:
        if averages:
            averages.swap()


def _stop_flag() -> tf.Tensor:
    return tf.constant(1.0 if signals.requested() else 0.0, tf.float64)
