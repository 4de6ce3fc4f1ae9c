"""Command line: one training by several processes of this machine.

python -m launch.workers --workers=2 -- --data_dir=data --model_dir=model

For trials of what runs on several machines: every process gets the TF_CONFIG
that a cluster would give it. All are stopped by what stops a trainer
(SIGTERM, SIGINT, SIGUSR1, SIGHUP), by the end of this process, or when one
fails. When they stopped with their state saved, and no signal asked for it,
all are started again.

What they print is shown with the rank of each, and again the last lines of the
first that failed: its peers' complaints follow from it.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import signals
from data_prep.runtime import subprocesses
from data_prep.runtime.errors import EXIT_FAILURE
from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting
from launch import arguments
from launch import groups
from launch.worker_logs import WorkerLog
from launch.worker_logs import say

_POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Processes(settings.Group):
    """The processes."""

    workers: int = settings.same_as(
        groups.Workers, "workers", default=2, help="Number of processes."
    )
    restarts: int = settings.same_as(
        groups.Restarts,
        "restarts",
        default=0,
        help="How often to start all again after a lost process.",
    )
    grace_seconds: int = settings.same_as(groups.Grace, "grace_seconds")
    logs_dir: str = setting(
        "",
        "Folder in which the output of each process is kept, worker-0.log and "
        "so on; unless given, it is only shown.",
    )


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
    words: list[str],
    workers: int,
    grace_seconds: float,
    received: list[int],
    log_dir: pathlib.Path,
) -> int:
    """Runs the processes to their end.

    Args:
        words: Each process's command.
        workers: Number of processes.
        grace_seconds: Seconds that the others may take to save their state
            once one has ended with an error, or all were asked to stop.
        received: Gets the number of each signal that arrives here; all are
            passed on.
        log_dir: Folder for the output of each.

    Returns:
        The exit code of them all, see `combine_codes`.

    Raises:
        UsageError: If there are fewer GPUs than processes.
    """
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    gpus = share_gpus(workers, os.environ)
    processes: list[subprocess.Popen] = []

    def forward(number: int, _frame: object) -> None:
        received.append(number)
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    with contextlib.ExitStack() as stack:
        logs = [
            stack.enter_context(WorkerLog(log_dir, rank))
            for rank in range(workers)
        ]
        before = {
            number: signal.signal(number, forward) for number in signals.SIGNALS
        }
        try:
            for rank, log in enumerate(logs):
                environ = _environment(addresses, rank, gpus[rank])
                processes.append(
                    subprocesses.start_tied(words, environ, log.writer)
                )
            failed = _wait(processes, logs, received, grace_seconds)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            for number, handler in before.items():
                signal.signal(number, handler)
        for log in logs:
            log.show(ended=True)
        if failed and not received:
            # 75 says that another one was lost, even where it was seen first.
            first = min(
                failed,
                key=lambda rank: processes[rank].returncode == EXIT_STOPPED,
            )
            say(f"workers: worker {first} failed first. Its last lines:", 2)
            for line in logs[first].last_lines:
                say(line, 2)
    return combine_codes([process.returncode for process in processes])


def combine_codes(codes: list[int]) -> int:
    """Returns one exit code for several processes.

    Args:
        codes: Exit codes of the processes; negative for one that a signal ended.

    Returns:
        0 if all are 0. 75 if the others saved their state or were killed: the
        peers of a killed process save theirs. Else the one code that the
        others agree on, or 1.
    """
    failures = set(codes) - {0}
    if not failures:
        return 0
    if EXIT_STOPPED in failures and all(
        code == EXIT_STOPPED or code < 0 for code in failures
    ):
        return EXIT_STOPPED
    failures.discard(EXIT_STOPPED)
    if len(failures) == 1 and min(failures) > 0:
        return failures.pop()
    return EXIT_FAILURE


def _ending(rank: int, code: int) -> str:
    """Says how a process has failed."""
    how = f"ended with {code}"
    if code < 0:
        how = f"was ended by {signal.Signals(-code).name}"
    return f"workers: worker {rank} {how}"


def share_gpus(workers: int, environ: Mapping[str, str]) -> list[str | None]:
    """Returns CUDA_VISIBLE_DEVICES of each process, None to leave it alone.

    TensorFlow takes all memory of every GPU that it sees.

    Args:
        workers: Number of processes.
        environ: Environment variables.

    Raises:
        UsageError: If there are fewer GPUs than processes.
    """
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = [gpu for gpu in visible.split(",") if gpu]
    elif shutil.which("nvidia-smi"):
        listed = subprocess.run(
            ["nvidia-smi", "--list-gpus"], capture_output=True, text=True
        )
        lines = [x for x in listed.stdout.splitlines() if x.startswith("GPU ")]
        gpus = [str(number) for number in range(len(lines))]
    else:
        gpus = []
    if not gpus:
        return [None] * workers
    if len(gpus) < workers:
        raise UsageError(
            f"--workers={workers} on {len(gpus)} GPUs: each process needs one "
            f"of its own. Pass --workers={len(gpus)} or fewer, 1 for one "
            "process on all GPUs, or set CUDA_VISIBLE_DEVICES= to train on "
            "CPUs."
        )
    # The same number each; the last are left over where that is not all.
    each = len(gpus) // workers
    return [
        ",".join(gpus[rank * each : (rank + 1) * each])
        for rank in range(workers)
    ]


def _environment(
    addresses: list[str], rank: int, gpus: str | None
) -> dict[str, str]:
    task = {"type": "worker", "index": rank}
    config = {"cluster": {"worker": addresses}, "task": task}
    # A killed process writes no buffer, and its last lines are wanted.
    environ = {
        **subprocesses.environment(),
        "TF_CONFIG": json.dumps(config),
        "PYTHONUNBUFFERED": "1",
    }
    if gpus is not None:
        environ["CUDA_VISIBLE_DEVICES"] = gpus
    return environ


def _wait(
    processes: list[subprocess.Popen],
    logs: list[WorkerLog],
    received: list[int],
    grace_seconds: float,
) -> list[int]:
    """Waits for all to end, or for the time that a stop may take.

    Returns:
        The ranks of the processes that failed, in the order that they did.
    """
    deadline = None
    failed: list[int] = []
    while True:
        codes = [process.poll() for process in processes]
        for log, code in zip(logs, codes, strict=True):
            log.show(ended=code is not None)
        for rank, code in enumerate(codes):
            if code and rank not in failed:
                failed.append(rank)
                say(_ending(rank, code), 2)
        if deadline is None and (failed or received):
            deadline = time.monotonic() + grace_seconds
        is_over = deadline is not None and time.monotonic() > deadline
        if None not in codes or is_over:
            return failed
        time.sleep(_POLL_SECONDS)


def main(config: WorkersConfig, words: list[str]) -> int:
    """Runs the workers, again after a stop that was not asked for."""
    chosen = config.processes
    line = subprocesses.python_module(
        "trainer.task", *arguments.parse("trainer.task", words)
    )
    received: list[int] = []
    with contextlib.ExitStack() as stack:
        log_dir = pathlib.Path(
            chosen.logs_dir
            or stack.enter_context(tempfile.TemporaryDirectory())
        )
        log_dir.mkdir(parents=True, exist_ok=True)
        for start in range(1, chosen.restarts + 2):
            if start > 1:
                say(f"workers: start {start}")
            code = run_once(
                line, chosen.workers, chosen.grace_seconds, received, log_dir
            )
            if code != EXIT_STOPPED or received:
                break
    return code


def cli() -> None:
    """Runs the command line."""
    command.run(
        main, WorkersConfig, positional="-- and the flags of the trainer"
    )


if __name__ == "__main__":
    cli()
