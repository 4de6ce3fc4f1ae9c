"""All workers of a cluster report before TensorFlow connects them.

The constructor of MultiWorkerMirroredStrategy waits for its peers for ever
and holds the interpreter's lock meanwhile, so that no signal is handled. Here
worker 0 listens on its address until every other worker has reported, and
each of them says what is missing when the time is over.
"""

import json
import socket
import time

from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError

_PAUSE = 0.2  # seconds between two attempts


def meet(
    workers: tuple[str, ...], rank: int, purpose: str, timeout: float
) -> None:
    """Waits until all workers have started with the same command.

    Args:
        workers: "host:port" of each worker, by rank.
        rank: The rank of this worker.
        purpose: What this worker is about to do; the same text in all.
        timeout: Seconds to wait.

    Raises:
        Stopped: If a worker does not report within the timeout.
        UsageError: If a worker has another purpose, or worker 0 cannot listen
            on its port.
    """
    deadline = time.monotonic() + timeout
    if rank == 0:
        _gather(workers, purpose, deadline, timeout)
    else:
        _report(workers[0], rank, purpose, deadline, timeout)


def _gather(
    workers: tuple[str, ...], purpose: str, deadline: float, timeout: float
) -> None:
    port = int(workers[0].rpartition(":")[2])
    try:
        listener = socket.create_server(("", port), backlog=len(workers))
    except OSError as error:
        raise UsageError(
            f"worker 0 cannot listen on port {port} of {workers[0]}: {error}. "
            "Give the cluster a free port."
        ) from None
    present: dict[int, socket.socket] = {}
    try:
        while len(present) < len(workers) - 1:
            missing = [
                f"worker {other} ({address})"
                for other, address in enumerate(workers)
                if other and other not in present
            ]
            listener.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                raise Stopped(
                    f"{', '.join(missing)} did not start within {timeout:g} s. "
                    "Start all workers again."
                ) from None
            hello = _read_hello(connection)
            if hello is None:
                continue  # not a worker: a port scan or a health check
            rank, theirs = hello
            if theirs != purpose:
                _answer(connection, purpose)
                raise UsageError(
                    f"worker {rank} was started with another command than "
                    f"worker 0: {theirs} instead of {purpose}. "
                    "Start all workers with the same flags."
                )
            present[rank] = connection
    except BaseException:
        for connection in present.values():
            connection.close()
        raise
    finally:
        listener.close()
    for connection in present.values():
        _answer(connection, purpose)


def _read_hello(connection: socket.socket) -> tuple[int, str] | None:
    connection.settimeout(5)
    try:
        hello = json.loads(connection.makefile().readline())
        return hello["index"], hello["purpose"]
    except (OSError, ValueError, KeyError, TypeError):
        connection.close()
        return None


def _answer(connection: socket.socket, purpose: str) -> None:
    with connection:
        connection.sendall((json.dumps({"purpose": purpose}) + "\n").encode())


def _report(
    chief: str, rank: int, purpose: str, deadline: float, timeout: float
) -> None:
    host, _, port = chief.rpartition(":")
    hello = json.dumps({"index": rank, "purpose": purpose}) + "\n"
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Stopped(
                f"worker 0 ({chief}) did not start, or waits for others, "
                f"since {timeout:g} s. Start all workers again."
            )
        try:
            with socket.create_connection((host, int(port)), left) as link:
                link.settimeout(left)
                link.sendall(hello.encode())
                theirs = json.loads(link.makefile().readline())["purpose"]
            break
        except (OSError, ValueError, KeyError, TypeError):
            pass  # not listening yet, or the port is still an earlier run's
        time.sleep(_PAUSE)
    if theirs != purpose:
        raise UsageError(
            f"worker 0 ({chief}) was started with another command than this "
            f"one: {theirs} instead of {purpose}. Start all workers with the "
            "same flags."
        )
