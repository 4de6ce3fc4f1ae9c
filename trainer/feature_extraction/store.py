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
import json
import pathlib
import time

import google_crc32c
import numpy as np

from data_prep.runtime.errors import DataError

JSON = "features.json"
PAUSE = 0.2  # seconds between two looks for what others have written


class FeatureSet:
    """Features of one split, or of one augmented view of it.

    Attributes:
        folder: Where they lie.
        identity: What they depend on.
        count: Number of images, N.
        shape: Of one image's features.
        ids: int64 `[N]`, see `data_prep.dataset.records.image_id`.
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
        content = json.loads((folder / JSON).read_text())
        files = content["files"]
        found = content["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / JSON} is damaged: {error}. {again}"
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
        if checksum(path) != file["crc32c"]:
            raise DataError(
                f"{path} is damaged: its checksum is not the one in {JSON}. "
                f"{again}"
            )
    result = FeatureSet(folder, content)
    if not np.array_equal(result.ids, ids):
        raise DataError(
            f"the ids of {folder} are not those of the data set. {again}"
        )
    return result


def wait_for(
    root: pathlib.Path, identity: dict, ids: np.ndarray, patience: float
) -> FeatureSet:
    """Opens a set that another worker has finished; see `load`.

    Args:
        root: The folder of all sets.
        identity: What the features must depend on.
        ids: int64 `[N]`, of the images, in record order.
        patience: Seconds in which it has to appear here.

    Raises:
        DataError: If it does not, or is damaged.
    """
    until = time.monotonic() + patience
    while (found := load(root, identity, ids)) is None:
        if time.monotonic() >= until:
            raise DataError(
                f"{folder_of(root, identity)} was written by another worker "
                "and is not seen by this one. --feature_dir has to be in a "
                "folder that all workers share, as --model_dir is."
            )
        time.sleep(PAUSE)
    return found


def checksum(path: pathlib.Path) -> int:
    """Returns the CRC-32C of a file."""
    crc = google_crc32c.Checksum()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            crc.update(block)
    return int.from_bytes(crc.digest(), "big")
