"""What validation says of a model's probabilities: `calibration.json`.

The temperature that makes them mean what they say, and of two classes the
probability from which on the second one is the better answer.
"""

import dataclasses
import json
import pathlib

import numpy as np

from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from trainer.models import temperature as temperature_lib

FILE_NAME = "calibration.json"
BINS = 15  # of equal width, over [0, 1]
# What one number is fitted on, at most.
_IMAGES = 50_000
_NUMBERS = 2**22  # probabilities, 32 MB as logits


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was chosen on validation.

    Attributes:
        temperature: What logits are divided by for the least cross-entropy.
        applied: Whether evaluation and the exported model divide by it.
        threshold: The second of two classes' probability, as it is without a
            temperature, from which on predicting it gives the best mean of
            both recalls; None of more classes.
    """

    temperature: float
    applied: bool
    threshold: float | None

    @property
    def divisor(self) -> float:
        """What the logits of evaluation and export are divided by."""
        return self.temperature if self.applied else 1.0


def choose(
    probabilities: np.ndarray, labels: np.ndarray, applied: bool
) -> Calibration:
    """Chooses temperature and threshold on validation.

    Args:
        probabilities: float32 `[N, K]`, without a temperature, of every
            `sample_step`th image.
        labels: int `[N]`.
        applied: Whether evaluation and export use the temperature.
    """
    wrong = probabilities.argmax(axis=1) != labels
    temperature = 1.0
    if wrong.any():  # else the surest is the best, and nothing says how sure
        temperature = temperature_lib.fit(
            temperature_lib.logits_of(probabilities), labels
        )
    threshold = None
    if probabilities.shape[1] == 2:
        threshold = _threshold(labels == 1, probabilities[:, 1])
    return Calibration(temperature, applied, threshold)


def sample_step(images: int, classes: int) -> int:
    """Returns of how many images one is enough to choose by, at least 1."""
    enough = min(_IMAGES, _NUMBERS // classes)
    return max(1, -(-images // enough))


def _threshold(second: np.ndarray, scores: np.ndarray) -> float:
    """Returns the threshold of the greatest J of Youden (1950).

    It lies midway between two scores, 0.5 where one class is all there is.
    """
    from sklearn import metrics

    if second.all() or not second.any():
        return 0.5
    false, true, found = metrics.roc_curve(
        second, scores, drop_intermediate=False
    )
    best = int(np.argmax(true - false))
    below = scores[scores < found[best]]
    lower = below.max() if len(below) else found[best]
    return float((float(found[best]) + float(lower)) / 2)


def save(model_dir: pathlib.Path, calibration: Calibration) -> None:
    """Writes `calibration.json`.

    Args:
        model_dir: The model directory.
        calibration: What was chosen.
    """
    atomic.write_json(model_dir / FILE_NAME, dataclasses.asdict(calibration))


def load(model_dir: pathlib.Path) -> Calibration | None:
    """Reads `calibration.json`; None where there is none.

    Args:
        model_dir: The model directory.

    Raises:
        DataError: If it is damaged.
    """
    path = model_dir / FILE_NAME
    if not path.exists():
        return None
    try:
        found = Calibration(**json.loads(path.read_text()))
        if not 0 < found.temperature < np.inf:
            raise ValueError(f"temperature {found.temperature}")
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} is damaged: {error}. Remove it, and `shardtune evaluate "
            f"--model_dir={model_dir}` chooses again."
        ) from None
    return found


def bins_of(confidence: np.ndarray) -> np.ndarray:
    """Returns the bin of each probability, int `[N]` below `BINS`.

    Args:
        confidence: float32 `[N]`, in [0, 1]; 1 is in the last bin.
    """
    return np.minimum((confidence * BINS).astype(int), BINS - 1)


def error(right: np.ndarray, confidence: np.ndarray) -> float:
    """Returns by how much confidence and accuracy differ, on average.

    The expected calibration error of Guo et al. (2017), over `BINS`.

    Args:
        right: bool `[N]`, which images were classified rightly.
        confidence: float32 `[N]`, the highest probability of each, in [0, 1].
    """
    gaps = np.bincount(
        bins_of(confidence), weights=right - confidence.astype(np.float64)
    )
    return float(np.abs(gaps).sum() / len(right))
