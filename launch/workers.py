"""Command line: one training by several processes of this machine.

python -m launch.workers --workers=2 -- --data_dir=data --model_dir=model

For trials of what runs on several machines: every process gets the TF_CONFIG
that a cluster would give it. Stops all on SIGTERM or SIGINT, or when one
fails; starts all again when they stopped with their state saved.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime.errors import EXIT_FAILURE
from data_prep.runtime.errors import EXIT_STOPPED
from launch import arguments
from launch import job

_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Processes(settings.Group):
    """The processes."""

    workers: int = settings.same_as(
        job.Workers, "workers", default=2, help="Processes."
    )
    restarts: int = settings.same_as(
        job.Restarts,
        "restarts",
        default=0,
        help="How often to start all again after a lost process.",
    )
    grace_seconds: int = settings.same_as(job.Notice, "grace_seconds")


class WorkersConfig(settings.Config):
    """The flags of `launch.workers`."""

    processes: Processes


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def run_once(
    words: list[str], workers: int, grace_seconds: float, told: list[int]
) -> int:
    """Runs the processes to their end.

    Args:
        words: Each process's command.
        workers: Number of processes.
        grace_seconds: How long the others may take to save their state once
            one has ended with an error, or all were told to stop.
        told: Gets the signals that arrive here; each is passed on.

    Returns:
        0 if all ended so; 75 if all who did not said so; else 1, or the code
        that all others agree on.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    processes: list[subprocess.Popen] = []

    def forward(number: int, _frame: object) -> None:
        told.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, forward) for number in handled}
    try:
        for index in range(workers):
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            processes.append(
                subprocess.Popen(
                    words,
                    env={**os.environ, "TF_CONFIG": json.dumps(config)},
                    # A Ctrl-C reaches them through `forward` alone.
                    start_new_session=True,
                )
            )
        _wait(processes, told, grace_seconds)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)
    codes = {process.returncode for process in processes} - {0}
    if not codes:
        return 0
    # Peers of a killed process say 75: the state is there, so go on.
    if EXIT_STOPPED in codes and all(c == EXIT_STOPPED or c < 0 for c in codes):
        return EXIT_STOPPED
    codes.discard(EXIT_STOPPED)
    return codes.pop() if len(codes) == 1 and min(codes) > 0 else EXIT_FAILURE


def _wait(
    processes: list[subprocess.Popen], told: list[int], grace_seconds: float
) -> None:
    deadline = None
    while any(process.poll() is None for process in processes):
        failed = any(process.poll() for process in processes)
        if deadline is None and (failed or told):
            deadline = time.monotonic() + grace_seconds
        if deadline is not None and time.monotonic() > deadline:
            return
        time.sleep(_POLL_SECONDS)


def main(config: WorkersConfig, words: list[str]) -> int:
    """Runs the workers, again after each stop that was not asked for."""
    chosen = config.processes
    spelt = arguments.check("trainer.task", words)
    line = [sys.executable, "-m", "trainer.task", *spelt]
    told: list[int] = []
    for attempt in range(chosen.restarts + 1):
        if attempt:
            print(f"workers: start {attempt + 1}", flush=True)
        code = run_once(line, chosen.workers, chosen.grace_seconds, told)
        if code != EXIT_STOPPED or told:
            break
    return code


def cli() -> None:
    """Runs the command line."""
    command.run(
        main, WorkersConfig, positional="-- and the flags of the trainer"
    )


if __name__ == "__main__":
    cli()
