"""A container on this machine, with its GPUs."""

import os
import pathlib
import shlex
from collections.abc import Mapping

from data_prep.errors import UsageError
from launch import render as render_lib
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.job import local_path
from launch.job import replaced

# Flags that name files or folders of this machine, and whether only to read.
_PATHS = {
    "trainer.task": {"data_dir": "ro", "model_dir": "rw", "cache_dir": "rw"},
    "data_prep.task": {"source": "ro", "output_dir": "rw"},
}
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
    if job.workers > 1 or work.runs:
        raise UsageError(
            "--target=docker runs one container: --workers, --grid and "
            "--flag_files are for the other targets."
        )
    options = ["--gpus=all"] if job.gpus else []
    inside: dict[str, str | None] = {}
    for name, mode in _PATHS[work.module].items():
        prefix, path = local_path(work.value(name))
        if path:
            host = pathlib.Path(path).absolute()
            place = f"/job/{name}"
            file = ""
            if prefix == "csv:":  # its images lie beside it
                host, file = host.parent, f"/{host.name}"
            if mode == "rw":
                # The folder above, which Docker would make as root's own.
                options.append(f"--volume={host.parent}:{place}")
                place = f"{place}/{host.name}"
            else:
                options.append(f"--volume={host}:{place}:ro")
            inside[name] = f"{prefix}{place}{file}"
    weights = work.value("weights")
    if weights not in ("", "imagenet", "none") and "://" not in weights:
        path = pathlib.Path(weights).absolute()
        inside["weights"] = f"/job/weights/{path.name}"
        options.append(f"--volume={path}:{inside['weights']}:ro")
    if any("://" in argument for argument in work.arguments):
        options += [f"--env={name}" for name in _CREDENTIALS]
        if os.environ.get(_GOOGLE_KEY):
            key = pathlib.Path(os.environ[_GOOGLE_KEY]).absolute()
            options.append(f"--volume={key}:/job/google.json:ro")
            options.append(f"--env={_GOOGLE_KEY}=/job/google.json")
    options += [f"--volume={v}" for v in job.volumes.split(",") if v]
    words = ["-m", *work.program, *replaced(work.arguments, inside)]
    text = render_lib.template(
        "docker.sh",
        name=job.name,
        image=shlex.quote(job.image),
        grace=job.grace_seconds,
        options=render_lib.shell_lines(options),
        line=render_lib.shell_lines(words),
    )
    return Rendered(
        {"run.sh": text},
        (("bash", str(job.folder / "run.sh")),),
        f"Stop: docker stop {job.name}; the state is saved within a step. "
        f"Resume: bash {job.folder / 'run.sh'}",
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
