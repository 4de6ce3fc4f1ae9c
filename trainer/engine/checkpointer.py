"""How far a run has come, when that is saved, and what it goes back to."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping

import keras

from data_prep.runtime.errors import TrainingError
from trainer.config import Config
from trainer.distribution.workers import Workers
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.engine.callbacks import Callbacks


@dataclasses.dataclass
class State:
    """How far a run has come; kept in every checkpoint.

    Attributes:
        epochs: What `metrics.jsonl` says of each finished epoch.
        best: The one of them whose weights are exported.
        phase: Position in the list of phases.
        phase_epoch: Finished epochs of this phase.
        step: Finished steps of the epoch under way.
        totals: What those steps gave, the fields of `loop.Totals`.
        retries: How often the loss was no number.
        callbacks: What the Keras callbacks have to remember.
    """

    epochs: list[dict] = dataclasses.field(default_factory=list)
    best: dict | None = None
    phase: int = 0
    phase_epoch: int = 0
    step: int = 0
    totals: dict = dataclasses.field(default_factory=dict)
    retries: int = 0
    callbacks: list[dict] = dataclasses.field(default_factory=list)


class Checkpointer:
    """Saves a run, and finds what it goes on from.

    Args:
        config: Of the run.
        model: Of the run.
        workers: Of the run, the first of which writes.
        steps: Of an epoch.
        callbacks: Whose state is saved too.

    Attributes:
        state: How far the run has come.
        directory: Of the checkpoints.
        resumed: What `checkpoint.newest` found for the next phase to start
            from; None where there is nothing to restore.
    """

    def __init__(
        self,
        config: Config,
        model: keras.Model,
        workers: Workers,
        *,
        steps: int,
        callbacks: Callbacks,
    ):
        self._config = config
        self._model = model
        self._workers = workers
        self._steps = steps
        self._callbacks = callbacks
        self._learned: set[str] = set()
        self._saved_at = time.monotonic()
        self.directory = pathlib.Path(config.run.model_dir, "checkpoints")
        self._writer = None
        if workers.is_first:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._writer = checkpoint.Writer(self.directory)
        self.resumed = checkpoint.newest(self.directory)
        self.state = State(**self.resumed[2]) if self.resumed else State()

    @property
    def steps_done(self) -> int:
        """Finished steps of all epochs."""
        return len(self.state.epochs) * self._steps + self.state.step

    def begin(self) -> None:
        """Saves what a new run starts from."""
        if not self._writer:
            return
        variables = checkpoint.model_variables(self._model)
        everything = checkpoint.copy(variables)
        self._writer.save(self.directory / checkpoint.START, everything, {})
        if self.state.best:  # a fitted head, before any epoch
            self._save_best()
        self.save({})

    def keep_trainable(self) -> None:
        """Counts the layers that learn now among what is saved from here on."""
        learns = {
            id(variable)
            for layer in self._model.layers
            if layer.trainable
            for variable in layer.variables
        }
        self._learned |= {
            name
            for name, variable in checkpoint.model_variables(
                self._model
            ).items()
            if id(variable) in learns
        }

    def save(self, of_phase: Mapping[str, keras.Variable]) -> None:
        """Hands the state to the writer, in the process that has one.

        Args:
            of_phase: What the phase needs beside the model, by name.
        """
        self._saved_at = time.monotonic()
        if not self._writer:
            return
        self.state.callbacks = self._callbacks.state()
        self._writer.save(
            checkpoint.step_path(self.directory, self.steps_done),
            checkpoint.copy({**self._what_learned(), **of_phase}),
            dataclasses.asdict(self.state),
        )
        best = self.state.best
        self._writer.keep_only(best and best_path(self.directory, best))

    def is_time(self, count: int) -> bool:
        """Says whether the last `count` steps came to a checkpoint's turn."""
        every, step = self._config.checkpoints.checkpoint_steps, self.state.step
        minutes = self._config.checkpoints.checkpoint_minutes
        by_step = every and step // every > (step - count) // every
        waited = time.monotonic() - self._saved_at
        return bool(by_step or (minutes and waited >= 60 * minutes))

    def keep_if_best(self, row: dict) -> None:
        """Keeps the weights of an epoch that validates best so far."""
        best = self.state.best
        if best is not None and history.rank(row) <= history.rank(best):
            return
        self.state.best = row
        if self._writer:
            self._save_best()

    def settle(self) -> None:
        """Returns, in every worker, when all to be saved is on disk."""
        if self._writer:
            self._writer.wait()
        self._workers.barrier()

    def go_back(self, error: checkpoint.NotFinite, rate: float) -> str:
        """Makes the newest checkpoint the next start, with half the rate.

        Args:
            error: What is not finite.
            rate: The phase's highest learning rate so far.

        Returns:
            What was done, for people.

        Raises:
            TrainingError: If that was done as often as is allowed.
        """
        self.settle()
        retries, allowed = (
            self.state.retries,
            self._config.checkpoints.nan_retries,
        )
        if retries == allowed:
            raise TrainingError(
                f"{error}. Expected finite numbers: lower this phase's "
                f"learning rate, {rate:g} now, or pass --nan_retries. The last "
                f"good state is kept in {self.directory}; pass another "
                "--model_dir to start anew."
            )
        self.resumed = checkpoint.newest(self.directory)
        path, _, state = self.resumed
        self.state = State(**{**state, "retries": retries + 1})
        return (
            f"warning: {error}. Going back to {path.name} with half the "
            f"learning rate (retry {retries + 1} of {allowed})."
        )

    def _what_learned(self) -> dict[str, keras.Variable]:
        variables = checkpoint.model_variables(self._model)
        return {name: variables[name] for name in sorted(self._learned)}

    def _save_best(self) -> None:
        best = self.state.best
        arrays = checkpoint.copy(self._what_learned())
        self._writer.save(best_path(self.directory, best), arrays, best)


def best_path(directory: pathlib.Path, best: dict) -> pathlib.Path:
    """Returns the checkpoint of the epoch that is exported.

    Args:
        directory: `checkpoints/` of the model directory.
        best: Its row of `metrics.jsonl`.
    """
    return directory / f"best-{best['epoch']:05d}.npz"
