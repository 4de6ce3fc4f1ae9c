"""A container on this machine, with its GPUs."""

import os
import pathlib
import shlex
from collections.abc import Mapping

from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import WRITTEN
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.job import replaced
from launch.targets import render as render_lib

# Passed on by name where they are set, so that no secret is in a file.
_CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"),
)
_GOOGLE_KEY = "GOOGLE_APPLICATION_CREDENTIALS"


def render(job: Job, work: Work) -> Rendered:
    """Returns a script with the `docker run` line.

    Raises:
        UsageError: For what a single container cannot do.
    """
    if work.runs:
        raise UsageError(
            "--target=docker runs one container: --workers, --grid and "
            "--flag_files are for the other targets."
        )
    options = ["--gpus=all"] if job.docker.gpus else []
    inside: dict[str, str | None] = {}
    for one, prefix, path in work.paths:
        host, place = pathlib.Path(path).absolute(), f"/job/{one.name}"
        if prefix == "csv:":  # its images lie beside it
            options.append(f"--volume={host.parent}:{place}:ro")
            place = f"{place}/{host.name}"
        elif one.path.mode == WRITTEN:
            # The folder above, which Docker would make as root's own.
            options.append(f"--volume={host.parent}:{place}")
            place = f"{place}/{host.name}"
        else:
            if host.suffix:  # a file, whose ending says what it is
                place = f"{place}/{host.name}"
            options.append(f"--volume={host}:{place}:ro")
        inside[one.name] = f"{prefix}{place}"
    if any("://" in argument for argument in work.arguments):
        options += [f"--env={name}" for name in _CREDENTIALS]
        if os.environ.get(_GOOGLE_KEY):
            key = pathlib.Path(os.environ[_GOOGLE_KEY]).absolute()
            options.append(f"--volume={key}:/job/google.json:ro")
            options.append(f"--env={_GOOGLE_KEY}=/job/google.json")
    options += [f"--volume={v}" for v in job.docker.volumes.split(",") if v]
    words = ["-m", *work.program, *replaced(work.arguments, inside)]
    text = render_lib.template(
        "docker.sh",
        name=job.common.name,
        image=shlex.quote(job.docker.image),
        grace=job.docker.grace_seconds,
        options=render_lib.shell_lines(options),
        line=render_lib.shell_lines(words),
    )
    return Rendered(
        {"run.sh": text},
        (("bash", str(job.common.folder / "run.sh")),),
        f"Stop: docker stop {job.common.name}; the state is saved within a step. "
        f"Resume: bash {job.common.folder / 'run.sh'}",
        runs_here=True,
    )


def check(files: Mapping[str, str]) -> None:
    """Refuses a line that would lose a signal or start another program."""
    line = files["run.sh"].replace("\\\n", " ").strip().splitlines()[-1]
    if not line.startswith("exec docker run "):
        raise UsageError(
            "run.sh does not end in `exec docker run`: a SIGTERM would reach "
            "the shell and not the container."
        )
    if "--entrypoint" in line or " sh -c" in line or " bash " in line:
        raise UsageError(
            "run.sh puts a shell before Python, which would swallow SIGTERM."
        )
    if "--stop-timeout=" not in line:
        raise UsageError(
            "run.sh has no --stop-timeout: Docker kills after 10 s, which may "
            "be before the state is saved."
        )
