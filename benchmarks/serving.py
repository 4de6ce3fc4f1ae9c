"""Requests per second and latency of `shardtune serve`, beside the bare model.

python -m benchmarks.serving --model_dir=model PHOTO...

Each client sends a photo as multipart, waits for the answer and sends the next,
over one connection. `without` is a server with --batch_size=1. The bare model
takes the same files in this process, by 32. `soak` mixes bad requests in.
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

import psutil
import requests

from benchmarks import measure
from data_prep.images import plain
from trainer.inference.exported import ExportedModel

_CLIENTS = (1, 8, 64)
_SMALLEST = 1000  # bytes of a photo; whatever is smaller is a bad request


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
    url: str, contents: list[bytes], seconds: float
) -> tuple[list[float], int]:
    """Asks from one client until the time is up.

    Returns:
        Seconds of each request, and how many answers were not what they
        should be: 200 for an image, 400 for what is none.
    """
    found, wrong = [], 0
    until = time.perf_counter() + seconds
    with requests.Session() as session:
        for content in itertools.cycle(contents):
            start = time.perf_counter()
            if start >= until:
                return found, wrong
            files = {"file": ("x.jpg", content)}
            status = session.post(f"{url}/classify", files=files).status_code
            found.append(time.perf_counter() - start)
            wrong += status != (400 if len(content) < _SMALLEST else 200)
    return found, wrong


def load(
    url: str, contents: list[bytes], clients: int, seconds: float
) -> tuple[float, list[float], int]:
    """Returns requests per second, seconds of each, and wrong answers."""
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        results = list(
            pool.map(
                lambda n: ask(url, contents[n:] + contents[:n], seconds),
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


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--soak", type=float, default=0.0)
    parser.add_argument("photos", nargs="+")
    args = parser.parse_args()
    print(measure.machine("tensorflow", "starlette", "uvicorn"))
    contents = [pathlib.Path(path).read_bytes() for path in args.photos]
    modes = {"batches": "--batch_size=32", "without": "--batch_size=1"}
    for name, flag in modes.items():
        with serving(args.model_dir, flag) as (url, _):
            load(url, contents, 8, 3.0)  # warm-up
            for clients in _CLIENTS:
                rate, every, wrong = load(url, contents, clients, args.seconds)
                show(name, clients, rate, every)
                if wrong:
                    print(f"{wrong} wrong answers")
    if args.soak:
        mixed = [*contents, b"no image", contents[0][:300], b""]
        with serving(args.model_dir) as (url, pid):
            load(url, mixed, 8, 5.0)
            before = psutil.Process(pid).memory_info().rss
            rate, every, wrong = load(url, mixed, 16, args.soak)
            after = psutil.Process(pid).memory_info().rss
        show("soak", 16, rate, every)
        print(
            f"{wrong} wrong answers, memory {before >> 20} -> {after >> 20} MiB"
        )
    model = ExportedModel(args.model_dir)
    images = [plain.convert(content, "photo") for content in contents]
    batch = list(itertools.islice(itertools.cycle(images), 32))

    def epoch() -> int:
        model.classify(batch)
        return len(batch)

    rates = measure.rates(epoch, 3)
    print(f"bare model, by 32: {statistics.median(rates):.1f} images/s")


if __name__ == "__main__":
    main()
