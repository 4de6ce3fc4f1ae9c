"""Writes a feature set, by one worker or by several at once."""

import contextlib
import itertools
import pathlib
import shutil
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import remedy
from trainer.feature_extraction import store
from trainer.feature_extraction.layout import Layout
from trainer.feature_extraction.layout import image_bytes

# What else may be written meanwhile, and the JSON, ids and labels.
_SPARE_BYTES = 16 << 20


class FeatureSetWriter:
    """Writes the files of a set into a folder that is renamed at the end.

    Args:
        root: Folder of all feature sets; all workers share it.
        identity: What the features depend on.
        shape: Shape of one image's features.
        layout: Which images each file holds.
    """

    def __init__(
        self,
        root: pathlib.Path,
        identity: dict,
        shape: Sequence[int],
        layout: Layout,
    ):
        self._root = root
        self._identity = identity
        self._shape = tuple(shape)
        self._layout = layout
        self._folder = store.folder_of(root, identity)
        # A run of another batch size, which cuts the files elsewhere, must
        # not take these for its own.
        self._incomplete = self._folder.with_name(
            f"{atomic.INCOMPLETE}{layout.rows_per_file}.{self._folder.name}"
        )

    def write_share(
        self,
        features: Callable[[Sequence[int]], Iterator[np.ndarray]],
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        """Writes a worker's share of the files that are not there yet.

        Args:
            features: Given numbers of batches, yields the features of each,
                float16 `[b, *shape]`.
            worker: Rank of this worker.
            workers: Number of workers.

        Raises:
            DataError: If the disk is full; finished files stay for the next
                run.
        """
        with self._named_write_errors():
            self._incomplete.mkdir(parents=True, exist_ok=True)
            missing = self._missing()
            self._check_room(missing)
        share = [file for file in missing if file % workers == worker]
        parts = [self._layout.batches(file) for file in share]
        stream = features(list(itertools.chain.from_iterable(parts)))
        for file, part in zip(share, parts, strict=True):
            arrays = list(itertools.islice(stream, len(part)))
            if self._is_published:
                return  # another run was faster, with the same content
            with self._named_write_errors():
                _write(self._incomplete / _name(file), np.concatenate(arrays))

    def finish(
        self,
        *,
        ids: np.ndarray,
        labels: np.ndarray,
        classes: list[str],
        patience: float = 0.0,
    ) -> None:
        """Makes all files a set; for one worker, when all have written.

        Args:
            ids: int64 `[N]`, image ids.
            labels: int32 `[N]`, indices of classes.
            classes: K names.
            patience: Seconds in which files of other workers have to appear:
                a network's file system may show them late.

        Raises:
            DataError: If one does not, or the disk is full.
        """
        self._wait_for_files(patience)
        if not self._is_published:  # no other run was faster
            with self._named_write_errors():
                self._publish(ids, labels, classes)
        leftovers = f"{atomic.INCOMPLETE}*.{self._folder.name}"
        for other in self._root.glob(leftovers):
            shutil.rmtree(other, ignore_errors=True)

    @property
    def _is_published(self) -> bool:
        return (self._folder / store.JSON).exists()

    def _publish(
        self, ids: np.ndarray, labels: np.ndarray, classes: list[str]
    ) -> None:
        _write(self._incomplete / "ids.npy", ids)
        _write(self._incomplete / "labels.npy", labels)
        atomic.sweep(self._incomplete)
        description = self._describe(classes)
        atomic.write_json(self._incomplete / store.JSON, description)
        if not self._is_published:
            atomic.move_folder(self._incomplete, self._folder, store.JSON)

    def _wait_for_files(self, patience: float) -> None:
        """Returns when all files, or the finished set, are there."""
        until = time.monotonic() + patience
        while (missing := self._missing()) and not self._is_published:
            if time.monotonic() >= until:
                raise DataError(
                    f"{self._incomplete} lacks {_name(missing[0])} and "
                    f"{len(missing) - 1} others that the other workers have "
                    "written. Expected --feature_dir in one folder that all "
                    "workers see alike, or on a disk of each one's own."
                )
            time.sleep(store.PAUSE)

    def _describe(self, classes: list[str]) -> dict:
        """Returns the content of the set's JSON, all other files written."""
        names = [_name(file) for file in self._layout.files]
        paths = [
            self._incomplete / name
            for name in (*names, "ids.npy", "labels.npy")
        ]
        return {
            "identity": self._identity,
            "classes": classes,
            "images": self._layout.images,
            "shape": list(self._shape),
            "dtype": "float16",
            "images_per_shard": self._layout.rows_per_file,
            "files": [
                {
                    "name": path.name,
                    "bytes": path.stat().st_size,
                    "crc32c": store.checksum(path),
                }
                for path in paths
            ],
        }

    def _missing(self) -> list[int]:
        """Returns the files that are not there in full."""
        return [file for file in self._layout.files if not self._is_whole(file)]

    def _is_whole(self, file: int) -> bool:
        try:
            array = np.load(self._incomplete / _name(file), mmap_mode="r")
        except (OSError, ValueError):
            return False
        return array.shape == (self._layout.rows(file), *self._shape)

    def _check_room(self, missing: list[int]) -> None:
        rows = sum(self._layout.rows(file) for file in missing)
        needed = rows * image_bytes(self._shape) + _SPARE_BYTES
        free = shutil.disk_usage(self._incomplete).free
        if free < needed:
            raise DataError(
                f"{self._root} has {free >> 20} MiB left, and these features "
                f"need {needed >> 20}. Free some, or keep them elsewhere "
                "(--feature_dir, or --output_dir of trainer.features)."
            )

    @contextlib.contextmanager
    def _named_write_errors(self) -> Iterator[None]:
        """Turns the system's refusal to write into a `DataError`."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._incomplete} could not be written: {error}. What is "
                f"finished is kept: {remedy(error)} and run the same command "
                "again."
            ) from error


def _name(file: int) -> str:
    return f"features-{file:05d}.npy"


def _write(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array as np.save does, but for its silence.

    Where the disk refuses the last bytes of an array, np.save says nothing
    (NumPy 2.4, seen under RLIMIT_FSIZE).
    """
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    with atomic.replacing(path) as incomplete, open(incomplete, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)
