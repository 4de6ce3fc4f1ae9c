"""Command line: classifies image files with an exported model.

python -m trainer.predict --model_dir=model PATH...
python -m trainer.predict --model_dir=model --output=new.csv PATH...

A PATH is a file, a folder, a pattern such as 'new/*.jpg', an address of an object
or a folder at gs:// or s3://, @FILE for the lines of a file, or - for those of
the standard input. Without --output a table is printed. What is no usable image
is named, and ends the command with 65 once all others are classified.
"""

import contextlib
import dataclasses
import pathlib
import sys
import threading

from data_prep.images import memory
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import DataError
from data_prep.runtime.settings import setting
from trainer import groups
from trainer.inference import answers
from trainer.inference import class_folders
from trainer.inference import exported
from trainer.inference import image_paths
from trainer.inference import prediction


@dataclasses.dataclass(frozen=True)
class Prediction(settings.Group):
    """Prediction."""

    model_dir: str = settings.same_as(
        groups.Run, "model_dir", help="What trainer.task wrote."
    )
    format: str = setting(
        "csv",
        "Format of the output. csv: a header, then a line per image; jsonl: a "
        "JSON object per image.",
        choices=("csv", "jsonl"),
    )
    output: str = setting(
        "",
        "The file to write, with all probabilities; unless given, a table is "
        "printed.",
        path=settings.Path(settings.WRITTEN),
        first=True,
    )
    top_k: int = setting(
        1,
        "Classes that the table shows of each image, the likeliest first.",
        low=1,
        first=True,
    )
    unsure_below: float = setting(
        0.0,
        "Predict nothing where no class has this probability. All "
        "probabilities are then calibrated, by calibration.json.",
        low=0,
        high=1,
        first=True,
    )
    runtime: str = setting(
        "tensorflow",
        "What runs the model. onnxruntime runs what `shardtune export "
        "--format=onnx` made, and answers a first image sooner.",
        choices=exported.RUNTIMES,
    )
    sort_into: str = setting(
        "",
        "A folder that gets one folder per class, with hard links to the "
        "images (or copies, where links cannot be). What is there is never "
        "overwritten; unsure images are left out.",
        path=settings.Path(settings.WRITTEN),
        first=True,
    )


class PredictConfig(settings.Config):
    """The flags of `trainer.predict`."""

    prediction: Prediction


def main(config: PredictConfig, paths: list[str]) -> int:
    """Says of all images that the paths name what they are."""
    chosen = config.prediction
    if chosen.runtime == "tensorflow":
        startup.require_tensorflow()
    files = image_paths.list_files(paths)
    model = exported.load(chosen.model_dir, chosen.runtime)
    memory.share(threading.RLock())
    bad = unsorted = 0
    with _open_output(chosen, model.classes, files) as write:
        for answer in prediction.predict(model, files, chosen.unsure_below):
            if answer.problem:
                bad += 1
                name = answers.printable(answer.file)
                print(f"error: {name} {answer.problem}", file=sys.stderr)
            write(answer)
            if chosen.sort_into and answer.predicted:
                class_folders.place(
                    answer.file, chosen.sort_into, answer.predicted
                )
            elif chosen.sort_into:
                unsorted += 1
        if bad == len(files):
            raise DataError(f"none of {bad} files is an image.")
    if chosen.output:
        print(f"{chosen.output}: {len(files) - bad} images, {bad} bad files")
    if chosen.sort_into:
        print(
            f"{chosen.sort_into}: {len(files) - unsorted} images, "
            f"{unsorted} unsure or bad ones left out"
        )
    return EXIT_DATA if bad else 0


def _open_output(
    chosen: Prediction, classes: list[str], files: list[str]
) -> contextlib.AbstractContextManager[answers.Write]:
    """Returns a context whose value takes the answers, one by one."""
    if chosen.output:
        path = pathlib.Path(chosen.output)
        if chosen.format == "csv":
            return answers.open_csv(path, classes)
        return answers.open_json_lines(path, classes)
    width = max(len(answers.printable(file)) for file in files)

    def show(answer: prediction.Answer) -> None:
        if not answer.problem:
            print(answers.table_line(answer, classes, width, chosen.top_k))

    return contextlib.nullcontext(show)


def cli() -> None:
    """Runs the command line."""
    command.run(
        main, PredictConfig, positional="image files or folders of them"
    )


if __name__ == "__main__":
    cli()
