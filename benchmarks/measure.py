"""How every benchmark here measures, and the form of what it finds."""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from data_prep.runtime import startup


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What several candidates reached, measured in turns.

    Attributes:
        title: What was measured, with the sizes that matter.
        unit: Of the figures, such as "images/s".
        figures: By candidate; the first is ours, the others are held against
            it.
        left_out: Candidates that were not measured, each with the reason.
        less_is_better: Whether the figures are costs, such as seconds.
    """

    title: str
    unit: str
    figures: dict[str, list[float]]
    left_out: list[str] = dataclasses.field(default_factory=list)
    less_is_better: bool = False

    @property
    def ours(self) -> str:
        """The candidate that the others are held against."""
        return next(iter(self.figures))

    def ratios(self) -> dict[str, float]:
        """Returns how many times as good ours is as each, by medians."""
        found: dict[str, float] = {}
        if not self.figures:
            return found
        ours = statistics.median(self.figures[self.ours])
        for name, values in self.figures.items():
            theirs = statistics.median(values)
            cost = self.less_is_better
            found[name] = theirs / ours if cost else ours / theirs
        return found


@dataclasses.dataclass(frozen=True)
class Curve:
    """Rates over a number of processors or devices.

    Attributes:
        title: What was measured, with the sizes that matter.
        unit: Of the figures, such as "images/s".
        over: What is counted, such as "processors".
        measured: Figures by count.
        expected: What a model says, by count.
        expected_by: Which model.
    """

    title: str
    unit: str
    over: str
    measured: dict[int, list[float]]
    expected: dict[int, float]
    expected_by: str

    def ratios(self) -> dict[str, float]:
        """Returns what was measured, as a share of the model, by count."""
        return {
            f"{count} {self.over}": statistics.median(values)
            / self.expected[count]
            for count, values in self.measured.items()
        }


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
    title: str,
    unit: str,
    makers: dict[str, Callable[[], Callable[[], int]]],
    rounds: int,
    runs: int,
) -> Comparison:
    """Measures several candidates in turns, each in a process of its own.

    Turns, so that drift of the machine hits all alike; processes, so that the
    threads and prefetching of one do not slow the next. They start once: those
    whose turn it is not are idle. A candidate whose package is not installed is
    left out.

    Args:
        title: What is measured, with the sizes that matter.
        unit: Of the rates, such as "images/s".
        makers: By name, ours first, functions that can be pickled and return
            an epoch, see `rates`.
        rounds: Turns of each candidate.
        runs: Passes that count, in each turn.
    """
    found = Comparison(title, unit, {})
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, make in makers.items():
            process = stack.enter_context(_process())
            try:
                process.submit(_make, make).result()
                processes[name] = process
            except ImportError as error:
                found.left_out.append(f"{name} ({error})")
        for turn in range(rounds):
            for name, process in processes.items():
                values = process.submit(_measure, runs).result()
                found.figures.setdefault(name, []).extend(values)
                print(
                    f"turn {turn + 1}, {name}: {statistics.median(values):,.0f}",
                    file=sys.stderr,
                    flush=True,
                )
    return found


def alone(function: Callable, *arguments: object) -> Any:
    """Returns what a function returns in a process of its own.

    Args:
        function: Can be pickled, as its arguments.
        *arguments: For it.
    """
    with _process() as process:
        return process.submit(function, *arguments).result()


def _process() -> concurrent.futures.ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=context)


def _make(make: Callable[[], Callable[[], int]]) -> None:
    """Makes the epoch that this process is there for."""
    global _epoch
    startup.import_tensorflow()
    _epoch = make()


def _measure(runs: int) -> list[float]:
    return rates(_epoch, runs)


def table(found: Comparison | Curve) -> str:
    """Returns what was found as lines of text, for people."""
    if isinstance(found, Curve):
        return _curve_table(found)
    width = max(map(len, found.figures), default=0)
    ratio = "it / ours" if found.less_is_better else "ours / it"
    unit = f"{found.unit} (median)"
    lines = [
        found.title,
        f"{'':<{width}}  {unit:>18}  {'min':>9}  {'max':>9}  n   {ratio}",
    ]
    ratios = found.ratios()
    for name, values in sorted(
        found.figures.items(),
        key=lambda item: statistics.median(item[1]),
        reverse=not found.less_is_better,
    ):
        lines.append(
            f"{name:<{width}}  {number(statistics.median(values)):>18}  "
            f"{number(min(values)):>9}  {number(max(values)):>9}  "
            f"{len(values):<2}  {ratios[name]:.2f}"
        )
    lines += [f"left out: {name}" for name in found.left_out]
    return "\n".join(lines)


def _curve_table(found: Curve) -> str:
    lines = [
        f"{found.title}; expected: {found.expected_by}",
        f"{found.over:>10}  {'expected':>9}  {'measured':>9}  ratio",
    ]
    for (count, values), ratio in zip(
        found.measured.items(), found.ratios().values(), strict=True
    ):
        lines.append(
            f"{count:>10}  {number(found.expected[count]):>9}  "
            f"{number(statistics.median(values)):>9}  {ratio:.2f}"
        )
    return "\n".join(lines)


def number(value: float) -> str:
    """Returns a figure with three significant digits or more."""
    digits = 0 if value >= 100 else 2 if value >= 1 else 4
    return f"{value:,.{digits}f}"
