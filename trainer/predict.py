"""Command line: classifies image files with an exported model.

python -m trainer.predict --model_dir=model --output=new.csv PATH...
"""

import dataclasses
import os
import pathlib
import sys

from data_prep.dataset import labels
from data_prep.images import inspection
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import DataError
from data_prep.runtime.settings import setting
from trainer import groups


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
        "The file to write.",
        path=settings.Path(settings.WRITTEN),
        required=True,
    )


class PredictConfig(settings.Config):
    """The flags of `trainer.predict`."""

    prediction: Prediction


def list_files(paths: list[str]) -> list[str]:
    """Returns the files that the paths name, folders searched recursively.

    Args:
        paths: Files and folders; hidden files in folders are left out.

    Raises:
        DataError: If a path does not exist, or there is no file at all.
    """
    result = []
    for path in paths:
        if os.path.isdir(path):
            result += [
                os.path.join(place, name)
                for place, _, names in os.walk(path)
                for name in names
                if not name.startswith(".")
            ]
        elif os.path.exists(path):
            result.append(path)
        else:
            raise DataError(f"{path} does not exist.")
    if not result:
        raise DataError(f"there is no file in {', '.join(paths)}.")
    return sorted(result)


def main(config: PredictConfig, paths: list[str]) -> int:
    """Writes predictions of all image files that the paths name."""
    model_dir, output = config.prediction.model_dir, config.prediction.output
    names = pathlib.Path(model_dir, labels.FILE_NAME)
    if not names.is_file():
        raise DataError(
            f"{model_dir} holds no exported model. Expected what trainer.task "
            "wrote."
        )
    good, bad = {}, 0
    for file in list_files(paths):
        facts = inspection.inspect(file)
        if facts.problem:
            bad += 1
            print(f"error: {file} {facts.problem}", file=sys.stderr)
        else:
            good[file] = facts.kept
    if not good:
        raise DataError(f"none of {bad} files is an image.")
    startup.import_tensorflow()
    from trainer.inference import evaluation
    from trainer.inference import prediction

    write = {
        "csv": evaluation.write_predictions,
        "jsonl": evaluation.write_json_lines,
    }[config.prediction.format]
    write(
        pathlib.Path(output),
        labels.read(names),
        list(good),
        [""] * len(good),
        prediction.predict(model_dir, good),
    )
    print(f"{output}: {len(good)} images, {bad} bad files left out")
    return EXIT_DATA if bad else 0


def cli() -> None:
    """Runs the command line."""
    command.run(
        main, PredictConfig, positional="image files or folders of them"
    )


if __name__ == "__main__":
    cli()
