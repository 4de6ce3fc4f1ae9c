"""How often a model is right, by how sure it is. Imports nothing local."""

import numpy as np

BINS = 15  # of equal width, over [0, 1]


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Returns the bin of each probability, int `[N]` below `BINS`.

    Args:
        confidence: float32 `[N]`, in [0, 1]; 1 is in the last bin.
    """
    return np.minimum((confidence * BINS).astype(int), BINS - 1)
