"""The console command: `shardtune COMMAND --flag=value ...`.

Unlike `python -m trainer.task` it works in a folder that holds a trainer.py of
the user's own, as the current folder is not on its path.
"""

import importlib
import os
import pathlib
import sys

from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import EXIT_USAGE
from shardtune.commands import COMMANDS

_HELP = {"--help", "-help", "-h", "-?", "help"}


def main() -> None:
    """Runs the command that the first word names; never returns normally."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in _HELP:
        print(usage())
        sys.exit(0)
    if name == "--version":
        import shardtune

        print(f"shardtune {shardtune.__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        from data_prep.runtime.settings import did_you_mean

        print(
            f"error: there is no command {name!r}: "
            f"{did_you_mean(name, COMMANDS)}expected one of "
            f"{', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        sys.exit(EXIT_USAGE)
    _run(name, words)


def usage() -> str:
    """Returns what `shardtune --help` prints: a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {n:<{width}}  {c.summary}" for n, c in COMMANDS.items()]
    return "\n".join(
        [
            "usage: shardtune COMMAND --flag=value ...",
            "",
            *lines,
            "",
            "shardtune COMMAND --help lists a command's flags; "
            "shardtune --version.",
        ]
    )


def _run(name: str, words: list[str]) -> None:
    command = COMMANDS[name]
    if command.saves_when_stopped:
        # Before all that takes time to import, and before TensorFlow starts
        # threads, which inherit the mask.
        from data_prep.runtime import signals

        signals.watch(EXIT_STOPPED)
    home = pathlib.Path(__file__).resolve().parents[1]
    if home != pathlib.Path.cwd().resolve():
        # The `python -m ...` that some commands start would look in the
        # current folder first.
        os.environ["PYTHONSAFEPATH"] = "1"
    sys.argv = [f"shardtune {name}", *words]
    module = importlib.import_module(command.module)
    module.__doc__ = (module.__doc__ or "").replace(
        f"python -m {command.module}", f"shardtune {name}"
    )
    module.cli()
