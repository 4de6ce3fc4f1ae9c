"""Command line: tries settings, ends hopeless trials early, finishes the best.

python -m trainer.search --data_dir=data --model_dir=search --tune="dropout=0:0.5"

Every trial is a training of its own in MODEL_DIR/trial-NNN, one after the other
on all devices of this machine, in one process; features that several need are
extracted once. Validation ranks them. The best alone is exported and measured.
A search that was killed goes on within its trial.
"""

import os
import pathlib
import sys

from data_prep.runtime.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from data_prep.runtime import signals

    signals.watch(EXIT_STOPPED)

# ruff: noqa: E402
import dataclasses
import gc
import shutil
import time
from typing import TYPE_CHECKING
from typing import Any

from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime import command
from data_prep.runtime import directory_lock
from data_prep.runtime import setting_flags
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting
from trainer.config import Config
from trainer.distribution.cluster import find_cluster
from trainer.engine import start_rule
from trainer.tuning import space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial

# What stays of a trial that is not the best so far.
_KEPT = {"config.json", "environment.json", "head_init.json", "metrics.jsonl"}
_RANGES = 20  # trials where one setting has a range


@dataclasses.dataclass(frozen=True)
class Search(settings.Group):
    """The search."""

    tune: str = setting(
        "",
        'What is tried: "dropout=0:0.5 frozen_learning_rate=1e-4:1e-2:log" '
        'are ranges, "batch_size=16,32" are values.',
        required=True,
    )
    trials: int = setting(
        0,
        "Trials in all; 0 is every combination of values, and 20 where there "
        "is a range.",
        low=0,
        scope=settings.PROCESS,
    )
    keep: int = setting(
        3,
        "Successive halving: past epoch 1, K, K^2, ... only a trial that is "
        "among the best 1/K so far goes on. 0 ends none early.",
        low=0,
    )


class SearchConfig(Config):
    """The flags of `trainer.search`: those of `trainer.task` and its own."""

    search: Search

    def check(self) -> None:
        """Refuses what settings of several groups forbid together."""
        super().check()
        if self.search.keep == 1:
            raise UsageError(
                "--keep=1 lets every trial go on: pass --keep=0 for that, or "
                "at least 2."
            )

    def of_trial(self, number: int, values: dict[str, Any]) -> Config:
        """Returns the config of a trial.

        Args:
            number: Number of the trial, from 0.
            values: What it tries, by name of setting.
        """
        names = {one.name for one in Config.settings()}
        common = {n: v for n, v in self.values().items() if n in names}
        folder = pathlib.Path(self.run.model_dir)
        places = {
            "model_dir": str(folder / f"trial-{number:03d}"),
            "feature_dir": common["feature_dir"] or str(folder / "features"),
        }
        return Config(**{**common, **places, **values})


def main(config: SearchConfig) -> None:
    """Tries settings and finishes the best of them."""
    dimensions = space.parse(config.search.tune)
    space.check(config, dimensions)
    manifest = manifest_lib.load(config.data.data_dir)
    if find_cluster(os.environ):
        raise UsageError(
            "a search runs in one process, on all devices of one machine. "
            "`shardtune submit --grid` sends a sweep to several."
        )
    startup.require_tensorflow()
    startup.require(["Optuna"], "search", "this command")
    folder = pathlib.Path(config.run.model_dir)
    with directory_lock.held(folder):
        startup.import_tensorflow()
        from trainer.tuning import results
        from trainer.tuning import study as study_lib

        common = config.identity(settings.RUN, settings.START)
        common["data_fingerprint"] = manifest.fingerprint
        search = config.search
        study = study_lib.open_study(
            folder, common, config.run.seed, search.keep
        )
        count = search.trials or (0 if any(space.grid(dimensions)) else _RANGES)
        for trial in study_lib.trials(study, dimensions, count):
            _try(config, trial)
            results.write(study, folder)
            _tidy(folder, study_lib.best_of(study))
        best = study_lib.best_of(study)
        print(f"\n{results.table(study)}\n")
        if best is None:
            raise TrainingError(
                f"no trial of {folder} reached its end; {results.CSV} says why."
            )
        _finish(config, best)
    print(f"trials: {folder / results.CSV}, {folder / results.PLOT}")


def _try(config: SearchConfig, trial: "Trial") -> None:
    """Trains with a trial's settings and notes what they reach."""
    import optuna

    from trainer.tuning.study import Halving

    said = " ".join(setting_flags.spelled(trial.params))
    print(f"\ntrial {trial.number:03d}: {said}", flush=True)
    begun, end = time.monotonic(), {"state": optuna.trial.TrialState.FAIL}
    try:
        best = _train(
            config.of_trial(trial.number, trial.params), Halving(trial)
        )
        trial.set_user_attr("val_loss", best["val_loss"])
        end = {"values": best["val_accuracy"]}
    except optuna.TrialPruned:
        print(f"trial {trial.number:03d} is stopped early: others do better")
        end = {"state": optuna.trial.TrialState.PRUNED}
    except (TrainingError, UsageError) as error:
        trial.set_user_attr("message", str(error))
        print(f"trial {trial.number:03d} failed: {error}", file=sys.stderr)
    trial.set_user_attr("seconds", time.monotonic() - begun)
    trial.study.tell(trial, **end)


def _train(config: Config, callback: Any) -> dict:
    """Returns the best epoch's row of a training."""
    import keras

    from trainer import run
    from trainer.pipeline.input_pipeline import naming_failures

    config, manifest = start_rule.check(config)
    try:
        with naming_failures():
            trained = run.train(config, manifest, callbacks=[callback])
            return trained.state.best
    finally:
        # A process that trains again and again would keep all its networks.
        keras.backend.clear_session()
        gc.collect()


def _tidy(folder: pathlib.Path, best: "FrozenTrial | None") -> None:
    """Removes the weights of trials that are not the best so far."""
    for trial in sorted(folder.glob("trial-*")):
        number = int(trial.name.removeprefix("trial-"))
        is_best = best is not None and number == best.number
        if is_best or (trial / start_rule.DONE).exists():
            continue
        for path in trial.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in _KEPT:
                path.unlink()


def _finish(config: SearchConfig, best: "FrozenTrial") -> None:
    """Exports and measures the best trial, as its own command would."""
    from trainer import run

    of_best = config.of_trial(best.number, best.params)
    said = " ".join(setting_flags.spelled(best.params))
    print(f"the best is trial {best.number:03d}: {said}", flush=True)
    run.run(of_best)
    print(f"model: {of_best.run.model_dir}")


def cli() -> None:
    """Runs the command line."""
    command.run(main, SearchConfig)


if __name__ == "__main__":
    cli()
