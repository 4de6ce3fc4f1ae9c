"""Manifest -> batches, in an order that is a pure function of seed and epoch.

A plan holds the indices of the records of every step; the images are then
read by index. So shuffling mixes the whole split in every epoch, resuming at a
step decodes nothing of the steps before it, and the number of replicas or
workers changes nothing.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep.runtime import limits
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from trainer.pipeline.decode import decode_image
from trainer.pipeline.decode import fit
from trainer.pipeline.decoding_pool import DecodingPool
from trainer.pipeline.reader import Reader

# What a batch holds for images: a function of their indices, int64 `[b]`, to a
# tensor `[b, ...]`; pixels are uint8 `[b, S, S, 3]`, features float16.
Source = Callable[[tf.Tensor], tf.Tensor]

# What was raised in threads of tf.data, which make other errors of it.
_failures: list[DataError | TrainingError] = []


@contextlib.contextmanager
def naming_failures() -> Iterator[None]:
    """Raises what reading raised, in place of what TensorFlow makes of it."""
    _failures.clear()
    try:
        yield
    except tf.errors.OpError:
        if _failures:
            raise _failures[0] from None
        raise


def _noted(function: Callable) -> Callable:
    """Returns the function, noting what it raises for `naming_failures`."""

    @functools.wraps(function)
    def noting(*arguments: np.ndarray) -> np.ndarray:
        try:
            return function(*arguments)
        except (DataError, TrainingError) as error:
            _failures.append(error)
            raise

    return noting


class Batch(NamedTuple):
    """What one replica gets in one step: b images of S x S pixels.

    Attributes:
        image: uint8 `[b, S, S, 3]`, RGB in [0, 255]; or what another source
            than one of pixels returns.
        label: int32 `[b]`, index into the class list.
        id: int64 `[b]`, see `data_prep.dataset.records.image_id`.
        weight: float32 `[b]`. The m real images of a global batch weigh 1/m
            each, so that a weighted sum over all replicas is a mean over
            images; 0 marks the padding of an incomplete batch.
    """

    image: tf.Tensor
    label: tf.Tensor
    id: tf.Tensor
    weight: tf.Tensor

    def last(self, count: int) -> "Batch":
        """Returns the batch of the last images alone."""
        return Batch(*(values[-count:] for values in self))


class Plan(NamedTuple):
    """Which records make up the steps of an epoch: T steps of B images.

    Attributes:
        indices: int64 `[T, B]`, indices of records in their split.
        weights: float32 `[T, B]`, see `Batch.weight`.
    """

    indices: np.ndarray
    weights: np.ndarray

    def from_step(self, step: int) -> "Plan":
        """Returns the plan without its first steps."""
        return Plan(self.indices[step:], self.weights[step:])

    def of_steps(self, numbers: Sequence[int]) -> "Plan":
        """Returns the plan of the steps with these indices, in their order."""
        steps = np.asarray(numbers, np.int64)
        return Plan(self.indices[steps], self.weights[steps])

    def with_partners(self, replicas: int) -> "Plan":
        """Returns the plan with one more image before each replica's share.

        It is the one before that share in the global batch, the last one for
        the first share, and weighs 0.

        Args:
            replicas: Number of replicas, of all workers together.
        """

        def extend(values: np.ndarray, before: np.ndarray) -> np.ndarray:
            steps = len(values)
            shares = values.reshape(steps, replicas, -1)
            partners = before.reshape(steps, replicas, -1)[:, :, :1]
            return np.concatenate([partners, shares], 2).reshape(steps, -1)

        return Plan(
            extend(self.indices, np.roll(self.indices, 1, axis=1)),
            extend(self.weights, np.zeros_like(self.weights)),
        )

    def of_worker(self, rank: int, workers: int) -> "Plan":
        """Returns a worker's slice of every global batch.

        Args:
            rank: Index of the worker, counted from 0.
            workers: Number of workers; the batch size is a multiple of it.
        """
        share = self.indices.shape[1] // workers
        part = slice(rank * share, (rank + 1) * share)
        return Plan(self.indices[:, part], self.weights[:, part])


def plan_training(count: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """Plans an epoch in which every image occurs once, in random order.

    The order depends on the seed and the epoch only.

    Args:
        count: Images in the split.
        batch_size: Images per step over all replicas.
        seed: The run's seed.
        epoch: Counted from 0 over all phases.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return _plan(generator.permutation(count), batch_size)


def plan_evaluation(count: int, batch_size: int) -> Plan:
    """Plans a pass in which every image occurs once, in record order.

    Args:
        count: Images in the split.
        batch_size: Images per step over all replicas.
    """
    return _plan(np.arange(count), batch_size)


def _plan(order: np.ndarray, batch_size: int) -> Plan:
    steps = -(-len(order) // batch_size)
    # The last batch is padded with records of weight 0, not dropped: every
    # step has the same shape, and every image counts once.
    indices = np.resize(order, (steps, batch_size)).astype(np.int64)
    real = np.arange(steps * batch_size).reshape(indices.shape) < len(order)
    weights = real / real.sum(axis=1, keepdims=True)
    return Plan(indices, weights.astype(np.float32))


def create(
    reader: Reader,
    plan: Plan,
    source: Source,
    *,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Returns the batches of a plan, one element per replica and step.

    Args:
        reader: Reader of the split that was planned.
        plan: What to read; its width is a multiple of `replicas`.
        source: What the batches hold for an image, such as what
            `decoded_fast`, `decoded_exactly` or `cached` returned.
        replicas: Number of elements that make up a step. Replica r of step t
            takes element `t * replicas + r`.

    Returns:
        Dataset of `Batch`, each of the plan's width divided by `replicas`.
    """
    size = plan.indices.shape[1] // replicas
    labels, ids = tf.constant(reader.labels), tf.constant(reader.ids)

    # AutoGraph, which would rewrite it and all that it calls, takes a second.
    @tf.autograph.experimental.do_not_convert
    def assemble(indices: tf.Tensor, weights: tf.Tensor) -> Batch:
        return Batch(
            source(indices),
            tf.gather(labels, indices),
            tf.gather(ids, indices),
            weights,
        )

    dataset = tf.data.Dataset.from_tensor_slices(
        (plan.indices.reshape(-1, size), plan.weights.reshape(-1, size))
    )
    # Each call makes a whole batch in one thread: per image, the overhead of
    # Python and tf.data cost a third of the rate. Two more calls than
    # processors keep those busy while a finished batch waits for its turn.
    processors = limits.processors()
    dataset = dataset.map(assemble, num_parallel_calls=processors + 2)
    options = tf.data.Options()
    # Threads of its own, and one per gather: sharing the model's made a pass
    # over cached images 1.6 times as long (123,000 against 199,000 images/s).
    options.threading.private_threadpool_size = processors
    options.threading.max_intra_op_parallelism = 1
    # Every number is given above. The thread that would tune them sleeps 10,
    # 20, 40, 80, 160... ms, and dropping an iterator often waits until it
    # wakes: half of all passes of 280 ms took 326.
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


def decoded_fast(reader: Reader, image_size: int) -> Source:
    """Returns the source of pixels for training, decoded by OpenCV.

    In processes of their own, which end when the source is dropped.

    Args:
        reader: Reader of the split.
        image_size: S, in pixels.
    """
    pool = DecodingPool(reader.shards, image_size)
    # TensorFlow keeps every function it calls until the process ends, but the
    # data set keeps `images`, and that the pool.
    weak = weakref.ref(pool)

    @_noted
    def decode(indices: np.ndarray) -> np.ndarray:
        return weak().pixels(reader.rows(indices))

    def images(indices: tf.Tensor) -> tf.Tensor:
        result = tf.numpy_function(decode, [indices], tf.uint8)
        return tf.ensure_shape(
            result, [indices.shape[0], image_size, image_size, 3]
        )

    images.pool = pool
    return images


def decoded_exactly(reader: Reader, image_size: int) -> Source:
    """Returns the source of pixels that the exported model would see.

    Args:
        reader: Reader of the split.
        image_size: S, in pixels.
    """
    manifest = reader.manifest
    stored = (manifest.image_size, manifest.image_size, 3)

    def decode(content: tf.Tensor) -> tf.Tensor:
        if manifest.encoding == "raw":
            image = tf.reshape(tf.io.decode_raw(content, tf.uint8), stored)
            return fit(image, image_size, manifest.resize)
        return decode_image(content, image_size, manifest.resize)

    # Outside of a graph `map_fn` would have AutoGraph rewrite all that it calls.
    @tf.autograph.experimental.do_not_convert
    def images(indices: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(
            _noted(reader.contents), [indices], tf.string
        )
        contents.set_shape(indices.shape)
        shape = [image_size, image_size, 3]
        return tf.map_fn(
            decode, contents, fn_output_signature=tf.TensorSpec(shape, tf.uint8)
        )

    return images


def cached(pixels: tf.Tensor) -> Source:
    """Returns the source that gathers from decoded images.

    Args:
        pixels: uint8 `[N, S, S, 3]`, what `cache.fill` returned.
    """
    return lambda indices: tf.gather(pixels, indices)
