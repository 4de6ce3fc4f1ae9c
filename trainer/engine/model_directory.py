"""What a run writes into its model directory first, and its best epoch."""

import contextlib
import importlib.metadata
import json
import pathlib
import platform
import sys
from collections.abc import Iterator

import keras
import tensorflow as tf

from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime import operating_system
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import checkpoint
from trainer.engine import history
from trainer.engine import start_rule

ENVIRONMENT = "environment.json"


def claim(
    config: Config,
    manifest: Manifest,
    model_dir: pathlib.Path,
    strategy: tf.distribute.Strategy,
) -> None:
    """Makes a model directory this run's; one process only may do so.

    Warns where a run goes on with other software than it was begun with, and
    removes unfinished files.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
        model_dir: The model directory; it need not exist.
        strategy: The strategy that the model was made under.
    """
    found = environment(strategy)
    warn_of_changes(model_dir / ENVIRONMENT, found)
    atomic.write_json(
        model_dir / start_rule.CONFIG, start_rule.identity(config, manifest)
    )
    atomic.sweep(model_dir)
    atomic.write_json(model_dir / ENVIRONMENT, found)


def restore_best(
    model: keras.Model,
    model_dir: pathlib.Path,
    workers: WorkerGroup | None = None,
) -> None:
    """Sets a model's variables to the best epoch of a model directory.

    Args:
        model: What `build_classifier` returned, of the same run.
        model_dir: The model directory.
        workers: Workers of which the first one has it; None for this process
            alone.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    row = {}
    if workers is None or workers.is_first:
        row = bests(model_dir)[0]
    restore(model, model_dir, row, workers)


def restore(
    model: keras.Model,
    model_dir: pathlib.Path,
    row: dict,
    workers: WorkerGroup | None = None,
) -> None:
    """Sets a model's variables to the best epoch of one phase.

    Args:
        model: What `build_classifier` returned, of the same run.
        model_dir: The model directory.
        row: One of `bests`; of no meaning in workers that are not the first.
        workers: As in `restore_best`.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    directory = model_dir / "checkpoints"
    if workers and not workers.is_first:
        checkpoint.assign_model(model, {}, directory, workers)
        return
    path = checkpoint.best_path(directory, row)
    with _with_cure():
        arrays, _ = checkpoint.load(path)
    checkpoint.assign_model(model, arrays, path, workers)


def bests(model_dir: pathlib.Path) -> list[dict]:
    """Returns the rows of the best epoch of each phase, the best one first.

    Args:
        model_dir: The model directory.

    Raises:
        DataError: If there is none, or one is damaged.
    """
    paths = sorted(model_dir.glob("checkpoints/best-*.npz"))
    if not paths:
        raise DataError(
            f"{model_dir} holds no finished epoch yet: expected "
            "checkpoints/best-*.npz. Run trainer.task to its end first."
        )
    with _with_cure():
        rows = [checkpoint.load_state(path) for path in paths]
    return sorted(rows, key=history.score, reverse=True)


@contextlib.contextmanager
def _with_cure() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(
            f"{error} Remove {start_rule.DONE}, if it is there, and run the same "
            "trainer.task again: it exports the best epoch that is left."
        ) from None


def environment(strategy: tf.distribute.Strategy) -> dict:
    """Returns the content of `environment.json`.

    Args:
        strategy: The strategy that the model was made under.

    Returns:
        Versions of the software, devices and precision.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            **{
                name: importlib.metadata.version(name)
                for name in ("shardtune", "tensorflow", "keras", "numpy")
            },
        },
        "platform": platform.platform(),
        "processors": operating_system.processors(),
        "devices": [d.name for d in tf.config.list_logical_devices()],
        "replicas": strategy.num_replicas_in_sync,
        "precision": keras.config.dtype_policy().name,
    }


def warn_of_changes(path: pathlib.Path, found: dict) -> None:
    """Warns of changes since the run was begun that may change its numbers.

    Args:
        path: `environment.json`, as an earlier run wrote it.
        found: What `environment` returns now.
    """
    if not path.exists():
        return
    before = json.loads(path.read_text())
    changes = [
        f"{name} {before['versions'].get(name)} -> {version}"
        for name, version in found["versions"].items()
        if before["versions"].get(name) != version
    ]
    if before["precision"] != found["precision"]:
        changes.append(
            f"precision {before['precision']} -> {found['precision']}"
        )
    if changes:
        print(
            f"warning: begun with other software: {', '.join(changes)}. The "
            "result may differ from an uninterrupted run's.",
            file=sys.stderr,
        )
