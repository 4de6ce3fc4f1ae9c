"""Command line: one table of what several runs reached.

python -m launch.compare model/*
python -m launch.compare gs://bucket/model

An address in object storage stands for all runs below it.
"""

import csv
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.settings import setting
from launch.staging.mirror import COMMIT

# Flags that say where a run lies, not what it is.
_PLACES = {"model_dir", "data_fingerprint"}
_FILES = {"config.json", "evaluation.json", "DONE.json"}


@dataclasses.dataclass(frozen=True)
class Comparison(settings.Group):
    """The table."""

    csv: bool = setting(False, "Comma-separated, for other programs.")


class CompareConfig(settings.Config):
    """The flags of `launch.compare`."""

    comparison: Comparison


def table(runs: Mapping[str, pathlib.Path]) -> list[dict[str, str]]:
    """Returns a row per run: what its flags have of their own, and figures.

    Args:
        runs: What `trainer.task` wrote, by name; runs that are not finished
            have no figures, and stand last. The best accuracy stands first.

    Raises:
        DataError: If a folder holds no run.
    """
    configs, rows = [], []
    for run, folder in runs.items():
        try:
            configs.append(json.loads((folder / "config.json").read_text()))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{run} is no model directory: {error}. Expected what "
                "trainer.task wrote."
            ) from None
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [
        name
        for name in names
        if name not in _PLACES and len({repr(c.get(name)) for c in configs}) > 1
    ]
    for (run, folder), config in zip(runs.items(), configs, strict=True):
        row = {"run": run}
        row |= {name: str(config.get(name, "")) for name in differing}
        done = (folder / "DONE.json").exists()
        figures = {"split": "", "accuracy": "", "loss": ""}
        if done:
            path = folder / "evaluation.json"
            evaluation = json.loads(path.read_text())
            figures = {
                "split": evaluation["split"],
                "accuracy": f"{evaluation['accuracy']:.4f}",
                "loss": f"{evaluation['loss']:.4f}",
            }
        rows.append(row | figures | {"finished": "yes" if done else "no"})
    return sorted(rows, key=lambda r: (r["finished"] == "no", -_number(r)))


def fetch_runs(url: str, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Copies what a table needs of all runs below an address.

    Args:
        url: A folder in object storage.
        folder: Local folder for the copies.

    Returns:
        The copy of each run, by its address.

    Raises:
        DataError: If there are none.
    """
    url = url.rstrip("/")
    names = set(storage.names(url))
    copies = []
    for name in sorted(names):
        run, slash, file = name.rpartition("/")
        if file in _FILES:
            copies.append((name, name))
        elif file == COMMIT and f"{run}{slash}config.json" not in names:
            # launch.staged's: it gives names when all is done.
            files = json.loads(storage.read(f"{url}/{name}"))["files"]
            config = files.get("config.json")
            if config is not None:
                source = f"{run}{slash}{config['object']}"
                copies.append((source, f"{run}{slash}config.json"))
    storage.download(url, folder, copies)
    runs = sorted(path.parent for path in folder.rglob("config.json"))
    if not runs:
        raise DataError(
            f"{url} holds no runs. Expected the --model_dir of one, or of a "
            "sweep."
        )
    return {
        f"{url}/{run.relative_to(folder).as_posix()}".removesuffix("/."): run
        for run in runs
    }


def main(config: CompareConfig, model_dirs: list[str]) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="shardtune-") as scratch:
        runs = {}
        for number, place in enumerate(model_dirs):
            if storage.is_url(place):
                runs |= fetch_runs(place, pathlib.Path(scratch, str(number)))
            else:
                runs[place] = pathlib.Path(place)
        rows = table(runs)
    if config.comparison.csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return
    widths = {n: max(len(n), *(len(r[n]) for r in rows)) for n in rows[0]}
    for row in ({n: n for n in widths}, *rows):
        line = "  ".join(row[name].ljust(widths[name]) for name in widths)
        print(line.rstrip())


def _number(row: dict[str, str]) -> float:
    return float(row["accuracy"] or 0)


def cli() -> None:
    """Runs the command line."""
    command.run(main, CompareConfig, positional="model directories")


if __name__ == "__main__":
    cli()
