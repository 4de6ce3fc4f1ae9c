"""A run of benchmarks as files: `results.json`, and plots beside it."""

import dataclasses
import json
import pathlib
import re
import shlex
import statistics
import sys
import time
from collections.abc import Iterable
from collections.abc import Sequence

from benchmarks import machine
from benchmarks.measure import Comparison
from benchmarks.measure import Curve
from data_prep.runtime import atomic

_RATIOS = "ratios.svg"


class Report:
    """What a run has found so far, kept as files after every part.

    Args:
        folder: Where `results.json` and the plots go.
        module: The command, such as "benchmarks.run".
        devices: Names of the accelerators.
    """

    def __init__(self, folder: str, module: str, devices: Sequence[str] = ()):
        self._folder = pathlib.Path(folder)
        self._start = time.monotonic()
        self._head = {
            "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "commit": machine.commit(),
            "machine": {**machine.describe(), "devices": list(devices)},
            "versions": machine.versions(machine.PACKAGES),
        }
        self._found: list[Comparison | Curve] = []
        self._left_out: list[str] = []

    def add(self, found: Iterable[Comparison | Curve]) -> None:
        """Adds what a part has found, and writes all files anew."""
        self._found += found
        self._write()

    def leave_out(self, part: str, reason: str) -> None:
        """Names a part that is not measured here, and why."""
        self._left_out.append(f"{part}: {reason}")
        print(f"left out: {part}: {reason}", flush=True)
        self._write()

    def _write(self) -> None:
        content = {
            **self._head,
            "seconds": time.monotonic() - self._start,
            "ratios": {one.title: one.ratios() for one in self._found},
            "left_out": self._left_out,
            "results": [_as_json(one) for one in self._found],
        }
        with atomic.replacing(self._folder / "results.json") as path:
            path.write_text(json.dumps(content, indent=1) + "\n")
        _plot_ratios(
            [one for one in self._found if isinstance(one, Comparison)],
            self._folder / _RATIOS,
        )
        for one in self._found:
            if isinstance(one, Curve):
                name = "-".join(re.findall(r"\w+", one.title.lower()))
                _plot_curve(one, self._folder / f"{name}.svg")


def _as_json(found: Comparison | Curve) -> dict[str, object]:
    """Returns a result for JSON: ratios first, n, median and spread of each."""
    if isinstance(found, Curve):
        rows = {
            str(count): {
                **_spread(values),
                "expected": found.expected[count],
            }
            for count, values in found.measured.items()
        }
    else:
        rows = {name: _spread(v) for name, v in found.figures.items()}
    told = dataclasses.asdict(found)
    for name in ("figures", "measured", "expected"):
        told.pop(name, None)
    return {"ratios": found.ratios(), **told, "rows": rows}


def _spread(values: list[float]) -> dict[str, object]:
    return {
        "n": len(values),
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "values": values,
    }


def _new_figure(width: float, height: float):
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams["svg.hashsalt"] = "shardtune"  # equal figures give equal files
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _save(figure, path: pathlib.Path) -> None:
    with atomic.replacing(path) as place:
        figure.savefig(place, format="svg", metadata={"Date": None})


def _plot_ratios(found: list[Comparison], path: pathlib.Path) -> None:
    """Draws how many times as good ours is as each peer."""
    bars = [
        (f"{one.title}: {name}", ratio)
        for one in found
        for name, ratio in one.ratios().items()
        if name != one.ours
    ]
    if not bars:
        return
    names, ratios = zip(*reversed(bars), strict=True)
    figure, axes = _new_figure(10, 1 + 0.3 * len(bars))
    drawn = axes.barh(names, ratios, color="#4878a8")
    axes.bar_label(drawn, [f"{ratio:.2f}" for ratio in ratios], padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel(
        "ours is so many times as good (medians, measured in turns)"
    )
    _save(figure, path)


def _plot_curve(found: Curve, path: pathlib.Path) -> None:
    """Draws what was measured and what was expected, over the counts."""
    figure, axes = _new_figure(6, 4)
    counts = list(found.measured)
    axes.plot(
        counts,
        [found.expected[count] for count in counts],
        *("k--",),
        label=f"expected: {found.expected_by}",
    )
    rows = list(found.measured.values())
    medians = [statistics.median(values) for values in rows]
    below = [statistics.median(values) - min(values) for values in rows]
    above = [max(values) - statistics.median(values) for values in rows]
    axes.errorbar(
        counts, medians, [below, above], fmt="o-", capsize=3, label="measured"
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(counts, map(str, counts))
    axes.set_xlabel(found.over)
    axes.set_ylabel(found.unit)
    axes.set_title(found.title)
    axes.legend()
    _save(figure, path)


def plot_points(
    points: dict[str, tuple[float, float, Sequence[float]]],
    across: str,
    up: str,
    path: pathlib.Path,
) -> None:
    """Draws named points with intervals, over a logarithmic axis.

    Args:
        points: By name: how far across, how far up, and the interval of that.
        across: What the first is, with its unit.
        up: What the second is.
        path: Of the SVG file.
    """
    figure, axes = _new_figure(8, 5)
    axes.set_xscale("log")
    axes.margins(x=0.2)
    for number, (name, (x, y, (least, most))) in enumerate(points.items()):
        axes.errorbar(x, y, [[y - least], [most - y]], fmt="o", capsize=3)
        # By turns above and below, so that neighbours leave each other room.
        place = (6, -14) if number % 2 else (6, 6)
        axes.annotate(name, (x, y), place, textcoords="offset points")
    for which in (
        axes.xaxis.set_major_formatter,
        axes.xaxis.set_minor_formatter,
    ):
        which("{x:g}")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    _save(figure, path)
