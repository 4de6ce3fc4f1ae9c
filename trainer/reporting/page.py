"""`report.html`: what a run reached and where it fails, in one file.

No scripts and no network; under 5 MB whatever the size of the data: of many
classes, confusions and mistakes it shows the most telling ones.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_prep.dataset.manifest import Manifest
from data_prep.report import html
from data_prep.report import thumbnails
from data_prep.runtime import atomic
from trainer.config import Config
from trainer.inference import evaluation as evaluation_lib
from trainer.reporting import charts
from trainer.reporting import gallery
from trainer.reporting import run_files
from trainer.reporting.run_files import RunFiles

FILE_NAME = "report.html"
_MATRIX = "confusion_matrix.png"
_MISTAKES = 24  # that are shown
_RIGHT = 8
_CLASSES = 40  # of which figures are shown, the worst ones
_CELLS = 15  # classes of a confusion matrix that is shown whole
_CONFUSIONS = 20


class Page(NamedTuple):
    """What was written.

    Attributes:
        path: The page.
        pictures: What others may show of it, uint8 `[H, W, 3]`, by name.
    """

    path: pathlib.Path
    pictures: dict[str, np.ndarray]


def write(
    model_dir: str, config: Config, manifest: Manifest, exported: dict
) -> Page:
    """Writes the page of a run that was evaluated.

    Args:
        model_dir: What `trainer.task` wrote.
        config: All settings of the run.
        manifest: The data set's manifest.
        exported: The figures of the epoch that is exported.

    Returns:
        Where it is, and pictures of it.

    Raises:
        DataError: If it was not evaluated, or its checkpoint is gone.
    """
    folder = pathlib.Path(model_dir)
    run = run_files.read(folder, manifest.classes, _MISTAKES, _RIGHT)
    evaluation, summary = run.evaluation, run.predictions
    shown = gallery.create(config, manifest, evaluation["split"])
    _draw_files(run, manifest.classes, exported["epoch"], folder)
    augmented = shown.augmented(config.augmentation, config.run.seed)
    text = html.render(
        "report.html",
        "trainer.reporting",
        name=folder.absolute().name,
        evaluation=evaluation,
        exported=exported,
        others=evaluation_lib.other_phases(evaluation),
        **_drawings(run, exported["epoch"]),
        classes=_classes(evaluation),
        matrix=_matrix(evaluation),
        whole_matrix=thumbnails.of_file(folder / _MATRIX)
        if len(manifest.classes) > _CELLS
        else "",
        confusions=_confusions(evaluation),
        mistakes=shown.show(summary.worst, with_nearest=True),
        right=shown.show(summary.best, with_nearest=False),
        wrong=int((~summary.right).sum()),
        augmented="" if augmented is None else gallery.as_address(augmented),
        audit=_audit(config.data.data_dir),
        facts=_facts(config, manifest, run),
        flags=_flags(config),
    )
    atomic.write_text(folder / FILE_NAME, text)
    with Image.open(folder / _MATRIX) as drawn:
        pictures = {"confusion_matrix": np.array(drawn.convert("RGB"))}
    if augmented is not None:
        pictures["augmented"] = augmented
    return Page(folder / FILE_NAME, pictures)


def _draw_files(
    run: RunFiles, classes: list[str], exported: int, folder: pathlib.Path
) -> None:
    """Draws confusions and learning curves for other documents."""
    counts = np.array(run.evaluation["confusion_matrix"])
    charts.png(charts.matrix(counts, classes), folder / _MATRIX)
    if run.epochs:
        curves = charts.curves(run.epochs, exported)
        charts.png(curves, folder / "curves.png")


def _drawings(run: RunFiles, exported: int) -> dict:
    """Returns the drawings of the page as SVG; "" is one that tells nothing."""
    summary, receiver = run.predictions, ""
    two_classes = len(run.evaluation["classes"]) == 2
    if two_classes and 0 < summary.second.mean() < 1:
        receiver = charts.svg(charts.receiver(summary.second, summary.score))
    return {
        "curves": {
            name: charts.svg(charts.curves(run.epochs, exported, [name]))
            for name in (("loss", "accuracy") if run.epochs else ())
        },
        "reliability": charts.svg(
            charts.reliability(summary.right, summary.confidence)
        ),
        "receiver": receiver,
    }


def _classes(evaluation: dict) -> dict:
    """Returns figures of the classes, the lowest F1 first, and how many hide."""
    found = [
        {"name": name, **figures}
        for name, figures in evaluation["classes"].items()
        if figures["images"]
    ]
    found.sort(key=lambda one: one["f1"])
    return {"rows": found[:_CLASSES], "hidden": len(found[_CLASSES:])}


def _matrix(evaluation: dict) -> list[dict]:
    """Returns the rows of a confusion matrix, [] if it has too many."""
    names = list(evaluation["classes"])
    if len(names) > _CELLS:
        return []
    rows = []
    for name, counts in zip(names, evaluation["confusion_matrix"], strict=True):
        total = max(1, sum(counts))
        cells = [(count, count / total) for count in counts]
        rows.append({"name": name, "cells": cells})
    return rows


def _confusions(evaluation: dict) -> list[dict]:
    """Returns the most frequent mistakes, from class to class."""
    names = list(evaluation["classes"])
    matrix = np.array(evaluation["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = [np.unravel_index(one, matrix.shape) for one in order]
    return [
        {"label": names[i], "predicted": names[j], "images": int(matrix[i, j])}
        for i, j in pairs
        if matrix[i, j]
    ]


def _audit(data_dir: str) -> list[tuple[str, int]]:
    """Returns what preparing the data found, as kinds and counts."""
    path = pathlib.Path(data_dir, "audit.json")
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    found = [
        (kind.replace("_", " "), n) for kind, n in content["counts"].items()
    ]
    return [("images", content["files"]), ("usable", content["good"]), *found]


def _facts(
    config: Config, manifest: Manifest, run: RunFiles
) -> list[tuple[str, str]]:
    """Returns what ran on what, as names and values."""
    found, epochs = run.environment, run.epochs
    counts = ", ".join(f"{s.count:,} {n}" for n, s in manifest.splits.items())
    facts = [
        ("images", counts),
        ("data set", f"{config.data.data_dir} ({manifest.fingerprint[:12]})"),
        ("devices", ", ".join(found["devices"])),
        ("precision", found["precision"]),
        ("platform", found["platform"]),
        *([("weights, SHA-256", run.weights)] if run.weights else []),
        *found["versions"].items(),
    ]
    if epochs:
        rates = [epoch["images_per_second"] for epoch in epochs]
        waits = [epoch["data_wait_fraction"] for epoch in epochs]
        seconds = sum(epoch["seconds"] for epoch in epochs)
        facts += [
            ("training", f"{len(epochs)} epochs in {seconds:,.0f} s"),
            ("images/s, median", f"{np.median(rates):,.0f}"),
            ("waiting for data, median", f"{np.median(waits):.0%}"),
        ]
    return facts


def _flags(config: Config) -> list[str]:
    """Returns the flags that are not at their defaults, as they are typed."""
    values = config.values()
    return [
        f"--{one.name}={values[one.name]}"
        for one in config.settings()
        if values[one.name] != one.default
    ]
