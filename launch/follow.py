"""What follows a submitted job: its platform's own client, and its model."""

import dataclasses
import importlib
import pathlib
import shlex
import shutil
import subprocess

from data_prep.runtime import settings
from data_prep.runtime import storage
from data_prep.runtime.errors import EXIT_FAILURE
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from launch import job
from launch.staging.lease import LEASE
from launch.staging.mirror import COMMIT
from launch.staging.mirror import Mirror
from launch.targets import submitted
from launch.targets.submitted import Submitted

POSITIONAL = "the name of a submitted job"
_DONE = "DONE.json"


@dataclasses.dataclass(frozen=True)
class Place(settings.Group):
    """Where the job's folder is."""

    output_dir: str = settings.same_as(job.Common, "output_dir")


def find(place: Place, words: list[str]) -> Submitted:
    """Returns the job that a command line names.

    Raises:
        UsageError: If it names none, or none that was submitted.
    """
    if len(words) != 1:
        raise UsageError(f"received {words}: expected {POSITIONAL}.")
    return submitted.load(pathlib.Path(place.output_dir, words[0]).absolute())


def ask(action: str, found: Submitted, follow: bool = False) -> int:
    """Runs the platform's client for each of a job's parts.

    Args:
        action: "status", "logs" or "cancel".
        found: What was submitted.
        follow: Of logs: go on until the job ends.

    Returns:
        An exit code: 0 if all succeeded.

    Raises:
        UsageError: If the client is not installed.
    """
    target = importlib.import_module(f"launch.targets.{found.target}")
    codes = [run_first(one) for one in target.follow(action, found, follow)]
    return EXIT_FAILURE if any(codes) else 0


def fetch(model_dir: str, to: pathlib.Path) -> None:
    """Copies a model directory to a folder.

    Args:
        model_dir: A path, or an address in object storage. Of a run that goes
            on there the state of its last copy is taken.
        to: A folder that does not exist.

    Raises:
        DataError: If there is no model directory.
        UsageError: If the folder exists.
    """
    if to.exists():
        raise UsageError(f"{to} exists: pass another --to.")
    if not storage.is_url(model_dir):
        if not pathlib.Path(model_dir).is_dir():
            raise DataError(
                f"{model_dir} is no folder of this machine. Copy it from the "
                "machine or the volume that it lies on."
            )
        shutil.copytree(model_dir, to)
        return
    names = storage.names(model_dir)
    if not names:
        raise DataError(f"{model_dir} holds nothing yet.")
    if COMMIT in names and _DONE not in names:
        Mirror(model_dir, to).fetch()
        return
    plain = [
        (name, name)
        for name in names
        if not name.startswith("objects/") and name not in (COMMIT, LEASE)
    ]
    storage.download(model_dir, to, plain)


def run_first(choices: list[list[str]]) -> int:
    """Runs commands until one succeeds; returns the last one's exit code.

    Raises:
        UsageError: If the client is not installed.
    """
    code = EXIT_FAILURE
    for words in choices:
        if not shutil.which(words[0]):
            raise UsageError(
                f"{words[0]} is not installed here. Where it is, run: "
                f"{shlex.join(words)}"
            )
        print(f"$ {shlex.join(words)}", flush=True)
        code = subprocess.run(words, check=False).returncode
        if not code:
            break
    return code
