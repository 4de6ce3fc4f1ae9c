"""What a command that trains finds before it starts, and what that means.

A model directory belongs to one set of flags and one data set. Only paths and
devices may differ between the runs that continue in it.

Imports no TensorFlow: a wrong command and a finished run are answered at once.
"""

import hashlib
import json
import os
import pathlib

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import directory_lock
from data_prep.runtime import startup
from data_prep.runtime.digest import file_sha256
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import RUN
from data_prep.runtime.settings import START
from trainer.config import Config
from trainer.engine import automatic

CONFIG = "config.json"
DONE = "DONE.json"
# In config.json beside the flags.
_FINGERPRINT = "data_fingerprint"
_WEIGHTS = "weights_sha256"


def check(config: Config) -> tuple[Config, Manifest]:
    """Refuses what cannot be trained, before anything is written.

    Args:
        config: All settings of the run.

    Returns:
        The settings, with a size of the images, and the data set's manifest.

    Raises:
        UsageError: If the flags fit neither the data set nor the directory.
        DataError: If the data set is unusable, or the directory belongs to
            another one, or is none.
    """
    if (tracker := config.run.tracker) != "none":
        startup.require([tracker], tracker, f"--tracker={tracker}")
    manifest = manifest_lib.load(config.data.data_dir)
    config = automatic.by_images(config, manifest)
    model_dir = pathlib.Path(config.run.model_dir)
    _check_same_run(config, manifest, model_dir)
    if not (model_dir / DONE).exists():
        _check_writable(model_dir)
        _check_splits(config, manifest)
    return config, manifest


def finished(config: Config) -> dict | None:
    """Returns the content of `DONE.json` and says so; None without one.

    Args:
        config: All settings of the run, which were checked.

    Raises:
        TrainingError: If its accuracy is below `min_accuracy`.
    """
    path = pathlib.Path(config.run.model_dir, DONE)
    if not path.exists():
        return None
    done = json.loads(path.read_text())
    print(f"{config.run.model_dir} is finished already; nothing to do.")
    check_accuracy(done, config.run.min_accuracy)
    return done


def check_accuracy(done: dict, min_accuracy: float) -> None:
    """Refuses an accuracy that is too low.

    Args:
        done: The content of `DONE.json`.
        min_accuracy: The least accuracy, in [0, 1].

    Raises:
        TrainingError: If the evaluation's is below it.
    """
    evaluation = done["evaluation"]
    if evaluation["accuracy"] < min_accuracy:
        raise TrainingError(
            f"{evaluation['split']} accuracy {evaluation['accuracy']:.4f} is "
            f"below --min_accuracy={min_accuracy}."
        )


def identity(config: Config, manifest: Manifest) -> dict:
    """Returns the content of `config.json`.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.

    Returns:
        All flags, the fingerprint of the data set, and the SHA-256 of the
        file of weights; None where there is no such file.
    """
    digest = _weights_digest(config.model.weights)
    begun = pathlib.Path(config.run.model_dir, CONFIG)
    if digest is None and begun.exists():  # moved since: the state has them
        digest = _read_config(begun).get(_WEIGHTS)
    return {
        **config.values(),
        _FINGERPRINT: manifest.fingerprint,
        _WEIGHTS: digest,
    }


def _weights_digest(weights: str) -> str | None:
    """Returns the SHA-256 of a file of weights; None if it is no file."""
    if not pathlib.Path(weights).is_file():
        return None
    return file_sha256(weights)


def purpose(config: Config, manifest: Manifest) -> str:
    """Returns a text that is equal in all workers of the same run.

    Of the model directory only the name counts: each worker may have its own
    on a disk of its own, or a copy in a scratch folder.

    Args:
        config: All settings of the run.
        manifest: The data set's manifest.
    """
    common = config.identity(RUN, START)
    text = json.dumps([common, manifest.fingerprint], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{pathlib.Path(config.run.model_dir).name} {digest[:12]}"


def load(model_dir: str) -> tuple[Config, Manifest]:
    """Returns the config and the data set that a model directory belongs to.

    Args:
        model_dir: What `trainer.task` wrote.

    Raises:
        DataError: If it is not a model directory, or its data set has
            changed.
    """
    path = pathlib.Path(model_dir, CONFIG)
    if not path.is_file():
        raise DataError(
            f"{model_dir} is no model directory: it holds no {CONFIG}. "
            "Expected what trainer.task wrote."
        )
    begun = _read_config(path)
    fingerprint = begun.pop(_FINGERPRINT)
    begun.pop(_WEIGHTS, None)
    config = Config(**{**begun, "model_dir": model_dir})
    manifest = manifest_lib.load(config.data.data_dir)
    if manifest.fingerprint != fingerprint:
        raise DataError(
            f"{config.data.data_dir} is not the data set that {model_dir} was "
            "trained on: its fingerprint has changed. Put that one back."
        )
    return config, manifest


def _check_same_run(
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
        lock = model_dir / directory_lock.LOCK
        if model_dir.exists() and {*model_dir.iterdir()} - {lock}:
            raise DataError(
                f"--model_dir={model_dir} is not empty and holds no "
                f"{CONFIG}, so it is no model directory. Pass another."
            )
        return
    begun = _read_config(path)
    if begun[_FINGERPRINT] != manifest.fingerprint:
        raise DataError(
            f"{model_dir} was trained on another data set: its fingerprint is "
            f"{begun[_FINGERPRINT][:12]}..., that of "
            f"{config.data.data_dir} is {manifest.fingerprint[:12]}.... Pass "
            "that data set, or another --model_dir."
        )
    # A setting that an older version did not know had its default then.
    defaults = {one.name: one.default for one in config.settings()}
    different = [
        f"--{name}={value} (was {was})"
        for name, value in config.identity().items()
        if (was := begun.get(name, defaults[name])) != value
        and not (name == "weights" and _is_same_file(value, begun))
    ]
    if different:
        raise UsageError(
            f"{model_dir} was begun with other flags: "
            f"{', '.join(different)}. Run it with those, or pass another "
            "--model_dir."
        )


def _is_same_file(weights: str, begun: dict) -> bool:
    """Returns whether it is the file that the run began with, elsewhere."""
    digest = begun.get(_WEIGHTS)
    return digest is not None and _weights_digest(weights) == digest


def _check_writable(model_dir: pathlib.Path) -> None:
    place = model_dir.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        problem = "may not be written" if place.is_dir() else "is no folder"
        raise UsageError(
            f"--model_dir={model_dir} cannot be made: {place} {problem}. Pass "
            "another."
        )


def _check_splits(config: Config, manifest: Manifest) -> None:
    missing = {splits.TRAIN, splits.VALIDATION} - set(manifest.splits)
    if missing:
        raise DataError(
            f"{config.data.data_dir} has no {missing.pop()} split, only "
            f"{', '.join(manifest.splits)}. Training needs train and "
            "validation, which decides what is exported. Prepare the data "
            "again: with --validation_fraction=0.1, which takes it out of "
            "train and keeps a given test split, or with --splits, which "
            "splits all images anew."
        )
    images = manifest.splits[splits.TRAIN].count
    batch_size = config.optimisation.batch_size
    if batch_size > images:
        raise UsageError(
            f"--batch_size={batch_size} is impossible: the train split "
            f"has {images} images. Use at most --batch_size={images}."
        )


def _read_config(path: pathlib.Path) -> dict:
    try:
        begun = json.loads(path.read_bytes())
        begun[_FINGERPRINT]
    except (OSError, ValueError, TypeError, KeyError):
        raise DataError(
            f"{path} is no config of a run: it is damaged, or of another "
            "program. Pass another --model_dir."
        ) from None
    return begun
