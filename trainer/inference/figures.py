"""The figures of a classifier on a split, from its answers.

Probabilities are taken some images at a time; what is kept of an image is a
few numbers, whatever the number of classes.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from trainer.inference import calibration
from trainer.inference.calibration import Calibration
from trainer.inference.ranking import Ranking
from trainer.models import temperature

_TOP = 5  # counted where there are more than twice as many classes


class Answers(NamedTuple):
    """What a model says of N images of known classes.

    Attributes:
        labels: int `[N]`, the true classes.
        predicted: int `[N]`.
        confidence: float32 `[N]`, probability of the predicted class.
        of_label: float32 `[N]`, probability of the true class.
        in_top: bool `[N]`, whether that is among the highest `_TOP`.
        sure: float32 `[2, N]`, the confidence without and with the
            temperature.
        second: float32 `[N]`, the second class's probability without it.
        ranking: Of each class, see `Ranking.figures`.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    of_label: np.ndarray
    in_top: np.ndarray
    sure: np.ndarray
    second: np.ndarray
    ranking: list[dict]

    @property
    def right(self) -> np.ndarray:
        """Which images were classified rightly, bool `[N]`."""
        return self.predicted == self.labels


def gather(
    labels: np.ndarray,
    parts: Iterable[np.ndarray],
    classes: int,
    chosen: Calibration,
) -> Answers:
    """Takes the answers from probabilities.

    Args:
        labels: int `[N]`.
        parts: Probabilities without a temperature, float32 `[b, K]`, in the
            order of the labels.
        classes: K.
        chosen: What validation chose.
    """
    ranking = Ranking(len(labels), classes)
    columns = []
    done = 0
    for plain in parts:
        of_part = labels[done : done + len(plain)]
        done += len(plain)
        scaled = temperature.scale(plain, chosen.temperature)
        served = scaled if chosen.applied else plain
        ranking.add(of_part, served)
        of_label = served[np.arange(len(plain)), of_part]
        columns.append(
            (
                plain.argmax(axis=1),
                served.max(axis=1),
                of_label,
                # Of equal ones the label comes first.
                (served > of_label[:, None]).sum(axis=1) < _TOP,
                np.stack([plain.max(axis=1), scaled.max(axis=1)], axis=1),
                # A copy: a view would keep the whole part in memory.
                plain[:, min(1, classes - 1)].copy(),
            )
        )
    predicted, confidence, of_label, in_top, sure, second = map(
        np.concatenate, zip(*columns, strict=True)
    )
    return Answers(
        *(labels, predicted, confidence, of_label, in_top, sure.T, second),
        ranking.figures(),
    )


def measure(answers: Answers, classes: list[str]) -> dict:
    """Computes the figures of a classifier.

    Args:
        answers: What `gather` returned.
        classes: K names.

    Returns:
        `images`, `accuracy` in [0, 1] and its 95% `interval`, `top_5` accuracy
        where there are more than ten classes, `loss` (mean cross-entropy in
        nats), `calibration_error`, `classes` (precision, recall, f1, roc_auc
        and average_precision against all others, and images of each; None
        where no image can tell) and `confusion_matrix` (rows are true classes,
        columns predicted ones).
    """
    from sklearn import metrics

    labels, predicted, right = answers.labels, answers.predicted, answers.right
    numbers = np.arange(len(classes))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=0.0
    )
    more: dict[str, float] = {}
    if len(classes) > 2 * _TOP:
        more[f"top_{_TOP}"] = float(answers.in_top.mean())
    of_label = answers.of_label.astype(np.float64)
    smallest = np.finfo(np.float32).tiny  # a probability of 0 has no logarithm
    return {
        "images": len(labels),
        "accuracy": float(right.mean()),
        "interval": interval(int(right.sum()), len(labels)),
        **more,
        "loss": abs(float(np.log(np.maximum(of_label, smallest)).mean())),
        "calibration_error": calibration.error(right, answers.confidence),
        "classes": {
            name: {
                "precision": float(precision[k]) if images[k] else None,
                "recall": float(recall[k]) if images[k] else None,
                "f1": float(f1[k]) if images[k] else None,
                **answers.ranking[k],
                "images": int(images[k]),
            }
            for k, name in enumerate(classes)
        },
        "confusion_matrix": metrics.confusion_matrix(
            labels, predicted, labels=numbers
        ).tolist(),
    }


def calibrated(
    answers: Answers, chosen: Calibration, classes: list[str]
) -> dict:
    """Returns what temperature and threshold of validation do on a split.

    Args:
        answers: What `gather` returned.
        chosen: What validation chose.
        classes: K names.
    """
    before, after = (calibration.error(answers.right, s) for s in answers.sure)
    found = {
        "temperature": {
            "value": chosen.temperature,
            "applied": chosen.applied,
            "calibration_error_before": before,
            "calibration_error_after": after,
        }
    }
    if chosen.threshold is not None:
        limit = chosen.threshold
        both = np.array([[1 - limit, limit]])
        served = temperature.scale(both, chosen.divisor)
        second = answers.second >= limit
        of_class = [answers.labels == k for k in (0, 1)]
        found["threshold"] = {
            "class": classes[1],
            "value": float(served[0, 1]),
            "accuracy": float((second == of_class[1]).mean()),
            "recalls": [
                float((second == k)[of_class[k]].mean())
                if of_class[k].any()
                else None
                for k in (0, 1)
            ],
        }
    return found


def interval(right: int, images: int) -> list[float]:
    """Returns the 95% interval of an accuracy, by Wilson (1927).

    Args:
        right: Number of images that were classified rightly.
        images: Number of images, at least 1.

    Returns:
        Lower and upper end, in [0, 1].
    """
    from scipy import stats

    return list(
        map(
            float,
            stats.binomtest(right, images).proportion_ci(0.95, "wilson"),
        )
    )
