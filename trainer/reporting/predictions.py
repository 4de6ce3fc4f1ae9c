"""What a page needs of `predictions.csv`, read once, a line at a time."""

import array
import csv
import dataclasses
import heapq
import pathlib
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image that was classified wrongly.

    Attributes:
        file: Path relative to the source folder.
        label: Its class.
        predicted: The class that was predicted.
        probability: Of that class, in [0, 1].
        of_label: Probability of the right class.
    """

    file: str
    label: str
    predicted: str
    probability: float
    of_label: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """All images of a split.

    Attributes:
        right: bool `[N]`, which were classified rightly.
        confidence: float32 `[N]`, the highest probability of each.
        second: bool `[N]`, which are of the second class.
        score: float32 `[N]`, the second class's probability.
        worst: The mistakes that the model was surest of, the surest first.
    """

    right: np.ndarray
    confidence: np.ndarray
    second: np.ndarray
    score: np.ndarray
    worst: list[Mistake]


def read(path: pathlib.Path, classes: Sequence[str], worst: int) -> Summary:
    """Reads a file that `tables.write_predictions` wrote.

    Args:
        path: The file.
        classes: K names, in class order.
        worst: How many mistakes to keep.
    """
    numbers = {name: k for k, name in enumerate(classes)}
    # A number of each image, not an object: of a million they are 10 MB.
    columns = [array.array(kind) for kind in "bfbf"]
    heap: list[tuple[float, str, Mistake]] = []
    with open(
        path, newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = csv.reader(file)
        next(rows)
        for name, label, predicted, *shares in rows:
            probability = float(shares[numbers[predicted]])
            right = label == predicted
            score = float(shares[min(1, len(shares) - 1)])
            for column, value in zip(
                columns,
                (right, probability, numbers[label] == 1, score),
                strict=True,
            ):
                column.append(value)
            if right:
                continue
            of_label = float(shares[numbers[label]])
            one = Mistake(name, label, predicted, probability, of_label)
            entry = (probability, name, one)
            if len(heap) < worst:
                heapq.heappush(heap, entry)
            elif heap:
                heapq.heappushpop(heap, entry)
    right, confidence, second, score = columns
    return Summary(
        np.array(right, bool),
        np.array(confidence, np.float32),
        np.array(second, bool),
        np.array(score, np.float32),
        [one for _, _, one in sorted(heap, reverse=True)],
    )
