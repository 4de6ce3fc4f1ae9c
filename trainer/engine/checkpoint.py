"""What is saved and how it is restored: files that are whole or absent.

A checkpoint is an uncompressed NumPy archive of variables by name, and a JSON
text beside them. Its members carry CRC-32 sums, which NumPy checks, so
a damaged file is noticed when it is read.

`start.npz` holds all of the model's variables as the run found them. What is
saved later holds only those that have learned since: of a frozen VGG16 that
is kilobytes instead of 59 MB.
"""

import json
import pathlib
import queue
import sys
import threading
import zipfile
from collections.abc import Callable
from collections.abc import Mapping

import keras
import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError

KEPT = 2  # checkpoints that stay, so that one damaged file is not all
START = "start.npz"
_STATE = "state.json"


class NotFinite(TrainingError):
    """A loss or a variable has become infinite or no number at all."""


def model_variables(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns all variables of a flat model by the names of their layers.

    Keras numbers some paths anew in every model; a layer's name does not
    change.
    """
    return {
        f"{layer.name}/{variable.name}": variable
        for layer in model.layers
        for variable in layer.variables
    }


def copy(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Returns the values of variables, by name, to be saved later.

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
        path: Where to.
        arrays: What to save, by name.
        state: What else to save, as JSON can hold it.
    """
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    with atomic.replacing(path) as incomplete, open(incomplete, "wb") as file:
        np.savez(file, **arrays, **{_STATE: text})


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
        AttributeError,  # an empty file is no archive but an array
        zipfile.BadZipFile,
    ) as error:
        raise DataError(f"{path} is damaged or missing: {error}.") from None
    return arrays, state


def assign(
    variables: Mapping[str, keras.Variable],
    arrays: Mapping[str, np.ndarray],
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


def load_model(model: keras.Model, path: pathlib.Path) -> dict:
    """Sets all of a model's variables to what they were at a checkpoint.

    Args:
        model: Of the run.
        path: Of the checkpoint; `START` lies beside it.

    Returns:
        The checkpoint's state.

    Raises:
        DataError: If one of the two is missing, damaged or of another model.
    """
    arrays, state = load(path)
    assign_model(model, arrays, path)
    return state


def assign_model(
    model: keras.Model, arrays: Mapping[str, np.ndarray], path: pathlib.Path
) -> None:
    """Sets all of a model's variables to what a checkpoint and `START` hold.

    Args:
        model: Of the run.
        arrays: What `load` returned.
        path: Where from; `START` lies beside it.

    Raises:
        DataError: If `START` is missing, damaged or of another model.
    """
    start, _ = load(path.with_name(START))
    assign(model_variables(model), {**start, **arrays}, path)


def step_path(directory: pathlib.Path, step: int) -> pathlib.Path:
    """Returns the name of the checkpoint after so many steps of a run."""
    return directory / f"step-{step:09d}.npz"


def newest(
    directory: pathlib.Path,
) -> tuple[pathlib.Path, dict[str, np.ndarray], dict] | None:
    """Reads the newest checkpoint that is whole, and says what it passed over.

    Returns:
        Its path, arrays and state; None where there is no checkpoint at all.

    Raises:
        DataError: If there are some and none is whole.
    """
    paths = sorted(directory.glob("step-*.npz"), reverse=True)
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


class Writer:
    """Writes checkpoints in a thread, beside the training, in order.

    Args:
        directory: Where to; what an earlier run left unfinished is removed.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._work: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        atomic.sweep(directory)
        threading.Thread(target=self._run, daemon=True).start()

    def save(
        self, path: pathlib.Path, arrays: dict[str, np.ndarray], state: dict
    ) -> None:
        """Writes a file soon; waits while two others are still to be written.

        Args:
            path: Where to.
            arrays: What `copy` returned.
            state: What else to save, as JSON can hold it.

        Raises:
            TrainingError: If an earlier one could not be written.
        """
        # As text: what the caller changes afterwards is not saved.
        state = json.loads(json.dumps(state))
        self._put(lambda: save(path, arrays, state))

    def keep_only(self, best: pathlib.Path | None) -> None:
        """Removes, after what was to be saved before, all that is not needed.

        Args:
            best: The epoch to be exported, which stays beside the last
                `KEPT` checkpoints; None where there is none yet.
        """

        def remove() -> None:
            for path in sorted(self._directory.glob("step-*.npz"))[:-KEPT]:
                path.unlink()
            for path in self._directory.glob("best-*.npz"):
                if path != best:
                    path.unlink()

        self._put(remove)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            TrainingError: If something could not be written.
        """
        self._work.join()
        self._raise()

    def _put(self, work: Callable[[], None]) -> None:
        self._raise()
        self._work.put(work)

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise TrainingError(
                f"a checkpoint could not be written to {self._directory}: "
                f"{self._error}. What was saved before is whole: make room, "
                "and run the same command again."
            )
        if self._error:
            raise self._error

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                if not self._error:
                    work()
            except BaseException as error:
                self._error = error
            finally:
                self._work.task_done()
