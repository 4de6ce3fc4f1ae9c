"""Manifest -> batches, in an order that is a pure function of seed and epoch.

A plan says which record stands at which place of which step; the images are
then fetched by position. So shuffling mixes the whole split at every epoch,
resuming at a step decodes nothing of what came before, and another number of
replicas or workers changes nothing.
"""

import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from trainer.pipeline.decode import decode_image
from trainer.pipeline.decode import fit
from trainer.pipeline.reader import Reader


class Batch(NamedTuple):
    """What one replica gets in one step; b images of S x S pixels.

    Attributes:
        image: uint8 `[b, S, S, 3]`, RGB in [0, 255].
        label: int32 `[b]`, position in the class list.
        id: int64 `[b]`, see `data_prep.dataset.records.image_id`.
        weight: float32 `[b]`. The m real images of a global batch weigh 1/m
            each, so that a weighted sum over all replicas is a mean over
            images; 0 marks the filling of an incomplete batch.
    """

    image: tf.Tensor
    label: tf.Tensor
    id: tf.Tensor
    weight: tf.Tensor


class Plan(NamedTuple):
    """Which records make up the steps of an epoch; T steps of B images.

    Attributes:
        positions: int64 `[T, B]`, positions of records in their split.
        weights: float32 `[T, B]`, see `Batch.weight`.
    """

    positions: np.ndarray
    weights: np.ndarray

    def from_step(self, step: int) -> "Plan":
        """Returns the plan without its first steps."""
        return Plan(self.positions[step:], self.weights[step:])

    def of_steps(self, numbers: Sequence[int]) -> "Plan":
        """Returns the plan of some steps, in the order of their numbers."""
        steps = np.asarray(numbers, np.int64)
        return Plan(self.positions[steps], self.weights[steps])

    def of_worker(self, worker: int, workers: int) -> "Plan":
        """Returns a worker's slice of every global batch.

        Args:
            worker: Counted from 0.
            workers: Their number; the batch size is a multiple of it.
        """
        share = self.positions.shape[1] // workers
        part = slice(worker * share, (worker + 1) * share)
        return Plan(self.positions[:, part], self.weights[:, part])


def plan_training(count: int, batch_size: int, seed: int, epoch: int) -> Plan:
    """Plans an epoch in which every image stands once, in random order.

    Args:
        count: Images in the split.
        batch_size: Images per step over all replicas.
        seed: With `epoch`, what the order depends on; nothing else does.
        epoch: Counted from 0 over all phases.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    return _plan(generator.permutation(count), batch_size)


def plan_evaluation(count: int, batch_size: int) -> Plan:
    """Plans a pass in which every image stands once, in record order."""
    return _plan(np.arange(count), batch_size)


def _plan(order: np.ndarray, batch_size: int) -> Plan:
    steps = -(-len(order) // batch_size)
    # The last batch is filled with records that weigh nothing: every step has
    # the same shape, and no image is left out.
    positions = np.resize(order, (steps, batch_size)).astype(np.int64)
    real = np.arange(steps * batch_size).reshape(positions.shape) < len(order)
    weights = real / real.sum(axis=1, keepdims=True)
    return Plan(positions, weights.astype(np.float32))


def create(
    reader: Reader,
    plan: Plan,
    images: Callable[[tf.Tensor], tf.Tensor],
    *,
    replicas: int = 1,
) -> tf.data.Dataset:
    """Returns the batches of a plan, one element per replica and step.

    Args:
        reader: Of the split that was planned.
        plan: What to read; the batch size is a multiple of `replicas`.
        images: Where the pixels come from: what `decoded_fast`,
            `decoded_exactly` or `cached` returned.
        replicas: Number of elements that make up a step. Replica r of step t
            takes element `t * replicas + r`.

    Returns:
        Dataset of `Batch`, each of `batch_size / replicas` images.
    """
    size = plan.positions.shape[1] // replicas
    labels, ids = tf.constant(reader.labels), tf.constant(reader.ids)

    def assemble(positions: tf.Tensor, weights: tf.Tensor) -> Batch:
        return Batch(
            images(positions),
            tf.gather(labels, positions),
            tf.gather(ids, positions),
            weights,
        )

    dataset = tf.data.Dataset.from_tensor_slices(
        (plan.positions.reshape(-1, size), plan.weights.reshape(-1, size))
    )
    # Each call makes a whole batch in one thread. Two more calls than
    # processors keep those busy while a finished batch waits for its turn.
    processors = len(os.sched_getaffinity(0))
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


def decoded_fast(reader: Reader, image_size: int) -> Callable:
    """Returns the source of pixels for training: OpenCV, image by image."""

    def images(positions: tf.Tensor) -> tf.Tensor:
        result = tf.numpy_function(
            lambda p: reader.pixels(p, image_size), [positions], tf.uint8
        )
        return tf.ensure_shape(
            result, [positions.shape[0], image_size, image_size, 3]
        )

    return images


def decoded_exactly(reader: Reader, image_size: int) -> Callable:
    """Returns the source of pixels for evaluation: as the exported model."""
    manifest = reader.manifest
    stored = (manifest.image_size, manifest.image_size, 3)

    def decode(content: tf.Tensor) -> tf.Tensor:
        if manifest.encoding == "raw":
            image = tf.reshape(tf.io.decode_raw(content, tf.uint8), stored)
            return fit(image, image_size, manifest.resize)
        return decode_image(content, image_size, manifest.resize)

    def images(positions: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(reader.contents, [positions], tf.string)
        contents.set_shape(positions.shape)
        shape = [image_size, image_size, 3]
        return tf.map_fn(
            decode, contents, fn_output_signature=tf.TensorSpec(shape, tf.uint8)
        )

    return images


def cached(pixels: tf.Tensor) -> Callable:
    """Returns the source that gathers from decoded images.

    Args:
        pixels: uint8 `[N, S, S, 3]`, what `cache.fill` returned.
    """
    return lambda positions: tf.gather(pixels, positions)
