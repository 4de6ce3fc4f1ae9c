"""Command line: what a submitted job prints.

python -m launch.logs [--follow] NAME
"""

import dataclasses

from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime.settings import setting
from launch import follow


@dataclasses.dataclass(frozen=True)
class Reading(settings.Group):
    """Reading."""

    follow: bool = setting(False, "Go on until the job ends.", first=True)


class LogsConfig(settings.Config):
    """The flags of `launch.logs`."""

    reading: Reading
    place: follow.Place


def main(config: LogsConfig, words: list[str]) -> int:
    """Runs the platform's client; returns an exit code."""
    found = follow.find(config.place, words)
    return follow.ask("logs", found, config.reading.follow)


def cli() -> None:
    """Runs the command line."""
    command.run(main, LogsConfig, positional=follow.POSITIONAL)


if __name__ == "__main__":
    cli()
