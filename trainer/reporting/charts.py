"""Drawings: SVG that stands in a page and takes its colours, and PNG files."""

import io
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_prep.runtime import atomic
from trainer.inference import calibration
from trainer.inference.calibration import BINS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Replaced in the SVG by the colour of the text around it, light or dark.
_INK = "#010203"
_BLUE, _ORANGE = "#3d6fd9", "#d97a2b"
_MARKED = 60  # epochs that get a mark each
_NAMED = 40  # classes whose names there is room for
_NUMBERED = 12  # classes whose counts there is room for


def curves(
    epochs: list[dict],
    exported: int,
    names: Sequence[str] = ("loss", "accuracy"),
) -> "Figure":
    """Draws figures of all phases over the epochs, side by side.

    Args:
        epochs: Lines of `metrics.jsonl`.
        exported: Number of the epoch that is exported.
        names: Of the figures, of which `metrics.jsonl` has those of training
            and, with `val_`, of validation.
    """
    drawing, parts = _figure(4 * len(names), 3.2, columns=len(names))
    numbers = [epoch["epoch"] for epoch in epochs]
    # Marks of thousands of epochs would be megabytes.
    style = "o-" if len(epochs) <= _MARKED else "-"
    for axes, name in zip(np.ravel(parts), names, strict=True):
        for key, label, colour in (
            (name, "training", _ORANGE),
            (f"val_{name}", "validation", _BLUE),
        ):
            values = [epoch[key] for epoch in epochs]
            axes.plot(numbers, values, style, ms=3, color=colour, label=label)
        for before, after in zip(epochs, epochs[1:], strict=False):
            if before["phase"] != after["phase"]:
                axes.axvline(
                    after["epoch"] - 0.5, color=_INK, linestyle=":", alpha=0.6
                )
        axes.axvline(exported, color=_BLUE, linestyle="--", alpha=0.7)
        axes.set(xlabel="epoch", ylabel=name)
        # Wide enough for whole numbers below it, however few the epochs.
        axes.set_xlim(min(numbers[0], exported) - 0.5, numbers[-1] + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    np.ravel(parts)[0].legend(frameon=False, labelcolor=_INK, fontsize=9)
    return drawing


def matrix(counts: np.ndarray, names: list[str]) -> "Figure":
    """Draws a confusion matrix, each row as shares of its images.

    Args:
        counts: int `[K, K]`, rows are true classes, columns predicted ones.
        names: K names, which are written while there is room for them.
    """
    count = len(names)
    side = 3.0 + min(5.0, 0.25 * count)
    drawing, axes = _figure(side, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="predicted class", ylabel="class")
    if count <= _NAMED:
        short = [name if len(name) < 20 else f"{name[:18]}…" for name in names]
        axes.set_xticks(range(count), short, rotation=90)
        axes.set_yticks(range(count), short)
    if count <= _NUMBERED:
        for i, row in enumerate(counts):
            for j, number in enumerate(row):
                colour = "white" if shares[i, j] > 0.6 else "black"
                place = {"ha": "center", "va": "center"}
                axes.text(j, i, f"{number:,}", color=colour, **place)
    return drawing


def reliability(right: np.ndarray, confidence: np.ndarray) -> "Figure":
    """Draws how often the model is right, by how sure it is.

    Args:
        right: bool `[N]`.
        confidence: float32 `[N]`, in [0, 1].
    """
    drawing, axes = _square(
        "probability of the predicted class", "share that is right"
    )
    bins = calibration.bins_of(confidence)
    counts = np.bincount(bins, minlength=BINS)
    hits = np.bincount(bins, weights=right, minlength=BINS)
    there = counts > 0
    middles = (np.arange(BINS) + 0.5) / BINS
    axes.bar(middles[there], hits[there] / counts[there], 1 / BINS, color=_BLUE)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return drawing


def receiver(second: np.ndarray, score: np.ndarray) -> "Figure":
    """Draws the ROC curve of two classes.

    Args:
        second: bool `[N]`, which images are of the second class; both occur.
        score: float32 `[N]`, the second class's probability.
    """
    from sklearn import metrics

    drawing, axes = _square("false positive rate", "true positive rate")
    false, true, _ = metrics.roc_curve(second, score)
    axes.plot(false, true, color=_BLUE)
    axes.set(xlim=(0, 1), ylim=(0, 1.01))
    return drawing


def _square(across: str, up: str):
    """Returns a drawing of two shares, its diagonal dotted."""
    drawing, axes = _figure(3.8, 3.2)
    axes.plot([0, 1], [0, 1], color=_INK, linestyle=":", alpha=0.6)
    axes.set(xlabel=across, ylabel=up)
    return drawing, axes


def _figure(width: float, height: float, columns: int = 1):
    import matplotlib
    from matplotlib import figure

    ink = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor"), _INK
    )
    ticks = dict.fromkeys(("xtick.color", "ytick.color"), _INK)
    with matplotlib.rc_context({**ink, **ticks, "font.size": 9}):
        drawing = figure.Figure(figsize=(width, height), layout="constrained")
        axes = drawing.subplots(1, columns)
    for one in np.ravel(axes):
        one.set_facecolor("none")
        one.spines[["top", "right"]].set_visible(False)
    return drawing, axes


def png(drawing: "Figure", path: pathlib.Path) -> None:
    """Writes a drawing as a PNG file, dark on white.

    Args:
        drawing: One of those above.
        path: The file.
    """
    with atomic.replacing(path) as incomplete:
        drawing.savefig(incomplete, format="png", dpi=150, facecolor="white")


def svg(drawing: "Figure") -> str:
    """Returns a drawing as SVG whose ink is the colour of the text around it."""
    import matplotlib

    out = io.StringIO()
    # Text stays text; the same data give the same file.
    settings = {"svg.fonttype": "none", "svg.hashsalt": "shardtune"}
    with matplotlib.rc_context({**settings, "text.color": _INK}):
        drawing.savefig(
            out, format="svg", transparent=True, metadata={"Date": None}
        )
    text = out.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
