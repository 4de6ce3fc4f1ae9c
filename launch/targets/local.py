"""This machine: all of its GPUs, or several processes to try a cluster."""

import pathlib
import shlex
from collections.abc import Mapping

from data_prep.runtime.errors import UsageError
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.targets import render as render_lib


def render(job: Job, work: Work) -> Rendered:
    """Returns a script, and a systemd unit for a single run."""
    words = [job.local.python, "-m", *work.program]
    if job.local.workers > 1 and work.staged:
        raise UsageError(
            "--workers on one machine takes local folders: copy the data, or "
            "use --target=slurm or kubernetes."
        )
    if job.local.workers > 1:
        words = [
            *(job.local.python, "-m", "launch.workers"),
            f"--workers={job.local.workers}",
            f"--restarts={job.local.restarts}",
            f"--grace_seconds={job.local.grace_seconds}",
            "--",
        ]
    words += work.arguments
    common = {
        "name": job.common.name,
        "directory": shlex.quote(str(pathlib.Path.cwd())),
        "setup": job.local.setup,
        "line": render_lib.shell_lines(words),
    }
    if work.runs:
        script = render_lib.template(
            "run_sweep.sh",
            **common,
            folder=shlex.quote(str(job.common.folder)),
            numbers=" ".join(str(n) for n in range(len(work.runs))),
        )
        files = {"run.sh": script, **render_lib.flag_files(work.runs)}
    else:
        files = {
            "run.sh": render_lib.template("run.sh", **common),
            f"{job.common.name}.service": _unit(job),
        }
    return Rendered(
        files,
        (("bash", str(job.common.folder / "run.sh")),),
        "Stop: Ctrl-C or SIGTERM; the state is saved within a step. Resume: "
        f"bash {job.common.folder / 'run.sh'}",
        runs_here=True,
    )


def check(files: Mapping[str, str]) -> None:
    """Refuses a script whose training is no child that signals reach."""
    for name, text in files.items():
        if name == "run.sh" and "--flagfile=" not in text:
            last = text.replace("\\\n", " ").strip().splitlines()[-1]
            if not last.startswith("exec "):
                raise UsageError(
                    f"{name} does not end in exec: a SIGTERM would reach the "
                    "shell and not the training."
                )


def _unit(job: Job) -> str:
    # systemd reads % $ \ and " itself.
    script = str(job.common.folder / "run.sh")
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        script = script.replace(plain, escaped)
    return render_lib.template(
        "systemd.service",
        name=job.common.name,
        starts=job.local.restarts + 1,
        script=script.replace("$", "$$"),
        grace=job.local.grace_seconds,
    )
