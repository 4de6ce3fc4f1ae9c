"""Command line: how a submitted job is, as its platform says it.

python -m launch.status NAME
"""

from data_prep.runtime import command
from data_prep.runtime import settings
from launch import follow


class StatusConfig(settings.Config):
    """The flags of `launch.status`."""

    place: follow.Place


def main(config: StatusConfig, words: list[str]) -> int:
    """Runs the platform's client; returns an exit code."""
    return follow.ask("status", follow.find(config.place, words))


def cli() -> None:
    """Runs the command line."""
    command.run(main, StatusConfig, positional=follow.POSITIONAL)


if __name__ == "__main__":
    cli()
