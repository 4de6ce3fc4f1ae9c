"""The training loop on tf.distribute's public API.

Keras's `fit` is not used: it fails under MultiWorkerMirroredStrategy (keras
issue 20585), leaves XLA off under every strategy and resumes at epochs only.

AutoGraph is not used: to rewrite what a step calls, Keras's layers too, takes half
of the seconds of a small run, and it fails where the disk for temporary files is
full.
"""

import time
from collections.abc import Callable
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from trainer.distribution import devices
from trainer.engine import results
from trainer.engine import train_step
from trainer.engine.optimizers import Averages
from trainer.engine.results import StepResult
from trainer.engine.train_step import StepOptions
from trainer.pipeline.input_pipeline import Batch


def make_train(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    augment: Callable[..., tuple[tf.Tensor, tf.Tensor]],
    options: StepOptions,
    averages: Averages | None = None,
) -> Callable[..., tf.Tensor]:
    """Returns the function that trains on some global batches.

    Args:
        strategy: That the model and the optimizer were made under.
        model: From images to float32 logits; its `trainable` is final.
        optimizer: Built with the model's trainable variables.
        augment: What `augmentation.policies.create` returned.
        options: How a batch becomes a step.
        averages: Averages of the trainable variables; None keeps none.

    Returns:
        A function of an iterator of batches, the epoch (int64 scalar), the
        index of the first step in the phase (int64 scalar), the learning
        rates (float32 `[n]`) and whether this process is asked to stop
        (float64 scalar, 0 or 1). It trains on n batches and returns their
        packed results, float64 `[n, 6]`; see `timed`.
    """
    replica_step = train_step.make_replica_step(
        model, optimizer, augment, options, strategy.num_replicas_in_sync
    )

    def step(iterator, epoch, index, rate, stop):
        batch, waited = _timed_next(strategy, iterator)
        optimizer.learning_rate.assign(rate)
        parts = strategy.run(replica_step, (batch, epoch, stop))
        result = _sum_of_replicas(strategy, parts, waited)
        if averages:
            averages.update(strategy, index)
        return result

    @tf.function(reduce_retracing=True, autograph=False)
    def train(iterator, epoch, first, rates, stop):
        if rates.shape[0] == 1:
            return step(iterator, epoch, first, rates[0], stop)[tf.newaxis]
        return _each(
            tf.shape(rates)[0],
            lambda i: step(
                iterator, epoch, first + tf.cast(i, tf.int64), rates[i], stop
            ),
        )

    return train


def make_evaluate(
    strategy: tf.distribute.Strategy, model: keras.Model
) -> Callable[..., tf.Tensor]:
    """Returns the function that measures some global batches.

    Args:
        strategy: That the model was made under.
        model: From images to float32 logits.

    Returns:
        A function of an iterator of batches, their number n (int32 scalar)
        and whether this process is asked to stop (float64 scalar, 0 or 1). It
        returns packed results, float64 `[n, 6]`; see `timed`.
    """

    def replica_step(batch: Batch, stop: tf.Tensor):
        logits = model(batch.image, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            batch.label, logits
        )
        metrics = results.measure(batch.label, batch.weight, logits, losses)
        return StepResult(*metrics, stop_requested=stop).pack()

    def step(iterator, stop):
        batch, waited = _timed_next(strategy, iterator)
        parts = strategy.run(replica_step, (batch, stop))
        return _sum_of_replicas(strategy, parts, waited)

    @tf.function(autograph=False)
    def evaluate(iterator, count, stop):
        return _each(count, lambda _: step(iterator, stop))

    return evaluate


def call_sizes(steps: int, steps_per_call: int) -> Iterator[int]:
    """Yields how many steps each call takes, until all are done."""
    for done in range(0, steps, steps_per_call):
        yield min(steps_per_call, steps - done)


def timed(
    function: Callable[..., tf.Tensor], *arguments
) -> tuple[StepResult, float]:
    """Calls a function of steps and waits for its result.

    Args:
        function: What `make_train` or `make_evaluate` returned.
        arguments: Its arguments.

    Returns:
        The results of the n steps, arrays float64 `[n]`, and the seconds that
        the call took.
    """
    start = time.perf_counter()
    steps = function(*arguments).numpy()
    return StepResult.unpack(steps), time.perf_counter() - start


def predict(
    strategy: tf.distribute.Strategy,
    model: keras.Model,
    dataset: tf.data.Dataset,
    weights: np.ndarray,
    progress: Callable[[int], None],
) -> Iterator[np.ndarray]:
    """Predicts every image of an evaluation pass exactly once.

    Args:
        strategy: That the model was made under.
        model: From images to float32 logits.
        dataset: What `input_pipeline.create` returned.
        weights: float32 `[T, B]`, of the whole plan, all workers together.
        progress: Called with the number of images done in a step.

    Yields:
        Probabilities float32 `[b, K]`, in the order of the plan, in every
        worker; a collective of all, to the end.
    """

    def replica_step(batch: Batch) -> tf.Tensor:
        outputs = tf.nn.softmax(model(batch.image, training=False))
        if strategy.num_replicas_in_sync == 1:
            return outputs
        return tf.distribute.get_replica_context().all_gather(outputs, axis=0)

    @tf.function(autograph=False)
    def step(iterator):
        parts = strategy.run(replica_step, (next(iterator),))
        # Every replica has them all, in the order of the global batch.
        return strategy.experimental_local_results(parts)[0]

    iterator = iter(devices.distribute(strategy, dataset))
    for row in weights:
        outputs = step(iterator).numpy()
        progress(int((row > 0).sum()))
        yield outputs[row > 0]


def _each(
    count: tf.Tensor, step: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Returns the packed results of some steps, float64 `[n, 6]`.

    Args:
        count: Number of steps, int32 scalar.
        step: From the index of a step, from 0 on, to its packed result.
    """
    size = [results.WIDTH]
    _, steps = tf.while_loop(
        lambda i, _: i < count,
        lambda i, steps: (i + 1, steps.write(i, step(i))),
        (0, tf.TensorArray(tf.float64, count, element_shape=size)),
    )
    return steps.stack()


def _sum_of_replicas(
    strategy: tf.distribute.Strategy, parts: tf.Tensor, waited: tf.Tensor
) -> tf.Tensor:
    """Returns the packed sum over all replicas, with this process's wait."""
    total = strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None)
    return total + StepResult(waited=waited).pack()


def _timed_next(
    strategy: tf.distribute.Strategy, iterator: Iterator[Batch]
) -> tuple[Batch, tf.Tensor]:
    """Returns the next batch and the seconds that this process waited."""
    before = _now()
    with tf.control_dependencies([before]):
        batch = next(iterator)
    arrived = strategy.experimental_local_results(batch.weight)
    with tf.control_dependencies(arrived):
        waited = _now() - before
    return batch, waited


def _now() -> tf.Tensor:
    # tf.timestamp is refused where operations have to be deterministic.
    return tf.numpy_function(time.perf_counter, [], tf.float64)
