"""Command line: the same trainer command, run elsewhere.

python -m launch.submit --target=slurm --workers=2 -- --data_dir=data ...

Writes plain files into a folder and hands them to the platform's own client;
with --dry_run it prints what it would do.
"""

import dataclasses
import importlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

import psutil

from data_prep.runtime import command
from data_prep.runtime.errors import EXIT_FAILURE
from data_prep.runtime.errors import UsageError
from launch import agreement
from launch import image
from launch.groups import Common
from launch.groups import Container
from launch.job import Job
from launch.targets.rendering import Rendered
from launch.targets.submitted import Submitted
from launch.work import Work
from launch.work import plan


def render(job: Job, words: list[str]) -> Rendered:
    """Returns the files and commands of a job.

    Args:
        job: What is to be launched.
        words: The command line of what runs.

    Raises:
        UsageError: If a flag is wrong, or the platform would refuse the job.
    """
    return render_work(job, plan(job, words))


def render_work(job: Job, work: Work) -> Rendered:
    """Returns the files and commands of a job whose work is planned.

    Args:
        job: What is to be launched.
        work: What runs in it.

    Raises:
        UsageError: If the platform would refuse the job.
    """
    agreement.check(job, work)
    target = importlib.import_module(f"launch.targets.{job.common.target}")
    rendered = target.render(job.common, job.options, work)
    if isinstance(job.options, Container) and job.options.build:
        stage = "serve" if job.common.job == "serve" else ""
        before = image.build_commands(job.options, rendered.runs_here, stage)
        return dataclasses.replace(rendered, before=before)
    return rendered


def submit(
    rendered: Rendered,
    folder: pathlib.Path,
    target: str = "",
    model_dirs: Sequence[str] = (),
) -> int:
    """Writes the files, runs the commands, and keeps what was answered.

    Args:
        rendered: Files and commands of a job.
        folder: Where the files go.
        target: As `--target` names it.
        model_dirs: Where each run writes.

    Returns:
        An exit code: 0, or 1 after a command that failed. A job that runs
        here takes the place of this process instead.

    Raises:
        UsageError: If a client is not installed, or the folder is that of a
            sweep whose flags may still be read.
    """
    commands = (*rendered.before, *rendered.commands)
    missing = {c[0] for c in commands if not shutil.which(c[0])}
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

    def keep(ids: Sequence[str]) -> None:
        Submitted(
            target,
            folder.name,
            tuple(ids),
            str(folder),
            tuple(model_dirs),
            rendered.place,
            rendered.kind,
            rendered.log,
            psutil.Process().create_time() if rendered.runs_here else 0.0,
        ).save()

    for words in rendered.before:
        print(f"$ {shlex.join(words)}", flush=True)
        if code := subprocess.run(words, check=False).returncode:
            return _fail(f"{shlex.join(words[:2])} failed with {code}.")
    answers = []
    for words in rendered.commands:
        print(f"$ {shlex.join(words)}", flush=True)
        if rendered.runs_here:
            print(
                f"{rendered.afterwards}\n{_how_to_follow(folder)}", flush=True
            )
            keep(rendered.names or [str(os.getpid())])
            # In the place of this process: a signal reaches the work itself.
            os.execvp(words[0], words)
        done = subprocess.run(
            words, check=False, stdout=subprocess.PIPE, text=True
        )
        print(done.stdout, end="", flush=True)
        if done.returncode:
            return _fail(f"submitting failed with {done.returncode}.")
        answers += done.stdout.splitlines()
        # The jobs of a sweep that were submitted before one is refused, too.
        keep(rendered.names or [a.partition(";")[0] for a in answers if a])
    # kubectl's word for each object; a Service may be left of an earlier job.
    if answers and all(line.endswith(" unchanged") for line in answers):
        return _fail(
            f"{answers[-1]}: a job of this name is there, and nothing was "
            f"started. If it has ended: launch.cancel {folder.name}, then "
            "submit again."
        )
    print(rendered.afterwards)
    print(_how_to_follow(folder))
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return EXIT_FAILURE


def _how_to_follow(folder: pathlib.Path) -> str:
    where = ""
    if folder.parent != pathlib.Path(Common.output_dir).absolute():
        where = shlex.quote(f"--output_dir={folder.parent}") + " "
    return "\n".join(
        f"python -m launch.{what} {where}{folder.name}"
        for what in ("status", "logs --follow", "cancel", "fetch")
    )


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
    work = plan(job, words)
    rendered = render_work(job, work)
    if isinstance(job.options, Container) and not job.options.build:
        if difference := image.find_difference(job.options.image):
            print(f"warning: {difference}", file=sys.stderr)
    if job.common.dry_run:
        for name, text in rendered.files.items():
            print(f"==> {job.common.folder / name} <==\n{text}")
        for line in (*rendered.before, *rendered.commands):
            print(f"$ {shlex.join(line)}")
        print(f"\n{rendered.afterwards}")
        return 0
    return submit(
        rendered, job.common.folder, job.common.target, work.model_dirs
    )


def cli() -> None:
    """Runs the command line."""
    command.run(main, Job, positional="-- and the flags of the trainer")


if __name__ == "__main__":
    cli()
