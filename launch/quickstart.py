"""The whole path on real images, on a fresh machine, in a few minutes.

python -m launch.quickstart

Writes scikit-learn's 1797 handwritten digits as image files, then runs the
two commands that a user runs on a folder of photos, and shows what they made.
"""

import csv
import dataclasses
import importlib.util
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import subprocesses
from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting
from trainer import groups

IMAGE_SIZE = 48  # pixels; the smallest that leaves VGG16 more than one

# --recipe=auto, shorter. Strokes are no photos, so the last layers of VGG16 learn
# too, whatever the fitted head reaches.
PRETRAINED = (
    "--finetune_epochs=1",
    "--finetune_below=1",
    f"--image_size={IMAGE_SIZE}",
)
# No features to keep: a short look at what random ones give, then the whole of
# a small network, which learns 1797 digits as well as VGG16 from random weights
# does, in a tenth of the time.
FROM_SCRATCH = (
    "--recipe=",
    "--base=scratch",
    "--weights=none",
    "--freeze_random_weights",
    "--finetune_from=conv1",
    "--frozen_epochs=1",
    "--frozen_learning_rate=0.02",
    "--finetune_epochs=6",
    "--finetune_learning_rate=2e-3",
    f"--image_size={IMAGE_SIZE}",
)
# What the steps take: seconds that are much the same everywhere (TensorFlow's
# start, tracing, files), and 10^12 floating-point operations of the network.
# Measured on two cores without AMX.
PREPARE, TRAIN_PRETRAINED, TRAIN_SCRATCH = (3, 0.0), (72, 5.2), (20, 2.5)
# Digits change their meaning when they are flipped.
COMMON = ("--augment=none",)


@dataclasses.dataclass(frozen=True)
class Quickstart(settings.Group):
    """The quickstart."""

    output_dir: str = setting(
        "shardtune-quickstart", "Folder for everything that it makes."
    )
    weights: str = settings.same_as(groups.Model, "weights")


class QuickstartConfig(settings.Config):
    """The flags of `launch.quickstart`."""

    quickstart: Quickstart


def write_digits(folder: pathlib.Path) -> int:
    """Writes the digits as PNG files, one folder per class.

    Args:
        folder: Appears when all files are written; kept if it exists.

    Returns:
        The number of images in it.
    """
    if not folder.exists():
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        incomplete = folder.with_name(f"incomplete.{folder.name}")
        shutil.rmtree(incomplete, ignore_errors=True)
        for number, (pixels, label) in enumerate(
            zip(digits.images, digits.target, strict=True)
        ):
            place = incomplete / str(label)
            place.mkdir(parents=True, exist_ok=True)
            # 8x8 pixels of 0 to 16.
            image = Image.fromarray(
                (pixels * (255 / 16)).round().astype("uint8")
            )
            image.resize(
                (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC
            ).save(place / f"{number:04d}.png")
        incomplete.rename(folder)
    return sum(1 for _ in folder.glob("*/*.png"))


def weight_flags(weights: str) -> tuple[str, ...]:
    """Returns the trainer's flags for the weights that can be had here.

    Args:
        weights: "imagenet", "none" or a file, as the trainer takes it.
    """
    if weights == "imagenet":
        fetched = subprocess.run(
            subprocesses.python_module("trainer.weights"),
            env=subprocesses.environment(),
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if fetched.returncode == EXIT_DATA:
            print(
                "note: the ImageNet weights cannot be had on this machine "
                "(no download, and none in Keras's cache), so a small "
                "network\n"
                "      (--base=scratch) starts from random weights. The path "
                "is the same; on photos such a network needs far more\n"
                "      images than one that starts from ImageNet's weights. "
                "On a machine with the file, pass --weights=FILE.",
                flush=True,
            )
            weights = "none"
        elif fetched.returncode:
            sys.exit(fetched.stderr)
    if weights == "none":
        return FROM_SCRATCH
    return (f"--weights={weights}", *PRETRAINED)


def operations_per_second() -> float:
    """Returns what this machine's processors multiply and add in a second.

    By a product of matrices, in float32 and 10^12 operations.
    """
    side = 2048
    matrix = np.ones((side, side), np.float32)
    matrix @ matrix  # starts the threads
    begun = time.perf_counter()
    matrix @ matrix
    return 2 * side**3 / 1e12 / (time.perf_counter() - begun)


def about(work: tuple[float, float], rate: float) -> str:
    """Returns how long a step will take, for people.

    Args:
        work: Seconds, and 10^12 operations.
        rate: What `operations_per_second` returned.
    """
    return f"about {work[0] + work[1] / rate:.0f} s"


def run_module(module: str, *arguments: str) -> float:
    """Shows and runs `python -m module`; returns its seconds of wall time.

    Raises:
        SystemExit: With its exit code, if it fails.
    """
    shown = shlex.join(["python", "-m", module, *arguments])
    print(f"\n$ {shown}", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        subprocesses.python_module(module, *arguments),
        env=subprocesses.environment(),
        check=False,
    )
    if done.returncode:
        sys.exit(done.returncode)
    return time.monotonic() - start


def report(model_dir: pathlib.Path, seconds: dict[str, float]) -> str:
    """Returns a short table of what each part took and reached."""
    rows = [
        json.loads(line)
        for line in (model_dir / "metrics.jsonl").read_text().splitlines()
    ]
    done = json.loads((model_dir / "DONE.json").read_text())
    lines = [f"{'step':<18}{'seconds':>8}  {'images/s':>8}  accuracy"]
    for step, took in seconds.items():
        lines.append(f"{step:<18}{took:8.0f}")
    for phase in dict.fromkeys(row["phase"] for row in rows):
        of_phase = [row for row in rows if row["phase"] == phase]
        rate = sum(r["images_per_second"] for r in of_phase) / len(of_phase)
        lines.append(
            f"  {phase:<16}{sum(r['seconds'] for r in of_phase):8.0f}  "
            f"{rate:8.0f}  "
            f"{max(r['val_accuracy'] for r in of_phase):.4f} validation"
        )
    evaluation = done["evaluation"]
    lines.append(
        f"  {'evaluate':<16}{'':8}  {'':8}  {evaluation['accuracy']:.4f} "
        f"{evaluation['split']} ({done['exported']['phase']} phase exported)"
    )
    return "\n".join(lines)


def main(config: QuickstartConfig) -> None:
    """Runs the whole path and shows what it made."""
    if importlib.util.find_spec("sklearn") is None:
        raise UsageError(
            "the quickstart trains on scikit-learn's digits, and neither it "
            "nor TensorFlow comes with shardtune alone. Install them with "
            "`pip install 'shardtune[train]'`."
        )
    output = pathlib.Path(config.quickstart.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    images, data, model = output / "digits", output / "data", output / "model"
    print(f"{images}: {write_digits(images)} images of handwritten digits")
    flags = weight_flags(config.quickstart.weights)
    training = TRAIN_SCRATCH if flags == FROM_SCRATCH else TRAIN_PRETRAINED
    rate = operations_per_second()
    print(
        f"1. the data set, {about(PREPARE, rate)}; 2. training, evaluation, "
        f"export and report, {about(training, rate)} on processors (less on a "
        "GPU); 3. one prediction, about 10 s",
        flush=True,
    )
    seconds = {}
    if not (data / "manifest.json").exists():
        seconds["data_prep.task"] = run_module(
            "data_prep.task", f"--source={images}", f"--output_dir={data}"
        )
    seconds["trainer.task"] = run_module(
        "trainer.task",
        f"--data_dir={data}",
        f"--model_dir={model}",
        *flags,
        *COMMON,
    )
    with open(model / "predictions.csv", newline="") as file:
        unseen = next(csv.DictReader(file))["file"]
    seconds["trainer.predict"] = run_module(
        "trainer.predict", f"--model_dir={model}", str(images / unseen)
    )
    print(f"\n{report(model, seconds)}\n")
    for path, what in (
        (images, "the images"),
        (data / "manifest.json", "the data set, as TFRecords"),
        (model / "metrics.jsonl", "figures of every epoch"),
        (model / "report.html", "all of it to look at: open this first"),
        (model / "evaluation.json", "figures of the test split"),
        (model / "predictions.csv", "every test image's probabilities"),
        (model / "model.keras", "for keras.models.load_model"),
        (model / "saved_model", "for serving: image bytes -> probabilities"),
    ):
        print(f"{str(path):<45} {what}")


def cli() -> None:
    """Runs the command line."""
    command.run(main, QuickstartConfig)


if __name__ == "__main__":
    cli()
