"""Command line: finds likely wrong labels and strange images of a data set.

python -m trainer.inspect --data_dir=data --output_dir=suspects

It extracts as trainer.features does, and keeps the features in its output
folder. suspects.csv has every image, the most suspect first, suspects.html shows
some; corrections.csv those whose label is likely wrong, which `data_prep.task
--corrections=FILE` leaves out, or gives the class that is written beside them.
"""

from data_prep.runtime.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from data_prep.runtime import signals

    signals.watch(EXIT_STOPPED)

# ruff: noqa: E402
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime import atomic
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from trainer.features import ExtractionConfig

if TYPE_CHECKING:
    from trainer.feature_extraction.suspicion import Suspicion


class InspectConfig(ExtractionConfig):
    """The flags of `trainer.inspect`."""


def main(config: InspectConfig) -> None:
    """Judges every image and writes the lists."""
    startup.require_tensorflow()
    manifest = manifest_lib.load(config.data.data_dir)
    startup.import_tensorflow()
    from trainer import extraction
    from trainer.feature_extraction import suspicion
    from trainer.pipeline.input_pipeline import naming_failures
    from trainer.reporting import suspects

    values, readers = [], []
    plain = config.replace(augment="none", feature_views=0, flip_average=False)
    with naming_failures():
        for found, reader in extraction.extract(plain, config.extraction.split):
            everything = found.take(np.arange(found.count))
            values.append(everything.reshape(found.count, -1))
            readers.append(reader)
    known = np.concatenate([reader.labels for reader in readers])
    _check_counts(np.bincount(known, minlength=len(manifest.classes)), manifest)
    judged = suspicion.judge(
        np.concatenate(values).astype(np.float32), known, config.run.seed
    )
    output = pathlib.Path(config.extraction.output_dir)
    order = np.lexsort((judged.margin, ~judged.mislabelled))
    files = [file for reader in readers for file in reader.files()]
    write(output, manifest.classes, files, known, order, judged)
    suspects.write(output, manifest.classes, readers, order, judged)
    print(
        f"{int(judged.mislabelled.sum())} of {len(files)} labels are likely "
        f"wrong.\n{output / suspects.FILE_NAME}: open this first\n"
        f"{output / 'suspects.csv'}: every image, the most suspect first\n"
        f"{output / 'corrections.csv'}: look through it, then `shardtune "
        "prepare --corrections` leaves those out"
    )


def write(
    output: pathlib.Path,
    classes: Sequence[str],
    files: Sequence[str],
    labels: np.ndarray,
    order: np.ndarray,
    judged: "Suspicion",
) -> None:
    """Writes `suspects.csv` and `corrections.csv`.

    Args:
        output: Folder to write to.
        classes: K names.
        files: N paths, relative to the source.
        labels: int `[N]`.
        order: int `[N]`, the images, the most suspect first.
        judged: What `suspicion.judge` returned.
    """
    with atomic.open_csv(output / "suspects.csv") as writer:
        writer.writerow(
            ["file", "label", "suggested", "mislabelled", "margin", "distance"]
        )
        for row in order:
            writer.writerow(
                [
                    files[row],
                    classes[labels[row]],
                    classes[judged.suggested[row]],
                    int(judged.mislabelled[row]),
                    f"{judged.margin[row]:.6f}",
                    f"{judged.distance[row]:.6f}",
                ]
            )
    with atomic.open_csv(output / "corrections.csv") as writer:
        writer.writerow(["file", "label"])
        for row in order[: int(judged.mislabelled.sum())]:
            writer.writerow([files[row], ""])


def _check_counts(counts: np.ndarray, manifest: manifest_lib.Manifest) -> None:
    from trainer.feature_extraction.suspicion import FOLDS

    few = [manifest.classes[k] for k in np.flatnonzero(counts < FOLDS)]
    if few:
        raise DataError(
            f"too few images of {', '.join(few)}: expected {FOLDS} of each "
            "class at least, as each image is judged by a classifier that was "
            "fitted on others."
        )


def cli() -> None:
    """Runs the command line."""
    command.run(main, InspectConfig)


if __name__ == "__main__":
    cli()
