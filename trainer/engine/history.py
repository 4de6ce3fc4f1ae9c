"""The metrics of the epochs of a run: `metrics.jsonl` and what is said of it."""

import json
import pathlib

from data_prep.runtime import atomic
from trainer.engine.results import Totals

METRICS = "metrics.jsonl"


def row(
    phase: str,
    epoch: int,
    trained: Totals,
    validated: Totals,
    learning_rate: float,
    memory_mb: float,
) -> dict:
    """Returns the row of `metrics.jsonl` for an epoch.

    Args:
        phase: Name of the phase.
        epoch: Number of the epoch, counted from 1 over all phases.
        trained: Totals of the training split.
        validated: Totals of the validation split.
        learning_rate: Learning rate of the epoch's first step.
        memory_mb: Resident memory of this process, in MiB.
    """
    return {
        "phase": phase,
        "epoch": epoch,
        "loss": trained.loss,
        "accuracy": trained.accuracy,
        "val_loss": validated.loss,
        "val_accuracy": validated.accuracy,
        "learning_rate": learning_rate,
        "images_per_second": trained.images_per_second,
        "data_wait_fraction": trained.data_wait_fraction,
        "seconds": trained.seconds + validated.seconds,
        "skipped_steps": round(trained.skipped),
        "memory_mb": memory_mb,
    }


def score(epoch: dict) -> tuple[float, float]:
    """Returns the key that compares epochs; the greatest is the best epoch's.

    The higher validation accuracy wins; the lower validation loss breaks a
    tie.
    """
    return epoch["val_accuracy"], -epoch["val_loss"]


def epochs_without_gain(epochs: list[dict]) -> int:
    """Returns how many epochs have passed since the best of them."""
    best = max(range(len(epochs)), key=lambda n: score(epochs[n]))
    return len(epochs) - 1 - best


def epoch_summary(title: str, epoch: dict) -> str:
    """Returns an epoch's figures as one line of text.

    It fits 100 columns: up to 999 epochs, 99,999 images/s and 9,999 s, and
    losses below 10.
    """
    skipped = epoch["skipped_steps"]
    return (
        f"{title}: loss {epoch['loss']:.4f}, accuracy {epoch['accuracy']:.4f}; "
        f"val {epoch['val_loss']:.4f}, {epoch['val_accuracy']:.4f}; "
        f"{epoch['images_per_second']:.0f} img/s, "
        f"{epoch['data_wait_fraction']:.0%} waiting, {epoch['seconds']:.0f} s"
        + (f"; {skipped} steps overflowed" if skipped else "")
    )


def fitted_head_summary(classifier: str, row: dict) -> str:
    """Returns the figures of a fitted head as one line of text."""
    return (
        f"{classifier}: C={row['C']:.2g}, {row['scaling']} scaling, validation "
        f"loss {row['val_loss']:.4f}, validation accuracy "
        f"{row['val_accuracy']:.4f}"
    )


def export_summary(epochs: list[dict], best: dict) -> str:
    """Returns which epoch is exported, and against what it won, as text.

    Args:
        epochs: All epochs, each with its phase.
        best: The one that is exported; it may be a fitted head's.
    """
    reached: dict[str, dict] = {}
    for epoch in epochs:
        other = reached.get(epoch["phase"])
        if other is None or score(epoch) > score(other):
            reached[epoch["phase"]] = epoch
    reached.pop(best["phase"], None)
    accuracy = best["val_accuracy"]
    others = [
        f"{epoch['val_accuracy']:.4f} of the {phase} phase"
        + (
            f" (loss {best['val_loss']:.4f} against {epoch['val_loss']:.4f})"
            * (epoch["val_accuracy"] == accuracy)
        )
        for phase, epoch in reached.items()
    ]
    against = f" against {' and '.join(others)}" if others else ""
    return (
        f"kept epoch {best['epoch']}, of the {best['phase']} phase: validation "
        f"accuracy {accuracy:.4f}{against}"
    )


def write_metrics(model_dir: pathlib.Path, epochs: list[dict]) -> None:
    """Writes `metrics.jsonl`, one line per epoch."""
    text = "".join(json.dumps(epoch) + "\n" for epoch in epochs)
    atomic.write_text(model_dir / METRICS, text)
