"""Runs the frozen base over the images of a split, once per image and view."""

import hashlib
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from data_prep.dataset.manifest import Manifest
from data_prep.runtime.progress import Progress
from trainer.augmentation import policies
from trainer.config import Config
from trainer.distribution import devices
from trainer.distribution.worker_group import WorkerGroup
from trainer.feature_extraction import store
from trainer.feature_extraction.store import FeatureSet
from trainer.feature_extraction.writer import Writer
from trainer.models.bases import BASES
from trainer.models.classifier import base_of
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader

# Seconds in which what another worker has written has to be seen here.
PATIENCE = 60.0
MIRRORED = "mirrored"  # what flip averaging adds to the pictures as they are


class Extractor:
    """Runs the frozen base over splits, or takes what an earlier run kept.

    Args:
        config: Of the run.
        manifest: Of its data set.
        strategy: That the model was made under.
        model: What `model.build_classifier` returned, its base's weights in
            place.
        workers: Of the run. Each extracts its share by itself, of whole
            batches, so what all of them keep does not depend on their number.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        workers: WorkerGroup,
    ):
        self._config = config
        self._manifest = manifest
        self._strategy = strategy
        self._base = base_of(model)
        self._workers = workers
        self.model_dir = pathlib.Path(config.run.model_dir)
        self._steps: dict[str, Callable] = {}
        self.root = pathlib.Path(
            config.features.feature_dir or self.model_dir / "features"
        )
        preprocessing = config.model.preprocessing
        if preprocessing == "auto":
            preprocessing = BASES[config.model.base].preprocessing
        self._identity = {
            "format": 1,
            "data_fingerprint": manifest.fingerprint,
            "base": config.model.base,
            "weights": _hash_weights(self._base, strategy),
            "image_size": config.data.image_size,
            "preprocessing": preprocessing,
            "pooled": config.model.head == "gap",
            "precision": keras.config.dtype_policy().name,
        }

    def views(self, epochs: int) -> int:
        """Returns how many views of the training images a phase takes."""
        if self._config.augmentation.augment == "none":
            return 1
        return min(self._config.features.feature_views or epochs, epochs)

    def augmented(
        self, reader: Reader, images: Callable, epoch: int
    ) -> FeatureSet:
        """Returns the features of a split as an epoch augments it.

        Args:
            reader: Of the split.
            images: Where its pixels come from, see `input_pipeline.create`.
            epoch: Of the augmentation.
        """
        config = self._config
        if config.augmentation.augment == "none":
            return self.plain(reader, images)
        identity = {
            "augment": config.augmentation.augment,
            "augment_strength": config.augmentation.augment_strength,
            "seed": config.run.seed,
        }
        return self._get(reader, images, identity, epoch)

    def plain(self, reader: Reader, images: Callable) -> FeatureSet:
        """Returns the features of a split's pictures as they are."""
        return self._get(reader, images, {"augment": "none"}, None)

    def mirrored(self, reader: Reader, images: Callable) -> FeatureSet:
        """Returns the features of a split's pictures, mirrored."""
        return self._get(reader, images, {"augment": MIRRORED}, None)

    def served(self, reader: Reader, images: Callable) -> list[FeatureSet]:
        """Returns the features that predictions average over.

        Those of the pictures as they are, and of their mirrors with
        `flip_average`.
        """
        result = [self.plain(reader, images)]
        if self._config.model.flip_average:
            result.append(self.mirrored(reader, images))
        return result

    def _get(
        self, reader: Reader, images: Callable, augment: dict, view: int | None
    ) -> FeatureSet:
        identity = {
            **self._identity,
            "split": reader.split,
            **augment,
            "view": view,
        }
        found = store.load(self.root, identity, reader.ids)
        if not self._workers.sum(found is not None):  # nobody has found it
            writer = Writer(
                self.root,
                identity,
                count=reader.count,
                shape=self._base.output.shape[1:],
                batch_size=self._config.optimisation.batch_size,
            )
            writer.write_share(
                lambda numbers: self._extract(
                    reader, images, augment["augment"], view, numbers
                ),
                self._workers.rank,
                self._workers.count,
            )
            self._workers.wait_until_all_finish()
            if self._workers.is_first:
                writer.finish(
                    ids=reader.ids,
                    labels=reader.labels,
                    classes=self._manifest.classes,
                    patience=PATIENCE,
                )
            self._workers.barrier()
        return found or store.wait_for(
            self.root, identity, reader.ids, PATIENCE
        )

    def _extract(
        self,
        reader: Reader,
        images: Callable,
        augment: str,
        view: int | None,
        numbers: Sequence[int],
    ) -> Iterator[np.ndarray]:
        """Yields the features of some batches, counted in record order."""
        plan = input_pipeline.plan_evaluation(
            reader.count, self._config.optimisation.batch_size
        ).of_steps(numbers)
        dataset = input_pipeline.create(
            reader, plan, images, replicas=self._workers.replicas
        )
        # Traced once for all views.
        if augment not in self._steps:
            self._steps[augment] = self._make_step(augment)
        step = self._steps[augment]
        epoch = tf.constant(view or 0, tf.int64)
        what = f"features {reader.split}"
        what += f", view {view + 1}" if view is not None else ""
        what += f", {MIRRORED}" if augment == MIRRORED else ""
        if self._workers.count > 1:
            what += f", worker {self._workers.rank}"
        with Progress(what, int((plan.weights > 0).sum())) as progress:
            for batch in self._distribute(dataset, len(numbers)):
                local = self._strategy.experimental_local_results(
                    step(batch, epoch)
                )
                weights = self._strategy.experimental_local_results(
                    batch.weight
                )
                features = np.concatenate(
                    [
                        part.numpy()[weight.numpy() > 0]
                        for part, weight in zip(local, weights, strict=True)
                    ]
                )
                progress.update(len(features))
                yield features
                self._workers.poll_stop()

    def _distribute(
        self, dataset: tf.data.Dataset, steps: int
    ) -> Iterator[input_pipeline.Batch]:
        """Yields this worker's batches, one element per replica at a time."""
        if self._workers.count == 1:
            yield from devices.distribute(self._strategy, dataset)
            return
        # Its iterators would ask the other workers for as many batches.
        elements = iter(dataset)
        for _ in range(steps):
            yield self._strategy.experimental_distribute_values_from_function(
                lambda _: next(elements)
            )

    def _make_step(self, augment: str) -> Callable:
        """Returns the function of a batch and an epoch to its features."""
        if augment == MIRRORED:

            def change(image, label, ids, epoch):
                return tf.reverse(image, axis=[2]), None

        else:
            policy = policies.Policy(
                augment,
                self._config.augmentation.augment_strength,
                seed=self._config.run.seed,
            )
            change = policies.create(policy, len(self._manifest.classes))

        def replica_step(batch, epoch):
            image, _ = change(batch.image, batch.label, batch.id, epoch)
            features = self._base(image, training=False)
            # What float16 cannot hold would become infinite.
            features = tf.cast(features, tf.float32)
            largest = tf.float16.max
            features = tf.clip_by_value(features, -largest, largest)
            return tf.cast(features, tf.float16)

        @tf.function
        def step(batch, epoch):
            return self._strategy.run(replica_step, (batch, epoch))

        return step


def source(
    features: FeatureSet, mirrored: FeatureSet | None = None
) -> Callable:
    """Returns the source of features for `input_pipeline.create`.

    Args:
        features: Of the split.
        mirrored: Of its pictures mirrored, for flip averaging.

    Returns:
        A function of positions int64 `[b]` that returns float16
        `[b, *shape]`, or `[b, 2, *shape]` with `mirrored`.
    """

    def take(positions: np.ndarray) -> np.ndarray:
        if mirrored is None:
            return features.take(positions)
        both = (features.take(positions), mirrored.take(positions))
        return np.stack(both, axis=1)

    shape = features.shape if mirrored is None else (2, *features.shape)

    def gather(positions: tf.Tensor) -> tf.Tensor:
        result = tf.numpy_function(take, [positions], tf.float16)
        return tf.ensure_shape(result, [positions.shape[0], *shape])

    return gather


def _hash_weights(base: keras.Model, strategy: tf.distribute.Strategy) -> str:
    digest = hashlib.sha256()
    for layer in base.layers:
        for variable in layer.weights:
            # The first replica's: a mean over all may differ in a bit.
            copies = strategy.experimental_local_results(variable.value)
            array = copies[0].numpy()
            digest.update(f"{layer.name} {array.shape} {array.dtype}".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
