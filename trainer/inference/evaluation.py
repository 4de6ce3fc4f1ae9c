"""Measures a model on a split: figures and predictions as files, a table."""

import pathlib
from collections.abc import Iterator
from collections.abc import Mapping

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import atomic
from trainer.inference import calibration
from trainer.inference import figures
from trainer.inference import mcnemar
from trainer.inference import tables
from trainer.inference.spool import Spool
from trainer.models import temperature
from trainer.pipeline.reader import Reader

_ROWS = 256  # of a table that are made at once


def write(
    reader: Reader,
    probabilities: Spool,
    chosen: calibration.Calibration,
    of_others: Mapping[str, np.ndarray],
    output_dir: pathlib.Path,
    errors: bool = False,
) -> dict:
    """Measures what was predicted of a split; writes figures and predictions.

    Args:
        reader: Reader of the split.
        probabilities: In record order, without a temperature; the files have
            them with it where it is applied.
        chosen: What validation chose.
        of_others: Which images the best epochs of other phases classify
            rightly, bool `[N]`, by the phase.
        output_dir: Folder to write to.
        errors: Whether to write also the images by their error.

    Returns:
        The figures, as they are written.
    """
    classes, labels = reader.manifest.classes, reader.labels
    answers = figures.gather(
        labels, probabilities.parts(), len(classes), chosen
    )
    result = {
        "split": reader.split,
        **figures.measure(answers, classes),
        **figures.calibrated(answers, chosen, classes),
        "other_phases": {
            phase: _against(answers.right, right)
            for phase, right in of_others.items()
        },
    }
    files = reader.files()

    def rows() -> Iterator[tables.Row]:
        order = sorted(range(len(files)), key=lambda n: files[n])
        for first in range(0, len(order), _ROWS):
            part = order[first : first + _ROWS]
            plain = probabilities.rows(part)
            served = temperature.scale(plain, chosen.divisor)
            for row, shares in zip(part, served, strict=True):
                yield files[row], int(labels[row]), shares

    to_figures, to_predictions, to_errors = files_of(
        reader.split, reader.manifest
    )
    if errors:
        path = output_dir / to_errors
        tables.write_errors(path, classes, files, answers)
    tables.write_predictions(output_dir / to_predictions, classes, rows())
    atomic.write_json(output_dir / to_figures, result)
    return result


def _against(right: np.ndarray, other: np.ndarray) -> dict:
    """Returns how the exported epoch differs from another phase's best."""
    found = mcnemar.difference(
        len(right), int((right & ~other).sum()), int((other & ~right).sum())
    )
    return {"accuracy": float(other.mean()), "difference": found._asdict()}


def files_of(
    split: str, manifest: manifest_lib.Manifest
) -> tuple[str, str, str]:
    """Returns the names of a split's figures, predictions and errors.

    Those of the split that a run is measured on have plain names, which no
    other split's take the place of.
    """
    part = "" if split == choose_split(manifest) else f"-{split}"
    return (
        f"evaluation{part}.json",
        f"predictions{part}.csv",
        f"errors{part}.csv",
    )


def choose_split(manifest: manifest_lib.Manifest) -> str:
    """Returns "test", or "validation" if the data set has no test split."""
    return splits.TEST if splits.TEST in manifest.splits else splits.VALIDATION


def other_phases(result: dict) -> list[str]:
    """Says how the best epochs of other phases differ from what is exported.

    Args:
        result: What `write` returned.
    """
    return [
        mcnemar.in_words(
            mcnemar.Difference(**found["difference"]),
            "what is exported",
            f"the {phase} phase",
        )
        for phase, found in result.get("other_phases", {}).items()
    ]


def table(result: dict) -> str:
    """Returns an evaluation as a short table.

    Args:
        result: What `evaluate` returned.
    """
    width = max(len(name) for name in (*result["classes"], "class"))
    lines = [f"{'class':<{width}}  precision  recall      f1  images"]
    for name, of_class in result["classes"].items():
        precision, recall, f1 = (
            "-" if of_class[key] is None else f"{of_class[key]:.4f}"
            for key in ("precision", "recall", "f1")
        )
        lines.append(
            f"{name:<{width}}  {precision:>9}  {recall:>6}  {f1:>6}  "
            f"{of_class['images']:6d}"
        )
    absent = [n for n, f in result["classes"].items() if not f["images"]]
    if absent:
        count = (
            "1 class has" if len(absent) == 1 else f"{len(absent)} classes have"
        )
        lines.append(f"{count} no image in {result['split']}: not measured")
    if threshold := result.get("threshold"):
        lines.append(
            f"{threshold['class']} from a probability of "
            f"{threshold['value']:.4f} on (chosen on validation): "
            f"accuracy {threshold['accuracy']:.4f}"
        )
    lines += other_phases(result)
    low, high = result["interval"]
    lines.append(
        f"{result['split']} accuracy {result['accuracy']:.4f} (95% interval "
        f"{low:.4f} to {high:.4f}), loss {result['loss']:.4f}, "
        f"{result['images']} images"
    )
    return "\n".join(lines)
