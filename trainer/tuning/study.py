"""The trials of a search: which come next, which are hopeless, which is best.

Optuna keeps them in `trials.log`, chooses their values and ends those that
successive halving (Li et al. 2018, "ASHA") finds hopeless: a trial goes on past
epoch 1, K, K^2 and so on only where its best validation accuracy so far is
among the best 1/K of the trials that came as far.
"""

import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import optuna
from optuna.distributions import BaseDistribution
from optuna.distributions import CategoricalDistribution
from optuna.distributions import FloatDistribution
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import Trial
from optuna.trial import TrialState

from data_prep.runtime.errors import UsageError
from trainer.tuning import space
from trainer.tuning.space import Range
from trainer.tuning.space import Values

LOG = "trials.log"
_SETTINGS = "settings"  # the attribute that says what a search is of
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def open_study(
    folder: pathlib.Path, settings: Mapping[str, Any], seed: int, keep: int
) -> optuna.Study:
    """Opens the search of a folder, or begins one.

    Args:
        folder: Folder of the search.
        settings: All that its trials have in common; JSON can hold it.
        seed: Seed of the choice of values.
        keep: K, the part of trials that goes on is 1/K; 0 ends none early.

    Raises:
        UsageError: If the search that is there has other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / LOG))),
        study_name="search",
        load_if_exists=True,
        direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=keep
        )
        if keep
        else optuna.pruners.NopPruner(),
    )
    # One that goes on draws other values than it began with.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    found = study.user_attrs.get(_SETTINGS, settings)
    differing = sorted(
        f"{name} {found.get(name)!r}, now {settings.get(name)!r}"
        for name in {*found, *settings}
        if found.get(name) != settings.get(name)
    )
    if differing:
        raise UsageError(
            f"{folder} holds a search with other settings: "
            f"{'; '.join(differing)}. Pass another --model_dir, or the same "
            "flags."
        )
    study.set_user_attr(_SETTINGS, dict(settings))
    return study


def trials(
    study: optuna.Study,
    dimensions: Mapping[str, Range | Values],
    count: int,
) -> Iterator[Trial]:
    """Yields the trials that are left, first those that were cut off.

    Args:
        study: What `open_study` returned.
        dimensions: What is searched, see `space.parse`.
        count: Number of trials in all; of a grid every point, once, where it
            is 0 or more than there are.
    """
    points = list(space.grid(dimensions))
    if points and not 0 < count < len(points):
        for point in points:
            study.enqueue_trial(point, skip_if_exists=True)
        count = len(points)
    for cut in study.get_trials(states=[TrialState.RUNNING]):
        yield Trial(study, cut._trial_id)
    distributions = {n: _distribution(one) for n, one in dimensions.items()}
    while len(study.get_trials(states=OVER)) < count:
        yield study.ask(distributions)


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Returns the trial that validates best, None where none is complete.

    The higher accuracy wins; the lower loss breaks a tie.
    """
    complete = study.get_trials(states=[TrialState.COMPLETE])
    return max(complete, key=rank, default=None)


def rank(trial: FrozenTrial) -> tuple[float, float]:
    """Returns the key that compares trials; the greatest is the best one's."""
    if trial.value is None:
        return 0.0, 0.0
    return trial.value, -trial.user_attrs.get("val_loss", 0.0)


def _distribution(one: Range | Values) -> BaseDistribution:
    if isinstance(one, Values):
        return CategoricalDistribution(one.ends)
    kind = IntDistribution if isinstance(one.low, int) else FloatDistribution
    return kind(one.low, one.high, log=one.log)


class Halving(keras.callbacks.Callback):
    """Ends a trial when it is hopeless, before its next epoch begins.

    Args:
        trial: The trial.
    """

    def __init__(self, trial: Trial):
        super().__init__()
        self._trial = trial
        self.best = 0.0  # validation accuracy so far; a checkpoint keeps it

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Notes what an epoch reached."""
        self.best = max(self.best, (logs or {})["val_accuracy"])
        known = self._trial.study.trials[self._trial.number]
        # An epoch that is trained again after a kill was noted before.
        if epoch + 1 not in known.intermediate_values:
            self._trial.report(self.best, epoch + 1)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Ends a trial that is hopeless.

        Raises:
            TrialPruned: If it is.
        """
        if epoch and self._trial.should_prune():
            raise optuna.TrialPruned
