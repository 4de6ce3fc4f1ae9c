"""A linear classifier fitted on features, as the weights of a head.

Logistic regression and the linear SVM are scikit-learn's. What is kept of them
is one matrix and one vector: the network's last layer, float32.

Features are centred, and divided by one number ("common") or by the standard
deviation of each ("standard"). One number is better more often: VGG16's
averages that hardly vary are noise, and dividing them by their own deviation
cost a point (validation 0.975 against 0.984 at 200 px). Both are tried, and
validation decides.
"""

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Self

import numpy as np
import threadpoolctl

from trainer.models import temperature as temperature_lib

STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-8, 5))
_ENOUGH = 2  # strengths in a row that make validation worse
# Products of a matrix and a vector this small are over before other threads have
# heard of them, and threads that wait for each other on a busy machine took 16
# times as long.
_FEW_PRODUCTS = 1e8
SCALINGS = ("common", "standard")


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A linear classifier and how it was chosen.

    Attributes:
        kernel: float32 `[F, K]`, from features to logits.
        bias: float32 `[K]`.
        chosen: `scaling`, `C`, `temperature`, `val_loss` in nats and
            `val_accuracy` of the fit that was kept.
        candidates: The same of every fit that was tried.
    """

    kernel: np.ndarray
    bias: np.ndarray
    chosen: dict
    candidates: list[dict]


def fit(
    classifier: str,
    features: np.ndarray,
    labels: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    seed: int = 0,
    class_weights: str = "none",
) -> LinearHead:
    """Fits a classifier for every strength and keeps the best on validation.

    The best has the least cross-entropy: it is smoother than accuracy, so it
    follows the noise of a small split less. An SVM has no probabilities; its
    scores are divided by the temperature that gives the least cross-entropy
    on validation (Guo et al. 2017), which changes no decision.

    Args:
        classifier: "logistic_regression" or "linear_svm".
        features: float `[N, F]`.
        labels: int `[N]`, each of the K classes at least once.
        validation: float `[M, V, F]`: V views of each image, whose scores
            are averaged as predictions will be.
        validation_labels: int `[M]`.
        seed: Seed of the SVM's solver.
        class_weights: "balanced" weighs a class by the inverse of its images
            in the fit; the choice counts every validation image alike.
    """
    labels = np.asarray(labels)
    features = np.asarray(features, np.float64)
    fit_one = functools.partial(
        _fit_one,
        classifier=classifier,
        labels=labels,
        seed=seed,
        class_weights=class_weights,
    )
    calibrate = classifier == "linear_svm"
    fits = []
    for name in SCALINGS:
        scaling = _Scaling.of(name, features)
        fits += _search(
            fit_one, scaling, features, validation, validation_labels, calibrate
        )
    best = min(fits, key=lambda fit: fit.figures["val_loss"])  # the first such
    kernel, bias = best.folded()
    return LinearHead(
        kernel.astype(np.float32),
        bias.astype(np.float32),
        best.figures,
        [fit.figures for fit in fits],
    )


@dataclasses.dataclass(frozen=True)
class _Scaling:
    """From features to the coordinates that a classifier is fitted on.

    Attributes:
        name: One of `SCALINGS`.
        mean: float64 `[F]`, subtracted.
        deviation: float64 `[F]`, divided by.
    """

    name: str
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, name: str, features: np.ndarray) -> Self:
        """Returns the scaling that fits the training features `[N, F]`."""
        mean = features.mean(axis=0)
        deviation = (features - mean).std(axis=0)
        if name == "common":
            deviation = np.full_like(deviation, np.sqrt((deviation**2).mean()))
        deviation[deviation == 0] = 1.0
        return cls(name, mean, deviation)

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Returns features `[n, F]` centred and divided."""
        return (features - self.mean) / self.deviation


@dataclasses.dataclass(frozen=True)
class _Fit:
    """One fitted classifier: its figures, and what its kernel is made of.

    Attributes:
        figures: `scaling`, `C`, `temperature`, `val_loss`, `val_accuracy`.
        scaling: The scaling of its features.
        axes: float64 `[F, D]`, from coordinates back to scaled features.
        coefficients: float64 `[D, K]`.
        intercept: float64 `[K]`.
    """

    figures: dict
    scaling: _Scaling
    axes: np.ndarray
    coefficients: np.ndarray
    intercept: np.ndarray

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns kernel `[F, K]` and bias `[K]`, for features as they are."""
        kernel = self.axes @ self.coefficients
        kernel = kernel / self.scaling.deviation[:, None]
        bias = self.intercept - self.scaling.mean @ kernel
        temperature = self.figures["temperature"]
        return kernel / temperature, bias / temperature


def _search(
    fit_one: Callable,
    scaling: _Scaling,
    features: np.ndarray,
    validation: np.ndarray,
    validation_labels: np.ndarray,
    calibrate: bool,
) -> list[_Fit]:
    """Fits ever weaker penalties, until validation has got worse twice.

    Args:
        fit_one: From coordinates `[N, D]` and a strength to coefficients
            `[D, K]` and intercepts `[K]`.
        scaling: The scaling of the features.
        features: float64 `[N, F]`.
        validation: float `[M, V, F]`.
        validation_labels: int `[M]`.
        calibrate: Whether scores are divided by a temperature.

    Returns:
        At least one fit, in the order of `STRENGTHS`.
    """
    coordinates, axes = _rotate(scaling.apply(features))
    # Each view apart: float64 copies of all at once would be large.
    views = [
        scaling.apply(validation[:, view]) @ axes
        for view in range(validation.shape[1])
    ]
    averaged = np.mean(views, axis=0)  # as good as averaging the scores
    fits, worse, last_loss = [], 0, np.inf
    for strength in STRENGTHS:
        coefficients, intercept = fit_one(coordinates, strength)
        logits = averaged @ coefficients + intercept
        temperature = 1.0
        if calibrate:
            temperature = temperature_lib.fit(logits, validation_labels)
        loss = temperature_lib.loss(logits / temperature, validation_labels)
        hits = logits.argmax(axis=1) == validation_labels
        figures = {
            "scaling": scaling.name,
            "C": strength,
            "temperature": temperature,
            "val_loss": loss,
            "val_accuracy": float(hits.mean()),
        }
        fits.append(_Fit(figures, scaling, axes, coefficients, intercept))
        # Past the valley, and ever slower to fit.
        worse = worse + 1 if loss > last_loss else 0
        last_loss = loss
        if worse == _ENOUGH:
            break
    return fits


def _rotate(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expresses N points of F dimensions in at most N coordinates, exactly.

    N points span at most N dimensions, and the penalty on the length of the
    coefficients does not change under a rotation. So fitting the coordinates
    of 2000 images, instead of their 25,088 flattened values, gives the same
    classifier.

    Args:
        features: float64 `[N, F]`.

    Returns:
        Coordinates `[N, D]` and axes `[F, D]`: features = coordinates @ axes.T
    """
    count, size = features.shape
    if size <= count:
        return features, np.eye(size)
    values, vectors = np.linalg.eigh(features @ features.T)
    kept = values > values[-1] * 1e-12
    lengths = np.sqrt(values[kept])
    return vectors[:, kept] * lengths, features.T @ (vectors[:, kept] / lengths)


def fitting_threads(
    features: np.ndarray, labels: np.ndarray
) -> contextlib.AbstractContextManager:
    """Returns a context in which a small fit takes one thread.

    Args:
        features: float `[N, D]` that are fitted.
        labels: int `[N]`, from 0 to K - 1.
    """
    products = features.size * (int(labels.max()) + 1)
    few = products < _FEW_PRODUCTS
    return threadpoolctl.threadpool_limits(1 if few else None, "blas")


def _fit_one(
    coordinates: np.ndarray,
    strength: float,
    *,
    classifier: str,
    labels: np.ndarray,
    seed: int,
    class_weights: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns scikit-learn's coefficients `[D, K]` and intercepts `[K]`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    weights = None if class_weights == "none" else class_weights
    if classifier == "logistic_regression":
        model = LogisticRegression(
            C=strength, max_iter=1000, class_weight=weights
        )
    else:
        model = LinearSVC(
            C=strength, dual=False, random_state=seed, class_weight=weights
        )
    with warnings.catch_warnings(), fitting_threads(coordinates, labels):
        # Validation does not choose a fit that takes this long.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(coordinates, labels)
    coefficients, intercept = model.coef_.T, model.intercept_
    if coefficients.shape[1] == 1:
        # One score of two classes: halves, whose difference is the score.
        coefficients = np.concatenate([-coefficients, coefficients], 1) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    return coefficients, intercept
