"""Predicts whole splits, by the features that are kept of them or by images."""

from collections.abc import Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from data_prep.dataset import splits
from data_prep.dataset.manifest import Manifest
from data_prep.runtime.progress import Progress
from trainer.config import Config
from trainer.distribution.worker_group import WorkerGroup
from trainer.engine import loop
from trainer.feature_extraction import extractor as extractor_lib
from trainer.feature_extraction import source as feature_source
from trainer.feature_extraction.extractor import Extractor
from trainer.feature_extraction.views import for_inference
from trainer.models.classifier import head_of
from trainer.models.classifier import inference_head
from trainer.models.classifier import inference_model
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader


class SplitPredictor(NamedTuple):
    """What predicts a whole split.

    Attributes:
        strategy: The strategy that the model was made under.
        model: What `build_classifier` returned, with the weights that predict.
        flip_average: Whether predictions average an image and its mirror.
        workers: The workers that predict together.
        batch_size: Images per step, over all replicas of all workers.
        extractor: Knows the features that are kept of the model's base.
    """

    strategy: tf.distribute.Strategy
    model: keras.Model
    flip_average: bool
    workers: WorkerGroup
    batch_size: int
    extractor: Extractor

    def predict(self, reader: Reader) -> Iterator[np.ndarray]:
        """Predicts every image of a split once, without a temperature.

        Args:
            reader: Reader of the split.

        Yields:
            Probabilities float32 `[b, K]`, in record order, in every worker.
            From kept features, which are float16, they differ by about 1e-3.

        Raises:
            DataError: If kept features are damaged.
        """
        network, source = self._network_and_source(reader)
        workers = self.workers
        plan = input_pipeline.plan_evaluation(reader.count, self.batch_size)
        dataset = input_pipeline.create(
            reader,
            plan.of_worker(workers.rank, workers.count),
            source,
            replicas=workers.replicas,
        )
        with Progress(f"evaluate {reader.split}", reader.count) as progress:
            yield from loop.predict(
                self.strategy,
                network,
                dataset,
                plan.weights,
                progress.update,
            )

    def _network_and_source(
        self, reader: Reader
    ) -> tuple[keras.Model, input_pipeline.Source]:
        """Returns what predicts, and what its batches hold."""
        kept = []
        # Of the train split features are of the pixels of training.
        if reader.split != splits.TRAIN:
            views = for_inference(self.flip_average)
            kept = self.extractor.kept(reader, views)
        if kept:
            head = inference_head(head_of(self.model), self.flip_average)
            return head, feature_source.of_features(*kept)
        size = self.model.input.shape[1]
        whole = inference_model(self.model, self.flip_average)
        return whole, input_pipeline.decoded_exactly(reader, size)


def create(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    workers: WorkerGroup,
) -> SplitPredictor:
    """Returns what predicts splits; for the arguments see `SplitPredictor`.

    Args:
        config: The run's settings.
        manifest: The data set's manifest.
    """
    return SplitPredictor(
        strategy,
        model,
        config.model.flip_average,
        workers,
        config.optimisation.batch_size,
        extractor_lib.create(config, manifest, strategy, model, workers),
    )
