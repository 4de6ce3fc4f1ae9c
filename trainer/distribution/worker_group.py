"""The group of workers that train together, as one of them uses it."""

import contextlib
import functools
import time
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from data_prep.runtime import signals
from data_prep.runtime.errors import Stopped
from trainer.distribution.cluster import Cluster
from trainer.distribution.cluster import is_first

_PIECE = 1 << 18  # numbers that are sent at once
_POLL_SECONDS = 2.0  # of independent work between two exchanges of status

# The errors that TensorFlow raises when another worker is gone.
_PEER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class WorkerGroup:
    """The workers of a run; a single process is a group of one.

    Args:
        strategy: The strategy that all of them use, each with the same number
            of replicas.
        cluster: The processes that train together; None for one process.

    Attributes:
        rank: Index of this worker, counted from 0.
        count: Number of workers.
        on_host: How many of them share this machine's memory.
        is_first: Whether this worker writes files and prints.
        replicas: Number of replicas of each worker.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, cluster: Cluster | None
    ):
        self.rank = cluster.index if cluster else 0
        self.count = len(cluster.workers) if cluster else 1
        self.on_host = cluster.on_host if cluster else 1
        self.is_first = is_first(cluster)
        self.replicas = strategy.num_replicas_in_sync // self.count
        self._strategy = strategy
        self._exchanged_at = time.monotonic()

    def print_once(self, message: str) -> None:
        """Prints a line, in the first worker only."""
        if self.is_first:
            print(message, flush=True)

    def sum(self, values: np.ndarray | float) -> np.ndarray:
        """Sums values over all workers; a collective that all must call.

        Args:
            values: This worker's values, of the same shape in all workers.

        Returns:
            The sum, float64, of that shape.
        """
        values = np.asarray(values, np.float64)
        if self.count == 1:
            return values
        return self._sum_over_workers(tf.constant(values)).numpy()

    def from_first(self, values: np.ndarray) -> np.ndarray:
        """Returns what the first worker has; a collective that all must call.

        Args:
            values: Of the same shape and dtype in all workers; those of the
                others do not matter.
        """
        if self.count == 1:
            return values
        flat = values.reshape(-1) if self.is_first else np.zeros(values.size)
        # Pieces of one size: each shape would be traced anew.
        pieces = [
            self.sum(np.resize(flat[start : start + _PIECE], _PIECE))
            for start in range(0, values.size, _PIECE)
        ]
        found = np.concatenate([*pieces, []])[: values.size]
        if np.issubdtype(values.dtype, np.integer):
            found = np.rint(found)
        return found.astype(values.dtype).reshape(values.shape)

    def text_from_first(self, text: str) -> str:
        """Returns the first worker's text; a collective that all must call."""
        content = np.frombuffer(text.encode(), np.uint8)
        size = int(self.from_first(np.array([content.size]))[0])
        if not self.is_first:
            content = np.zeros(size, np.uint8)
        return self.from_first(content).tobytes().decode()

    def barrier(self) -> None:
        """Waits until all workers have called this."""
        self.sum(0.0)

    def poll_stop(self) -> None:
        """Stops all workers if one of them received a signal.

        Call it after each piece of independent work. Every few seconds it
        exchanges status with the others.

        Raises:
            Stopped: If one was asked to stop.
        """
        waited = time.monotonic() - self._exchanged_at
        if self.count == 1 or waited >= _POLL_SECONDS:
            self._any_working(working=True)

    def wait_until_all_finish(self) -> None:
        """Waits, after independent work, until all workers have done theirs.

        Raises:
            Stopped: If one was asked to stop.
        """
        while self._any_working(working=False):
            pass

    def _any_working(self, *, working: bool) -> bool:
        """Exchanges status; returns whether a worker is still working."""
        stop_requests, still_working = self.sum(
            [float(bool(signals.requested())), float(working)]
        )
        self._exchanged_at = time.monotonic()
        if stop_requests:
            raise Stopped(
                f"stopped by {signals.requested() or 'another worker'}. What is "
                "finished is kept. Run the same command again."
            )
        return bool(still_working)

    @functools.cached_property
    def _sum_over_workers(self) -> tf.types.experimental.PolymorphicFunction:
        def contribute(values: tf.Tensor) -> tf.Tensor:
            # Exact, as the sum of a share of each replica would not be.
            replica = tf.distribute.get_replica_context()
            number = replica.replica_id_in_sync_group % self.replicas
            return tf.where(tf.equal(number, 0), values, 0.0)

        @tf.function(autograph=False)
        def add(values: tf.Tensor) -> tf.Tensor:
            parts = self._strategy.run(contribute, (values,))
            return self._strategy.reduce(
                tf.distribute.ReduceOp.SUM, parts, axis=None
            )

        return add


@contextlib.contextmanager
def stop_when_worker_lost(cluster: Cluster | None) -> Iterator[None]:
    """Turns TensorFlow's errors about a lost worker into `Stopped`.

    Args:
        cluster: The processes that train together; None for one process,
            whose errors are left as they are.

    Raises:
        Stopped: If another worker is gone.
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
    """Returns the message of an error without the place of its trace."""
    where = ("Graph execution error", "Detected at node", "File ", "[[")
    lines = [line.strip() for line in text.splitlines()]
    message = [line for line in lines if line and not line.startswith(where)]
    return " ".join(message[:2])
