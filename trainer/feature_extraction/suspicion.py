"""Which labels are likely wrong, and which images are unlike all others.

Confident learning (Northcutt, Jiang and Chuang 2021, "Confident learning:
estimating uncertainty in dataset labels"): a classifier that has not seen an
image says what it is; where it is surer of another class than it is of that
class's own images on average, the label is likely wrong. Imports nothing local.
"""

import warnings
from typing import NamedTuple

import numpy as np

from trainer.feature_extraction.linear_head import fitting_threads

FOLDS = 5
NEIGHBOURS = 10


class Suspicion(NamedTuple):
    """What is thought of N images.

    Attributes:
        suggested: int `[N]`, the class that each most likely is of.
        margin: float `[N]`, in [-1, 1]: the probability of its label less that
            of the likeliest other class. The lower, the more suspect.
        mislabelled: bool `[N]`, whether its label is likely wrong.
        distance: float `[N]`, mean cosine distance to the nearest images, in
            [0, 2]. The higher, the stranger.
    """

    suggested: np.ndarray
    margin: np.ndarray
    mislabelled: np.ndarray
    distance: np.ndarray


def judge(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Suspicion:
    """Judges every image by a classifier that was fitted without it.

    Args:
        features: float32 `[N, F]`.
        labels: int `[N]`, each of the K classes at least `FOLDS` times.
        seed: Of the folds.
    """
    shares = held_out(features, labels, seed)
    suggested, margin, mislabelled = confident(shares, labels)
    return Suspicion(suggested, margin, mislabelled, strangeness(features))


def held_out(
    features: np.ndarray, labels: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Returns probabilities `[N, K]` of logistic regressions, cross-validated.

    Args:
        features: float32 `[N, F]`.
        labels: int `[N]`, each of the K classes at least `FOLDS` times.
        seed: Of the folds.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.model_selection import cross_val_predict

    # One scale for all: see `linear_head`. A penalty, as some labels
    # are wrong and are not to be learned by heart.
    centred = features - features.mean(axis=0)
    scaled = centred / max(float(centred.std()), 1e-12)
    with warnings.catch_warnings(), fitting_threads(scaled, labels):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_predict(
            LogisticRegression(C=0.1, max_iter=500),
            scaled,
            labels,
            cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
            method="predict_proba",
        )


def confident(
    shares: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns suggestion, margin and verdict of each image; see `Suspicion`.

    Args:
        shares: float `[N, K]`, probabilities of a model that has not seen them.
        labels: int `[N]`, each of the K classes at least once.
    """
    rows = np.arange(len(labels))
    of_label = shares[rows, labels]
    others = shares.copy()
    others[rows, labels] = -1.0
    suggested = others.argmax(axis=1)
    margin = of_label - others.max(axis=1)
    # How sure it is of a class's own images, on average.
    usual = np.array(
        [of_label[labels == k].mean() for k in range(shares.shape[1])]
    )
    sure = np.where(shares >= usual, shares, -1.0)
    mislabelled = (sure.max(axis=1) > 0) & (sure.argmax(axis=1) != labels)
    return suggested, margin, mislabelled


def strangeness(features: np.ndarray) -> np.ndarray:
    """Returns the mean cosine distance to the nearest images, float `[N]`.

    Args:
        features: float32 `[N, F]`.
    """
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(features) - 1)
    search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(features)
    return search.kneighbors()[0].mean(axis=1)
