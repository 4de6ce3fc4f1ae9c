"""Features: the frozen base run once per image, and kept.

python -m trainer.features --data_dir=data --output_dir=features

Takes the flags of trainer.task, so that the same flag file gives the features
that its frozen phase trains on; those of training it leaves alone.
"""

import os
import pathlib

from data_prep.errors import EXIT_STOPPED

if __name__ == "__main__":  # before all that takes time to import
    from trainer import stop

    stop.watch(EXIT_STOPPED)

# ruff: noqa: E402
from collections.abc import Iterator

import numpy as np
from absl import flags

from data_prep import command
from data_prep import manifest as manifest_lib
from data_prep import splits
from data_prep.errors import DataError
from data_prep.errors import Stopped
from data_prep.errors import UsageError
from data_prep.manifest import Manifest
from trainer import atomic
from trainer import cluster_env
from trainer import startup
from trainer import stop
from trainer import task
from trainer.cluster_env import Cluster
from trainer.config import Config
from trainer.feature_store import FeatureSet


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
                if stop.asked():
                    raise Stopped(
                        f"stopped by {stop.asked()}. The features are kept, "
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
    config: Config, splits_wanted: list[str], cluster: Cluster | None = None
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
    from trainer import input_pipeline
    from trainer import model_directory
    from trainer import rendezvous
    from trainer import run
    from trainer.extractor import Extractor
    from trainer.reader import Reader
    from trainer.workers import Workers

    manifest = manifest_lib.load(config.data_dir)
    _check_splits(manifest, splits_wanted)
    if cluster:
        purpose = model_directory.purpose(config, manifest)
        rendezvous.meet(
            cluster.workers,
            cluster.index,
            f"features of {splits_wanted or 'all splits'} {purpose}",
            config.startup_timeout,
        )
    strategy, model = run.make_model(config, manifest, cluster)
    workers = Workers(strategy, cluster)
    extractor = Extractor(config, manifest, strategy, model, workers)
    stop.begin_training()
    for split in splits_wanted or manifest.splits:
        reader = Reader(config.data_dir, manifest, split)
        if split != splits.TRAIN:
            exact = input_pipeline.decoded_exactly(reader, config.image_size)
            for found in extractor.served(reader, exact):
                yield found, reader
            continue
        fast = input_pipeline.decoded_fast(reader, config.image_size)
        # What is asked for, though the phase may take fewer.
        views = config.feature_views or extractor.views(config.frozen_epochs)
        if config.head_init != "zeros" or not views:
            yield extractor.plain(reader, fast), reader
        if config.head_init == "zeros" or config.augment != "none":
            for view in range(views):
                yield extractor.augmented(reader, fast, view), reader
    workers.barrier()  # the first serves the others until the end


def _check_splits(manifest: Manifest, wanted: list[str]) -> None:
    missing = sorted(set(wanted) - set(manifest.splits))
    if missing:
        raise DataError(
            f"the data set has no {', '.join(missing)} split, only "
            f"{', '.join(manifest.splits)}. Leave --split out, or make the "
            "data set again with --splits."
        )


def main() -> None:
    """Extracts the features and says where they lie."""
    values = flags.FLAGS
    if not values.output_dir:
        raise UsageError("--output_dir is missing: where the features go.")
    values.model_dir = values.feature_dir = values.output_dir
    config = command.config_from_flags(Config)
    cluster = cluster_env.cluster(os.environ)
    startup.import_tensorflow()
    from trainer import devices
    from trainer import workers

    cluster = devices.joined(cluster, config.strategy)
    with workers.left_at_once(cluster), workers.lost_ones_named(cluster):
        for features, reader in extract(config, values.split, cluster):
            if not workers.is_first(cluster):
                continue
            print(
                f"{features.folder}: {features.count} images, "
                f"{' x '.join(map(str, features.shape))} values each, "
                f"augmentation {features.identity['augment']}",
                flush=True,
            )
            if values.csv:
                print(write_csv(features, reader.files()), flush=True)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags; imports no TensorFlow."""
    task.define_flags(flag_values)
    # One pass over the pictures as they are, unless asked for more.
    flag_values.set_default("augment", "none")
    flags.DEFINE_string(
        "output_dir",
        None,
        "Where the features go, and are found again.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "csv",
        False,
        "Write each set as features.csv too.",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_enum(
        "split",
        [],
        splits.SPLITS,
        "Which split to extract; may be repeated. All, unless given.",
        flag_values=flag_values,
    )


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(command)
    command.run(main)
