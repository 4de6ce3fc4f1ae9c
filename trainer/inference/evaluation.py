"""Measures a model on a split: metrics, confusion matrix, predictions."""

import pathlib

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import atomic
from trainer.inference import calibration
from trainer.models import temperature
from trainer.pipeline.reader import Reader


def write(
    reader: Reader,
    probabilities: np.ndarray,
    chosen: calibration.Calibration,
    output_dir: pathlib.Path | None,
) -> dict:
    """Measures what was predicted of a split; writes figures and predictions.

    Args:
        reader: Reader of the split.
        probabilities: float32 `[N, K]`, in record order, without a
            temperature; both files have them with it where it is applied.
        chosen: What validation chose.
        output_dir: Folder to write to; None writes nothing.

    Returns:
        The figures, as they are written.
    """
    classes, labels = reader.manifest.classes, reader.labels
    served = temperature.scale(probabilities, chosen.divisor)
    result = {
        "split": reader.split,
        **measure(labels, served, classes),
        **_calibrated(labels, probabilities, chosen, classes),
    }
    if output_dir:
        figures, predictions = files_of(reader.split, reader.manifest)
        write_predictions(
            output_dir / predictions,
            classes,
            reader.files(),
            [classes[label] for label in labels],
            served,
        )
        atomic.write_json(output_dir / figures, result)
    return result


def _calibrated(
    labels: np.ndarray,
    probabilities: np.ndarray,
    chosen: calibration.Calibration,
    classes: list[str],
) -> dict:
    """Returns what temperature and threshold of validation do on a split."""
    right = probabilities.argmax(axis=1) == labels
    scaled = temperature.scale(probabilities, chosen.temperature)
    found = {
        "temperature": {
            "value": chosen.temperature,
            "applied": chosen.applied,
            "calibration_error_before": calibration.error(
                right, probabilities.max(axis=1)
            ),
            "calibration_error_after": calibration.error(
                right, scaled.max(axis=1)
            ),
        }
    }
    if chosen.threshold is not None:
        limit = chosen.threshold
        both = np.array([[1 - limit, limit]])
        served = temperature.scale(both, chosen.divisor)
        second = probabilities[:, 1] >= limit
        of_class = [labels == k for k in (0, 1)]
        found["threshold"] = {
            "class": classes[1],
            "value": float(served[0, 1]),
            "accuracy": float((second == of_class[1]).mean()),
            "recalls": [
                float((second == k)[of_class[k]].mean())
                if of_class[k].any()
                else None
                for k in (0, 1)
            ],
        }
    return found


def files_of(split: str, manifest: manifest_lib.Manifest) -> tuple[str, str]:
    """Returns the names of a split's figures and predictions.

    Those of the split that a run is measured on have plain names, which no
    other split's take the place of.
    """
    part = "" if split == choose_split(manifest) else f"-{split}"
    return f"evaluation{part}.json", f"predictions{part}.csv"


def choose_split(manifest: manifest_lib.Manifest) -> str:
    """Returns "test", or "validation" if the data set has no test split."""
    return splits.TEST if splits.TEST in manifest.splits else splits.VALIDATION


def measure(
    labels: np.ndarray, probabilities: np.ndarray, classes: list[str]
) -> dict:
    """Computes the metrics of a classifier.

    Args:
        labels: int32 `[N]`.
        probabilities: float32 `[N, K]`.
        classes: K names.

    Returns:
        `images`, `accuracy` in [0, 1] and its 95% `interval`, `top_5` accuracy
        where there are more than ten classes, `loss` (mean cross-entropy in
        nats), `calibration_error`, `classes` (precision, recall, f1, roc_auc
        and average_precision against all others, and images of each; None
        where no image can tell) and `confusion_matrix` (rows are true classes,
        columns predicted ones).
    """
    from sklearn import metrics

    predicted = probabilities.argmax(axis=1)
    numbers = np.arange(len(classes))
    precision, recall, f1, images = metrics.precision_recall_fscore_support(
        labels, predicted, labels=numbers, zero_division=0.0
    )
    right = predicted == labels
    more: dict[str, float] = {}
    if len(classes) > 10:
        best = np.argpartition(-probabilities, 5, axis=1)[:, :5]
        more["top_5"] = float((best == labels[:, None]).any(axis=1).mean())
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    smallest = np.finfo(np.float32).tiny  # a probability of 0 has no logarithm
    return {
        "images": len(labels),
        "accuracy": float(right.mean()),
        "interval": interval(int(right.sum()), len(labels)),
        **more,
        "loss": abs(float(np.log(np.maximum(of_label, smallest)).mean())),
        "calibration_error": calibration.error(
            right, probabilities.max(axis=1)
        ),
        "classes": {
            name: {
                "precision": float(precision[k]) if images[k] else None,
                "recall": float(recall[k]) if images[k] else None,
                "f1": float(f1[k]) if images[k] else None,
                **_ranking(labels == k, probabilities[:, k]),
                "images": int(images[k]),
            }
            for k, name in enumerate(classes)
        },
        "confusion_matrix": metrics.confusion_matrix(
            labels, predicted, labels=numbers
        ).tolist(),
    }


def interval(right: int, images: int) -> list[float]:
    """Returns the 95% interval of an accuracy, by Wilson (1927).

    Args:
        right: Number of images that were classified rightly.
        images: Number of images, at least 1.

    Returns:
        Lower and upper end, in [0, 1].
    """
    from scipy import stats

    return list(
        map(
            float,
            stats.binomtest(right, images).proportion_ci(0.95, "wilson"),
        )
    )


def _ranking(positive: np.ndarray, scores: np.ndarray) -> dict:
    """Returns how well a class's probability ranks its images first."""
    from sklearn import metrics

    if positive.all() or not positive.any():
        return {"roc_auc": None, "average_precision": None}
    return {
        "roc_auc": float(metrics.roc_auc_score(positive, scores)),
        "average_precision": float(
            metrics.average_precision_score(positive, scores)
        ),
    }


def write_predictions(
    path: pathlib.Path,
    classes: list[str],
    files: list[str],
    labels: list[str],
    probabilities: np.ndarray,
) -> None:
    """Writes a CSV of one line per image, sorted by file.

    Columns: `file,label,predicted`, then `probability_CLASS` in class order.

    Args:
        path: The file.
        classes: K names.
        files: N paths.
        labels: N names of true classes; "" for a class that is not known.
        probabilities: float32 `[N, K]`.
    """
    with atomic.open_csv(path) as writer:
        writer.writerow(
            ["file", "label", "predicted"]
            + [f"probability_{name}" for name in classes]
        )
        for row in sorted(range(len(files)), key=lambda n: files[n]):
            predicted = classes[int(probabilities[row].argmax())]
            writer.writerow(
                [files[row], labels[row], predicted]
                + [f"{p:.9g}" for p in probabilities[row]]
            )


def table(result: dict) -> str:
    """Returns an evaluation as a short table.

    Args:
        result: What `evaluate` returned.
    """
    width = max(len(name) for name in (*result["classes"], "class"))
    lines = [f"{'class':<{width}}  precision  recall      f1  images"]
    for name, figures in result["classes"].items():
        precision, recall, f1 = (
            "-" if figures[key] is None else f"{figures[key]:.4f}"
            for key in ("precision", "recall", "f1")
        )
        lines.append(
            f"{name:<{width}}  {precision:>9}  {recall:>6}  {f1:>6}  "
            f"{figures['images']:6d}"
        )
    absent = [n for n, f in result["classes"].items() if not f["images"]]
    if absent:
        lines.append(
            f"{len(absent)} classes have no image in {result['split']} and are "
            "not measured"
        )
    if threshold := result.get("threshold"):
        lines.append(
            f"{threshold['class']} from a probability of "
            f"{threshold['value']:.4f} on (chosen on validation): "
            f"accuracy {threshold['accuracy']:.4f}"
        )
    low, high = result["interval"]
    lines.append(
        f"{result['split']} accuracy {result['accuracy']:.4f} (95% interval "
        f"{low:.4f} to {high:.4f}), loss {result['loss']:.4f}, "
        f"{result['images']} images"
    )
    return "\n".join(lines)
