"""Command line: copies the model of a submitted job here.

python -m launch.fetch --to=model NAME
"""

import dataclasses
import pathlib

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime.settings import setting
from launch import follow


@dataclasses.dataclass(frozen=True)
class Fetching(settings.Group):
    """Fetching."""

    to: str = setting(
        "", "Folder for the model; unless given, NAME here.", first=True
    )


class FetchConfig(settings.Config):
    """The flags of `launch.fetch`."""

    fetching: Fetching
    place: follow.Place


def main(config: FetchConfig, words: list[str]) -> None:
    """Copies the model directory of every run."""
    found = follow.find(config.place, words)
    base = pathlib.Path(config.fetching.to or found.name)
    for model_dir in found.model_dirs:
        run = model_dir.rstrip("/").rpartition("/")[2]
        to = base / run if len(found.model_dirs) > 1 else base
        follow.fetch(model_dir, to)
        print(f"{model_dir} -> {to}")


def cli() -> None:
    """Runs the command line."""
    command.run(main, FetchConfig, positional=follow.POSITIONAL)


if __name__ == "__main__":
    cli()
