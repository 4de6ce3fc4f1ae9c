"""Command line: one table of what several runs reached.

python -m launch.compare model/*
"""

import csv
import json
import pathlib
import sys

from absl import flags

from data_prep import command
from data_prep.errors import DataError

# Flags that say where a run lies, not what it is.
_PLACES = {"model_dir", "data_fingerprint"}


def table(model_dirs: list[str]) -> list[dict[str, str]]:
    """Returns a row per run: what its flags have of their own, and figures.

    Args:
        model_dirs: What `trainer.task` wrote; runs that are not finished
            have no figures, and stand last. The best accuracy stands first.

    Raises:
        DataError: If a folder holds no run.
    """
    configs, rows = [], []
    for folder in map(pathlib.Path, model_dirs):
        try:
            configs.append(json.loads((folder / "config.json").read_text()))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{folder} is no model directory: {error}. Expected what "
                "trainer.task wrote."
            ) from None
    names = dict.fromkeys(name for config in configs for name in config)
    differing = [
        name
        for name in names
        if name not in _PLACES and len({repr(c.get(name)) for c in configs}) > 1
    ]
    for folder, config in zip(model_dirs, configs, strict=True):
        row = {"run": folder}
        row |= {name: str(config.get(name, "")) for name in differing}
        done = pathlib.Path(folder, "DONE.json").exists()
        figures = {"split": "", "accuracy": "", "loss": ""}
        if done:
            path = pathlib.Path(folder, "evaluation.json")
            evaluation = json.loads(path.read_text())
            figures = {
                "split": evaluation["split"],
                "accuracy": f"{evaluation['accuracy']:.4f}",
                "loss": f"{evaluation['loss']:.4f}",
            }
        rows.append(row | figures | {"finished": "yes" if done else "no"})
    return sorted(rows, key=lambda r: (r["finished"] == "no", -_number(r)))


def main(model_dirs: list[str]) -> None:
    """Prints the table."""
    rows = table(model_dirs)
    if flags.FLAGS.csv:
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


if __name__ == "__main__":
    flags.DEFINE_bool("csv", False, "Comma-separated, for other programs.")
    command.run(main, positional="model directories")
