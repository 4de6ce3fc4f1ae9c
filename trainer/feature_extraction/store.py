"""Features on disk: one folder per set, of NumPy files and a small JSON.

    train-view003-0f3a…/
        features-00000.npy …   float16 [rows, C] or [rows, h, w, C]
        ids.npy labels.npy     int64 [N], int32 [N], in the same order
        features.json          written last: what they depend on, and checksums

`np.load(file, mmap_mode="r")` reads them without this project. A folder's name
ends in a hash of all that the features depend on: so features are found again
by a run that can use them, and by no other.
"""

import hashlib
import json
import pathlib
import time

import numpy as np

from data_prep.runtime import crc32c
from data_prep.runtime.errors import DataError

JSON = "features.json"
PAUSE = 0.2  # seconds between two looks for what others have written


class FeatureSet:
    """Features of one split, or of one augmented view of it.

    Attributes:
        folder: The folder that holds them.
        identity: What they depend on.
        count: Number of images, N.
        shape: Shape of one image's features.
        ids: int64 `[N]`, see `data_prep.dataset.records.image_id`.
        labels: int32 `[N]`, indices of classes.
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

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Returns the features of some images, float16 `[b, *shape]`.

        They are mapped, not loaded: a set may be larger than memory.

        Args:
            indices: int64 `[b]`, indices of images in record order.
        """
        if len(self._shards) == 1:
            return self._shards[0][indices]
        result = np.empty((len(indices), *self.shape), np.float16)
        shards, rows = np.divmod(indices, self._rows)
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
        ids: int64 `[N]`, the data set's image ids in record order.

    Returns:
        The set; None where there is none.

    Raises:
        DataError: If it is damaged, or of something else than its name says.
    """
    folder = folder_of(root, identity)
    if not (folder / JSON).exists():
        return None
    try:
        content = json.loads((folder / JSON).read_text())
        found, files = content["identity"], content["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(
            folder, f"{folder / JSON} is damaged: {error}."
        ) from None
    _check_identity(folder, found, identity)
    _check_files(folder, files)
    result = FeatureSet(folder, content)
    if not np.array_equal(result.ids, ids):
        raise _unusable(
            folder, f"the ids of {folder} are not those of the data set."
        )
    return result


def _check_identity(folder: pathlib.Path, found: dict, wanted: dict) -> None:
    different = sorted(
        f"{name} {found.get(name)!r}, expected {wanted.get(name)!r}"
        for name in {*found, *wanted}
        if found.get(name) != wanted.get(name)
    )
    if different:
        raise _unusable(
            folder,
            f"{folder} holds features of something else: "
            f"{'; '.join(different)}.",
        )


def _check_files(folder: pathlib.Path, files: list[dict]) -> None:
    for file in files:
        path = folder / file["name"]
        size = path.stat().st_size if path.is_file() else "no"
        if size != file["bytes"]:
            raise _unusable(
                folder,
                f"{path} has {size} bytes, expected {file['bytes']}: it is "
                "damaged.",
            )
        if checksum(path) != file["crc32c"]:
            raise _unusable(
                folder,
                f"{path} is damaged: its checksum is not the one in {JSON}.",
            )


def _unusable(folder: pathlib.Path, reason: str) -> DataError:
    return DataError(f"{reason} Remove {folder} to have it extracted again.")


def wait_for(
    root: pathlib.Path, identity: dict, ids: np.ndarray, patience: float
) -> FeatureSet:
    """Opens a set that another worker has finished; see `load`.

    Args:
        root: The folder of all sets.
        identity: What the features must depend on.
        ids: int64 `[N]`, the data set's image ids in record order.
        patience: Seconds in which it has to appear here.

    Raises:
        DataError: If it does not, or is damaged.
    """
    until = time.monotonic() + patience
    while (found := load(root, identity, ids)) is None:
        if time.monotonic() >= until:
            raise DataError(
                f"{folder_of(root, identity)} was written by another worker "
                "and is not seen by this one. Expected --feature_dir in one "
                "folder that all workers see alike, or on a disk of each "
                "one's own."
            )
        time.sleep(PAUSE)
    return found


def checksum(path: pathlib.Path) -> int:
    """Returns the CRC-32C of a file."""
    with open(path, "rb") as file:
        found = crc32c.of_start(file, path.stat().st_size)
    return int.from_bytes(found, "big")
