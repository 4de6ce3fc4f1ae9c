"""Drawings as SVG that stand in a page and take its colours."""

import io

import numpy as np

from trainer.inference import calibration
from trainer.inference.calibration import BINS

# Replaced in the SVG by the colour of the text around it, light or dark.
_INK = "#010203"
_BLUE, _ORANGE = "#3d6fd9", "#d97a2b"


def curves(epochs: list[dict], exported: int) -> str:
    """Draws loss and accuracy of all phases over the epochs.

    Args:
        epochs: Lines of `metrics.jsonl`.
        exported: Number of the epoch that is exported.
    """
    drawing, (losses, accuracies) = _figure(8, 3.2, columns=2)
    numbers = [epoch["epoch"] for epoch in epochs]
    for axes, name in ((losses, "loss"), (accuracies, "accuracy")):
        for key, label, colour in (
            (name, "training", _ORANGE),
            (f"val_{name}", "validation", _BLUE),
        ):
            values = [epoch[key] for epoch in epochs]
            axes.plot(numbers, values, "o-", ms=3, color=colour, label=label)
        for before, after in zip(epochs, epochs[1:], strict=False):
            if before["phase"] != after["phase"]:
                axes.axvline(
                    after["epoch"] - 0.5, color=_INK, linestyle=":", alpha=0.6
                )
        axes.axvline(exported, color=_BLUE, linestyle="--", alpha=0.7)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
    losses.legend(frameon=False, labelcolor=_INK, fontsize=9)
    return _svg(drawing)


def reliability(right: np.ndarray, confidence: np.ndarray) -> str:
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
    return _svg(drawing)


def receiver(second: np.ndarray, score: np.ndarray) -> str:
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
    return _svg(drawing)


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


def _svg(drawing) -> str:
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
