"""How well the probability of a class ranks its images before all others.

Exact while all probabilities fit into some megabytes. Beyond, they are counted
in bins of which the scores within one differ by less than 1%, near 0 as near
1, and count as equal. Imports nothing local.
"""

import numpy as np

EXACT = 2**24  # probabilities that are kept, 64 MB
# Bins per octave of p below 1/2, and of 1 - p above: the upper bits of a
# float32 are its logarithm, in steps that are even within an octave.
_BITS = 7
_OCTAVES = 32  # what is below 2^-32 is one bin
_SHIFT = 23 - _BITS
_HALF = int(np.float32(0.5).view(np.uint32)) >> _SHIFT
_LOWEST = _HALF - (_OCTAVES << _BITS)
BINS = 2 * (_HALF - _LOWEST + 1)
_ONE = np.int32(1)  # with a Python number NumPy adds 25 times slower


class Ranking:
    """Collects the probabilities of some images, a few at a time.

    Args:
        images: N, images in all.
        classes: K, number of classes.
    """

    def __init__(self, images: int, classes: int):
        self._classes = classes
        self._labels: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []
        self._counts = None  # of all images, by class and bin
        if images * classes > EXACT:
            shape = (classes, BINS)
            self._counts = np.zeros(shape, np.int32)
            self._own = np.zeros(shape, np.int32)  # of the class's images

    def add(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds images.

        Args:
            labels: int `[b]`.
            probabilities: float32 `[b, K]`.
        """
        if self._counts is None:
            self._labels.append(labels)
            self._scores.append(probabilities)
            return
        cells = _bins(probabilities) + BINS * np.arange(self._classes)
        np.add.at(self._counts.reshape(-1), cells.reshape(-1), _ONE)
        own = cells[np.arange(len(labels)), labels]
        np.add.at(self._own.reshape(-1), own, _ONE)

    def figures(self) -> list[dict]:
        """Returns `roc_auc` and `average_precision` of each class.

        None where all images are of the class, or none is.
        """
        if self._counts is not None:
            both = np.repeat([True, False], BINS)
            bins = np.tile(np.arange(BINS), 2)
            return [
                _figures(both, bins, np.concatenate([own, of_all - own]))
                for own, of_all in zip(self._own, self._counts, strict=True)
            ]
        labels, scores = map(np.concatenate, (self._labels, self._scores))
        weights = np.ones(len(labels), int)
        return [
            _figures(labels == k, scores[:, k], weights)
            for k in range(self._classes)
        ]


def _bins(probabilities: np.ndarray) -> np.ndarray:
    """Returns the bin of each probability; the higher, the higher."""
    low = probabilities < 0.5
    # Exact: 1 - p of a float32 from 0.5 on is one.
    nearer = np.where(low, probabilities, 1 - probabilities)
    steps = (nearer.astype(np.float32).view(np.uint32) >> _SHIFT).astype(int)
    steps = np.maximum(steps - _LOWEST, 0)
    return np.where(low, steps, BINS - 1 - steps)


def _figures(
    positive: np.ndarray, scores: np.ndarray, counts: np.ndarray
) -> dict:
    """Returns both figures of some scores, each of `counts` images."""
    from sklearn import metrics

    of_class = counts[positive].sum()
    if of_class in (0, counts.sum()):
        return {"roc_auc": None, "average_precision": None}
    there = counts > 0
    positive, scores, counts = positive[there], scores[there], counts[there]
    return {
        "roc_auc": float(
            metrics.roc_auc_score(positive, scores, sample_weight=counts)
        ),
        "average_precision": float(
            metrics.average_precision_score(
                positive, scores, sample_weight=counts
            )
        ),
    }
