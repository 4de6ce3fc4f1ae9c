"""Runs the frozen base over a split, once per image and view.

Workers extract without a collective. A worker's share is whole files of whole
batches, and which batches a file holds depends on the number of images alone:
so the set does not depend on the number of workers, not even in its last bits,
and workers may differ in speed. While they work they meet every other second
(`WorkerGroup.wait_until_all_finish`), which is how a signal reaches all of them
and how TensorFlow notices a lost one. Workers on disks of their own extract
everything each. Each worker runs a whole batch on its own replicas, where
training gives it a share of one; there is only a forward pass, so that fits in
memory.

Validation images are decoded as the exported model decodes them, and with
--flip_average there is a second set of their mirrors: the epoch is chosen by
what will predict.
"""

import dataclasses
import functools
import pathlib
import time
import uuid
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from data_prep.dataset.manifest import Manifest
from data_prep.runtime import atomic
from data_prep.runtime.progress import Progress
from trainer.augmentation import policies
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution import memory
from trainer.distribution.worker_group import WorkerGroup
from trainer.feature_extraction import identity as identity_lib
from trainer.feature_extraction import store
from trainer.feature_extraction.layout import Layout
from trainer.feature_extraction.store import FeatureSet
from trainer.feature_extraction.views import View
from trainer.feature_extraction.writer import FeatureSetWriter
from trainer.groups import Model
from trainer.models.classifier import base_of
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader

# Seconds in which what another worker has written has to be seen here.
PATIENCE = 60.0
# Seconds in which the first worker's folder has to turn out to be this one's.
_SIGN_SECONDS = 5.0


class Extractor:
    """Runs the frozen base over splits, or takes what an earlier run kept.

    Args:
        root: Folder of all feature sets, shared by all workers or by none.
        model: What `classifier.build_classifier` returned, with the base's
            weights in place.
        network: The settings that `model` was built from.
        manifest: The data set's manifest.
        strategy: The strategy that `model` was made under.
        workers: The workers that extract together, each its share.
        batch_size: Images that a worker's replicas take at once.

    Attributes:
        workers: As given.
    """

    def __init__(
        self,
        root: pathlib.Path,
        model: keras.Model,
        network: Model,
        manifest: Manifest,
        strategy: tf.distribute.Strategy,
        workers: WorkerGroup,
        batch_size: int,
    ):
        self._root = root
        self._manifest = manifest
        self._strategy = strategy
        self.workers = workers
        self._batch_size = batch_size
        self._base = base_of(model)
        self._identity = identity_lib.of_base(
            self._base, network, manifest, strategy
        )
        self._steps: dict[View, Callable] = {}
        self._pieces = 1  # in which a replica computes its share of a batch

    def extract(
        self, reader: Reader, images: Callable, view: View
    ) -> FeatureSet:
        """Returns the features of a split, extracted unless they are kept.

        Args:
            reader: The split's records.
            images: The source of its pixels, see `input_pipeline.create`.
            view: What the base sees of each image.

        Raises:
            DataError: If kept features are damaged, or the disk is full.
            Stopped: If a signal asked to stop; finished files stay.
        """
        identity = self._identity_of(reader, view)
        found = store.load(self._root, identity, reader.ids)
        lacking = self.workers.sum(found is None)
        if lacking == self.workers.count or (lacking and not self._is_shared):
            self._write(reader, images, view, identity, found is not None)
        return found or store.wait_for(
            self._root, identity, reader.ids, PATIENCE
        )

    def kept(self, reader: Reader, views: Sequence[View]) -> list[FeatureSet]:
        """Returns what is kept of a split, nothing unless it is all there.

        Args:
            reader: The split's records.
            views: What the base saw of each image.

        Raises:
            DataError: If kept features are damaged.
        """
        found = [
            store.load(self._root, self._identity_of(reader, view), reader.ids)
            for view in views
        ]
        # All workers take the same way, or they would wait for each other.
        return [] if self.workers.sum(None in found) else found

    def _identity_of(self, reader: Reader, view: View) -> dict[str, Any]:
        return {**self._identity, "split": reader.split, **view.identity}

    def _write(
        self,
        reader: Reader,
        images: Callable,
        view: View,
        identity: dict,
        is_here: bool,
    ) -> None:
        """Writes a set while the other workers do, unless it is here."""
        shape = self._base.output.shape[1:]
        writer = FeatureSetWriter(
            self._root,
            identity,
            shape,
            Layout.of(reader.count, shape, self._batch_size),
        )
        group = self.workers
        share = (group.rank, group.count) if self._is_shared else (0, 1)
        if not is_here:
            writer.write_share(
                lambda batches: self._features(reader, images, view, batches),
                *share,
            )
        group.wait_until_all_finish()
        if group.is_first or not self._is_shared:
            writer.finish(
                ids=reader.ids,
                labels=reader.labels,
                classes=self._manifest.classes,
                patience=PATIENCE,
            )
        group.barrier()

    @functools.cached_property
    def _is_shared(self) -> bool:
        """Whether all workers see what the first one writes; a collective.

        Where a network's file system shows it late, each worker extracts
        everything. That costs time alone: what is written twice is the same.
        """
        group = self.workers
        if group.count == 1:
            return True
        name = group.text_from_first(f"{atomic.INCOMPLETE}{uuid.uuid4().hex}")
        sign = self._root / name
        if group.is_first:
            self._root.mkdir(parents=True, exist_ok=True)
            sign.touch()
        group.barrier()
        until = time.monotonic() + _SIGN_SECONDS
        while not (is_seen := sign.exists()) and time.monotonic() < until:
            time.sleep(store.PAUSE)
        is_shared = group.sum(is_seen) == group.count
        if group.is_first:
            sign.unlink()
        return bool(is_shared)

    def _features(
        self,
        reader: Reader,
        images: Callable,
        view: View,
        batches: Sequence[int],
    ) -> Iterator[np.ndarray]:
        """Yields the features of some batches, counted in record order."""
        plan = input_pipeline.plan_evaluation(
            reader.count, self._batch_size
        ).of_steps(batches)
        dataset = input_pipeline.create(
            reader, plan, images, replicas=self.workers.replicas
        )
        epoch = tf.constant(view.epoch or 0, tf.int64)
        title = f"features {reader.split}{view}"
        if self.workers.count > 1:
            title += f", worker {self.workers.rank}"
        with Progress(title, int((plan.weights > 0).sum())) as progress:
            for batch in self._distribute(dataset, len(batches)):
                features = self._real_rows(
                    self._fitting_step(view, batch, epoch), batch.weight
                )
                progress.update(len(features))
                yield features
                self.workers.poll_stop()

    def _distribute(
        self, dataset: tf.data.Dataset, steps: int
    ) -> Iterator[input_pipeline.Batch]:
        """Yields this worker's batches, one element per replica at a time."""
        if self.workers.count == 1:
            yield from devices.distribute(self._strategy, dataset)
            return
        # Its iterators would ask the other workers for as many batches.
        elements = iter(dataset)
        for _ in range(steps):
            yield self._strategy.experimental_distribute_values_from_function(
                lambda _: next(elements)
            )

    def _real_rows(self, features: Any, weights: Any) -> np.ndarray:
        """Joins what all replicas made, without the filling of a batch.

        Args:
            features: float16 `[b, *shape]` of each replica.
            weights: `Batch.weight` of each replica.
        """
        values_of = self._strategy.experimental_local_results
        return np.concatenate(
            [
                part.numpy()[weight.numpy() > 0]
                for part, weight in zip(
                    values_of(features), values_of(weights), strict=True
                )
            ]
        )

    def _fitting_step(
        self, view: View, batch: input_pipeline.Batch, epoch: tf.Tensor
    ) -> Any:
        """Runs a step; where memory runs out, in smaller and smaller pieces."""
        share = self._batch_size // self.workers.replicas
        while True:
            try:
                return self._step(view)(batch, epoch)
            except tf.errors.ResourceExhaustedError as error:
                self._pieces = memory.more_pieces(share, self._pieces, error)
                self._steps.clear()
                print(
                    "note: memory ran out: features are extracted "
                    f"{share // self._pieces} images at a time per device",
                    flush=True,
                )

    def _step(self, view: View) -> Callable:
        """Returns the function of a batch and an epoch to its features.

        It is traced once for all epochs of a view.
        """
        of_any_epoch = dataclasses.replace(view, epoch=None)
        if of_any_epoch not in self._steps:
            self._steps[of_any_epoch] = self._make_step(of_any_epoch)
        return self._steps[of_any_epoch]

    def _features_of(self, image: tf.Tensor) -> tf.Tensor:
        """Returns what the base gives, float16, for images `[b, S, S, 3]`."""
        features = tf.cast(self._base(image, training=False), tf.float32)
        # What float16 cannot hold would become infinite.
        largest = tf.float16.max
        features = tf.clip_by_value(features, -largest, largest)
        return tf.cast(features, tf.float16)

    def _make_step(self, view: View) -> Callable:
        augment = policies.create(
            policies.Policy(
                view.augment, view.strength, flip=view.flip, seed=view.seed
            ),
            len(self._manifest.classes),
        )

        pieces = self._pieces

        def replica_step(batch: input_pipeline.Batch, epoch: tf.Tensor):
            if view.mirrored:
                image = tf.reverse(batch.image, axis=[2])
            else:
                image, _ = augment(batch.image, batch.label, batch.id, epoch)
            if pieces == 1:
                return self._features_of(image)
            features = tf.map_fn(
                self._features_of,
                tf.reshape(image, [pieces, -1, *image.shape[1:]]),
                parallel_iterations=1,  # all at once take the memory of all
                fn_output_signature=tf.float16,
            )
            return tf.reshape(features, [-1, *features.shape[2:]])

        @tf.function(autograph=False)
        def step(batch, epoch):
            return self._strategy.run(replica_step, (batch, epoch))

        return step


def create(
    config: Config,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    workers: WorkerGroup,
) -> Extractor:
    """Returns the extractor of a run; for the arguments see `Extractor`.

    Args:
        config: The run's settings; `feature_dir` is where features go, by
            default `features` in the model directory.
    """
    root = config.features.feature_dir or pathlib.Path(
        config.run.model_dir, "features"
    )
    return Extractor(
        pathlib.Path(root),
        model,
        config.model,
        manifest,
        strategy,
        workers,
        config.optimisation.batch_size,
    )
