"""Command line: runs the frozen base once per image and keeps the features.

python -m trainer.features --data_dir=data --output_dir=features

It takes the flags of trainer.task, so that the same flag file gives the
features that its frozen phase trains on. Flags that only concern training are
accepted and not used.
"""

import os

from data_prep.runtime.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from data_prep.runtime import signals

    signals.watch(EXIT_STOPPED)

# ruff: noqa: E402
import dataclasses
from typing import Any

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.settings import setting
from trainer.config import Config
from trainer.distribution.cluster import find_cluster
from trainer.distribution.cluster import is_first


@dataclasses.dataclass(frozen=True)
class Extraction(settings.Group):
    """Extraction."""

    output_dir: str = setting(
        "",
        "Folder of the features; what it holds already is not made again.",
        path=settings.Path(settings.WRITTEN),
        scope=settings.PROCESS,
        required=True,
    )
    split: tuple[str, ...] = setting(
        (),
        "Which split to extract; may be repeated. All, unless given.",
        choices=splits.SPLITS,
        scope=settings.PROCESS,
    )


@dataclasses.dataclass(frozen=True)
class Table(settings.Group):
    """The table."""

    csv: bool = setting(
        False, "Also write each set as features.csv.", scope=settings.PROCESS
    )


class ExtractionConfig(Config):
    """The flags of what extracts features: those of `trainer.task` and more."""

    extraction: Extraction

    def __init__(self, *required: Any, **values: Any):
        output = values.get("output_dir") or "."
        values |= {"model_dir": output, "feature_dir": output}
        if not values.get("recipe"):
            # One pass over the images as they are, unless asked for more.
            values = {"augment": "none", **values, "recipe": ""}
        super().__init__(*required, **values)


class FeaturesConfig(ExtractionConfig):
    """The flags of `trainer.features`."""

    table: Table


def main(config: FeaturesConfig) -> None:
    """Extracts the features and prints where they are."""
    cluster = find_cluster(os.environ)
    startup.require_tensorflow()
    manifest_lib.load(config.data.data_dir)  # before what takes seconds
    startup.import_tensorflow()
    from trainer import extraction
    from trainer.distribution import devices
    from trainer.distribution import worker_group
    from trainer.feature_extraction import csv_table
    from trainer.pipeline.input_pipeline import naming_failures

    cluster = devices.cluster_of(config.devices.strategy, cluster)
    wanted = config.extraction
    with worker_group.stop_when_worker_lost(cluster), naming_failures():
        for features, reader in extraction.extract(
            config, wanted.split, cluster
        ):
            if not is_first(cluster):
                continue
            print(
                f"{features.folder}: {features.count} images, "
                f"{' x '.join(map(str, features.shape))} values each, "
                f"augmentation {features.identity['augment']}",
                flush=True,
            )
            if config.table.csv:
                print(csv_table.write(features, reader.files()), flush=True)


def cli() -> None:
    """Runs the command line."""
    command.run(main, FeaturesConfig)


if __name__ == "__main__":
    cli()
