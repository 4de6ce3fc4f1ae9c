"""Writes a set of features, by one worker or by several at once."""

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
from trainer.feature_extraction import store

SHARD_BYTES = 64 << 20  # of a large set
LEAST_SHARDS = 32  # of a small one, where it has as many batches
# What else may be written meanwhile, and the JSON, ids and labels.
_SPARE_BYTES = 16 << 20


class Writer:
    """Writes a set, alone or as one of several workers.

    The shards of all workers together are those of one: a shard is made of
    whole batches, and which ones depends on the number of images alone.

    Args:
        root: The folder of all sets, which all workers share.
        identity: What the features depend on.
        count: Number of images, N.
        shape: Of one image's features.
        batch_size: Images in a batch; the last one may have fewer.
    """

    def __init__(
        self,
        root: pathlib.Path,
        identity: dict,
        *,
        count: int,
        shape: tuple[int, ...],
        batch_size: int,
    ):
        self._root = root
        self._identity = identity
        self._count = count
        self._shape = shape
        self._row_bytes = 2 * int(np.prod(shape))
        batches = -(-count // batch_size)
        # Small sets too are shared evenly, and lose little when killed.
        self._batches = min(
            max(1, SHARD_BYTES // (self._row_bytes * batch_size)),
            -(-batches // LEAST_SHARDS),
        )
        self._rows = self._batches * batch_size
        self._all_batches = range(batches)
        self._shards = range(-(-count // self._rows))
        self._folder = store.folder_of(root, identity)
        # A run of another batch size, which cuts the files elsewhere, must
        # not take these for its own.
        self._incomplete = self._folder.with_name(
            f"{atomic.INCOMPLETE}{self._rows}.{self._folder.name}"
        )

    def write_share(
        self,
        batches: Callable[[Sequence[int]], Iterator[np.ndarray]],
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        """Writes what a killed run has not left of a worker's shards.

        Args:
            batches: Given numbers of batches, yields those, float16
                `[b, *shape]`.
            worker: Counted from 0.
            workers: Their number.

        Raises:
            DataError: If the disk is full; finished shards stay for the next
                run.
        """
        with self._full_disk_named():
            self._incomplete.mkdir(parents=True, exist_ok=True)
            missing = [s for s in self._shards if not self._is_whole(s)]
            self._check_room(missing)
        share = [s for s in missing if s % workers == worker]
        parts = [self._all_batches[self._slice(shard)] for shard in share]
        stream = batches(list(itertools.chain.from_iterable(parts)))
        for shard, part in zip(share, parts, strict=True):
            arrays = list(itertools.islice(stream, len(part)))
            if self._folder.is_dir():
                return  # another run was faster, with the same content
            with self._full_disk_named():
                _write(self._incomplete / _name(shard), np.concatenate(arrays))

    def finish(
        self,
        *,
        ids: np.ndarray,
        labels: np.ndarray,
        classes: list[str],
        patience: float = 0.0,
    ) -> None:
        """Makes all shards a set; for one worker, when all have written.

        Args:
            ids: int64 `[N]`.
            labels: int32 `[N]`.
            classes: Their names.
            patience: Seconds in which the shards of others have to appear: a
                network's file system may show them late.

        Raises:
            DataError: If one does not, or the disk is full.
        """
        folder = self._incomplete
        until = time.monotonic() + patience
        while missing := [s for s in self._shards if not self._is_whole(s)]:
            if self._folder.is_dir():  # another run was faster
                shutil.rmtree(folder, ignore_errors=True)
                return
            if time.monotonic() >= until:
                raise DataError(
                    f"{folder} lacks {_name(missing[0])} and "
                    f"{len(missing) - 1} others that the other workers have "
                    "written. --feature_dir has to be in a folder that all "
                    "workers share, as --model_dir is."
                )
            time.sleep(store.PAUSE)
        with self._full_disk_named():
            _write(folder / "ids.npy", ids)
            _write(folder / "labels.npy", labels)
            atomic.sweep(folder)
            names = [_name(shard) for shard in self._shards]
            content = {
                "identity": self._identity,
                "classes": classes,
                "images": self._count,
                "shape": list(self._shape),
                "dtype": "float16",
                "images_per_shard": self._rows,
                "files": [
                    {
                        "name": name,
                        "bytes": (folder / name).stat().st_size,
                        "crc32c": store.checksum(folder / name),
                    }
                    for name in (*names, "ids.npy", "labels.npy")
                ],
            }
            atomic.write_json(folder / store.JSON, content)
            if not self._folder.is_dir():
                folder.rename(self._folder)
        for other in self._root.glob(
            f"{atomic.INCOMPLETE}*.{self._folder.name}"
        ):
            shutil.rmtree(other, ignore_errors=True)

    def _slice(self, shard: int) -> slice:
        return slice(shard * self._batches, (shard + 1) * self._batches)

    def _rows_of(self, shard: int) -> int:
        return min(self._rows, self._count - shard * self._rows)

    def _is_whole(self, shard: int) -> bool:
        try:
            array = np.load(self._incomplete / _name(shard), mmap_mode="r")
        except (OSError, ValueError):
            return False
        return array.shape == (self._rows_of(shard), *self._shape)

    def _check_room(self, missing: list[int]) -> None:
        rows = sum(self._rows_of(shard) for shard in missing)
        needed = rows * self._row_bytes + _SPARE_BYTES
        free = shutil.disk_usage(self._incomplete).free
        if free < needed:
            raise DataError(
                f"{self._root} has {free >> 20} MiB left, and these features "
                f"need {needed >> 20}. Free some, or keep them elsewhere "
                "(--feature_dir, or --output_dir of trainer.features)."
            )

    @contextlib.contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._incomplete} could not be written: {error}. What is "
                "finished is kept: free some space and run the same command "
                "again."
            ) from error


def _name(shard: int) -> str:
    return f"features-{shard:05d}.npy"


def _write(path: pathlib.Path, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    header = np.lib.format.header_data_from_array_1_0(array)
    with atomic.replacing(path) as incomplete, open(incomplete, "wb") as file:
        # Not np.save: where the disk refuses the last bytes it says nothing.
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)
