"""When and where a run is saved; what is saved is the caller's concern."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping

import keras

from trainer.engine import checkpoint
from trainer.engine.checkpoint_writer import CheckpointWriter
from trainer.engine.training_state import TrainingState
from trainer.groups import Checkpoints


class Checkpointer:
    """Saves the state and the variables of a run.

    Args:
        directory: `checkpoints/` of the model directory.
        settings: How often to save within an epoch.
        writes: Whether this process writes; the others only keep the time.

    Attributes:
        directory: `checkpoints/` of the model directory.
    """

    def __init__(
        self, directory: pathlib.Path, settings: Checkpoints, *, writes: bool
    ):
        self.directory = directory
        self._settings = settings
        self._saved_at = time.monotonic()
        self._writer = None
        if writes:
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = CheckpointWriter(directory)

    def save_start(self, variables: Mapping[str, keras.Variable]) -> None:
        """Saves all of the model's variables, before any training."""
        if self._writer:
            self._writer.save(
                self.directory / checkpoint.START,
                checkpoint.copy(variables),
                {},
            )

    def save_best(
        self, best: dict, variables: Mapping[str, keras.Variable]
    ) -> None:
        """Saves the best epoch of a phase, unless a later one is better.

        Args:
            best: The epoch's row of `metrics.jsonl`.
            variables: The model's variables that have learned, by name.

        Raises:
            NotFinite: If one holds a number that is not finite.
        """
        arrays = checkpoint.copy(variables)  # what is not finite, all notice
        if self._writer:
            path = checkpoint.best_path(self.directory, best)
            self._writer.save(path, arrays, best)

    def save(
        self,
        state: TrainingState,
        steps_done: int,
        variables: Mapping[str, keras.Variable],
    ) -> None:
        """Saves what a run can go on from, and removes older checkpoints.

        Args:
            state: How far the run has come.
            steps_done: Finished steps of all epochs; names the file.
            variables: The model's variables that have learned and those of
                the optimizer and the averages, by name.

        Raises:
            NotFinite: If one holds a number that is not finite.
        """
        self._saved_at = time.monotonic()
        arrays = checkpoint.copy(variables)  # what is not finite, all notice
        if not self._writer:
            return
        self._writer.save(
            checkpoint.step_path(self.directory, steps_done),
            arrays,
            dataclasses.asdict(state),
        )
        self._writer.keep_only(self._best_paths(state))

    def is_due(self, step: int, count: int) -> bool:
        """Returns whether it is time to save within an epoch.

        Args:
            step: Finished steps of the epoch.
            count: How many of them are new since the last question.
        """
        every = self._settings.checkpoint_steps
        minutes = self._settings.checkpoint_minutes
        due_by_steps = every and step // every > (step - count) // every
        waited = time.monotonic() - self._saved_at
        return bool(due_by_steps or (minutes and waited >= 60 * minutes))

    def keep_last(self, state: TrainingState) -> None:
        """Removes all but the last checkpoint and the best, at a run's end.

        Args:
            state: How far the run has come.

        Raises:
            TrainingError: If something could not be written.
        """
        if self._writer:
            self._writer.keep_only(self._best_paths(state), newest=1)

    def _best_paths(self, state: TrainingState) -> set[pathlib.Path]:
        return {
            checkpoint.best_path(self.directory, row)
            for row in state.bests.values()
        }

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            TrainingError: If something could not be written.
        """
        if self._writer:
            self._writer.wait()
