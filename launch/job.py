"""What is to be launched: the settings of `launch.submit`, checked when built.

What all targets share is one group, what one takes besides is a group of its
own, made of the settings that it has in common with others.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator
from collections.abc import Mapping

from data_prep.config import PrepareConfig
from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting
from trainer.config import Config

TARGETS = ("local", "docker", "slurm", "kubernetes", "vertex", "sagemaker")
MODULES = {"trainer": "trainer.task", "data_prep": "data_prep.task"}
CONFIGS = {"trainer.task": Config, "data_prep.task": PrepareConfig}


KINDS = ("job", "jobset", "trainjob", "tfjob")


@dataclasses.dataclass(frozen=True)
class Common(settings.Group):
    """The job, on every target."""

    target: str = setting(
        "local", "Where it runs.", choices=TARGETS, first=True
    )
    job: str = setting(
        "trainer",
        "What runs: the trainer, or data_prep.",
        choices=tuple(MODULES),
        first=True,
    )
    name: str = setting(
        "shardtune", "Of the job and of the folder of its files.", first=True
    )
    output_dir: str = setting(
        "launched", "The folder of the job's files is made below it."
    )
    dry_run: bool = setting(
        False,
        "Print the files and the commands; write and start nothing.",
        first=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise UsageError(
                f"--name={self.name} cannot be the name of a job everywhere. "
                "Expected 1 to 40 of a-z, 0-9 and -, a letter first and no - "
                "last."
            )

    @property
    def folder(self) -> pathlib.Path:
        """Where the rendered files go, absolute."""
        return pathlib.Path(self.output_dir, self.name).absolute()


@dataclasses.dataclass(frozen=True)
class Workers(settings.Group):
    """Workers."""

    workers: int = setting(
        1, "Machines (local: processes) that train together.", low=1
    )


@dataclasses.dataclass(frozen=True)
class Gpus(settings.Group):
    """GPUs."""

    gpus: int = setting(1, "GPUs of each machine; 0 trains on CPUs.", low=0)


@dataclasses.dataclass(frozen=True)
class Machine(settings.Group):
    """Size of a machine."""

    cpus: int = setting(8, "CPU cores of each machine.", low=1)
    memory_gb: int = setting(32, "Memory of each machine in GB.", low=1)


@dataclasses.dataclass(frozen=True)
class Image(settings.Group):
    """Container image."""

    image: str = setting(
        "shardtune:0.1.0", "Container image, made by the Dockerfile here."
    )


@dataclasses.dataclass(frozen=True)
class Notice(settings.Group):
    """Notice to stop."""

    grace_seconds: int = setting(
        120,
        "Seconds from the notice to stop to the kill: time to save the state.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class Restarts(settings.Group):
    """Restarts."""

    restarts: int = setting(
        20,
        "How often a job that stopped with its state saved is started again.",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class TimeLimit(settings.Group):
    """Time limit."""

    time_limit: int = setting(1440, "Longest run in minutes.", low=1)


@dataclasses.dataclass(frozen=True)
class Sweep(settings.Group):
    """A sweep."""

    grid: str = setting(
        "", 'A sweep: "dropout=0,0.5 batch_size=16,32" runs all four.'
    )
    flag_files: str = setting(
        "", "A sweep: files of trainer flags, one run each."
    )


@dataclasses.dataclass(frozen=True)
class Shell(settings.Group):
    """Shell."""

    python: str = setting("python", "Interpreter.")
    setup: str = setting(
        "", "A shell line before the work: module load cuda, for instance."
    )


@dataclasses.dataclass(frozen=True)
class Volumes(settings.Group):
    """Volumes."""

    volumes: str = setting(
        "",
        "kubernetes: CLAIM:/path,...; docker: /host:/path,... beside the "
        "folders that the flags name.",
    )


@dataclasses.dataclass(frozen=True)
class Account(settings.Group):
    """Account."""

    service_account: str = setting(
        "",
        "The account that the job runs as, which s3:// and gs:// folders want.",
    )


@dataclasses.dataclass(frozen=True)
class Cloud(settings.Group):
    """A cloud's machines."""

    region: str = setting("us-central1", "Of Vertex AI or SageMaker.")
    machine_type: str = setting(
        "",
        "g2-standard-8 and such on Vertex AI; ml.g5.xlarge and such on "
        "SageMaker.",
    )
    output_uri: str = setting(
        "", "gs:// or s3:// folder for what Vertex AI or SageMaker makes."
    )
    spot: bool = setting(False, "Use spare capacity that can be taken away.")


@dataclasses.dataclass(frozen=True)
class Local(Sweep, Shell, Restarts, Notice, Workers):
    """This machine; it uses all GPUs that it finds."""


@dataclasses.dataclass(frozen=True)
class Docker(Volumes, Notice, Image, Gpus):
    """A container on this machine."""


@dataclasses.dataclass(frozen=True)
class Slurm(Sweep, Shell, Restarts, Notice, TimeLimit, Machine, Gpus, Workers):
    """Slurm."""

    slurm_options: str = setting(
        "", "More #SBATCH options: --partition=gpu --account=me."
    )


@dataclasses.dataclass(frozen=True)
class Kubernetes(
    Sweep, Account, Volumes, Restarts, Notice, Image, Machine, Gpus, Workers
):
    """Kubernetes."""

    kind: str = setting(
        "job",
        "job needs nothing but Kubernetes; jobset and trainjob need their "
        "controllers; tfjob is the legacy training operator's.",
        choices=KINDS,
    )
    namespace: str = setting("default", "Of Kubernetes.")


@dataclasses.dataclass(frozen=True)
class Vertex(Sweep, Account, Cloud, TimeLimit, Image, Gpus, Workers):
    """Vertex AI."""

    accelerator: str = setting("NVIDIA_L4", "--gpus of them per machine.")
    package_uri: str = setting(
        "",
        "gs:// URI of our sdist, run in --image instead of the package inside "
        "of it.",
    )
    tune: str = setting(
        "",
        "finetune_learning_rate=1e-5:1e-3:log dropout=0:0.5, searched by "
        "Vertex AI for the best validation accuracy.",
    )
    trials: int = setting(20, "Of --tune, in all.", low=1)
    parallel_trials: int = setting(4, "Of --tune, at once.", low=1)


@dataclasses.dataclass(frozen=True)
class SageMaker(Sweep, Cloud, Restarts, TimeLimit, Image, Workers):
    """SageMaker."""

    role_arn: str = setting("", "The role that the job runs as.")


class Job(settings.Config):
    """The flags of `launch.submit`.

    Raises:
        UsageError: If a setting is impossible, or the target takes no such
            setting.
    """

    common: Common
    local: Local
    docker: Docker
    slurm: Slurm
    kubernetes: Kubernetes
    vertex: Vertex
    sagemaker: SageMaker

    def check(self) -> None:
        """Refuses what the target does not take."""
        target = self.common.target
        self._refuse_unused(target)
        if self.value("workers") > 1 and self.common.job == "data_prep":
            raise UsageError(
                f"--workers={self.value('workers')} with --job=data_prep: "
                "data_prep is one process per machine. Leave it out; "
                "data_prep's own --workers is how many processors it uses."
            )
        if target == "vertex":
            self._check_vertex()

    def value(self, name: str) -> object:
        """Returns the value of a setting, whatever groups it stands in."""
        return self.values()[name]

    def _refuse_unused(self, target: str) -> None:
        groups = self.groups()
        taken = {
            one.name
            for attribute in ("common", target)
            for one in groups[attribute].settings()
        }
        values = self.values()
        for one in self.settings():
            if one.name in taken or values[one.name] == one.default:
                continue
            users = [
                other
                for other in TARGETS
                if one.name in {s.name for s in groups[other].settings()}
            ]
            raise UsageError(
                f"--{one.name}={values[one.name]} is for --target="
                f"{' or '.join(users)}: --target={target} does not use it. "
                "Leave it out."
            )

    def _check_vertex(self) -> None:
        uri = self.vertex.output_uri
        if not uri.startswith("gs://"):
            raise UsageError(
                f"--output_uri={uri} is no place for Vertex AI to write to: "
                "expected a gs:// folder."
            )
        if self.vertex.tune and self.common.job != "trainer":
            raise UsageError(
                f"--tune is for --job=trainer, not {self.common.job}."
            )


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

    @property
    def paths(self) -> Iterator[tuple[settings.Setting, str, str]]:
        """Settings of which a run names a path that is not in a store.

        Yields:
            The setting, what stands before the path ("csv:"), and the path.
        """
        given = [*self.arguments, *(a for run in self.runs for a in run)]
        declared = {one.name: one for one in CONFIGS[self.module].settings()}
        for argument in given:
            name, _, value = argument.removeprefix("--").partition("=")
            one = declared.get(name)
            if one is not None and one.path:
                prefix, path = one.path.split(value)
                if path and "://" not in path:
                    yield one, prefix, path


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
