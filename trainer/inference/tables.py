"""Files of a line per image: what was predicted of it, and how wrong that is.

Lines are written as they come. Of many classes a line has the likeliest ones:
all probabilities of a million images of a thousand classes would be 13 GB.
"""

import csv
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence
from typing import TextIO

import numpy as np

from data_prep.runtime import atomic
from trainer.inference.figures import Answers

# File, number of the true class, and probabilities, float32 `[K]`.
Row = tuple[str, int, np.ndarray]
ALL = 100  # classes of which every probability is written
# Of the likeliest and of the true class, where there are more than `ALL`.
FEW = ["probability", "probability_of_label"]
_LIKELIEST = 5
_DIGITS = "%.9g"  # give the same float32 again


def write_predictions(
    path: pathlib.Path,
    classes: Sequence[str],
    rows: Iterable[Row],
) -> None:
    """Writes a CSV of one line per image.

    Columns: `file,label,predicted`, then `probability_CLASS` in class order.
    Of more than `ALL` classes, `probability,probability_of_label` and, of the
    next likeliest, `class_2,probability_2` to `class_5,probability_5`.

    Args:
        path: The file.
        classes: K names.
        rows: What was predicted, in the order of the lines.
    """
    write = _write_all if len(classes) <= ALL else _write_few
    with atomic.open_text(path) as output:
        write(output, classes, rows)


def _write_all(
    output: TextIO, classes: Sequence[str], rows: Iterable[Row]
) -> None:
    shares = ",".join([_DIGITS] * len(classes)) + "\r\n"
    csv.writer(output).writerow(
        ["file", "label", "predicted"]
        + [f"probability_{name}" for name in classes]
    )
    # What is no text needs no quotes: that makes it twice as fast.
    names = csv.writer(output, lineterminator=",")
    for file, label, probabilities in rows:
        predicted = classes[int(probabilities.argmax())]
        names.writerow([file, classes[label], predicted])
        output.write(shares % tuple(probabilities.tolist()))


def _write_few(
    output: TextIO, classes: Sequence[str], rows: Iterable[Row]
) -> None:
    writer = csv.writer(output)
    places = range(2, _LIKELIEST + 1)
    writer.writerow(
        ["file", "label", "predicted", *FEW]
        + [f"{name}_{n}" for n in places for name in ("class", "probability")]
    )
    for file, label, probabilities in rows:
        best, *others = _likeliest(probabilities)
        line = [file, classes[label], classes[best]]
        line += [_DIGITS % probabilities[k] for k in (best, label)]
        for other in others:
            line += [classes[other], _DIGITS % probabilities[other]]
        writer.writerow(line)


def _likeliest(probabilities: np.ndarray) -> np.ndarray:
    """Returns the likeliest classes, of equal ones the first."""
    least = np.partition(probabilities, -_LIKELIEST)[-_LIKELIEST]
    among = np.flatnonzero(probabilities >= least)
    order = np.argsort(-probabilities[among], kind="stable")
    return among[order][:_LIKELIEST]


def write_errors(
    path: pathlib.Path,
    classes: Sequence[str],
    files: Sequence[str],
    answers: Answers,
) -> None:
    """Writes a CSV of one line per image, the worst error first.

    The error is what the probability of the right class lacks of 1. Columns:
    `file,label,predicted,correct,probability,probability_of_label`.

    Args:
        path: The file.
        classes: K names.
        files: N paths.
        answers: What the model says of them.
    """
    of_label, right = answers.of_label, answers.right
    order = sorted(range(len(files)), key=lambda n: (of_label[n], files[n]))
    with atomic.open_csv(path) as writer:
        writer.writerow(
            ["file", "label", "predicted", "correct"]
            + ["probability", "probability_of_label"]
        )
        for row in order:
            label, predicted = answers.labels[row], answers.predicted[row]
            writer.writerow(
                [
                    files[row],
                    classes[label],
                    classes[predicted],
                    int(right[row]),
                    _DIGITS % answers.confidence[row],
                    _DIGITS % of_label[row],
                ]
            )
