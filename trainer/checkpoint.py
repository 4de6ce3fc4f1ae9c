"""What is saved and how it is restored: one file, whole or absent.

A checkpoint is an uncompressed NumPy archive of variables by name, and a JSON
text beside them. Its members carry CRC-32 sums, which NumPy checks, so
a damaged file is noticed when it is read.
"""

import json
import os
import pathlib
import sys
import zipfile
from collections.abc import Mapping

import keras
import numpy as np

from data_prep.errors import DataError

KEPT = 2  # epochs whose checkpoints stay, so that one damaged file is not all
_STATE = "state.json"


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns all variables of a flat model, seeds of dropout included.

    Keras numbers a seed's own path anew in every model; its layer's name does
    not change.
    """
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
    }


def save(
    path: pathlib.Path, variables: Mapping[str, keras.Variable], state: dict
) -> None:
    """Writes a checkpoint; a reader sees the old file or the whole new one.

    Args:
        path: Where to.
        variables: What to save, by name.
        state: What else to save, as JSON can hold it.
    """
    arrays = {name: variable.numpy() for name, variable in variables.items()}
    arrays[_STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"incomplete.{path.name}")
    with open(incomplete, "wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    incomplete.replace(path)


def load(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads a checkpoint.

    Returns:
        The arrays by name, and the state.

    Raises:
        DataError: If the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        state = json.loads(arrays.pop(_STATE).tobytes())
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(f"{path} is damaged or missing: {error}.") from None
    return arrays, state


def assign(
    variables: Mapping[str, keras.Variable],
    arrays: dict[str, np.ndarray],
    path: pathlib.Path,
) -> None:
    """Sets variables to what a checkpoint holds.

    Args:
        variables: All of them must be in the checkpoint, with their shape.
        arrays: What `load` returned.
        path: Where from, for the message.

    Raises:
        DataError: If one is missing or has another shape.
    """
    for name, variable in variables.items():
        array = arrays.get(name)
        if array is None or array.shape != tuple(variable.shape):
            found = "nothing" if array is None else f"shape {array.shape}"
            raise DataError(
                f"{path} holds {found} for {name}, expected shape "
                f"{tuple(variable.shape)}. It is of another model: pass "
                "another --model_dir."
            )
        variable.assign(array)


def save_epoch(
    directory: pathlib.Path,
    epoch: int,
    variables: Mapping[str, keras.Variable],
    state: dict,
) -> None:
    """Saves the state after an epoch and removes all but the last `KEPT`."""
    save(directory / f"epoch-{epoch:05d}.npz", variables, state)
    for old in sorted(directory.glob("epoch-*.npz"))[:-KEPT]:
        old.unlink()


def load_newest(
    directory: pathlib.Path,
) -> tuple[pathlib.Path, dict[str, np.ndarray], dict] | None:
    """Reads the newest checkpoint that is whole, and says what it passed over.

    Returns:
        Its path, arrays and state; None where there is no checkpoint at all.

    Raises:
        DataError: If there are some and none is whole.
    """
    paths = sorted(directory.glob("epoch-*.npz"), reverse=True)
    for path in paths:
        try:
            return path, *load(path)
        except DataError as error:
            print(f"warning: {error} Trying an older one.", file=sys.stderr)
    if paths:
        raise DataError(
            f"none of the {len(paths)} checkpoints in {directory} is whole. "
            "Start again with another --model_dir, or remove this one."
        )
    return None
