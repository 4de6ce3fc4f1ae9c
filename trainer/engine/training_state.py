"""How far a run has come; nothing outside of this module changes it."""

import dataclasses
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from data_prep.runtime.errors import DataError
from trainer.engine import history
from trainer.engine.results import Totals


@dataclasses.dataclass
class TrainingState:
    """How far a run has come; every checkpoint holds it.

    Attributes:
        epochs: Rows of `metrics.jsonl`, of all finished epochs.
        bests: The best row of each phase, by its name; its weights are kept.
        phase: Index of the phase under way.
        phase_epoch: Number of finished epochs of this phase.
        step: Number of finished steps of the epoch under way.
        totals: What those steps gave, the fields of `results.Totals`.
        retries: How often the run went back because of a loss that was not a
            number.
        callbacks: State of the Keras callbacks when this was saved.
        chosen: The settings that the run has chosen itself, by name; see
            `automatic`.
    """

    epochs: list[dict] = dataclasses.field(default_factory=list)
    bests: dict[str, dict] = dataclasses.field(default_factory=dict)
    phase: int = 0
    phase_epoch: int = 0
    step: int = 0
    totals: dict = dataclasses.field(default_factory=dict)
    retries: int = 0
    callbacks: list[dict] = dataclasses.field(default_factory=list)
    chosen: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> dict | None:
        """The row whose weights will be exported; None before the first."""
        return max(self.bests.values(), key=history.score, default=None)

    @property
    def phase_rows(self) -> list[dict]:
        """The rows of the finished epochs of this phase."""
        return self.epochs[len(self.epochs) - self.phase_epoch :]

    @property
    def starts_phase(self) -> bool:
        """Whether no step of this phase is finished."""
        return not self.phase_epoch and not self.step

    def steps_done(self, steps: int) -> int:
        """Returns the number of finished steps, in epochs of `steps` each."""
        return len(self.epochs) * steps + self.step

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Sets everything to what a checkpoint holds.

        Raises:
            DataError: If another version of this package wrote it.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(saved.keys() - known):
            raise DataError(
                "the checkpoints were written by another version of shardtune "
                f"(they hold {', '.join(unknown)}). Go on with that version, "
                "or pass another --model_dir to start again."
            )
        vars(self).update(vars(TrainingState(**saved)))

    def retry(self, saved: Mapping[str, Any]) -> None:
        """Goes back to a checkpoint and counts one more retry."""
        self.restore({**saved, "retries": self.retries + 1})

    def end_steps(self, count: int, totals: Totals) -> None:
        """Counts steps of the epoch under way.

        Args:
            count: Number of steps just finished.
            totals: Totals of all finished steps of the epoch.
        """
        self.step += count
        self.totals = dataclasses.asdict(totals)

    def keep_if_best(self, row: dict) -> bool:
        """Makes a row the best of its phase if it is; returns whether it is."""
        best = self.bests.get(row["phase"])
        if best and history.score(row) <= history.score(best):
            return False
        self.bests[row["phase"]] = row
        return True

    def forget_bests(self, phases: Iterable[str]) -> None:
        """Forgets the best rows of some phases, whose weights are lost."""
        for phase in phases:
            del self.bests[phase]

    def end_epoch(self, row: dict) -> None:
        """Counts a finished epoch."""
        self.epochs.append(row)
        self.phase_epoch += 1
        self.step, self.totals = 0, {}

    def end_phase(self) -> None:
        """Moves on to the next phase."""
        self.phase, self.phase_epoch = self.phase + 1, 0
