"""What a model directory is of: flags, data set, software; and its best epoch.

A directory belongs to one set of flags and one data set. What may differ
between its runs is where things lie and on how many devices.
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
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import RUN
from data_prep.runtime.settings import START
from trainer.config import Config
from trainer.engine import checkpoint

CONFIG = "config.json"


def identity(config: Config, manifest: Manifest) -> dict:
    """Returns what `config.json` says: all flags, and of which data set."""
    return {
        **config.values(),
        "data_fingerprint": manifest.fingerprint,
    }


def purpose(config: Config, manifest: Manifest) -> str:
    """Returns what all workers of a run must have in common, in short."""
    common = config.identity(RUN, START)
    text = json.dumps([common, manifest.fingerprint], sort_keys=True)
    return f"{config.run.model_dir} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def check_same_run(
    config: Config, manifest: Manifest, model_dir: pathlib.Path
) -> None:
    """Refuses a model directory that another run or data set has begun.

    Raises:
        UsageError: If it was begun with other flags.
        DataError: If it is of another data set, or no model directory.
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
            f"{begun['data_fingerprint'][:12]}..., that of {config.data.data_dir} "
            f"is {manifest.fingerprint[:12]}.... Pass that data set, or "
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


def load(model_dir: str) -> tuple[Config, Manifest]:
    """Returns what a model directory was begun with.

    Raises:
        DataError: If it is no model directory, or its data set has changed.
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


def restore_best(model: keras.Model, model_dir: pathlib.Path) -> None:
    """Sets a model to the best epoch of a model directory.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    found = sorted((model_dir / "checkpoints").glob("best-*.npz"))
    if not found:
        raise DataError(
            f"{model_dir} holds no finished epoch yet: expected "
            "checkpoints/best-*.npz. Run trainer.task to its end first."
        )
    checkpoint.load_model(model, found[-1])


def environment(strategy: tf.distribute.Strategy) -> dict:
    """Returns what `environment.json` says: software, devices, precision."""
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
    """Says in what a resumed run differs that may change its numbers.

    Args:
        path: Of `environment.json`, as an earlier run wrote it.
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
