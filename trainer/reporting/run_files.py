"""What a run that was evaluated has left, read for its page."""

import json
import pathlib
from typing import NamedTuple

from data_prep.runtime.errors import DataError
from trainer.engine import history
from trainer.engine import start_rule
from trainer.engine.model_directory import ENVIRONMENT
from trainer.reporting import predictions

EVALUATION = "evaluation.json"
PREDICTIONS = "predictions.csv"
_AGAIN = "Train again, into another --model_dir."


class RunFiles(NamedTuple):
    """The content of a model directory.

    Attributes:
        evaluation: Of `evaluation.json`.
        predictions: Of `predictions.csv`.
        epochs: Lines of `metrics.jsonl`; [] where none was trained.
        environment: Of `environment.json`.
        weights: SHA-256 of the file that the run started from; "" without.
    """

    evaluation: dict
    predictions: predictions.Summary
    epochs: list[dict]
    environment: dict
    weights: str


def read(
    folder: pathlib.Path, classes: list[str], mistakes: int, right: int
) -> RunFiles:
    """Reads a model directory.

    Args:
        folder: What `trainer.task` wrote.
        classes: K names, in class order.
        mistakes: How many of the worst to keep.
        right: How many images that were classified rightly.

    Raises:
        DataError: If it was not evaluated, or a file is missing or damaged.
    """
    evaluation = _evaluation(folder)
    summary = predictions.read(folder / PREDICTIONS, classes, mistakes, right)
    if len(summary.right) != evaluation["images"]:
        raise DataError(
            f"{folder / PREDICTIONS} is damaged, or of other classes: it has "
            f"{len(summary.right)} images, {EVALUATION} "
            f"{evaluation['images']}. `shardtune evaluate --model_dir={folder}` "
            "writes both."
        )
    config = _json(folder / start_rule.CONFIG, _AGAIN)
    return RunFiles(
        evaluation,
        summary,
        _epochs(folder / history.METRICS),
        _json(folder / ENVIRONMENT, _AGAIN),
        config.get("weights_sha256") or "",
    )


def _evaluation(folder: pathlib.Path) -> dict:
    """Returns the figures of a run.

    Raises:
        DataError: If they, or the predictions, are missing, damaged or of an
            earlier version.
    """
    cure = f"`shardtune evaluate --model_dir={folder}` writes it."
    for name in (EVALUATION, PREDICTIONS):
        if not (folder / name).exists():
            raise DataError(f"{folder / name} is missing: {cure}")
    found = _json(folder / EVALUATION, cure)
    if "calibration_error" not in found:
        raise DataError(
            f"{folder / EVALUATION} is of an earlier version: {cure}"
        )
    return found


def _json(path: pathlib.Path, cure: str) -> dict:
    """Reads a JSON object.

    Raises:
        DataError: If it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("expected an object")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is damaged or missing: {error}. {cure}"
        ) from None
    return found


def _epochs(path: pathlib.Path) -> list[dict]:
    """Reads `metrics.jsonl`.

    Raises:
        DataError: If it is missing or damaged.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} is damaged or missing: {error}. {_AGAIN}"
        ) from None
