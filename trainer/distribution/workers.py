"""What the workers of a run do together, as one of them sees it."""

import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from data_prep.runtime import signals
from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import Stopped
from trainer.distribution.cluster import Cluster

_ROUND = 2.0  # seconds of work between two meetings

# How TensorFlow says that another worker is gone.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Workers:
    """The workers of a run; one that is alone, too.

    Args:
        strategy: That they work under, all with as many replicas.
        cluster: Of them; None for one.

    Attributes:
        index: The rank of this one.
        count: Their number.
        is_first: Whether this is the one that writes and speaks.
        replicas: Of each of them.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, cluster: Cluster | None
    ):
        self.index = cluster.index if cluster else 0
        self.count = len(cluster.workers) if cluster else 1
        self.is_first = is_first(cluster)
        self.replicas = strategy.num_replicas_in_sync // self.count
        self._strategy = strategy
        self._met = time.monotonic()

    def sum(self, values: np.ndarray | float) -> np.ndarray:
        """Returns the sum of what each worker gives, the same to all.

        Waits for them; one that is lost ends that, see `lost_ones_named`.

        Args:
            values: Of one shape in all workers.

        Returns:
            float64, of that shape.
        """
        values = np.asarray(values, np.float64)
        if self.count == 1:
            return values
        share = tf.constant(values / self.replicas)
        return self._add(share).numpy()

    def barrier(self) -> None:
        """Waits until all workers are here."""
        self.sum(0.0)

    def at_work(self) -> None:
        """To be called by a worker after each piece of work of its own.

        Now and then it meets the others there, so that a signal to one stops
        all of them soon.

        Raises:
            Stopped: If one was asked to stop.
        """
        if self.count == 1 or time.monotonic() - self._met >= _ROUND:
            self._meet(working=True)

    def wait_for_others(self) -> None:
        """To be called when that work is done; returns when all have done it.

        Raises:
            Stopped: If one was asked to stop.
        """
        while self._meet(working=False):
            pass

    def _meet(self, *, working: bool) -> bool:
        """Returns whether one of them still works."""
        asked, at_work = self.sum(
            [float(bool(signals.requested())), float(working)]
        )
        self._met = time.monotonic()
        if asked:
            raise Stopped(
                f"stopped by {signals.requested() or 'another worker'}. What is "
                "finished is kept. Run the same command again."
            )
        return bool(at_work)

    @functools.cached_property
    def _add(self) -> tf.types.experimental.PolymorphicFunction:
        @tf.function
        def add(share: tf.Tensor) -> tf.Tensor:
            parts = self._strategy.run(lambda n: n * 1.0, (share,))
            return self._strategy.reduce(
                tf.distribute.ReduceOp.SUM, parts, axis=None
            )

        return add


def is_first(cluster: Cluster | None) -> bool:
    """Returns whether this worker is the one that writes and speaks."""
    return cluster is None or cluster.index == 0


@contextlib.contextmanager
def lost_ones_named(cluster: Cluster | None) -> Iterator[None]:
    """Says so where the block ends because another worker is gone.

    Raises:
        Stopped: In place of what TensorFlow says of it.
    """
    try:
        yield
    except _PEER_ERRORS as error:
        if not cluster:
            raise
        raise Stopped(
            f"another worker is gone ({_reason(str(error))}). What was saved before is "
            "kept; start all workers again with the same command."
        ) from None


def _reason(text: str) -> str:
    """Returns what TensorFlow says of an error, without where it was traced."""
    where = ("Graph execution error", "Detected at node", "File ", "[[")
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not line.startswith(where)]
    return " ".join(said[:2])


@contextlib.contextmanager
def left_at_once(cluster: Cluster | None) -> Iterator[None]:
    """Ends the process where the block is stopped, one of several workers.

    TensorFlow's own end would wait for workers that are gone.
    """
    try:
        yield
    except Stopped as error:
        if cluster is None:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_STOPPED)
