"""Sends a run's figures to MLflow or Weights & Biases, by a Keras callback.

Where they go is said by the environment variables of each (MLFLOW_TRACKING_URI,
WANDB_PROJECT, ...). The identity of the run lies in the model directory, so that
a run that is resumed goes on there too.
"""

import abc
import pathlib
from collections.abc import Mapping

import keras

from data_prep.runtime import atomic
from trainer.config import Config

FILE = "tracker.txt"


class Tracker(keras.callbacks.Callback, abc.ABC):
    """Sends figures of every epoch, and at the end those of the result.

    Each kind takes a name for the run, its settings, and the identity of the
    run to go on with, or None.

    Attributes:
        identity: The run's, as the service gave it.
    """

    identity: str

    @abc.abstractmethod
    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Sends figures.

        Args:
            figures: By name.
            step: Number of the epoch that they are of.
        """

    @abc.abstractmethod
    def finish(self, page: pathlib.Path) -> None:
        """Sends the report and ends the run.

        Args:
            page: `report.html`.
        """

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Sends the figures of an epoch."""
        self.log(logs or {}, epoch + 1)


class MLflow(Tracker):
    """A run of MLflow; for the arguments see `Tracker`."""

    def __init__(self, name: str, settings: dict, known: str | None):
        super().__init__()
        import mlflow

        self._mlflow = mlflow
        run = mlflow.start_run(run_id=known, run_name=name)
        self.identity = run.info.run_id
        if not known:
            mlflow.log_params(settings)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Sends figures; see `Tracker`."""
        self._mlflow.log_metrics(dict(figures), step=step)

    def finish(self, page: pathlib.Path) -> None:
        """Sends the report and ends the run; see `Tracker`."""
        self._mlflow.log_artifact(str(page))
        self._mlflow.end_run()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases; for the arguments see `Tracker`."""

    def __init__(self, name: str, settings: dict, known: str | None):
        super().__init__()
        import wandb

        self._run = wandb.init(
            id=known,
            resume="allow" if known else None,
            name=name,
            config=settings,
        )
        self.identity = self._run.id

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Sends figures; see `Tracker`."""
        # Its own steps only rise, and the exported epoch is an earlier one.
        self._run.log({**figures, "epoch": step})

    def finish(self, page: pathlib.Path) -> None:
        """Sends the report and ends the run; see `Tracker`."""
        self._run.save(str(page), base_path=str(page.parent), policy="now")
        self._run.finish()


def create(config: Config) -> Tracker | None:
    """Returns what `--tracker` names, its run begun or gone on with.

    Args:
        config: All settings of the run.
    """
    kinds = {"mlflow": MLflow, "wandb": WeightsAndBiases}
    kind = kinds.get(config.run.tracker)
    if not kind:
        return None
    file = pathlib.Path(config.run.model_dir, FILE)
    known = file.read_text() if file.exists() else None
    name = file.parent.absolute().name
    tracker = kind(name, config.identity(), known)
    atomic.write_text(file, tracker.identity)
    return tracker
