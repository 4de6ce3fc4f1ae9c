"""Command line: one table of what several runs reached.

python -m launch.compare model/*
python -m launch.compare gs://bucket/model

An address in object storage stands for all runs below it. Of two runs on this
machine it says whether their predictions differ by more than chance.
"""

import csv
import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping

from data_prep.dataset import splits
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.settings import setting
from launch.staging.mirror import COMMIT
from trainer.inference import mcnemar

# Flags that say where a run lies, not what it is.
_PLACES = {"model_dir", "data_fingerprint"}
_FILES = {
    *("config.json", "DONE.json", "evaluation.json"),
    *(f"evaluation-{split}.json" for split in splits.SPLITS),
}


@dataclasses.dataclass(frozen=True)
class Comparison(settings.Group):
    """The table."""

    csv: bool = setting(False, "Comma-separated, for other programs.")
    split: str = setting(
        "",
        "Split whose figures are compared; empty is the one that each run was "
        "measured on when it ended.",
        choices=("", *splits.SPLITS),
    )


class CompareConfig(settings.Config):
    """The flags of `launch.compare`."""

    comparison: Comparison


def table(
    runs: Mapping[str, pathlib.Path], split: str = ""
) -> list[dict[str, str]]:
    """Returns a row per run: what its flags have of their own, and figures.

    Args:
        runs: What `trainer.task` wrote, by name; runs that are not finished
            have no figures, and stand last. The best accuracy stands first.
        split: Whose figures; "" is the one that each was measured on at its
            end.

    Raises:
        DataError: If a folder holds no run, or the figures are of several
            splits.
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
            evaluation = _figures(run, folder, split)
            figures = {
                "split": evaluation["split"],
                "accuracy": f"{evaluation['accuracy']:.4f}",
                "loss": f"{evaluation['loss']:.4f}",
            }
        rows.append(row | figures | {"finished": "yes" if done else "no"})
    by_split = {row["split"]: row["run"] for row in rows if row["split"]}
    if len(by_split) > 1:
        said = ", ".join(f"{run} on {one}" for one, run in by_split.items())
        raise DataError(
            f"the runs were measured on different splits ({said}), so their "
            "accuracies say nothing of each other. Measure all on one by "
            "`shardtune evaluate --split=...`, and compare with --split."
        )
    return sorted(rows, key=lambda r: (r["finished"] == "no", -_number(r)))


def _figures(run: str, folder: pathlib.Path, split: str) -> dict:
    """Returns a run's evaluation, of the one split if one is named."""
    paths = [folder / "evaluation.json"]
    if split:
        paths.append(folder / f"evaluation-{split}.json")
    for path in paths:
        if path.exists():
            try:
                found = json.loads(path.read_text())
                of, *_ = found["split"], found["accuracy"], found["loss"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path} is damaged: {error!r}. `shardtune evaluate "
                    f"--model_dir={run}` writes it."
                ) from None
            if split in ("", of):
                return found
    raise DataError(
        f"{run} has no figures of {split or 'any split'}: `shardtune evaluate "
        f"--model_dir={run}{f' --split={split}' if split else ''}` makes them."
    )


def difference(first: pathlib.Path, second: pathlib.Path) -> str:
    """Says whether two runs differ on the same images, "" if it cannot be said.

    Args:
        first: A model directory that was evaluated.
        second: Another one.
    """
    answers = [_answers(folder) for folder in (first, second)]
    if None in answers or set(answers[0]) != set(answers[1]):
        return ""
    one, other = answers
    found = mcnemar.difference(
        len(one),
        sum(one[file] and not other[file] for file in one),
        sum(other[file] and not one[file] for file in one),
    )
    return mcnemar.in_words(found, "the first one", "the second one")


def _answers(folder: pathlib.Path) -> dict[str, bool] | None:
    """Returns whether each image was classified rightly, by its file."""
    path = folder / "predictions.csv"
    if not path.exists():
        return None
    with open(path, newline="", errors="surrogateescape") as file:
        rows = csv.reader(file)
        next(rows)
        return {name: label == said for name, label, said, *_ in rows}


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
        rows = table(runs, config.comparison.split)
    if config.comparison.csv:
        writer = csv.DictWriter(sys.stdout, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return
    widths = {n: max(len(n), *(len(r[n]) for r in rows)) for n in rows[0]}
    for row in ({n: n for n in widths}, *rows):
        line = "  ".join(row[name].ljust(widths[name]) for name in widths)
        print(line.rstrip())
    if len(runs) == 2 and not config.comparison.split:
        names = [row["run"] for row in rows]
        folders = [pathlib.Path(name) for name in names]
        if said := difference(*folders):
            print(said)


def _number(row: dict[str, str]) -> float:
    return float(row["accuracy"] or 0)


def cli() -> None:
    """Runs the command line."""
    command.run(main, CompareConfig, positional="model directories")


if __name__ == "__main__":
    cli()
