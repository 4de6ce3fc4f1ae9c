"""Which batches a run trains on and validates with, kept where they fit."""

import copy
import pathlib
from collections.abc import Callable

import tensorflow as tf

from data_prep.dataset import splits
from trainer.config import Config
from trainer.pipeline import cache
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader


class Feed:
    """The training and the validation split of a run, as batches.

    Args:
        config: Of the run.
        readers: Of the splits it is to serve, by name.
        replicas: Of this process.
        worker: Rank of this process.
        workers: Number of processes.

    Attributes:
        steps: Global batches of an epoch, by split.
        counts: Images of each split, by name.
        readers: Of both splits, by name.
        images: Where each split's pixels come from, by name.
    """

    def __init__(
        self,
        config: Config,
        readers: dict[str, Reader],
        *,
        replicas: int,
        worker: int = 0,
        workers: int = 1,
    ):
        self._config = config
        self.readers = readers
        self._replicas = replicas
        self._worker, self._workers = worker, workers
        self.images = images = _sources(config, readers)
        self._source = lambda split, epoch: images[split]
        self.counts = {name: r.count for name, r in readers.items()}
        self.steps = {
            name: -(-count // config.optimisation.batch_size)
            for name, count in self.counts.items()
        }

    def training(self, epoch: int, first_step: int = 0) -> tf.data.Dataset:
        """Returns this process's share of an epoch, from a step on."""
        plan = input_pipeline.plan_training(
            self.counts[splits.TRAIN],
            self._config.optimisation.batch_size,
            self._config.run.seed,
            epoch,
        )
        source = self._source(splits.TRAIN, epoch)
        return self._create(splits.TRAIN, plan.from_step(first_step), source)

    def validation(self) -> tf.data.Dataset:
        """Returns this process's share of the validation split."""
        plan = input_pipeline.plan_evaluation(
            self.counts[splits.VALIDATION], self._config.optimisation.batch_size
        )
        source = self._source(splits.VALIDATION, 0)
        return self._create(splits.VALIDATION, plan, source)

    def on(self, source: Callable[[str, int], Callable]) -> "Feed":
        """Returns the same batches of something else than pixels.

        Args:
            source: Of a split in an epoch, see `input_pipeline.create`.
        """
        other = copy.copy(self)
        other._source = source
        return other

    def _create(
        self, split: str, plan: input_pipeline.Plan, source: Callable
    ) -> tf.data.Dataset:
        return input_pipeline.create(
            self.readers[split],
            plan.of_worker(self._worker, self._workers),
            source,
            replicas=self._replicas,
        )


def _sources(config: Config, readers: dict[str, Reader]) -> dict[str, Callable]:
    """Returns where each split's pixels come from, cached where they fit.

    Training decodes the fast way; validation decodes as the exported model
    does, since it decides what is exported.
    """
    decoders = {
        splits.TRAIN: input_pipeline.decoded_fast,
        splits.VALIDATION: input_pipeline.decoded_exactly,
    }
    memory = cache.memory_for_cache(config.data.cache_mb)
    result = {}
    for split, reader in readers.items():
        decoded = decoders[split](reader, config.data.image_size)
        size = cache.decoded_bytes(reader, config.data.image_size)
        path = None
        if config.data.cache_dir:
            name = (
                f"{reader.manifest.fingerprint[:16]}-{split}-"
                f"{config.data.image_size}.uint8"
            )
            path = pathlib.Path(config.data.cache_dir, name)
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
        plan = input_pipeline.plan_evaluation(
            reader.count, config.optimisation.batch_size
        )
        in_order = input_pipeline.create(reader, plan, decoded)
        result[split] = input_pipeline.cached(
            cache.fill(reader, in_order, config.data.image_size, path)
        )
    return result
