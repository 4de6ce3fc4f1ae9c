"""Features: the frozen base run once per image, and kept.

python -m trainer.features --data_dir=data --output_dir=features

Takes the flags of trainer.task, so that the same flag file gives the features
that its frozen phase trains on; those of training it leaves alone.
"""

import os
import pathlib

from data_prep.runtime.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from data_prep.runtime import signals

    signals.watch(EXIT_STOPPED)

# ruff: noqa: E402
import dataclasses
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import signals
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.settings import setting
from trainer.config import Config
from trainer.distribution import cluster_env
from trainer.distribution.cluster_env import Cluster
from trainer.feature_extraction.store import FeatureSet


@dataclasses.dataclass(frozen=True)
class Extraction(settings.Group):
    """Extraction."""

    output_dir: str = setting(
        "",
        "Where the features go, and are found again.",
        path=settings.Path(settings.WRITTEN),
        scope=settings.PROCESS,
        required=True,
    )
    csv: bool = setting(
        False, "Write each set as features.csv too.", scope=settings.PROCESS
    )
    split: tuple[str, ...] = setting(
        (),
        "Which split to extract; may be repeated. All, unless given.",
        choices=splits.SPLITS,
        scope=settings.PROCESS,
    )


class FeaturesConfig(Config):
    """The flags of `trainer.features`: a training's, and those of this."""

    extraction: Extraction

    def __init__(self, *required: Any, **values: Any):
        output = values.get("output_dir") or "."
        values |= {"model_dir": output, "feature_dir": output}
        if not values.get("recipe"):
            # One pass over the images as they are, unless asked for more.
            values = {"augment": "none", **values}
        super().__init__(*required, **values)


def write_csv(features: FeatureSet, files: list[str]) -> pathlib.Path:
    """Writes a set as `features.csv` into its folder: id, file, label, values.

    Args:
        features: The set.
        files: Path of every image, in record order.

    Raises:
        DataError: If the disk is full.
        Stopped: If a signal asked to stop.
    """
    path = features.folder / "features.csv"
    size = int(np.prod(features.shape))
    try:
        with atomic.open_csv(path) as writer:
            writer.writerow(
                ["id", "file", "label"] + [f"feature_{n}" for n in range(size)]
            )
            for row, file in enumerate(files):
                if signals.requested():
                    raise Stopped(
                        f"stopped by {signals.requested()}. The features are kept, "
                        f"{path} is not. Run the same command again."
                    )
                values = features.take(np.array([row])).reshape(-1)
                writer.writerow(
                    [features.ids[row], file, features.labels[row]]
                    + [f"{value:g}" for value in values]
                )
    except OSError as error:
        raise DataError(
            f"{path} could not be written: {error}. The features themselves "
            "are kept: free some space and run the same command again."
        ) from error
    return path


def extract(
    config: Config, splits_wanted: Sequence[str], cluster: Cluster | None = None
) -> Iterator[tuple]:
    """Extracts the features that a run of this config would use.

    Args:
        config: Of the run; `feature_dir` is where they go.
        splits_wanted: Names of splits; empty takes all there are.
        cluster: Of the processes that extract together, each a share; None
            for one.

    Yields:
        Every `FeatureSet` and the `Reader` of its split: what the head is
        fitted on and the frozen phase trains on, then what validation takes.
    """
    from trainer.distribution import rendezvous
    from trainer.distribution.worker_group import WorkerGroup
    from trainer.engine import model_directory
    from trainer.engine import setup
    from trainer.feature_extraction.extractor import Extractor
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    manifest = manifest_lib.load(config.data.data_dir)
    _check_splits(manifest, splits_wanted)
    if cluster:
        purpose = model_directory.purpose(config, manifest)
        rendezvous.meet(
            cluster.workers,
            cluster.index,
            f"features of {list(splits_wanted) or 'all splits'} {purpose}",
            config.devices.startup_timeout,
        )
    strategy, model = setup.make_model(config, manifest, cluster)
    workers = WorkerGroup(strategy, cluster)
    extractor = Extractor(config, manifest, strategy, model, workers)
    signals.defer()
    for split in splits_wanted or manifest.splits:
        reader = Reader(config.data.data_dir, manifest, split)
        if split != splits.TRAIN:
            exact = input_pipeline.decoded_exactly(
                reader, config.data.image_size
            )
            for found in extractor.served(reader, exact):
                yield found, reader
            continue
        fast = input_pipeline.decoded_fast(reader, config.data.image_size)
        # What is asked for, though the phase may take fewer.
        views = config.features.feature_views or extractor.views(
            config.optimisation.frozen_epochs
        )
        if config.features.head_init != "zeros" or not views:
            yield extractor.plain(reader, fast), reader
        if (
            config.features.head_init == "zeros"
            or config.augmentation.augment != "none"
        ):
            for view in range(views):
                yield extractor.augmented(reader, fast, view), reader
    workers.barrier()  # the first serves the others until the end


def _check_splits(manifest: Manifest, wanted: Sequence[str]) -> None:
    missing = sorted(set(wanted) - set(manifest.splits))
    if missing:
        raise DataError(
            f"the data set has no {', '.join(missing)} split, only "
            f"{', '.join(manifest.splits)}. Leave --split out, or make the "
            "data set again with --splits."
        )


def main(config: FeaturesConfig) -> None:
    """Extracts the features and says where they lie."""
    cluster = cluster_env.cluster(os.environ)
    startup.import_tensorflow()
    from trainer.distribution import devices
    from trainer.distribution import worker_group

    cluster = devices.cluster_of(config.devices.strategy, cluster)
    extraction = config.extraction
    with (
        worker_group.exit_at_once_when_stopped(cluster),
        worker_group.stop_when_worker_lost(cluster),
    ):
        for features, reader in extract(config, extraction.split, cluster):
            if not worker_group.is_first(cluster):
                continue
            print(
                f"{features.folder}: {features.count} images, "
                f"{' x '.join(map(str, features.shape))} values each, "
                f"augmentation {features.identity['augment']}",
                flush=True,
            )
            if extraction.csv:
                print(write_csv(features, reader.files()), flush=True)


def cli() -> None:
    """Runs the command line."""
    command.run(main, FeaturesConfig)


if __name__ == "__main__":
    cli()
