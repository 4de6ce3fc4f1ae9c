"""Answers for people, spreadsheets and programs, written as they come."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from data_prep.runtime import atomic
from trainer.inference.prediction import Answer

Write = Callable[[Answer], object]
# What spreadsheets take for a formula (OWASP, "CSV injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def table_line(
    answer: Answer, classes: Sequence[str], width: int, top_k: int
) -> str:
    """Returns an answer as a line of a table.

    Args:
        answer: Of an image.
        classes: K names.
        width: Columns for the name of the file.
        top_k: Classes to show, the likeliest first.
    """
    row = answer.probabilities
    best = np.argsort(-row, kind="stable")[:top_k]
    shown = "  ".join(f"{classes[k]} {row[k]:.4f}" for k in best)
    if not answer.predicted:
        shown = f"unsure ({shown})"
    return f"{printable(answer.file):<{width}}  {shown}"


def printable(file: str) -> str:
    """Returns a name without what a terminal would act on, or cannot show."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in file
    )


@contextlib.contextmanager
def open_csv(path: pathlib.Path, classes: Sequence[str]) -> Iterator[Write]:
    """Yields what writes an answer to a CSV file; see `atomic.replacing`.

    Columns: `file,label,predicted`, then `probability_CLASS` in class order,
    and `problem`. `label` is empty. A name that a spreadsheet would take for a
    formula stands behind an apostrophe.

    Args:
        path: The file.
        classes: K names.
    """
    with atomic.open_csv(path) as writer:
        shares = [f"probability_{name}" for name in classes]
        writer.writerow(["file", "label", "predicted", *shares, "problem"])

        def write(answer: Answer) -> None:
            numbers = [""] * len(classes)
            if answer.probabilities is not None:
                numbers = [f"{p:.9g}" for p in answer.probabilities]
            names = [_harmless(answer.file), "", _harmless(answer.predicted)]
            writer.writerow([*names, *numbers, _harmless(answer.problem)])

        yield write


@contextlib.contextmanager
def open_json_lines(
    path: pathlib.Path, classes: Sequence[str]
) -> Iterator[Write]:
    """Yields what writes an answer as a JSON object on a line of its own.

    Keys: `file`, `label`, `predicted` and `probabilities`, an object by class;
    or `file` and `problem`.

    Args:
        path: The file; see `atomic.replacing`.
        classes: K names.
    """
    with atomic.replacing(path) as incomplete, open(incomplete, "w") as file:

        def write(answer: Answer) -> None:
            content = {"file": answer.file, "problem": answer.problem}
            if answer.probabilities is not None:
                shares = [float(f"{p:.9g}") for p in answer.probabilities]
                content = {
                    "file": answer.file,
                    "label": "",
                    "predicted": answer.predicted,
                    "probabilities": dict(zip(classes, shares, strict=True)),
                }
            file.write(json.dumps(content) + "\n")

        yield write


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
