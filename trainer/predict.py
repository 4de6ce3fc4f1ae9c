"""Command line: classifies image files with an exported model.

python -m trainer.predict --model_dir=model PATH...
python -m trainer.predict --model_dir=model --output=new.csv PATH...

A PATH is a file, a folder, a pattern such as 'new/*.jpg', @FILE for the lines of
a file, or - for those of the standard input. Without --output a table is printed.
"""

import dataclasses
import glob
import os
import pathlib
import sys
from collections.abc import Iterator

import numpy as np

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
        "Predict nothing where no class has this probability.",
        low=0,
        high=1,
        first=True,
    )


class PredictConfig(settings.Config):
    """The flags of `trainer.predict`."""

    prediction: Prediction


def list_files(paths: list[str]) -> list[str]:
    """Returns the files that the paths name, folders searched recursively.

    Args:
        paths: Files, folders and patterns; "@FILE" and "-" stand for the lines
            of a file and of the standard input. Hidden files in folders are
            left out.

    Raises:
        DataError: If a path does not exist or is no regular file, or there is
            no file at all.
    """
    result: set[str] = set()
    for path in _spelt(paths):
        if os.path.isdir(path):
            found = [
                os.path.join(place, name)
                for place, _, names in os.walk(path)
                for name in names
                if not name.startswith(".")
            ]
            # Reading a pipe or a device would wait, or never end.
            result |= {file for file in found if os.path.isfile(file)}
        elif os.path.isfile(path):
            result.add(path)
        elif os.path.exists(path):
            raise DataError(f"{path} is neither a file nor a folder.")
        else:
            raise DataError(f"{path} does not exist.")
    if not result:
        raise DataError(f"there is no file in {', '.join(paths)}.")
    return sorted(result)


def _spelt(paths: list[str]) -> Iterator[str]:
    """Yields the paths that lists and patterns stand for."""
    for path in paths:
        if path == "-":
            yield from filter(None, sys.stdin.read().splitlines())
        elif path.startswith("@") and not os.path.exists(path):
            try:
                with open(path[1:], errors="surrogateescape") as lines:
                    yield from filter(None, lines.read().splitlines())
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error}.") from None
        elif not os.path.exists(path) and glob.has_magic(path):
            found = glob.glob(path, recursive=True)
            if not found:
                raise DataError(f"no file matches {path}.")
            yield from found
        else:
            yield path


def table(
    classes: list[str],
    files: list[str],
    probabilities: np.ndarray,
    top_k: int,
    unsure_below: float,
) -> str:
    """Returns predictions as a table of a line per image.

    Args:
        classes: K names.
        files: N paths.
        probabilities: float32 `[N, K]`.
        top_k: Classes to show of each image.
        unsure_below: Nothing is predicted where no class reaches it.
    """
    lines = []
    width = max(map(len, files))
    for file, row in zip(files, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top_k]
        shown = "  ".join(f"{classes[k]} {row[k]:.4f}" for k in best)
        if row.max() < unsure_below:
            shown = f"unsure ({shown})"
        lines.append(f"{file:<{width}}  {shown}")
    return "\n".join(lines)


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

    chosen, classes = config.prediction, labels.read(names)
    probabilities = prediction.predict(model_dir, good)
    if not output:
        print(
            table(
                classes,
                list(good),
                probabilities,
                chosen.top_k,
                chosen.unsure_below,
            )
        )
        return EXIT_DATA if bad else 0
    write = {
        "csv": evaluation.write_predictions,
        "jsonl": evaluation.write_json_lines,
    }[chosen.format]
    write(
        pathlib.Path(output),
        classes,
        list(good),
        [""] * len(good),
        probabilities,
        chosen.unsure_below,
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
