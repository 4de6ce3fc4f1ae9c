"""A container on this machine, with its GPUs."""

import os
import pathlib
import shlex

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import WRITTEN
from launch import arguments
from launch.groups import Common
from launch.groups import Docker
from launch.targets import forms
from launch.targets.rendering import Rendered
from launch.targets.rendering import fill_template
from launch.targets.rendering import shell_lines
from launch.targets.submitted import Submitted
from launch.work import Work

# Passed on by name where they are set, so that no secret is in a file.
_CREDENTIALS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"),
)
_GOOGLE_KEY = "GOOGLE_APPLICATION_CREDENTIALS"


def render(common: Common, options: Docker, work: Work) -> Rendered:
    """Returns a script that ends in `exec docker run`.

    Args:
        common: Name and folder of the job.
        options: The container.
        work: What runs in it, not a sweep. Each folder or file that its flags
            name is mounted.
    """
    forms.require("image", options.image, "image")
    docker = [f"--gpus={_gpus(options.gpus)}"] if options.gpus else []
    inside: dict[str, str | None] = {}
    made = []
    for one, prefix, path in work.local_paths:
        host = pathlib.Path(os.path.abspath(path))
        _check_path(one, host)
        if one.path.mode == WRITTEN and work.module == "trainer.task":
            # Docker would make a missing one as root's own.
            made.append(str(host))
        volume, place = _mount(one, prefix, host, work.module)
        docker.append(f"--volume={volume}")
        inside[one.name] = f"{prefix}{place}"
    if any("://" in argument for argument in work.arguments):
        docker += _credentials()
    docker += [f"--env={variable}" for variable in common.env]
    docker += [f"--volume={v}" for v in _parse_volumes(options.volumes)]
    words = ["-m", *work.program, *arguments.replace(work.arguments, inside)]
    text = fill_template(
        "docker.sh",
        name=common.name,
        image=shlex.quote(options.image),
        grace=options.grace_seconds,
        folders="mkdir -p " + shlex.join(made) + " || exit 64" if made else "",
        options=shell_lines(docker),
        line=shell_lines(words),
    )
    script = common.folder / "run.sh"
    return Rendered(
        {"run.sh": text},
        (("bash", str(script)),),
        f"Stop: docker stop {common.name}; the state is saved within a step. "
        f"Resume: bash {script}",
        runs_here=True,
        names=(common.name,),
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action; see `kubernetes.follow`."""
    if action == "logs":
        return [[["docker", "logs", *["--follow"] * follow, found.name]]]
    if action == "cancel":
        return [[["docker", "stop", found.name]]]
    return [[["docker", "ps", "--all", f"--filter=name=^{found.name}$"]]]


def _gpus(count: int) -> str:
    # One is the default of every target; Docker alone can be asked for all.
    return "all" if count == 1 else str(count)


def _check_path(one: settings.Setting, host: pathlib.Path) -> None:
    if ":" in str(host) or host == pathlib.Path("/"):
        raise UsageError(
            f"--{one.name}={host} cannot be mounted by Docker: expected a "
            "folder below / without a colon in its path."
        )


def _parse_volumes(text: str) -> list[str]:
    """Returns volumes as Docker takes them.

    Raises:
        UsageError: If one is not /host:/path or /host:/path:ro, or two are
            mounted at one path.
    """
    places: list[str] = []
    volumes = [volume for volume in text.split(",") if volume]
    for volume in volumes:
        host, _, rest = volume.partition(":")
        place, _, mode = rest.partition(":")
        is_plain = all(
            path.startswith("/") and path == os.path.normpath(path)
            for path in (host, place)
        )
        if not is_plain or mode not in ("", "ro", "rw"):
            raise UsageError(
                f"--volumes has {volume!r}: expected /host:/path or "
                "/host:/path:ro, both without .. or a / at their end."
            )
        if place in places or place.startswith("/job/"):
            raise UsageError(
                f"--volumes has {volume!r}: something else is mounted at "
                f"{place}."
            )
        places.append(place)
    return volumes


def _mount(
    one: settings.Setting, prefix: str, host: pathlib.Path, module: str
) -> tuple[str, str]:
    """Returns Docker's volume for a path, and the path in the container."""
    place = f"/job/{one.name}"
    if prefix == "csv:":  # its images lie beside it
        return f"{host.parent}:{place}:ro", f"{place}/{host.name}"
    if one.path.mode == WRITTEN and module == "trainer.task":
        return f"{host}:{place}", place
    if one.path.mode == WRITTEN:
        # data_prep renames the folder, so it wants the one above.
        if host.parent == pathlib.Path("/"):
            raise UsageError(
                f"--{one.name}={host} would mount all of /: expected a folder "
                "below another one."
            )
        return f"{host.parent}:{place}", f"{place}/{host.name}"
    if host.suffix:  # a file, whose ending says what it is
        place = f"{place}/{host.name}"
    return f"{host}:{place}:ro", place


def _credentials() -> list[str]:
    found = [f"--env={name}" for name in _CREDENTIALS]
    if os.environ.get(_GOOGLE_KEY):
        key = pathlib.Path(os.environ[_GOOGLE_KEY]).absolute()
        found.append(f"--volume={key}:/job/google.json:ro")
        found.append(f"--env={_GOOGLE_KEY}=/job/google.json")
    return found
