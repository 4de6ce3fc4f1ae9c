"""What each recipe reaches on photos that chose nothing, and how long it takes.

python -m benchmarks.accuracy_over_time --photos=FOLDER --weights=FILE

FOLDER holds train/CLASS and validation/CLASS. Every second validation photo
becomes the test split, which chooses neither an epoch nor a size. Each recipe
runs whole by its two commands, in turn and alone. `runs.jsonl` keeps what each
run reached: a run that stands there is not run again, so a stopped series goes
on. `accuracy_over_time.svg` draws all that stand there.
"""

import json
import pathlib
import shutil
import statistics
import sys
import tempfile
from typing import NamedTuple

from absl import flags

from benchmarks import machine
from benchmarks import report
from benchmarks import time_to_accuracy
from data_prep.runtime import command
from data_prep.runtime.errors import UsageError
from trainer.inference import figures

# By name, the trainer's flags.
CANDIDATES = {
    "fast": ["--recipe=fast"],
    "best": ["--recipe=best"],
    "auto": ["--recipe=auto"],
    "plain, 150 px": ["--recipe=", "--image_size=150"],
    "plain, 200 px": ["--recipe=", "--image_size=200"],
    "bottleneck": ["--recipe=bottleneck"],
    "features_dense": ["--recipe=features_dense"],
    "food5k": ["--recipe=food5k"],
    "frozen_augmented": ["--recipe=frozen_augmented"],
    "frozen_augmented, a view per epoch": [
        "--recipe=frozen_augmented",
        "--feature_views=0",
    ],
    "scratch": ["--recipe=scratch"],
    "finetune_block3": ["--recipe=finetune_block3"],
}
LAST = 5  # epochs


class Run(NamedTuple):
    """What one run reached.

    Attributes:
        name: Of the candidate.
        seed: Of the run.
        seconds: From images to exported model, both commands.
        test: Accuracy on what chose nothing.
        test_images: How many those are.
        validation: Accuracy of the epoch that was exported, on what chose it.
        validation_last: Mean of the last epochs, None without epochs.
        epochs: How many were run.
        machine: That it ran on, with the versions.
    """

    name: str
    seed: int
    seconds: float
    test: float
    test_images: int
    validation: float | None
    validation_last: float | None
    epochs: int
    machine: str


def hold_back(photos: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies the photos, every second one of validation into test."""
    shutil.copytree(photos / "train", folder / "train")
    for directory in sorted((photos / "validation").iterdir()):
        for number, path in enumerate(sorted(directory.iterdir())):
            split = "test" if number % 2 else "validation"
            target = folder / split / directory.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def run(name: str, seed: int, photos: pathlib.Path, weights: str) -> Run:
    """Runs a candidate whole."""
    chosen = CANDIDATES[name]
    if "--recipe=scratch" not in chosen:
        chosen = [*chosen, f"--weights={weights}"]
    with tempfile.TemporaryDirectory() as scratch:
        model = pathlib.Path(scratch, "model")
        # One dog of the published set is in two splits.
        seconds, accuracy = time_to_accuracy.ours(
            str(photos),
            ["--on_leak=keep"],
            [*chosen, f"--seed={seed}"],
            str(model),
        )
        lines = (model / "metrics.jsonl").read_text().splitlines()
        reached = [json.loads(line)["val_accuracy"] for line in lines]
        done = json.loads((model / "DONE.json").read_text())
        images = json.loads((model / "evaluation.json").read_text())["images"]
    return Run(
        name,
        seed,
        seconds,
        accuracy,
        images,
        done["exported"].get("val_accuracy"),
        statistics.mean(reached[-LAST:]) if reached else None,
        len(reached),
        machine.line("tensorflow", "keras"),
    )


def table(runs: list[Run]) -> str:
    """Returns what the candidates reached, means over seeds, fastest first."""
    lines = [
        "| what | seeds | test accuracy | 95% interval | validation | "
        "mean of the last epochs | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, seconds, test, interval, own in _points(runs):
        chosen = _mean([one.validation for one in own])
        last = _mean([one.validation_last for one in own])
        lines.append(
            f"| {name} | {len(own)} | {test:.3f} | {interval[0]:.3f} to "
            f"{interval[1]:.3f} | {chosen} | {last} | {seconds / 60:.1f} |"
        )
    return "\n".join(lines)


def _mean(values: list[float | None]) -> str:
    if None in values:
        return ""
    return f"{statistics.mean(values):.3f}"


def _points(runs: list[Run]) -> list[tuple]:
    """Returns name, seconds, accuracy, its interval and runs of each."""
    found = []
    for name in dict.fromkeys(one.name for one in runs):
        own = [one for one in runs if one.name == name]
        test = statistics.mean(one.test for one in own)
        # Seeds see the same test images: they narrow nothing.
        images = own[0].test_images
        interval = figures.interval(round(test * images), images)
        seconds = statistics.median(one.seconds for one in own)
        found.append((name, seconds, test, interval, own))
    return sorted(found, key=lambda point: point[1])


def main() -> None:
    """Runs what was not run yet, draws and prints."""
    values = flags.FLAGS
    if not values.photos or not values.weights:
        raise UsageError("--photos and --weights are missing.")
    output = pathlib.Path(values.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    log = output / "runs.jsonl"
    log.touch()
    runs = [Run(**json.loads(line)) for line in log.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        photos = pathlib.Path(scratch, "photos")
        hold_back(pathlib.Path(values.photos), photos)
        for seed in map(int, values.seeds):
            for name in values.recipe:
                if any((one.name, one.seed) == (name, seed) for one in runs):
                    continue
                found = run(name, seed, photos, values.weights)
                runs.append(found)
                with log.open("a") as file:
                    print(json.dumps(found._asdict()), file=file)
                print(found, file=sys.stderr, flush=True)
    report.plot_points(
        {
            name: (seconds / 60, test, interval)
            for name, seconds, test, interval, _ in _points(runs)
        },
        "minutes from images to exported model",
        "accuracy on photos that chose nothing",
        output / "accuracy_over_time.svg",
    )
    print(table(runs))


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of train/ and validation/.")
    flags.DEFINE_string("weights", None, "File of VGG16's ImageNet weights.")
    flags.DEFINE_string("output_dir", "accuracy-over-time", "For the files.")
    flags.DEFINE_multi_enum(
        "recipe", list(CANDIDATES), list(CANDIDATES), "May be repeated."
    )
    flags.DEFINE_list("seeds", ["0"], "A run of each.")
    command.run(main)
