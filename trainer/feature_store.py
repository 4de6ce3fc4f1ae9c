"""Features on disk: one folder per set, of NumPy files and a small JSON.

    train-view003-0f3a…/
        features-00000.npy …   float16 [rows, C] or [rows, h, w, C]
        ids.npy labels.npy     int64 [N], int32 [N], in the same order
        features.json          written last: what they are of, and checksums

`np.load(file, mmap_mode="r")` reads them without this project. A folder's name
ends in a hash of all that the features depend on, so what was made once is
used again, and by nothing else.
"""

import hashlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Callable
from collections.abc import Iterator

import google_crc32c
import numpy as np

from data_prep.errors import DataError
from trainer import atomic

SHARD_BYTES = 64 << 20
_JSON = "features.json"
# What else may be written meanwhile, and the JSON, ids and labels.
_SPARE_BYTES = 16 << 20


class FeatureSet:
    """Features of one split, or of one augmented view of it.

    Attributes:
        folder: Where they lie.
        identity: What they depend on.
        count: Number of images, N.
        shape: Of one image's features.
        ids: int64 `[N]`, see `data_prep.records.image_id`.
        labels: int32 `[N]`.
    """

    def __init__(self, folder: pathlib.Path, content: dict):
        self.folder = folder
        self.identity = content["identity"]
        self.count = content["images"]
        self.shape = tuple(content["shape"])
        self.ids = np.load(folder / "ids.npy")
        self.labels = np.load(folder / "labels.npy")
        self._rows = content["images_per_shard"]
        self._shards = [
            np.load(folder / file["name"], mmap_mode="r")
            for file in content["files"]
            if file["name"].startswith("features-")
        ]

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Returns the features at positions, float16 `[b, *shape]`.

        They are mapped, not loaded: a set may be larger than memory.

        Args:
            positions: int64 `[b]`, in record order.
        """
        if len(self._shards) == 1:
            return self._shards[0][positions]
        result = np.empty((len(positions), *self.shape), np.float16)
        shards, rows = np.divmod(positions, self._rows)
        for shard in np.unique(shards):
            here = shards == shard
            result[here] = self._shards[shard][rows[here]]
        return result


def key(identity: dict) -> str:
    """Returns the hash that names a set's folder, 16 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder_of(root: pathlib.Path, identity: dict) -> pathlib.Path:
    """Returns where a set lies: its split, its view, and its key."""
    name = identity["split"]
    if identity["view"] is not None:
        name += f"-view{identity['view']:03d}"
    return root / f"{name}-{key(identity)}"


def load(
    root: pathlib.Path, identity: dict, ids: np.ndarray
) -> FeatureSet | None:
    """Opens a finished set, all its files checked.

    Args:
        root: The folder of all sets.
        identity: What the features must depend on.
        ids: int64 `[N]`, of the images, in record order.

    Returns:
        The set; None where there is none.

    Raises:
        DataError: If it is damaged, or of something else than its name says.
    """
    folder = folder_of(root, identity)
    if not folder.is_dir():
        return None
    again = f"Remove {folder} to have it extracted again."
    try:
        content = json.loads((folder / _JSON).read_text())
        files = content["files"]
        found = content["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / _JSON} is damaged: {error}. {again}"
        ) from None
    if found != identity:
        different = sorted(
            f"{name} {found.get(name)!r}, expected {identity.get(name)!r}"
            for name in {*found, *identity}
            if found.get(name) != identity.get(name)
        )
        raise DataError(
            f"{folder} holds features of something else: "
            f"{'; '.join(different)}. {again}"
        )
    for file in files:
        path = folder / file["name"]
        size = path.stat().st_size if path.is_file() else "no"
        if size != file["bytes"]:
            raise DataError(
                f"{path} has {size} bytes, expected {file['bytes']}: it is "
                f"damaged. {again}"
            )
        if _checksum(path) != file["crc32c"]:
            raise DataError(
                f"{path} is damaged: its checksum is not the one in {_JSON}. "
                f"{again}"
            )
    result = FeatureSet(folder, content)
    if not np.array_equal(result.ids, ids):
        raise DataError(
            f"the ids of {folder} are not those of the data set. {again}"
        )
    return result


def save(
    root: pathlib.Path,
    identity: dict,
    *,
    ids: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    shape: tuple[int, ...],
    batch_size: int,
    batches_from: Callable[[int], Iterator[np.ndarray]],
) -> None:
    """Writes a set, going on after the shards that a killed run has left.

    Args:
        root: The folder of all sets.
        identity: What the features depend on.
        ids: int64 `[N]`.
        labels: int32 `[N]`.
        classes: Their names.
        shape: Of one image's features.
        batch_size: Images in a batch; the last one may have fewer.
        batches_from: Given a number of batches to leave out, yields the
            others in order, float16 `[b, *shape]`.

    Raises:
        DataError: If the disk is full; finished shards stay for the next run.
    """
    folder = folder_of(root, identity)
    incomplete = folder.with_name(atomic.INCOMPLETE + folder.name)
    row_bytes = 2 * int(np.prod(shape))
    batches = max(1, SHARD_BYTES // (row_bytes * batch_size))
    rows = batches * batch_size
    shards = -(-len(ids) // rows)
    done = _finished(incomplete, shape, rows, len(ids))
    try:
        incomplete.mkdir(parents=True, exist_ok=True)
        left = (len(ids) - done * rows) * row_bytes + _SPARE_BYTES
        free = shutil.disk_usage(incomplete).free
        if free < left:
            raise DataError(
                f"{root} has {free >> 20} MiB left, and these features need "
                f"{left >> 20}. Free some, or keep them elsewhere "
                "(--feature_dir, or --output_dir of trainer.features)."
            )
        stream = batches_from(done * batches)
        for shard in range(done, shards):
            part = list(itertools.islice(stream, batches))
            _write(incomplete / _name(shard), np.concatenate(part))
        _write(incomplete / "ids.npy", ids)
        _write(incomplete / "labels.npy", labels)
        atomic.sweep(incomplete)
        names = [_name(shard) for shard in range(shards)]
        content = {
            "identity": identity,
            "classes": classes,
            "images": len(ids),
            "shape": list(shape),
            "dtype": "float16",
            "images_per_shard": rows,
            "files": [
                {
                    "name": name,
                    "bytes": (incomplete / name).stat().st_size,
                    "crc32c": _checksum(incomplete / name),
                }
                for name in (*names, "ids.npy", "labels.npy")
            ],
        }
        atomic.write_json(incomplete / _JSON, content)
        if folder.is_dir():  # another run was faster, with the same content
            shutil.rmtree(incomplete)
        else:
            incomplete.rename(folder)
    except OSError as error:
        raise DataError(
            f"{incomplete} could not be written: {error}. What is finished "
            "is kept: free some space and run the same command again."
        ) from error


def _finished(
    folder: pathlib.Path, shape: tuple[int, ...], rows: int, count: int
) -> int:
    """Returns how many whole shards, counted from the first, are there."""
    shard = 0
    while shard * rows < count:
        try:
            array = np.load(folder / _name(shard), mmap_mode="r")
        except (OSError, ValueError):
            break
        if array.shape != (min(rows, count - shard * rows), *shape):
            break
        shard += 1
    return shard


def _name(shard: int) -> str:
    return f"features-{shard:05d}.npy"


def _write(path: pathlib.Path, array: np.ndarray) -> None:
    with atomic.replacing(path) as incomplete, open(incomplete, "wb") as file:
        np.save(file, array)


def _checksum(path: pathlib.Path) -> int:
    crc = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc.update(block)
    return int.from_bytes(crc.digest(), "big")
