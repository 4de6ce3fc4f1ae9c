"""Checkpoint files: how they are written, found and restored.

A checkpoint is an uncompressed NumPy archive of variables by name, and a JSON
text beside them. It is replaced by rename, so it is whole or absent. Its
members carry CRC-32 sums, which NumPy checks, so a damaged file is noticed
when it is read; a warning names it and an older one is used. A variable that
is not finite is refused.

`start.npz` holds all of the model's variables at the start of the run. What is
saved later holds only those that have learned since: of a frozen VGG16 that
is kilobytes instead of 59 MB.
"""

import contextlib
import json
import pathlib
import sys
import zipfile
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from trainer.config import Phase
from trainer.distribution.worker_group import WorkerGroup
from trainer.models.classifier import learning_layers

START = "start.npz"
_STATE = "state.json"
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    AttributeError,  # an empty file is no archive but an array
    TypeError,
    RuntimeError,  # its directory asks for a password, or for what no zip has
    zipfile.BadZipFile,
)


class NotFinite(TrainingError):
    """A loss or a variable has become infinite or not a number."""


class Checkpoint(NamedTuple):
    """A checkpoint that was read.

    Attributes:
        path: Its file; `START` is in the same folder.
        arrays: Values of variables, by name.
        state: The fields of a `TrainingState`.
    """

    path: pathlib.Path
    arrays: dict[str, np.ndarray]
    state: dict


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns all variables of a flat model, by layer and name.

    Args:
        model: What `build_classifier` returned.
    """
    return _by_name(model.layers)


def learned_variables(
    model: keras.Model, phases: Sequence[Phase]
) -> dict[str, keras.Variable]:
    """Returns the variables of all layers that learn in some phases, by name.

    Args:
        model: What `build_classifier` returned.
        phases: The phases.
    """
    learning = {
        layer.name
        for phase in phases
        for layer in learning_layers(model, phase.train_from)
    }
    variables = _by_name(x for x in model.layers if x.name in learning)
    return dict(sorted(variables.items()))


def _by_name(
    layers: Iterable[keras.layers.Layer],
) -> dict[str, keras.Variable]:
    # Not by path: some of Keras's paths contain a number that counts the
    # models of a process. A layer's name is fixed.
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in layers
        for variable in layer.variables
    }


def copy(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Returns copies of the values of variables, by name.

    Args:
        variables: The variables, by name.

    Raises:
        NotFinite: If one holds a number that is not finite.
    """
    arrays = {name: np.array(v.numpy()) for name, v in variables.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise NotFinite(f"{name} holds numbers that are not finite")
    return arrays


def save(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], state: dict
) -> None:
    """Writes a checkpoint; a reader sees the old file or the whole new one.

    Args:
        path: The file.
        arrays: What to save, by name.
        state: What else to save, anything that JSON can hold.
    """
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    with atomic.replacing(path) as incomplete, open(incomplete, "wb") as file:
        np.savez(file, **arrays, **{_STATE: text})


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads a checkpoint.

    Args:
        path: The file.

    Returns:
        The arrays by name, and the state.

    Raises:
        DataError: If the file is missing or damaged.
    """
    with _opened(path) as archive:
        # A damaged header may ask for less than there is: then NumPy reads no
        # further, and the sum is never looked at.
        if damaged := archive.zip.testzip():
            raise zipfile.BadZipFile(f"the sum of {damaged} is wrong")
        arrays = {name: archive[name] for name in archive.files}
        state = json.loads(arrays.pop(_STATE).tobytes())
    return arrays, state


def load_state(path: pathlib.Path) -> dict:
    """Reads what a checkpoint holds beside its arrays; see `load`."""
    with _opened(path) as archive:
        return json.loads(archive[_STATE].tobytes())


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Mapping[str, np.ndarray]]:
    """Yields an archive; says so where it, or what is read of it, is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except _UNREADABLE as error:
        raise DataError(f"{path} is damaged or missing: {error}.") from None


def assign(
    variables: Mapping[str, keras.Variable],
    arrays: Mapping[str, np.ndarray],
    path: pathlib.Path,
    workers: WorkerGroup | None = None,
) -> None:
    """Sets variables to what a checkpoint holds.

    Args:
        variables: Variables by name; the checkpoint must have all of them.
        arrays: Values by name.
        path: The checkpoint's file, for the error message.
        workers: Workers that all set them to what the first one gives, the
            only one that has the files; None for this process alone.

    Raises:
        DataError: If one is missing or has another shape.
    """
    for name, variable in variables.items():
        if workers and not workers.is_first:
            empty = np.zeros(variable.shape, variable.dtype)
            variable.assign(workers.from_first(empty))
            continue
        array = arrays.get(name)
        if array is None or array.shape != tuple(variable.shape):
            found = "nothing" if array is None else f"shape {array.shape}"
            raise DataError(
                f"{path} holds {found} for {name}, expected shape "
                f"{tuple(variable.shape)}. It is of another model: pass "
                "another --model_dir."
            )
        variable.assign(workers.from_first(array) if workers else array)


def assign_model(
    model: keras.Model,
    arrays: Mapping[str, np.ndarray],
    path: pathlib.Path,
    workers: WorkerGroup | None = None,
) -> None:
    """Sets all of a model's variables to what a checkpoint and `START` hold.

    Args:
        model: What `build_classifier` returned.
        arrays: Values by name, what `load` returned.
        path: The checkpoint's file; `START` is in the same folder.
        workers: As in `assign`.

    Raises:
        DataError: If `START` is missing, damaged or of another model.
    """
    start = {}
    if workers is None or workers.is_first:
        start, _ = load(path.with_name(START))
    assign(model_variables(model), {**start, **arrays}, path, workers)


def start_of_run(model_dir: pathlib.Path) -> pathlib.Path | None:
    """Returns the path of `START` if there is a run to go on with, else None.

    Args:
        model_dir: The model directory; it need not exist.
    """
    start = model_dir / "checkpoints" / START
    goes_on = start.exists() and any(start.parent.glob("step-*.npz"))
    return start if goes_on else None


def step_path(directory: pathlib.Path, step: int) -> pathlib.Path:
    """Returns the path of the checkpoint after `step` steps of a run."""
    return directory / f"step-{step:09d}.npz"


def best_path(directory: pathlib.Path, best: dict) -> pathlib.Path:
    """Returns the path of the checkpoint of the best epoch of a phase.

    Args:
        directory: `checkpoints/` of the model directory.
        best: The epoch's row of `metrics.jsonl`.
    """
    return directory / f"best-{best['epoch']:05d}.npz"


def newest_of_first(
    directory: pathlib.Path, workers: WorkerGroup
) -> Checkpoint | None:
    """Returns, in every worker, the checkpoint that `newest` finds in the first.

    Only the first writes checkpoints, and the others may have a disk of their
    own: their arrays are empty, see `assign`.
    """
    found = newest(directory) if workers.is_first else None
    said = [found.path.name, found.state] if found else []
    said = json.loads(workers.text_from_first(json.dumps(said)))
    if found or not said:
        return found
    name, state = said
    return Checkpoint(directory / name, {}, state)


def newest(directory: pathlib.Path) -> Checkpoint | None:
    """Reads the newest checkpoint that is whole; warns of damaged ones.

    Args:
        directory: `checkpoints/` of the model directory.

    Returns:
        The checkpoint; None where there is none at all.

    Raises:
        DataError: If there are some and none is whole.
    """
    paths = sorted(directory.glob("step-*.npz"), reverse=True)
    for path in paths:
        try:
            return Checkpoint(path, *load(path))
        except DataError as error:
            print(f"warning: {error} Trying an older one.", file=sys.stderr)
    if paths:
        raise DataError(
            f"none of the {len(paths)} checkpoints in {directory} is whole. "
            "Start again with another --model_dir, or remove this one."
        )
    return None
