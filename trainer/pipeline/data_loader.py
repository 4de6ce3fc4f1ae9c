"""The batches that a run trains on and validates with."""

import pathlib
from collections.abc import Mapping

import tensorflow as tf

from data_prep.dataset import splits
from data_prep.images import geometry
from trainer.groups import Data
from trainer.pipeline import cache
from trainer.pipeline import fast_decode
from trainer.pipeline import input_pipeline
from trainer.pipeline.input_pipeline import Plan
from trainer.pipeline.input_pipeline import Source
from trainer.pipeline.reader import Reader


class DataLoader:
    """Batches of the training and the validation split.

    What a batch holds for an image, its pixels or its features, comes from
    the source that is passed for a pass over a split.

    Args:
        settings: Image size and cache of decoded images.
        readers: Readers of the splits, by split.
        batch_size: Images per step, over all replicas of all workers.
        seed: The run's seed, for the order of training.
        replicas: Number of replicas of this worker.
        rank: Index of this worker, counted from 0.
        workers: Number of workers.
        on_host: How many of them share this machine's memory.
        partners: Whether a replica's share of a training batch comes with one
            more image before it, see `Plan.with_partners`.

    Attributes:
        readers: Readers of the splits, by split.
        images: Sources of the splits' pixels, by split.
        counts: Number of images, by split.
        steps: Number of global batches of an epoch, by split.
        batch_size: Images per step, over all replicas of all workers.
    """

    def __init__(
        self,
        settings: Data,
        readers: Mapping[str, Reader],
        *,
        batch_size: int,
        seed: int,
        replicas: int,
        rank: int = 0,
        workers: int = 1,
        on_host: int = 1,
        partners: bool = False,
    ):
        self.readers = readers
        self.batch_size = batch_size
        self.images = _make_sources(settings, readers, batch_size, on_host)
        self.counts = {split: r.count for split, r in readers.items()}
        self.steps = {
            split: -(-count // batch_size)
            for split, count in self.counts.items()
        }
        self._seed = seed
        self._replicas = replicas
        self._rank, self._workers = rank, workers
        self._partners = partners

    def training(
        self, source: Source, epoch: int, first_step: int = 0
    ) -> tf.data.Dataset:
        """Returns this worker's share of the batches of an epoch.

        Args:
            source: What the batches hold for an image.
            epoch: Counted from 0 over all phases.
            first_step: Step of the epoch to begin at.
        """
        plan = input_pipeline.plan_training(
            self.counts[splits.TRAIN], self.batch_size, self._seed, epoch
        )
        plan = plan.from_step(first_step)
        if self._partners:
            plan = plan.with_partners(self._replicas * self._workers)
        return self._create(splits.TRAIN, plan, source)

    def validation(self, source: Source) -> tf.data.Dataset:
        """Returns this worker's share of the validation split.

        Args:
            source: What the batches hold for an image.
        """
        plan = input_pipeline.plan_evaluation(
            self.counts[splits.VALIDATION], self.batch_size
        )
        return self._create(splits.VALIDATION, plan, source)

    def _create(
        self, split: str, plan: Plan, source: Source
    ) -> tf.data.Dataset:
        return input_pipeline.create(
            self.readers[split],
            plan.of_worker(self._rank, self._workers),
            source,
            replicas=self._replicas,
        )


def _make_sources(
    settings: Data,
    readers: Mapping[str, Reader],
    batch_size: int,
    on_host: int,
) -> dict[str, Source]:
    """Returns the source of each split's pixels, cached where they fit.

    Training uses the fast decoder. Validation decodes as the exported model
    does, since it decides which epoch is exported.
    """
    decoders = {
        splits.TRAIN: input_pipeline.decoded_fast,
        splits.VALIDATION: input_pipeline.decoded_exactly,
    }
    # Another version may give other pixels.
    versions = {
        splits.TRAIN: f"opencv{fast_decode.VERSION}",
        splits.VALIDATION: f"tensorflow{tf.__version__}",
    }
    memory = cache.memory_for_cache(settings.cache_mb, on_host)
    result = {}
    for split, reader in readers.items():
        decoded = decoders[split](reader, settings.image_size)
        size = cache.decoded_bytes(reader, settings.image_size)
        path = None
        if settings.cache_dir:
            name = (
                f"{reader.manifest.fingerprint[:16]}-{split}-"
                f"{settings.image_size}-{versions[split]}-"
                f"{geometry.VERSION}.uint8"
            )
            path = pathlib.Path(settings.cache_dir, name)
        elif size <= memory:
            memory -= size
        else:
            result[split] = decoded
            continue
        print(
            f"keeping {reader.count} decoded {split} images, "
            f"{size / cache.MIB:.0f} MiB, in {path or 'memory'}",
            flush=True,
        )
        plan = input_pipeline.plan_evaluation(reader.count, batch_size)
        in_order = input_pipeline.create(reader, plan, decoded)
        result[split] = input_pipeline.cached(
            cache.fill(reader, in_order, settings.image_size, path)
        )
    return result
