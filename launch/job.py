"""What is to be launched: the flags of `launch.submit`, checked when built."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

from data_prep.errors import UsageError

TARGETS = ("local", "docker", "slurm", "kubernetes", "vertex", "sagemaker")
MODULES = {"trainer": "trainer.task", "data_prep": "data_prep.task"}
KINDS = ("job", "jobset", "trainjob", "tfjob")


@dataclasses.dataclass(frozen=True)
class Job:
    """The flags of `launch.submit`; README.md says what each means."""

    target: str = "local"
    job: str = "trainer"
    name: str = "shardtune"
    output_dir: str = "launched"
    dry_run: bool = False
    workers: int = 1
    gpus: int = 1
    cpus: int = 8
    memory_gb: int = 32
    image: str = "shardtune:0.1.0"
    time_limit: int = 1440
    grace_seconds: int = 120
    restarts: int = 20
    spot: bool = False
    grid: str = ""
    flag_files: str = ""
    python: str = "python"
    setup: str = ""
    slurm_options: str = ""
    kind: str = "job"
    namespace: str = "default"
    volumes: str = ""
    region: str = "us-central1"
    machine_type: str = ""
    accelerator: str = "NVIDIA_L4"
    output_uri: str = ""
    package_uri: str = ""
    service_account: str = ""
    tune: str = ""
    trials: int = 20
    parallel_trials: int = 4
    role_arn: str = ""

    def __post_init__(self):
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise UsageError(
                f"--name={self.name} cannot be the name of a job everywhere. "
                "Expected 1 to 40 of a-z, 0-9 and -, a letter first and no - "
                "last."
            )
        if self.workers > 1 and self.job == "data_prep":
            raise UsageError(
                f"--workers={self.workers} with --job=data_prep: data_prep is "
                "one process per machine. Leave it out; data_prep's own "
                "--workers is how many processors it uses."
            )
        if self.target == "vertex" and not self.output_uri.startswith("gs://"):
            raise UsageError(
                f"--output_uri={self.output_uri} is no place for Vertex AI to "
                "write to: expected a gs:// folder."
            )
        if self.tune and self.target != "vertex":
            raise UsageError(
                f"--tune is Vertex AI's; --target={self.target} takes --grid "
                "or --flag_files."
            )
        if self.tune and self.job != "trainer":
            raise UsageError(f"--tune is for --job=trainer, not {self.job}.")

    @property
    def folder(self) -> pathlib.Path:
        """Where the rendered files go, absolute."""
        return pathlib.Path(self.output_dir, self.name).absolute()


@dataclasses.dataclass(frozen=True)
class Work:
    """What runs inside of the job.

    Attributes:
        module: Run as `python -m MODULE`.
        arguments: Flags of the work, each `--name=value`, checked.
        runs: What each run of a sweep adds to them; empty for one run.
        staged: Data or model lie in object storage.
    """

    module: str
    arguments: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...] = ()
    staged: bool = False

    @property
    def program(self) -> tuple[str, ...]:
        """The words before the arguments, after `python -m`."""
        return ("launch.staged", "--") if self.staged else (self.module,)

    def value(self, name: str) -> str:
        """Returns the value of a flag, "" where it was not given."""
        return value_of(self.arguments, name)


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a target makes of a job.

    Attributes:
        files: Content by name, below the job's folder.
        commands: Programs with their words, which submit it.
        afterwards: How to watch, stop and resume it.
        runs_here: The one command is the work itself, not its submission.
    """

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    afterwards: str
    runs_here: bool = False


def value_of(arguments: tuple[str, ...], name: str) -> str:
    """Returns the value of `--name=value` among arguments, "" for none."""
    found = ""
    for argument in arguments:
        if argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def local_path(value: str) -> tuple[str, str]:
    """Returns the path in the value of a flag, and what stands before it.

    Args:
        value: A path, an address in object storage, or a source of data_prep
            such as csv:FILE.

    Returns:
        "", "csv:" or "tfds:", and the path, "" where it names none here.
    """
    prefix = next((p for p in ("csv:", "tfds:") if value.startswith(p)), "")
    path = value.removeprefix(prefix)
    named = prefix == "tfds:" and "/" not in path  # a data set of TFDS
    return prefix, "" if "://" in path or named else path


def replaced(
    arguments: tuple[str, ...], values: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Returns arguments with other values of flags; None leaves a flag out."""
    kept = [
        a
        for a in arguments
        if a.partition("=")[0].removeprefix("--") not in values
    ]
    given = [f"--{n}={v}" for n, v in values.items() if v is not None]
    return (*given, *kept)
