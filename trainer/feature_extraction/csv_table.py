"""A feature set as a table for programs that read no NumPy files."""

import pathlib

import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime import signals
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import remedy
from trainer.feature_extraction.store import FeatureSet


def write(features: FeatureSet, files: list[str]) -> pathlib.Path:
    """Writes `features.csv` into the set's folder: id, file, label, values.

    Args:
        features: The set, of N images.
        files: N paths, in record order.

    Returns:
        The path of the file.

    Raises:
        DataError: If the disk is full.
        Stopped: If a signal asked to stop.
    """
    path = features.folder / "features.csv"
    size = int(np.prod(features.shape))
    try:
        with atomic.open_csv(path) as writer:
            writer.writerow(
                ["id", "file", "label"] + [f"feature_{n}" for n in range(size)]
            )
            for row, file in enumerate(files):
                if signals.requested():
                    raise Stopped(
                        f"stopped by {signals.requested()}. The features are "
                        f"kept, {path} is not. Run the same command again."
                    )
                values = features.take(np.array([row])).reshape(-1)
                writer.writerow(
                    [features.ids[row], file, features.labels[row]]
                    + [f"{value:g}" for value in values]
                )
    except OSError as error:
        raise DataError(
            f"{path} could not be written: {error}. The features themselves "
            f"are kept: {remedy(error)} and run the same command again."
        ) from error
    return path
