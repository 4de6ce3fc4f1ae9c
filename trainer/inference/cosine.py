"""The images of a set that are most alike to some others. Imports nothing local."""

from collections.abc import Iterable

import numpy as np


def nearest(
    queries: np.ndarray, parts: Iterable[np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the nearest rows by the cosine of their angle.

    Args:
        queries: float `[Q, F]`.
        parts: The rows to choose among, float `[b, F]`, in order.
        count: How many to find of each; fewer where there are fewer.

    Returns:
        Their numbers, int `[Q, count]`, and cosines, float32, the nearest
        first.
    """
    asked = unit(queries)
    numbers = np.zeros((len(asked), 0), int)
    cosines = np.zeros((len(asked), 0), np.float32)
    done = 0
    for part in parts:
        found = np.concatenate([cosines, asked @ unit(part).T], axis=1)
        here = np.tile(done + np.arange(len(part)), (len(asked), 1))
        numbers = np.concatenate([numbers, here], axis=1)
        order = np.argsort(-found, axis=1, kind="stable")[:, :count]
        numbers = np.take_along_axis(numbers, order, axis=1)
        cosines = np.take_along_axis(found, order, axis=1)
        done += len(part)
    return numbers, cosines


def unit(rows: np.ndarray) -> np.ndarray:
    """Returns rows of length 1; what is all zero stays.

    Args:
        rows: float `[n, F]`.

    Returns:
        float32 `[n, F]`.
    """
    rows = rows.astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
