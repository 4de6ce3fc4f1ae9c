"""`report.html`: what a run reached and where it fails, in one file.

No scripts and no network; under 5 MB whatever the size of the data: of many
classes, confusions and mistakes it shows the most telling ones.
"""

import io
import json
import pathlib

import numpy as np
from PIL import Image

from data_prep.dataset import records
from data_prep.dataset.manifest import Manifest
from data_prep.report import html
from data_prep.report import thumbnails
from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.pipeline.reader import Reader
from trainer.reporting import charts
from trainer.reporting import predictions

FILE_NAME = "report.html"
_MISTAKES = 24  # that are shown
_CLASSES = 40  # of which figures are shown, the worst ones
_CELLS = 15  # classes of a confusion matrix that is shown whole
_CONFUSIONS = 20


def write(
    model_dir: str, config: Config, manifest: Manifest, exported: dict
) -> pathlib.Path:
    """Writes the page of a run that was evaluated.

    Args:
        model_dir: What `trainer.task` wrote.
        config: All settings of the run.
        manifest: The data set's manifest.
        exported: The figures of the epoch that is exported.

    Returns:
        The page's path.

    Raises:
        DataError: If it was not evaluated.
    """
    folder = pathlib.Path(model_dir)
    evaluation = _evaluation(folder)
    summary = predictions.read(
        folder / "predictions.csv", manifest.classes, _MISTAKES
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    two = len(manifest.classes) == 2 and 0 < summary.second.mean() < 1
    text = html.render(
        "report.html",
        "trainer.reporting",
        name=folder.absolute().name,
        evaluation=evaluation,
        exported=exported,
        curves=charts.curves(epochs, exported["epoch"]) if epochs else "",
        reliability=charts.reliability(summary.right, summary.confidence),
        receiver=charts.receiver(summary.second, summary.score) if two else "",
        classes=_classes(evaluation),
        matrix=_matrix(evaluation),
        confusions=_confusions(evaluation),
        mistakes=_pictures(config, manifest, evaluation["split"], summary),
        wrong=int((~summary.right).sum()),
        facts=_facts(config, manifest, folder, epochs),
        flags=_flags(config),
    )
    atomic.write_text(folder / FILE_NAME, text)
    return folder / FILE_NAME


def _evaluation(folder: pathlib.Path) -> dict:
    """Returns the figures of a run.

    Raises:
        DataError: If they, or the predictions, are missing or of an earlier
            version.
    """
    cure = f"`shardtune evaluate --model_dir={folder}` writes it."
    for name in ("evaluation.json", "predictions.csv"):
        if not (folder / name).exists():
            raise DataError(f"{folder / name} is missing: {cure}")
    found = json.loads((folder / "evaluation.json").read_text())
    if "calibration_error" not in found:
        raise DataError(
            f"{folder}/evaluation.json is of an earlier version: {cure}"
        )
    return found


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


def _pictures(
    config: Config, manifest: Manifest, split: str, summary: predictions.Summary
) -> list[dict]:
    """Returns the worst mistakes with their pictures, from the records."""
    reader = Reader(config.data.data_dir, manifest, split)
    order = np.argsort(reader.ids)
    wanted = np.array(
        [records.image_id(one.file) for one in summary.worst], np.int64
    )
    indices = order[np.searchsorted(reader.ids, wanted, sorter=order)]
    return [
        {**vars(one), "image": _picture(reader, index)}
        for one, index in zip(summary.worst, indices, strict=True)
    ]


def _picture(reader: Reader, index: np.int64) -> str:
    indices = np.array([index])
    (content,) = reader.contents(indices)
    if reader.manifest.encoding == "raw":
        (row,) = reader.rows(indices)
        shape = (int(row["height"]), int(row["width"]), 3)
        image = Image.fromarray(np.frombuffer(content, np.uint8).reshape(shape))
    else:
        image = Image.open(io.BytesIO(content)).convert("RGB")
    return thumbnails.of_image(image)


def _facts(
    config: Config,
    manifest: Manifest,
    folder: pathlib.Path,
    epochs: list[dict],
) -> list[tuple[str, str]]:
    """Returns what ran on what, as names and values."""
    found = json.loads((folder / "environment.json").read_text())
    counts = ", ".join(f"{s.count:,} {n}" for n, s in manifest.splits.items())
    facts = [
        ("images", counts),
        ("data set", f"{config.data.data_dir} ({manifest.fingerprint[:12]})"),
        ("devices", ", ".join(found["devices"])),
        ("precision", found["precision"]),
        ("platform", found["platform"]),
        *((f"{name}", text) for name, text in found["versions"].items()),
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
