"""Memory and time of an evaluation, on probabilities that are made up.

python -m benchmarks.evaluation_size --images=1000000 --classes=1000

What a run does after its last epoch, without the network: probabilities go to
disk, validation chooses a temperature, figures are computed, predictions.csv
is written, and what report.html has of both is made, but for the pictures of
some images. The peak is of resident memory.
"""

import argparse
import pathlib
import resource
import tempfile
import time
import types

import numpy as np

from trainer.inference import calibration
from trainer.inference import evaluation
from trainer.inference import figures
from trainer.inference.spool import Spool
from trainer.reporting import charts
from trainer.reporting import predictions

BATCH = 64


def made_up(labels: np.ndarray, classes: int):
    """Yields probabilities of batches, right in about 8 of 10 images."""
    generator = np.random.default_rng(0)
    for first in range(0, len(labels), BATCH):
        part = labels[first : first + BATCH]
        shape = (len(part), classes)
        logits = generator.standard_normal(shape, np.float32)
        logits[np.arange(len(part)), part] += 4.0
        shares = np.exp(2 * logits)
        yield shares / shares.sum(axis=1, keepdims=True)


def main() -> None:
    """Runs the steps and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--scratch", help="folder with room for 5 GB")
    parser.add_argument("--only_figures", action="store_true")
    flags = parser.parse_args()

    def said(what: str, start: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        taken = time.perf_counter() - start
        print(f"{what:30} {taken:7.1f} s  peak {peak:6.0f} MB", flush=True)

    generator = np.random.default_rng(1)
    labels = generator.integers(0, flags.classes, flags.images, np.int32)
    names = [f"class {k:04d}" for k in range(flags.classes)]
    reader = types.SimpleNamespace(
        split="test",
        labels=labels,
        count=len(labels),
        manifest=types.SimpleNamespace(classes=names, splits={"test"}),
        files=lambda: [
            f"{names[label]}/photo {n * 7919 % len(labels):08d}.jpg"
            for n, label in enumerate(labels)
        ],
    )
    start = time.perf_counter()
    generator.integers(0, 2, 10)
    said("labels and imports", start)
    with tempfile.TemporaryDirectory(dir=flags.scratch) as scratch:
        folder = pathlib.Path(scratch)
        start = time.perf_counter()
        spool = Spool(folder)
        for part in made_up(labels, flags.classes):
            spool.append(part)
        said("made up, and spooled", start)
        start = time.perf_counter()
        step = calibration.sample_step(len(labels), flags.classes)
        sample = spool.rows(range(0, len(labels), step))
        chosen = calibration.choose(sample, labels[::step], applied=True)
        said("temperature", start)
        start = time.perf_counter()
        answers = figures.gather(labels, spool.parts(), flags.classes, chosen)
        figures.measure(answers, names)
        said("figures", start)
        if flags.only_figures:
            return
        start = time.perf_counter()
        result = evaluation.write(reader, spool, chosen, {}, folder, True)
        said("again, with predictions.csv", start)
        start = time.perf_counter()
        summary = predictions.read(
            folder / "predictions.csv", names, worst=24, best=8
        )
        said("read for the report", start)
        start = time.perf_counter()
        matrix = np.array(result["confusion_matrix"])
        charts.png(charts.matrix(matrix, names), folder / "matrix.png")
        charts.svg(charts.reliability(summary.right, summary.confidence))
        said("drawn for the report", start)
        for name in ("evaluation.json", "predictions.csv", "errors.csv"):
            print(f"{name:30} {(folder / name).stat().st_size / 1e6:7.1f} MB")
        print(
            f"temperature {chosen.temperature:.3f}, accuracy "
            f"{result['accuracy']:.4f} and {summary.right.mean():.4f}"
        )


if __name__ == "__main__":
    main()
