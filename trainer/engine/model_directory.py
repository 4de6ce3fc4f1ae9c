"""Which run a model directory belongs to, and its best epoch.

A directory belongs to one set of flags and one data set. Only paths and
devices may differ between the runs that continue in it.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import sys

import keras
import tensorflow as tf

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import RUN
from data_prep.runtime.settings import START
from trainer.config import Config
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import checkpoint

CONFIG = "config.json"
ENVIRONMENT = "environment.json"


def identity(config: Config, manifest: Manifest) -> dict:
    """Returns the content of `config.json`.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.

    Returns:
        All flags, and the fingerprint of the data set.
    """
    return {
        **config.values(),
        "data_fingerprint": manifest.fingerprint,
    }


def purpose(config: Config, manifest: Manifest) -> str:
    """Returns a text that is equal in all workers of the same run.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
    """
    common = config.identity(RUN, START)
    text = json.dumps([common, manifest.fingerprint], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{config.run.model_dir} {digest[:12]}"


def check_same_run(
    config: Config, manifest: Manifest, model_dir: pathlib.Path
) -> None:
    """Refuses a model directory that belongs to another run.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
        model_dir: The model directory; it need not exist.

    Raises:
        UsageError: If it was begun with other flags.
        DataError: If it is of another data set, or not a model directory.
    """
    path = model_dir / CONFIG
    if not path.exists():
        if model_dir.exists() and any(model_dir.iterdir()):
            raise DataError(
                f"--model_dir={model_dir} is not empty and holds no "
                f"{CONFIG}, so it is no model directory. Pass another."
            )
        return
    begun = json.loads(path.read_text())
    if begun["data_fingerprint"] != manifest.fingerprint:
        raise DataError(
            f"{model_dir} was trained on another data set: its fingerprint is "
            f"{begun['data_fingerprint'][:12]}..., that of "
            f"{config.data.data_dir} is {manifest.fingerprint[:12]}.... Pass that data set, or "
            "another --model_dir."
        )
    # A setting that an older version did not know had its default then.
    defaults = {one.name: one.default for one in config.settings()}
    different = [
        f"--{name}={value} (was {was})"
        for name, value in config.identity().items()
        if (was := begun.get(name, defaults[name])) != value
    ]
    if different:
        raise UsageError(
            f"{model_dir} was begun with other flags: "
            f"{', '.join(different)}. Run it with those, or pass another "
            "--model_dir."
        )


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
    atomic.write_json(model_dir / CONFIG, identity(config, manifest))
    atomic.sweep(model_dir)
    atomic.write_json(model_dir / ENVIRONMENT, found)


def load(model_dir: str) -> tuple[Config, Manifest]:
    """Returns the config and the data set that a model directory belongs to.

    Args:
        model_dir: What `trainer.task` wrote.

    Raises:
        DataError: If it is not a model directory, or its data set has
            changed.
    """
    path = pathlib.Path(model_dir, CONFIG)
    try:
        begun = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{model_dir} is no model directory: {error}. Expected what "
            "trainer.task wrote."
        ) from None
    fingerprint = begun.pop("data_fingerprint")
    config = Config(**{**begun, "model_dir": model_dir})
    manifest = manifest_lib.load(config.data.data_dir)
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{config.data.data_dir} is not the data set that {model_dir} was "
            "trained on: its fingerprint has changed. Put that one back."
        )
    return config, manifest


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
    directory = model_dir / "checkpoints"
    if workers and not workers.is_first:
        checkpoint.assign_model(model, {}, directory, workers)
        return
    found = sorted(directory.glob("best-*.npz"))
    if not found:
        raise DataError(
            f"{model_dir} holds no finished epoch yet: expected "
            "checkpoints/best-*.npz. Run trainer.task to its end first."
        )
    arrays, _ = checkpoint.load(found[-1])
    checkpoint.assign_model(model, arrays, found[-1], workers)


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
        "processors": len(os.sched_getaffinity(0)),
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
