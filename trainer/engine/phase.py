"""One phase: its epochs, each trained, validated and saved."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
import psutil
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.runtime import signals
from data_prep.runtime.errors import Stopped
from data_prep.runtime.progress import Progress
from trainer.config import Config
from trainer.config import Phase
from trainer.distribution import devices
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.engine import loop
from trainer.engine import optimizers
from trainer.engine.callbacks import Callbacks
from trainer.engine.checkpointer import Checkpointer
from trainer.engine.checkpointer import State
from trainer.engine.stage import Stage
from trainer.engine.stage import make_optimizer


class PhaseRun:
    """A phase under way; its layers are unfrozen and its optimizer is made.

    Args:
        config: Of the run.
        phase: One of its phases.
        strategy: That the model was made under.
        model: With the phase's layers unfrozen.
        on: What the phase works on.
        options: How a batch becomes a step.
        callbacks: Of Keras.
        saved: What this goes on from and saves to.
        say: Takes a line for people.
    """

    def __init__(
        self,
        config: Config,
        phase: Phase,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        on: Stage,
        options: loop.StepOptions,
        callbacks: Callbacks,
        saved: Checkpointer,
        say: Callable[[str], None],
    ):
        self._config = config
        self._phase = phase
        self._strategy = strategy
        self._feed = on.feed
        self._callbacks = callbacks
        self._saved = saved
        self._say = say
        self._steps_per_loop = devices.steps_per_loop(
            config.devices.steps_per_loop
        )
        with strategy.scope():
            self._optimizer = make_optimizer(config, phase, model)
            self._averages = None
            if config.optimisation.average_decay:
                self._averages = optimizers.Averages(
                    model.trainable_variables, config.optimisation.average_decay
                )
        self._evaluate = loop.make_evaluate(strategy, on.served)
        self._step = loop.make_train(
            strategy,
            on.network,
            self._optimizer,
            on.augment,
            options,
            self._averages,
        )
        self._optimizer.learning_rate.assign(self.peak)
        callbacks.begin_phase(self._optimizer)
        if saved.resumed:
            self._restore(model)

    @property
    def peak(self) -> float:
        """The highest learning rate, halved by every retry."""
        return self._phase.learning_rate * 0.5**self._state.retries

    def run_epoch(self) -> dict:
        """Trains, validates and saves; returns the row of `metrics.jsonl`.

        Raises:
            Stopped: If a signal asked to stop; the state is saved.
            NotFinite: If a loss or a variable is no number any more.
        """
        state, phase, callbacks = self._state, self._phase, self._callbacks
        epoch = len(state.epochs)
        what = f"{phase.name} {state.phase_epoch + 1}/{phase.epochs}"
        rate = float(self._rates(0, 1)[0])
        callbacks.begin_epoch(epoch)
        trained = self._train(what)
        with self._averaged():
            validated = self._validate(what)
            if validated:
                memory_mb = psutil.Process().memory_info().rss / 2**20
                row = history.row(
                    phase.name, epoch + 1, trained, validated, rate, memory_mb
                )
                self._saved.keep_if_best(row)
                stops = callbacks.end_epoch(epoch, row)
        if not validated:
            self._save_and_stop()
        self._say(history.line(what, row))
        state.epochs.append(row)
        state.phase_epoch += 1
        state.step, state.totals = 0, {}
        in_phase = state.epochs[-state.phase_epoch :]
        patience = self._config.optimisation.early_stopping
        if patience and history.epochs_without_gain(in_phase) >= patience:
            stops = True
        if stops and state.phase_epoch < phase.epochs:
            self._say(f"{phase.name} ends after {state.phase_epoch} epochs")
        if stops or state.phase_epoch == phase.epochs:
            state.phase, state.phase_epoch = state.phase + 1, 0
            if self._averages:
                self._averages.swap()  # what was validated is what goes on
        self._saved.save(self._variables())
        return row

    @property
    def _state(self) -> State:
        return self._saved.state

    def _restore(self, model: keras.Model) -> None:
        """Sets everything to what the newest checkpoint holds."""
        path, arrays, state = self._saved.resumed
        checkpoint.assign_model(model, arrays, path)
        if state["phase_epoch"] or state["step"]:
            checkpoint.assign(self._variables(), arrays, path)
        elif self._averages:
            self._averages.restart()
        self._callbacks.restore(state["callbacks"])
        self._saved.resumed = None

    def _train(self, what: str) -> loop.Totals:
        """Trains what is left of an epoch, saving when it is time to."""
        state, config, feed = self._state, self._config, self._feed
        steps, images = feed.steps[splits.TRAIN], feed.counts[splits.TRAIN]
        epoch = len(state.epochs)
        totals = loop.Totals(**state.totals)
        dataset = feed.training(epoch, state.step)
        batches = iter(devices.distribute(self._strategy, dataset))
        with Progress(what, images) as progress:
            progress.update(
                min(images, state.step * config.optimisation.batch_size)
            )
            for count in loop.calls(steps - state.step, self._steps_per_loop):
                number = state.phase_epoch * steps + state.step
                rows, seconds = loop.timed(
                    self._step,
                    batches,
                    tf.constant(epoch, tf.int64),
                    tf.constant(number, tf.int64),
                    tf.constant(self._rates(state.step, count)),
                    _asked(),
                )
                self._check_losses(rows)
                totals.add(rows, seconds)
                state.totals = dataclasses.asdict(totals)
                state.step += count
                progress.update(int(rows[:, loop.IMAGES].sum()))
                if self._callbacks:
                    logs = {"loss": totals.loss, "accuracy": totals.accuracy}
                    self._callbacks.end_step(state.step - 1, logs)
                if rows[:, loop.ASKED].any():
                    self._save_and_stop()
                if state.step < steps and self._saved.is_time(count):
                    self._saved.save(self._variables())
        return totals

    def _validate(self, what: str) -> loop.Totals | None:
        """Measures validation; None where a signal cut it short."""
        feed = self._feed
        images = feed.counts[splits.VALIDATION]
        totals = loop.Totals()
        batches = iter(devices.distribute(self._strategy, feed.validation()))
        with Progress(f"{what} validation", images) as progress:
            for count in loop.calls(
                feed.steps[splits.VALIDATION], self._steps_per_loop
            ):
                rows, seconds = loop.timed(
                    self._evaluate, batches, tf.constant(count), _asked()
                )
                totals.add(rows, seconds)
                progress.update(int(rows[:, loop.IMAGES].sum()))
                if rows[:, loop.ASKED].any():
                    return None
        if not math.isfinite(totals.loss):
            raise checkpoint.NotFinite(
                f"the validation loss is {totals.loss} after epoch "
                f"{len(self._state.epochs) + 1} ({self._phase.name} phase)"
            )
        return totals

    def _rates(self, step: int, count: int) -> np.ndarray:
        """Returns the rates of some steps of the epoch under way, float32."""
        config = self._config
        if self._callbacks and config.optimisation.schedule == "constant":
            # A callback may have changed it.
            rate = self._optimizer.learning_rate.numpy()
            return np.full(count, rate, np.float32)
        steps = self._feed.steps[splits.TRAIN]
        first = self._state.phase_epoch * steps + step
        return optimizers.learning_rates(
            config.optimisation.schedule,
            self.peak,
            first,
            first + count,
            total=self._phase.epochs * steps,
            warmup=round(config.optimisation.warmup_epochs * steps),
        )

    def _check_losses(self, rows: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(rows[:, loop.LOSS]))
        if len(bad):
            raise checkpoint.NotFinite(
                f"the loss is {rows[bad[0], loop.LOSS]} at step "
                f"{self._state.step + bad[0] + 1} of epoch "
                f"{len(self._state.epochs) + 1} ({self._phase.name} phase)"
            )

    def _variables(self) -> dict[str, keras.Variable]:
        """Returns what a phase needs beside the model, by name."""
        result = {v.path: v for v in self._optimizer.variables}
        if self._averages:
            result.update(self._averages.averages)
        return result

    def _save_and_stop(self) -> None:
        self._saved.save(self._variables())
        self._saved.settle()
        raise Stopped(
            f"stopped by {signals.requested() or 'another worker'} after epoch "
            f"{len(self._state.epochs)} and {self._state.step} steps, the "
            "state is saved. Run the same command again."
        )

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Puts the averaged weights in the place of the trained ones."""
        if self._averages:
            self._averages.swap()
        try:
            yield
        finally:
            if self._averages:
                self._averages.swap()


def _asked() -> tf.Tensor:
    return tf.constant(1.0 if signals.requested() else 0.0, tf.float64)
