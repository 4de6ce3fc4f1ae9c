"""Command line: the same trainer command, run elsewhere.

python -m launch.submit --target=slurm --workers=2 -- --data_dir=data ...

Renders plain files into a folder, checks them, and hands them to the
platform's own client; with --dry_run it prints what it would do.
"""

import importlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

from data_prep.runtime import command
from data_prep.runtime.errors import EXIT_FAILURE
from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.job import Job
from launch.job import Rendered


def render(job: Job, words: list[str]) -> Rendered:
    """Returns the checked files and commands of a job.

    Args:
        job: What is to be launched.
        words: The command line of the work.

    Raises:
        UsageError: If a flag is wrong, or what was rendered breaks a rule of
            the platform.
    """
    work = arguments.work(job, words)
    target = importlib.import_module(f"launch.targets.{job.common.target}")
    rendered = target.render(job, work)
    target.check(rendered.files)
    return rendered


def submit(rendered: Rendered, folder: pathlib.Path) -> int:
    """Writes the files and runs the commands; returns the first code not 0.

    Raises:
        UsageError: If a client is not installed.
    """
    missing = {c[0] for c in rendered.commands if not shutil.which(c[0])}
    if missing:
        raise UsageError(
            f"{', '.join(sorted(missing))} is not installed here. Install it, "
            "or render with --dry_run and submit elsewhere."
        )
    for name, text in rendered.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in rendered.commands:
        print(f"$ {shlex.join(words)}", flush=True)
        if rendered.runs_here:
            print(rendered.afterwards, flush=True)
            # In the place of this process: a signal reaches the work itself.
            os.execvp(words[0], words)
        code = subprocess.run(words, check=False).returncode
        if code:
            print(f"error: submitting failed with {code}.", file=sys.stderr)
            return EXIT_FAILURE
    print(rendered.afterwards)
    return 0


def main(job: Job, words: list[str]) -> int:
    """Renders, checks, and prints or submits."""
    rendered = render(job, words)
    if job.common.dry_run:
        for name, text in rendered.files.items():
            print(f"==> {job.common.folder / name} <==\n{text}")
        for line in rendered.commands:
            print(f"$ {shlex.join(line)}")
        print(f"\n{rendered.afterwards}")
        return 0
    return submit(rendered, job.common.folder)


def cli() -> None:
    """Runs the command line."""
    command.run(main, Job, positional="-- and the flags of the trainer")


if __name__ == "__main__":
    cli()
