"""The training loop on tf.distribute's public API.

Keras's `fit` is not used: it fails under MultiWorkerMirroredStrategy (keras
issue 20585), leaves XLA off under every strategy and resumes at epochs only.
"""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from data_prep.progress import Progress
from trainer.input_pipeline import Batch

# Of a batch: summed cross-entropy (nats), correct images, images.
_METRICS = 3


@dataclasses.dataclass(frozen=True)
class Totals:
    """What one pass over a split gave.

    Attributes:
        loss: Mean cross-entropy per image, in nats.
        accuracy: Fraction of images in [0, 1].
        images: Number of images.
        seconds: Wall time of the pass.
        data_wait_fraction: Share of that time spent waiting for batches.
    """

    loss: float
    accuracy: float
    images: int
    seconds: float
    data_wait_fraction: float

    @property
    def images_per_second(self) -> float:
        """Images per second of wall time."""
        return self.images / self.seconds


def make_train_step(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    augment: Callable[..., tuple[tf.Tensor, tf.Tensor]],
) -> Callable[[Batch, tf.Tensor], tf.Tensor]:
    """Returns the function that trains on one global batch.

    Args:
        strategy: That the model and the optimizer were made under.
        model: From images to float32 logits; its `trainable` is final.
        optimizer: Built with the model's trainable variables.
        augment: What `augmentation.policies.create` returned.

    Returns:
        A function of a batch (one value per replica) and the epoch (int64
        scalar) that returns the batch's float64 `[_METRICS]`.
    """
    replicas = strategy.num_replicas_in_sync

    def replica_step(batch: Batch, epoch: tf.Tensor) -> tf.Tensor:
        # Outside of what XLA compiles: the resampling has no kernel there.
        image, targets = augment(batch.image, batch.label, batch.id, epoch)
        with tf.GradientTape() as tape:
            logits = model(image, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            # The weights make the sum over all replicas the global mean.
            loss = tf.reduce_sum(losses * batch.weight)
            loss += sum(model.losses) / replicas
            loss = optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return _metrics(batch, logits, losses)

    @tf.function
    def train_step(batch: Batch, epoch: tf.Tensor) -> tf.Tensor:
        parts = strategy.run(replica_step, args=(batch, epoch))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    return train_step


def make_eval_step(
    strategy: tf.distribute.Strategy, model: keras.Model
) -> Callable[[Batch], tf.Tensor]:
    """Returns the function that evaluates one global batch.

    Returns:
        A function of a batch that returns its float64 `[_METRICS]`.
    """

    def replica_step(batch: Batch) -> tf.Tensor:
        logits = model(batch.image, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch.label, logits
        )
        return _metrics(batch, logits, losses)

    @tf.function
    def eval_step(batch: Batch) -> tf.Tensor:
        parts = strategy.run(replica_step, args=(batch,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)

    return eval_step


def run_pass(
    strategy: tf.distribute.Strategy,
    step: Callable[..., tf.Tensor],
    dataset: tf.data.Dataset,
    images: int,
    what: str,
    *arguments: tf.Tensor,
) -> Totals:
    """Runs a step over all batches of a pass.

    Args:
        strategy: That the step was made for.
        step: What `make_train_step` or `make_eval_step` returned.
        dataset: What `input_pipeline.create` returned.
        images: In the pass, for the progress bar.
        what: Name of the pass, for the progress bar.
        *arguments: Passed to the step behind the batch.
    """
    start = time.perf_counter()
    waited = 0.0
    totals = tf.zeros([_METRICS], tf.float64)
    per_step = (
        strategy.num_replicas_in_sync * dataset.element_spec.label.shape[0]
    )
    batches = iter(distribute(strategy, dataset))
    with Progress(what, images) as progress:
        for done in range(0, images, per_step):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            totals += step(batch, *arguments)
            progress.update(min(per_step, images - done))
        loss_sum, correct, count = totals.numpy()
    seconds = time.perf_counter() - start
    return Totals(
        loss=loss_sum / count,
        accuracy=correct / count,
        images=int(count),
        seconds=seconds,
        data_wait_fraction=waited / seconds,
    )


def predict(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    dataset: tf.data.Dataset,
    images: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Predicts every image of an evaluation pass exactly once.

    Args:
        strategy: That the model was made under.
        model: From images to float32 logits.
        dataset: What `input_pipeline.create` returned.
        images: In the pass.

    Returns:
        Labels int32 `[N]` and probabilities float32 `[N, K]`, in the order of
        the dataset.
    """

    @tf.function
    def step(batch):
        return strategy.run(
            lambda b: tf.nn.softmax(model(b.image, training=False)), (batch,)
        )

    labels, probabilities = [], []
    with Progress("evaluate", images) as progress:
        for batch in distribute(strategy, dataset):
            outputs = strategy.experimental_local_results(step(batch))
            local = zip(
                strategy.experimental_local_results(batch.label),
                strategy.experimental_local_results(batch.weight),
                outputs,
                strict=True,
            )
            for label, weight, output in local:
                real = weight.numpy() > 0
                labels.append(label.numpy()[real])
                probabilities.append(output.numpy()[real])
                progress.update(int(real.sum()))
    return np.concatenate(labels), np.concatenate(probabilities)


def distribute(
    strategy: tf.distribute.Strategy, dataset: tf.data.Dataset
) -> Iterable[Batch]:
    """Returns the dataset's elements, one per replica at a time.

    The next batches are copied to the accelerator while one is worked on.
    """
    if strategy is not tf.distribute.get_strategy():
        # Prefetches to each replica's device by itself.
        return strategy.distribute_datasets_from_function(lambda _: dataset)
    gpus = tf.config.list_logical_devices("GPU")
    if gpus:
        copy = tf.data.experimental.prefetch_to_device(gpus[0].name, 2)
        return dataset.apply(copy)
    return dataset


def _metrics(batch: Batch, logits: tf.Tensor, losses: tf.Tensor) -> tf.Tensor:
    real = batch.weight > 0
    predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
    correct = tf.logical_and(real, predicted == batch.label)
    return tf.stack(
        [
            tf.reduce_sum(tf.where(real, tf.cast(losses, tf.float64), 0.0)),
            tf.reduce_sum(tf.cast(correct, tf.float64)),
            tf.reduce_sum(tf.cast(real, tf.float64)),
        ]
    )
