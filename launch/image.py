"""The container image: built from the checkout, and whether it still is of it.

An image says by its label of which commit it is, and a commit here is the last
one that changed what the Dockerfile copies.
"""

import pathlib
import shlex
import shutil
import subprocess

from data_prep.runtime.errors import UsageError
from launch.groups import Container
from launch.groups import SageMaker

# Of the OCI image specification, "Annotations".
_LABEL = "org.opencontainers.image.revision"
_BUILDERS = ("docker", "podman", "buildah")
_CHECKOUT = pathlib.Path(__file__).parent.parent


def build_commands(
    options: Container, runs_here: bool, stage: str = ""
) -> tuple[tuple[str, ...], ...]:
    """Returns commands that build the image, and push it to its registry.

    Args:
        options: The image.
        runs_here: It is for Docker on this machine, and is not pushed.
        stage: Of the Dockerfile; "" is its last one.

    Raises:
        UsageError: If this is no checkout, or the options cannot be read.
    """
    if not (_CHECKOUT / "Dockerfile").exists():
        raise UsageError(
            f"--build: {_CHECKOUT}, from which shardtune runs, is no checkout. "
            "Run `python -m launch.submit` in one, or build the image there."
        )
    try:
        more = shlex.split(options.build_options)
    except ValueError as error:
        raise UsageError(
            f"--build_options={options.build_options} cannot be read: {error}."
        ) from None
    if isinstance(options, SageMaker):  # whose folders are root's
        more = ["--build-arg=USER=root", *more]
    builder = "docker" if runs_here else _builder() or "docker"
    build = [builder, "build", f"--tag={options.image}", *more]
    if stage:
        build.append(f"--target={stage}")
    if revision := find_revision(_CHECKOUT):
        build.append(f"--label={_LABEL}={revision}")
    if builder == "buildah":
        build.append("--format=docker")  # not every registry takes OCI's
    build.append(str(_CHECKOUT))
    if runs_here or "/" not in options.image:
        return (tuple(build),)
    return tuple(build), (builder, "push", options.image)


def find_difference(image: str) -> str:
    """Says how an image that this machine holds differs from the checkout.

    Returns:
        A sentence; "" if they are of one commit, or if that cannot be known.
    """
    here, builder = find_revision(_CHECKOUT), _builder()
    if not here or not builder:
        return ""
    words, place = ["image", "inspect"], ".Config"
    if builder == "buildah":
        words, place = ["inspect", "--type=image"], ".OCIv1.Config"
    template = f'{{{{index {place}.Labels "{_LABEL}"}}}}'
    done = subprocess.run(
        [builder, *words, f"--format={template}", image],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return ""  # it was built elsewhere
    recorded = done.stdout.strip() or "no commit that it names"
    if recorded == here and not here.endswith("-dirty"):
        return ""
    return (
        f"--image={image} is of {recorded}, and this checkout is at {here}: "
        "the job runs the code of the image. --build builds it anew."
    )


def find_revision(checkout: pathlib.Path) -> str:
    """Returns the commit that the image would be of.

    Args:
        checkout: A folder with the Dockerfile.

    Returns:
        Its hash, with "-dirty" after it if files that go into the image are
        changed; "" if this is no repository of git.
    """
    try:
        ignored = (checkout / ".dockerignore").read_text().splitlines()
        copied = [line[1:] for line in ignored if line.startswith("!")]
        paths = ["--", "Dockerfile", *copied]
        commit = _git(checkout, "log", "-1", "--format=%H", *paths)
        changed = _git(checkout, "status", "--porcelain", *paths)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{commit}-dirty" if commit and changed else commit


def _builder() -> str:
    """Returns the first program that can build here, "" for none.

    Docker's client alone is none: `docker version` asks its daemon.
    """
    for program in _BUILDERS:
        if shutil.which(program):
            done = subprocess.run([program, "version"], capture_output=True)
            if not done.returncode:
                return program
    return ""


def _git(checkout: pathlib.Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *words],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
