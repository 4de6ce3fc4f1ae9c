"""What a page needs of `predictions.csv`, read once, a line at a time."""

import array
import csv
import dataclasses
import heapq
import pathlib
from collections.abc import Sequence

import numpy as np

from data_prep.runtime.errors import DataError
from trainer.inference.tables import FEW


@dataclasses.dataclass(frozen=True)
class Example:
    """An image and what was predicted of it.

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
        score: float32 `[N]`, the second of two classes' probability.
        worst: The mistakes that the model was surest of, the surest first.
        best: The same of images that it classified rightly.
    """

    right: np.ndarray
    confidence: np.ndarray
    second: np.ndarray
    score: np.ndarray
    worst: list[Example]
    best: list[Example]


class _Surest:
    """Keeps the images that a model was surest of."""

    def __init__(self, count: int):
        self._count = count
        self._heap: list[tuple[float, str, Example]] = []

    def add(self, one: Example) -> None:
        entry = (one.probability, one.file, one)
        if len(self._heap) < self._count:
            heapq.heappush(self._heap, entry)
        elif self._heap:
            heapq.heappushpop(self._heap, entry)

    def examples(self) -> list[Example]:
        return [one for _, _, one in sorted(self._heap, reverse=True)]


def read(
    path: pathlib.Path, classes: Sequence[str], worst: int, best: int
) -> Summary:
    """Reads a file that `tables.write_predictions` wrote.

    Args:
        path: The file.
        classes: K names, in class order.
        worst: How many mistakes to keep.
        best: How many images that were classified rightly.

    Raises:
        DataError: If it is damaged, or of other classes.
    """
    try:
        return _read(path, classes, worst, best)
    except (StopIteration, KeyError, IndexError, ValueError) as error:
        raise DataError(
            f"{path} is damaged, or of other classes: {error!r}. `shardtune "
            f"evaluate --model_dir={path.parent}` writes it."
        ) from None


def _read(
    path: pathlib.Path, classes: Sequence[str], worst: int, best: int
) -> Summary:
    numbers = {name: k for k, name in enumerate(classes)}
    # A number of each image, not an object: of a million they are 10 MB.
    columns = [array.array(kind) for kind in "bfbf"]
    kept: dict[bool, _Surest] = {False: _Surest(worst), True: _Surest(best)}
    with open(
        path, newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        rows = csv.reader(file)
        _, _, _, *names = next(rows)
        few = names[:2] == FEW
        for name, label, predicted, *shares in rows:
            both = numbers[predicted], numbers[label]
            places = (0, 1) if few else both
            probability, of_label = (float(shares[k]) for k in places)
            right = label == predicted
            score = float(shares[min(1, len(shares) - 1)])
            for column, value in zip(
                columns,
                (right, probability, both[1] == 1, score),
                strict=True,
            ):
                column.append(value)
            kept[right].add(
                Example(name, label, predicted, probability, of_label)
            )
    if not columns[0]:
        raise ValueError("no image")
    right, confidence, second, score = columns
    return Summary(
        np.array(right, bool),
        np.array(confidence, np.float32),
        np.array(second, bool),
        np.array(score, np.float32),
        kept[False].examples(),
        kept[True].examples(),
    )
