"""Command line: the same trainer command, run elsewhere.

python -m launch.submit --target=slurm --workers=2 -- --data_dir=data ...

Writes plain files into a folder and hands them to the platform's own client;
with --dry_run it prints what it would do.
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
from launch import agreement
from launch.job import Job
from launch.targets.rendering import Rendered
from launch.work import plan


def render(job: Job, words: list[str]) -> Rendered:
    """Returns the files and commands of a job.

    Args:
        job: What is to be launched.
        words: The command line of the trainer or of data_prep.

    Raises:
        UsageError: If a flag is wrong, or the platform would refuse the job.
    """
    target = importlib.import_module(f"launch.targets.{job.common.target}")
    work = plan(job, words)
    agreement.check(job, work)
    return target.render(job.common, job.options, work)


def submit(rendered: Rendered, folder: pathlib.Path) -> int:
    """Writes the files and runs the commands.

    Args:
        rendered: Files and commands of a job.
        folder: Where the files go.

    Returns:
        An exit code: 0, or 1 after a command that failed. A job that runs
        here takes the place of this process instead.

    Raises:
        UsageError: If a client is not installed.
    """
    missing = {c[0] for c in rendered.commands if not shutil.which(c[0])}
    if missing:
        raise UsageError(
            f"{', '.join(sorted(missing))} is not installed here. Install it, "
            "or render with --dry_run and submit elsewhere."
        )
    _refuse_other_runs(rendered, folder)
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


def _refuse_other_runs(rendered: Rendered, folder: pathlib.Path) -> None:
    """Keeps the flags of a sweep that may still be read.

    Raises:
        UsageError: If the folder holds those of another one.
    """
    for name, text in rendered.files.items():
        path = folder / name
        is_run = name.startswith("runs/")
        if is_run and path.exists() and path.read_text() != text:
            raise UsageError(
                f"{path} holds the flags of another sweep, which waiting runs "
                "read when they begin. Pass another --name, or delete "
                f"{folder} if they have ended."
            )


def main(job: Job, words: list[str]) -> int:
    """Prints or submits a job; returns an exit code."""
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
