"""The training loop on tf.distribute's public API.

Keras's `fit` is not used: it fails under MultiWorkerMirroredStrategy (keras
issue 20585), leaves XLA off under every strategy and resumes at epochs only.
"""

import dataclasses
import time
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer.distribution import devices
from trainer.engine import optimizers
from trainer.models import dropout
from trainer.pipeline.input_pipeline import Batch

# What a step gives: summed cross-entropy (nats), correct images, images, 1
# for a step left out because float16 overflowed, and how many replicas were
# asked to stop; then, of this process, the seconds it waited for its data.
LOSS, CORRECT, IMAGES, SKIPPED, ASKED, WAITED = range(6)


@dataclasses.dataclass
class Totals:
    """What the steps of a pass over a split gave so far.

    Attributes:
        loss_sum: Summed cross-entropy, in nats.
        correct: Number of images classified correctly.
        images: Number of images.
        skipped: Steps left out because float16 overflowed.
        waited: Seconds spent waiting for batches.
        seconds: Wall time.
    """

    loss_sum: float = 0.0
    correct: float = 0.0
    images: float = 0.0
    skipped: float = 0.0
    waited: float = 0.0
    seconds: float = 0.0

    def add(self, steps: np.ndarray, seconds: float) -> None:
        """Adds what some steps gave.

        Args:
            steps: float64 `[n, 6]`.
            seconds: Wall time that they took.
        """
        # One by one: a resumed run adds in the same order, to the same bits.
        for step in steps:
            self.loss_sum += float(step[LOSS])
            self.correct += float(step[CORRECT])
            self.images += float(step[IMAGES])
            self.skipped += float(step[SKIPPED])
            self.waited += float(step[WAITED])
        self.seconds += seconds

    @property
    def loss(self) -> float:
        """Mean cross-entropy per image, in nats."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """Fraction of images in [0, 1]."""
        return self.correct / self.images

    @property
    def images_per_second(self) -> float:
        """Images per second of wall time."""
        return self.images / self.seconds

    @property
    def data_wait_fraction(self) -> float:
        """Share of the wall time spent waiting for batches."""
        return min(1.0, self.waited / self.seconds)


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a batch becomes a step.

    Attributes:
        seed: Of the run, for dropout.
        jit_compile: Whether XLA compiles forward and backward pass.
        accumulation: Pieces that a replica's share of a batch is computed in,
            to save memory; their gradients are summed.
        clip_norm: Norm that all gradients together are scaled down to; 0
            leaves them.
        label_smoothing: Share of every target spread evenly over the classes.
        class_weights: Factor of each class in the loss; empty for none.
    """

    seed: int = 0
    jit_compile: bool = False
    accumulation: int = 1
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()


def make_train(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    augment: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    options: StepOptions,
    averages: optimizers.Averages | None = None,
) -> Callable[..., tf.Tensor]:
    """Returns the function that trains on some global batches.

    Args:
        strategy: That the model and the optimizer were made under.
        model: From images to float32 logits; its `trainable` is final.
        optimizer: Built with the model's trainable variables.
        augment: What `augmentation.policies.create` returned.
        options: How a batch becomes a step.
        averages: Of the trainable variables; None keeps none.

    Returns:
        A function of an iterator of batches, the epoch (int64 scalar), the
        first step's number in the phase (int64 scalar), the learning rates
        (float32 `[n]`) and whether this process is asked to stop (float64
        scalar, 0 or 1). It trains on n batches and returns float64 `[n, 6]`.
    """
    replicas = strategy.num_replicas_in_sync
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    variables = model.trainable_variables

    def forward_backward(image, targets, label, weight, ids, epoch):
        with tf.GradientTape() as tape:
            with dropout.drawn_for(options.seed, epoch, ids):
                logits = model(image, training=True)
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            in_loss = weight
            if options.class_weights:
                in_loss *= tf.gather(tf.constant(options.class_weights), label)
            # The weights make the sum over all replicas the global mean.
            loss = tf.reduce_sum(losses * in_loss)
            if model.losses:
                pieces = replicas * options.accumulation
                loss += tf.add_n(model.losses) / pieces
            loss = optimizer.scale_loss(loss)
        gradients = tape.gradient(loss, variables)
        return gradients, _metrics(label, weight, logits, losses)

    if options.jit_compile:
        forward_backward = tf.function(forward_backward, jit_compile=True)

    def accumulated(*batch_and_epoch):
        *batch, epoch = batch_and_epoch
        pieces = [
            tf.reshape(x, [options.accumulation, -1, *x.shape[1:]])
            for x in batch
        ]

        def add(piece, gradients, metrics):
            more, of_piece = forward_backward(
                *(x[piece] for x in pieces), epoch
            )
            sums = [a + b for a, b in zip(gradients, more, strict=True)]
            return piece + 1, sums, metrics + of_piece

        # One piece at a time: all at once would take the memory of all.
        _, gradients, metrics = tf.while_loop(
            lambda piece, *_: piece < options.accumulation,
            add,
            (
                0,
                [tf.zeros(v.shape) for v in variables],
                tf.zeros(3, tf.float64),
            ),
            parallel_iterations=1,
        )
        return gradients, metrics

    compute = forward_backward if options.accumulation == 1 else accumulated

    def replica_step(batch: Batch, epoch: tf.Tensor, asked: tf.Tensor):
        # Outside of what XLA compiles: the resampling has no kernel there.
        image, targets = augment(batch.image, batch.label, batch.id, epoch)
        targets += options.label_smoothing * (1.0 / targets.shape[-1] - targets)
        gradients, metrics = compute(
            image, targets, batch.label, batch.weight, batch.id, epoch
        )
        skipped = tf.zeros([], tf.float64)
        if scaled or options.clip_norm:
            # What depends on all gradients needs their sum; the optimizer
            # sums again, so each replica hands in its share of the result.
            gradients = tf.distribute.get_replica_context().all_reduce(
                tf.distribute.ReduceOp.SUM, gradients
            )
            factor = 1.0 / replicas
            norm = tf.linalg.global_norm(gradients)
            if options.clip_norm:
                limit = optimizer.scale_loss(options.clip_norm)
                factor *= limit / tf.maximum(limit, norm)
            gradients = [g * factor for g in gradients]
            if scaled:
                overflow = tf.logical_not(tf.math.is_finite(norm))
                skipped = tf.cast(overflow, tf.float64) / replicas
        optimizer.apply(gradients, variables)
        return tf.concat([metrics, [skipped, asked]], axis=0)

    def step(iterator, epoch, number, rate, asked):
        batch, waited = _timed_next(strategy, iterator)
        optimizer.learning_rate.assign(rate)
        parts = strategy.run(replica_step, (batch, epoch, asked))
        totals = strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)
        if averages:
            averages.update(strategy, number)
        return tf.concat([totals, [waited]], axis=0)

    @tf.function(reduce_retracing=True)
    def train(iterator, epoch, first, rates, asked):
        if rates.shape[0] == 1:
            return step(iterator, epoch, first, rates[0], asked)[tf.newaxis]
        count = tf.shape(rates)[0]
        rows = tf.TensorArray(tf.float64, count, element_shape=[6])
        for i in tf.range(count):
            number = first + tf.cast(i, tf.int64)
            row = step(iterator, epoch, number, rates[i], asked)
            rows = rows.write(i, row)
        return rows.stack()

    return train


def make_evaluate(
    strategy: tf.distribute.Strategy, model: keras.Model
) -> Callable[..., tf.Tensor]:
    """Returns the function that measures some global batches.

    Returns:
        A function of an iterator of batches, their number n (int32 scalar)
        and whether this process is asked to stop (float64 scalar). It returns
        float64 `[n, 6]`.
    """

    def replica_step(batch: Batch, asked: tf.Tensor):
        logits = model(batch.image, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch.label, logits
        )
        metrics = _metrics(batch.label, batch.weight, logits, losses)
        return tf.concat([metrics, [tf.zeros([], tf.float64), asked]], axis=0)

    @tf.function
    def evaluate(iterator, count, asked):
        rows = tf.TensorArray(tf.float64, count, element_shape=[6])
        for i in tf.range(count):
            batch, waited = _timed_next(strategy, iterator)
            parts = strategy.run(replica_step, (batch, asked))
            totals = strategy.reduce(
                tf.distribute.ReduceOp.SUM, parts, axis=None
            )
            rows = rows.write(i, tf.concat([totals, [waited]], axis=0))
        return rows.stack()

    return evaluate


def calls(steps: int, steps_per_call: int) -> Iterator[int]:
    """Yields how many steps each call takes, until all are done."""
    for done in range(0, steps, steps_per_call):
        yield min(steps_per_call, steps - done)


def timed(function: Callable[..., tf.Tensor], *arguments):
    """Calls a function and waits for its result.

    Returns:
        The result as a NumPy array, and the seconds it took.
    """
    start = time.perf_counter()
    result = function(*arguments).numpy()
    return result, time.perf_counter() - start


def predict(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    dataset: tf.data.Dataset,
    weights: np.ndarray,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Predicts every image of an evaluation pass exactly once.

    Args:
        strategy: That the model was made under.
        model: From images to float32 logits.
        dataset: What `input_pipeline.create` returned.
        weights: float32 `[T, B]`, of the whole plan, all workers together.
        progress: Called with the number of images done in a step.

    Returns:
        Probabilities float32 `[N, K]`, in the order of the plan, in every
        worker.
    """

    def replica_step(batch: Batch) -> tf.Tensor:
        outputs = tf.nn.softmax(model(batch.image, training=False))
        if strategy.num_replicas_in_sync == 1:
            return outputs
        return tf.distribute.get_replica_context().all_gather(outputs, axis=0)

    @tf.function
    def step(iterator):
        parts = strategy.run(replica_step, (next(iterator),))
        # Every replica has them all, in the order of the global batch.
        return strategy.experimental_local_results(parts)[0]

    iterator = iter(devices.distribute(strategy, dataset))
    probabilities = []
    for row in weights:
        outputs = step(iterator).numpy()
        probabilities.append(outputs[row > 0])
        progress(int((row > 0).sum()))
    return np.concatenate(probabilities)


def _timed_next(
    strategy: tf.distribute.Strategy, iterator: Iterator[Batch]
) -> tuple[Batch, tf.Tensor]:
    """Returns the next batch and the seconds it kept us waiting."""
    before = _now()
    with tf.control_dependencies([before]):
        batch = next(iterator)
    there = strategy.experimental_local_results(batch.weight)
    with tf.control_dependencies(there):
        waited = _now() - before
    return batch, waited


def _now() -> tf.Tensor:
    # tf.timestamp is refused where operations have to be deterministic.
    return tf.numpy_function(time.perf_counter, [], tf.float64)


def _metrics(label, weight, logits, losses) -> tf.Tensor:
    """Returns float64 `[3]`: LOSS, CORRECT and IMAGES."""
    real = weight > 0
    predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
    correct = tf.logical_and(real, predicted == label)
    return tf.stack(
        [
            tf.reduce_sum(tf.where(real, tf.cast(losses, tf.float64), 0.0)),
            tf.reduce_sum(tf.cast(correct, tf.float64)),
            tf.reduce_sum(tf.cast(real, tf.float64)),
        ]
    )
