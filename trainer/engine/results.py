"""What training and evaluation steps give, and their totals."""

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

Value = tf.Tensor | np.ndarray | float


class Metrics(NamedTuple):
    """Metrics of some images, float64 scalars.

    Attributes:
        loss_sum: Summed cross-entropy, in nats.
        correct: Number of images classified correctly.
        images: Number of images.
    """

    loss_sum: tf.Tensor
    correct: tf.Tensor
    images: tf.Tensor


class StepResult(NamedTuple):
    """What a step gives; scalars, or arrays `[n]` of n steps.

    It travels as one float64 vector, so that replicas sum it in one
    collective and a call of TensorFlow copies it to the host at once. As the
    sum is the same everywhere, all workers see a request to stop at the same
    step.

    Attributes:
        loss_sum: Summed cross-entropy, in nats.
        correct: Number of images classified correctly.
        images: Number of images.
        skipped: 1 for a step that was left out because float16 overflowed.
        stop_requested: Number of replicas whose process was asked to stop.
        waited: Seconds that this process waited for its batch.
    """

    loss_sum: Value = 0.0
    correct: Value = 0.0
    images: Value = 0.0
    skipped: Value = 0.0
    stop_requested: Value = 0.0
    waited: Value = 0.0

    def pack(self) -> tf.Tensor:
        """Returns the scalars as float64 `[6]`."""
        return tf.stack([tf.cast(value, tf.float64) for value in self])

    @classmethod
    def unpack(cls, steps: np.ndarray) -> "StepResult":
        """Returns the arrays `[n]` of packed steps, float64 `[n, 6]`."""
        return cls(*steps.T)


WIDTH = len(StepResult._fields)  # of a packed result


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

    def add(self, steps: StepResult, seconds: float) -> None:
        """Adds what some steps gave.

        Args:
            steps: Arrays `[n]`.
            seconds: Wall time that the n steps took.
        """
        # One by one: a resumed run adds in the same order, to the same bits.
        for step in map(StepResult._make, zip(*steps, strict=True)):
            self.loss_sum += float(step.loss_sum)
            self.correct += float(step.correct)
            self.images += float(step.images)
            self.skipped += float(step.skipped)
            self.waited += float(step.waited)
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


def measure(
    label: tf.Tensor, weight: tf.Tensor, logits: tf.Tensor, losses: tf.Tensor
) -> Metrics:
    """Measures the real images of a batch.

    Args:
        label: int32 `[B]`.
        weight: float32 `[B]`; 0 marks padding, which does not count.
        logits: float32 `[B, K]`.
        losses: float32 `[B]`, cross-entropy in nats.
    """
    real = weight > 0
    predicted = tf.argmax(logits, axis=1, output_type=tf.int32)
    correct = tf.logical_and(real, predicted == label)
    return Metrics(
        tf.reduce_sum(tf.where(real, tf.cast(losses, tf.float64), 0.0)),
        tf.reduce_sum(tf.cast(correct, tf.float64)),
        tf.reduce_sum(tf.cast(real, tf.float64)),
    )
