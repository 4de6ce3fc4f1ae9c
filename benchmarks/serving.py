"""Requests per second and latency of `shardtune serve`, beside the bare model.

python -m benchmarks.serving --model_dir=model PHOTO...

Each client sends a photo as multipart, waits for the answer and sends the next,
over one connection. `each` is a server with --batch_size=1. The bare model takes
the same files in a process of its own, by 32. `soak` mixes bad requests in.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import psutil
import requests

from benchmarks import machine
from benchmarks import measure
from benchmarks.measure import Comparison
from data_prep.images import plain
from data_prep.runtime.errors import DataError
from trainer.inference.exported import ExportedModel

_CLIENTS = (1, 8, 64)
_BATCH = 32


class Upload(NamedTuple):
    """What a client sends.

    Attributes:
        content: A file.
        status: The HTTP status that it is to be answered with.
    """

    content: bytes
    status: int = 200


@contextlib.contextmanager
def serving(model_dir: str, *flags: str) -> Iterator[tuple[str, int]]:
    """Yields address and process id of a server that is ready."""
    words = [sys.executable, "-m", "trainer.serve", f"--model_dir={model_dir}"]
    process = subprocess.Popen(
        [*words, "--port=0", "--nearest=false", *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = process.stdout.readline().split()[-1].rstrip("/")
        requests.get(f"{url}/readyz", timeout=300).raise_for_status()
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def ask(
    url: str, uploads: list[Upload], seconds: float
) -> tuple[list[float], int]:
    """Asks from one client until the time is up.

    Returns:
        Seconds of each request, and how many answers were not what they
        should be.
    """
    found, wrong = [], 0
    until = time.perf_counter() + seconds
    with requests.Session() as session:
        for upload in itertools.cycle(uploads):
            start = time.perf_counter()
            if start >= until:
                return found, wrong
            files = {"file": ("x.jpg", upload.content)}
            status = session.post(f"{url}/classify", files=files).status_code
            found.append(time.perf_counter() - start)
            wrong += status != upload.status
    return found, wrong


def load(
    url: str, uploads: list[Upload], clients: int, seconds: float
) -> tuple[float, list[float], int]:
    """Returns requests per second, seconds of each, and wrong answers."""
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        results = list(
            pool.map(
                lambda n: ask(url, uploads[n:] + uploads[:n], seconds),
                range(clients),
            )
        )
    # The last answers come after the time is up.
    elapsed = time.perf_counter() - start
    every = [one for found, _ in results for one in found]
    return len(every) / elapsed, every, sum(wrong for _, wrong in results)


def show(name: str, clients: int, rate: float, every: list[float]) -> None:
    """Prints a line of the table."""
    cuts = statistics.quantiles(every, n=100)
    print(
        f"{name:<9} {clients:>3} clients  {rate:7.1f} requests/s  "
        f"p50 {1000 * cuts[49]:7.1f} ms  p99 {1000 * cuts[98]:7.1f} ms  "
        f"n={len(every)}",
        flush=True,
    )


def bare(model_dir: str, contents: list[bytes], runs: int) -> list[float]:
    """Returns images/s of the exported model, by 32, without a server."""
    model = ExportedModel(model_dir)
    images = [plain.convert(content, "photo") for content in contents]
    batch = list(itertools.islice(itertools.cycle(images), _BATCH))

    def epoch() -> int:
        model.classify(batch)
        return len(batch)

    return measure.rates(epoch, runs)


def compare(
    model_dir: str,
    contents: list[bytes],
    clients: Sequence[int],
    seconds: float,
    rounds: int,
) -> list[Comparison]:
    """Measures a server that batches, one that does not, and the bare model.

    Args:
        model_dir: A finished run.
        contents: Files of images.
        clients: How many at a time, in turn.
        seconds: That each lot of clients asks.
        rounds: Turns.

    Returns:
        Requests/s, and the milliseconds that half of the requests took.
    """
    rate = Comparison("Serving", "requests/s", {})
    wait = Comparison("Serving, p50", "ms", {}, less_is_better=True)
    uploads = list(map(Upload, contents))
    modes = {"batches": f"--batch_size={_BATCH}", "each": "--batch_size=1"}
    for _ in range(rounds):
        for name, flag in modes.items():
            with serving(model_dir, flag) as (url, _):
                load(url, uploads, max(clients), min(3.0, seconds))  # warm-up
                # Most first: what they reach is held against the bare model.
                for count in sorted(clients, reverse=True):
                    found, every, wrong = load(url, uploads, count, seconds)
                    if wrong:
                        raise DataError(f"{wrong} answers are wrong")
                    who = f"{count} clients, {name}"
                    rate.figures.setdefault(who, []).append(found)
                    middle = 1000 * statistics.median(every)
                    wait.figures.setdefault(who, []).append(middle)
                    show(name, count, found, every)
        for found in measure.alone(bare, model_dir, contents, 3):
            name = f"bare model, by {_BATCH}"
            rate.figures.setdefault(name, []).append(found)
    return [rate, wait]


def soak(model_dir: str, contents: list[bytes], seconds: float) -> None:
    """Prints what a server took that was asked for long, bad requests too."""
    mixed = list(map(Upload, contents))
    mixed += [Upload(x, 400) for x in (b"no image", contents[0][:300], b"")]
    with serving(model_dir) as (url, pid):
        load(url, mixed, 8, 5.0)
        before = psutil.Process(pid).memory_info().rss
        rate, every, wrong = load(url, mixed, 16, seconds)
        after = psutil.Process(pid).memory_info().rss
    show("soak", 16, rate, every)
    print(f"{wrong} wrong answers, memory {before >> 20} -> {after >> 20} MiB")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--soak", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("photos", nargs="+")
    args = parser.parse_args()
    print(machine.line("tensorflow", "starlette", "uvicorn"))
    contents = [pathlib.Path(path).read_bytes() for path in args.photos]
    for found in compare(
        args.model_dir, contents, _CLIENTS, args.seconds, args.rounds
    ):
        print(measure.table(found))
    if args.soak:
        soak(args.model_dir, contents, args.soak)


if __name__ == "__main__":
    main()
