"""Manifest -> batches, in an order that is a pure function of seed and epoch.

A plan says which record stands at which place of which step; the reader then
fetches each record by its position. So resuming at a step reads nothing of
what came before, and another number of replicas changes nothing.
"""

import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data_prep import records
from data_prep.errors import DataError
from data_prep.manifest import Manifest
from data_prep.manifest import load_index
from trainer.decode import decode_image
from trainer.decode import fit


class Batch(NamedTuple):
    """What one replica gets in one step; b images of S x S pixels.

    Attributes:
        image: uint8 `[b, S, S, 3]`, RGB in [0, 255].
        label: int32 `[b]`, position in the class list.
        id: int64 `[b]`, see `data_prep.records.image_id`.
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


class Reader:
    """Fetches records of one split by position.

    Args:
        data_dir: The data set's folder.
        manifest: Its manifest.
        split: Name of a split.

    Attributes:
        count: Number of records.

    Raises:
        DataError: If there is no such split or its index is damaged.
    """

    def __init__(self, data_dir: str, manifest: Manifest, split: str):
        if split not in manifest.splits:
            raise DataError(
                f"{data_dir} has no {split} split, only "
                f"{', '.join(manifest.splits)}. Make it again with --splits."
            )
        self._index = load_index(manifest, data_dir, split)
        self._paths = [
            pathlib.Path(data_dir, shard.name)
            for shard in manifest.splits[split].shards
        ]
        self._files = [os.open(path, os.O_RDONLY) for path in self._paths]
        self.count = len(self._index)

    def __del__(self):
        for file in getattr(self, "_files", ()):
            os.close(file)

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Returns the serialised records at `positions`.

        Args:
            positions: int64 `[b]`.

        Returns:
            Array `[b]` of bytes objects.

        Raises:
            DataError: If a record's checksum does not fit its content.
        """
        result = np.empty(len(positions), object)
        for place, row in enumerate(self._index[positions]):
            framed = os.pread(
                self._files[row["shard"]],
                int(row["bytes"]) + records.FOOTER_BYTES,
                int(row["offset"]),
            )
            try:
                result[place] = records.unframe(framed)
            except ValueError as error:
                raise DataError(
                    f"{self._paths[row['shard']]} is damaged at byte "
                    f"{row['offset']}: {error}. Copy it again, or make the "
                    "data set again."
                ) from None
        return result

    def files(self) -> list[str]:
        """Returns the source-relative path of every image, in record order."""
        result = []
        for position in range(self.count):
            (payload,) = self.read(np.array([position]))
            result.append(records.deserialize(payload).file)
        return result


def create(
    reader: Reader,
    plan: Plan,
    *,
    manifest: Manifest,
    image_size: int,
    replicas: int,
) -> tf.data.Dataset:
    """Returns the batches of a plan, one element per replica and step.

    Args:
        reader: Of the split that was planned.
        plan: What to read; the batch size is a multiple of `replicas`.
        manifest: Of the data set.
        image_size: Width and height of the images, in pixels.
        replicas: Number of elements that make up a step. Replica r of step t
            takes element `t * replicas + r`.

    Returns:
        Dataset of `Batch`, each of `batch_size / replicas` images.
    """
    size = plan.positions.shape[1] // replicas

    def read(positions):
        payloads = tf.numpy_function(reader.read, [positions], tf.string)
        payloads.set_shape([size])
        return records.parse(payloads)

    def decode(record, weight):
        content = record["image"]
        if manifest.encoding == "raw":
            stored = (manifest.image_size, manifest.image_size, 3)
            image = tf.reshape(tf.io.decode_raw(content, tf.uint8), stored)
            image = fit(image, image_size, manifest.resize)
        else:
            image = decode_image(content, image_size, manifest.resize)
        return Batch(image, record["label"], record["id"], weight)

    dataset = tf.data.Dataset.from_tensor_slices(
        (plan.positions.reshape(-1, size), plan.weights.reshape(-1, size))
    )
    dataset = dataset.map(
        lambda positions, weights: (read(positions), weights),
        num_parallel_calls=2,
    )
    dataset = dataset.unbatch().map(decode, tf.data.AUTOTUNE)
    dataset = dataset.batch(size, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE)
