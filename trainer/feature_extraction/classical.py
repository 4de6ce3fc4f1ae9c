"""Classical classifiers on features, folded into the weights of a head.

Logistic regression and the linear SVM are scikit-learn's. What is kept of them
is one matrix and one vector: the network's last layer, float32.
"""

import dataclasses
import warnings

import numpy as np

STRENGTHS = tuple(10.0 ** (half / 2) for half in range(-8, 5))
_ENOUGH = 2  # strengths in a row that make validation worse
SCALINGS = ("common", "standard")


@dataclasses.dataclass(frozen=True)
class LinearHead:
    """A linear classifier and how it was chosen.

    Attributes:
        kernel: float32 `[F, K]`, from features to logits.
        bias: float32 `[K]`.
        chosen: `scaling`, `C`, `temperature`, `val_loss` in nats and
            `val_accuracy` of what was kept.
        candidates: The same of everything that was tried.
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

    Features are centred, and divided by one number ("common") or by the
    standard deviation of each ("standard"), which blows up those that hardly
    vary: either may be better, so both are tried.

    Args:
        classifier: "logistic_regression" or "linear_svm".
        features: float `[N, F]`.
        labels: int `[N]`, each of the K classes at least once.
        validation: float `[M, V, F]`: V views of each image, whose scores
            are averaged as predictions will be.
        validation_labels: int `[M]`.
        seed: Of the SVM's solver.
        class_weights: "balanced" weighs a class by the inverse of its images
            in the fit; the choice counts every validation image alike.
    """
    labels = np.asarray(labels)
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    centred = features - mean
    candidates, best = [], None
    for scaling in SCALINGS:
        deviation = centred.std(axis=0)
        if scaling == "common":
            deviation = np.full_like(deviation, np.sqrt((deviation**2).mean()))
        deviation[deviation == 0] = 1.0
        coordinates, axes = _rotate(centred / deviation)
        # Each view apart: float64 copies of all at once would be large.
        views = [
            ((validation[:, view] - mean) / deviation) @ axes
            for view in range(validation.shape[1])
        ]
        averaged = np.mean(views, axis=0)  # as good as averaging the scores
        rising, before = 0, np.inf
        for strength in STRENGTHS:
            coefficients, intercept = _fit_one(
                classifier, coordinates, labels, strength, seed, class_weights
            )
            logits = averaged @ coefficients + intercept
            temperature = 1.0
            if classifier == "linear_svm":
                temperature = _temperature(logits, validation_labels)
            candidate = {
                "scaling": scaling,
                "C": strength,
                "temperature": temperature,
                "val_loss": _loss(logits / temperature, validation_labels),
                "val_accuracy": float(
                    (logits.argmax(axis=1) == validation_labels).mean()
                ),
            }
            candidates.append(candidate)
            if best is None or candidate["val_loss"] < best[0]["val_loss"]:
                kernel = (axes @ coefficients) / deviation[:, None]
                bias = intercept - mean @ kernel
                best = candidate, kernel / temperature, bias / temperature
            # Past the valley, and ever slower to fit.
            rising = rising + 1 if candidate["val_loss"] > before else 0
            before = candidate["val_loss"]
            if rising == _ENOUGH:
                break
    chosen, kernel, bias = best
    return LinearHead(
        kernel.astype(np.float32), bias.astype(np.float32), chosen, candidates
    )


def _rotate(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns N points of F dimensions into at most N, exactly.

    A penalty on the length of the coefficients does not change under a
    rotation, and N points span N dimensions at most: of flattened maps, with
    F in the ten thousands, this leaves out what cannot matter.

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


def _fit_one(
    classifier: str,
    coordinates: np.ndarray,
    labels: np.ndarray,
    strength: float,
    seed: int,
    class_weights: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns coefficients `[D, K]` and intercepts `[K]`."""
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
    with warnings.catch_warnings():
        # A fit that goes on for ever is one that validation will not choose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(coordinates, labels)
    coefficients, intercept = model.coef_.T, model.intercept_
    if coefficients.shape[1] == 1:
        # One score of two classes: halves, whose difference is the score.
        coefficients = np.concatenate([-coefficients, coefficients], 1) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    return coefficients, intercept


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: _loss(logits / np.exp(log_t), labels),
        bounds=(-7.0, 7.0),
        method="bounded",
    )
    return float(np.exp(found.x))


def _loss(logits: np.ndarray, labels: np.ndarray) -> float:
    from scipy.special import log_softmax

    logs = log_softmax(logits, axis=1)
    return abs(float(logs[np.arange(len(labels)), labels].mean()))
