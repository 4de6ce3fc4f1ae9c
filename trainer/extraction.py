"""The story of `trainer.features`: data and devices -> base -> features."""

from collections.abc import Iterator
from collections.abc import Sequence

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime import signals
from data_prep.runtime.errors import DataError
from trainer.config import Config
from trainer.distribution import rendezvous
from trainer.distribution.cluster import Cluster
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import automatic
from trainer.engine import setup
from trainer.engine import start_rule
from trainer.feature_extraction import extractor as extractor_lib
from trainer.feature_extraction import views
from trainer.feature_extraction.store import FeatureSet
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader


def extract(
    config: Config, splits_wanted: Sequence[str], cluster: Cluster | None = None
) -> Iterator[tuple[FeatureSet, Reader]]:
    """Extracts the features that a run of this config would use.

    Args:
        config: The run's settings; `feature_dir` is where features go.
        splits_wanted: Names of splits; empty takes all there are.
        cluster: The processes that extract together, each a share; None for
            one process.

    Yields:
        Every `FeatureSet` and the `Reader` of its split. Of the training
        split first what the head is fitted on, then what the frozen phase
        trains on.

    Raises:
        DataError: If there is no such split, or the data set, the weights or
            kept features are unusable.
        Stopped: If a signal asked to stop.
    """
    manifest = manifest_lib.load(config.data.data_dir)
    config = automatic.by_images(config, manifest)
    _check_splits(manifest, splits_wanted)
    if cluster:
        purpose = start_rule.purpose(config, manifest)
        rendezvous.meet(
            cluster.workers,
            cluster.index,
            f"features of {list(splits_wanted) or 'all splits'} {purpose}",
            config.devices.startup_timeout,
        )
    strategy, model = setup.make_model(config, manifest, cluster)
    workers = WorkerGroup(strategy, cluster)
    extractor = extractor_lib.create(config, manifest, strategy, model, workers)
    signals.defer()
    for split in splits_wanted or manifest.splits:
        reader = Reader(config.data.data_dir, manifest, split)
        if split == splits.TRAIN:
            wanted = views.for_extraction(
                config.augmentation,
                config.features,
                config.run.seed,
                config.optimisation.frozen_epochs,
            )
            decoded = input_pipeline.decoded_fast
        else:
            wanted = views.for_inference(config.model.flip_average)
            decoded = input_pipeline.decoded_exactly
        images = decoded(reader, config.data.image_size)
        for view in wanted:
            yield extractor.extract(reader, images, view), reader
    workers.barrier()  # the first serves the others until the end


def _check_splits(manifest: Manifest, wanted: Sequence[str]) -> None:
    missing = sorted(set(wanted) - set(manifest.splits))
    if missing:
        raise DataError(
            f"the data set has no {', '.join(missing)} split, only "
            f"{', '.join(manifest.splits)}. Leave --split out, or make the "
            "data set again with --splits."
        )
