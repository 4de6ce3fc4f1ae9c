"""Files of a line per image: what was predicted of it, and how wrong that is.

Lines are written as they come: of a million images of a thousand classes they
are 12 GB.
"""

import csv
import pathlib
from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from data_prep.runtime import atomic
from trainer.inference.figures import Answers

# File, name of the true class, and probabilities, float32 `[K]`.
Row = tuple[str, str, np.ndarray]
_DIGITS = "%.9g"  # give the same float32 again


def write_predictions(
    path: pathlib.Path,
    classes: Sequence[str],
    rows: Iterable[Row],
) -> None:
    """Writes a CSV of one line per image.

    Columns: `file,label,predicted`, then `probability_CLASS` in class order.

    Args:
        path: The file.
        classes: K names.
        rows: What was predicted, in the order of the lines.
    """
    shares = ",".join([_DIGITS] * len(classes)) + "\r\n"
    with atomic.open_text(path) as output:
        csv.writer(output).writerow(
            ["file", "label", "predicted"]
            + [f"probability_{name}" for name in classes]
        )
        # What is no text needs no quotes: that makes it twice as fast.
        names = csv.writer(output, lineterminator=",")
        for file, label, probabilities in rows:
            predicted = classes[int(probabilities.argmax())]
            names.writerow([file, label, predicted])
            output.write(shares % tuple(probabilities.tolist()))


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
