"""Command line: classifies image files with an exported model.

python -m trainer.predict --model_dir=DIR --format=csv --output=FILE PATH...
"""

import os
import pathlib
import sys

import numpy as np
from absl import flags

from data_prep import audit
from data_prep import command
from data_prep.errors import EXIT_DATA
from data_prep.errors import DataError
from data_prep.errors import UsageError
from data_prep.progress import Progress
from trainer import evaluate
from trainer import startup

BATCH = 32


def predict(model_dir: str, paths: list[str]) -> np.ndarray:
    """Classifies image files by the exported `saved_model`.

    Args:
        model_dir: What `trainer.task` wrote.
        paths: N files that `audit.inspect` found no problem with.

    Returns:
        Probabilities float32 `[N, K]`, in class order.
    """
    import tensorflow as tf

    serve = tf.saved_model.load(
        pathlib.Path(model_dir, "saved_model")
    ).signatures["serving_default"]
    result = []
    with Progress("predict", len(paths)) as progress:
        for start in range(0, len(paths), BATCH):
            part = paths[start : start + BATCH]
            contents = [audit.encode(p, 0, "", "original")[0] for p in part]
            result.append(
                serve(image_bytes=tf.constant(contents))["probabilities"]
            )
            progress.update(len(part))
    return np.concatenate(result)


def list_files(paths: list[str]) -> list[str]:
    """Returns the files that the paths name, folders searched throughout.

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


def main(paths: list[str]) -> int:
    """Writes the predictions of all files that the arguments name."""
    values = flags.FLAGS
    if not values.model_dir:
        raise UsageError("--model_dir is missing: what trainer.task wrote.")
    if not values.output:
        raise UsageError("--output is missing: the CSV file to write.")
    labels = pathlib.Path(values.model_dir, "labels.txt")
    if not labels.is_file():
        raise DataError(
            f"{values.model_dir} holds no exported model. Expected what "
            "trainer.task wrote."
        )
    good, bad = [], 0
    for file in list_files(paths):
        problem = audit.inspect(file).problem
        if problem:
            bad += 1
            print(f"error: {file} {problem}", file=sys.stderr)
        else:
            good.append(file)
    if not good:
        raise DataError(f"none of {bad} files is an image.")
    startup.import_tensorflow()
    evaluate.write_predictions(
        pathlib.Path(values.output),
        labels.read_text().splitlines(),
        good,
        [""] * len(good),
        predict(values.model_dir, good),
    )
    print(f"{values.output}: {len(good)} images, {bad} bad files left out")
    return EXIT_DATA if bad else 0


if __name__ == "__main__":
    flags.DEFINE_string("model_dir", None, "What trainer.task wrote.")
    flags.DEFINE_enum("format", "csv", ["csv"], "Of the output.")
    flags.DEFINE_string("output", None, "The file to write.")
    command.run(main, positional="image files or folders of them")
