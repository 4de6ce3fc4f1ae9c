"""Writes checkpoints in a thread, beside the training."""

import json
import pathlib
import queue
import threading
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping

import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import TrainingError
from trainer.engine import checkpoint

KEPT = 2  # newest checkpoints that stay, in case one is damaged


class CheckpointWriter:
    """Writes and removes checkpoints in a thread, in the order of the calls.

    Args:
        directory: Folder of the checkpoints. What an earlier run left
            unfinished there is removed.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._tasks: queue.Queue[Callable[[], None]] = queue.Queue(maxsize=2)
        self._error: BaseException | None = None
        atomic.sweep(directory)
        threading.Thread(target=self._run, daemon=True).start()

    def save(
        self, path: pathlib.Path, arrays: Mapping[str, np.ndarray], state: dict
    ) -> None:
        """Writes a file soon; waits while two tasks are still to be done.

        Args:
            path: The file.
            arrays: What `checkpoint.copy` returned.
            state: What else to save, anything that JSON can hold.

        Raises:
            TrainingError: If an earlier file could not be written.
        """
        # As text: what the caller changes afterwards is not saved.
        state = json.loads(json.dumps(state))
        self._put(lambda: checkpoint.save(path, arrays, state))

    def keep_only(
        self, bests: Collection[pathlib.Path], newest: int = KEPT
    ) -> None:
        """Removes old checkpoints, after what was saved before this call.

        Args:
            bests: The checkpoints of the best epochs, which stay.
            newest: How many of the newest stay.

        Raises:
            TrainingError: If an earlier file could not be written.
        """

        def remove() -> None:
            for path in sorted(self._directory.glob("step-*.npz"))[:-newest]:
                path.unlink()
            for path in self._directory.glob("best-*.npz"):
                if path not in bests:
                    path.unlink()

        self._put(remove)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            TrainingError: If something could not be written.
        """
        self._tasks.join()
        self._raise_error()

    def _put(self, task: Callable[[], None]) -> None:
        self._raise_error()
        self._tasks.put(task)

    def _raise_error(self) -> None:
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
            task = self._tasks.get()
            try:
                if not self._error:
                    task()
            except BaseException as error:
                self._error = error
            finally:
                self._tasks.task_done()
