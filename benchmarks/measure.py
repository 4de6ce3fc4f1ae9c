"""How every benchmark here measures and reports."""

import concurrent.futures
import importlib.metadata
import multiprocessing
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from data_prep.runtime import startup


def rates(epoch: Callable[[], int], runs: int) -> list[float]:
    """Returns items per second of each of several passes, after one warm-up.

    Args:
        epoch: Makes one pass and returns its number of items.
        runs: Passes that count.
    """
    epoch()
    result = []
    for _ in range(runs):
        start = time.perf_counter()
        items = epoch()
        result.append(items / (time.perf_counter() - start))
    return result


def in_turns(
    makers: dict[str, Callable[[], Callable[[], int]]], rounds: int, runs: int
) -> tuple[dict[str, list[float]], list[str]]:
    """Measures several candidates in turns, each in a process of its own.

    Turns, so that drift of the machine hits all alike; processes, so that the
    threads and prefetching of one do not slow the next.

    Args:
        makers: By name, functions that can be pickled and return an epoch,
            see `rates`.
        rounds: Turns of each candidate.
        runs: Passes that count, in each turn.

    Returns:
        Rates by name, and the names of those whose package is not installed.
    """
    figures: dict[str, list[float]] = {}
    absent = []
    left = dict(makers)
    for turn in range(rounds):
        for name, make in list(left.items()):
            try:
                values = alone(_measure, make, runs)
            except ImportError as error:
                absent.append(f"{name} ({error})")
                del left[name]
                continue
            figures.setdefault(name, []).extend(values)
            print(
                f"turn {turn + 1}, {name}: {statistics.median(values):,.0f}",
                file=sys.stderr,
                flush=True,
            )
    return figures, absent


def alone(function: Callable, *arguments: object) -> Any:
    """Returns what a function returns in a process of its own.

    Args:
        function: Can be pickled, as its arguments.
        *arguments: For it.
    """
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=context
    ) as process:
        return process.submit(function, *arguments).result()


def _measure(make: Callable[[], Callable[[], int]], runs: int) -> list[float]:
    startup.import_tensorflow()
    return rates(make(), runs)


def table(figures: dict[str, list[float]], unit: str, reference: str) -> str:
    """Returns medians, spread, and the ratio of `reference` to each.

    Args:
        figures: Rates by name.
        unit: Of a rate, such as "images/s".
        reference: The name that the others are compared with.
    """
    base = statistics.median(figures[reference])
    width = max(map(len, figures))
    lines = [
        f"{'':<{width}}  {unit + ' (median)':>18}  {'min':>9}  {'max':>9}  "
        f"{reference} / it"
    ]
    for name, values in sorted(
        figures.items(), key=lambda item: -statistics.median(item[1])
    ):
        median = statistics.median(values)
        lines.append(
            f"{name:<{width}}  {median:18,.0f}  {min(values):9,.0f}  "
            f"{max(values):9,.0f}  {base / median:.2f}"
        )
    return "\n".join(lines)


def machine(*packages: str) -> str:
    """Returns one line about the machine and the versions of packages."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = next(
        line.split(":")[1].strip()
        for line in text.splitlines()
        if line.startswith("model name")
    )
    versions = []
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} absent")
    processors = text.count("processor\t")
    return (
        f"{processors} x {model}, Python {platform.python_version()}, "
        + ", ".join(versions)
    )
