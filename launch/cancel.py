"""Command line: stops a submitted job; its state is saved.

python -m launch.cancel NAME
"""

from data_prep.runtime import command
from data_prep.runtime import settings
from launch import follow


class CancelConfig(settings.Config):
    """The flags of `launch.cancel`."""

    place: follow.Place


def main(config: CancelConfig, words: list[str]) -> int:
    """Runs the platform's client; returns an exit code."""
    return follow.ask("cancel", follow.find(config.place, words))


def cli() -> None:
    """Runs the command line."""
    command.run(main, CancelConfig, positional=follow.POSITIONAL)


if __name__ == "__main__":
    cli()
