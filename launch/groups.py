"""The settings of `launch.submit`, by group; `Job` of job.py is made of them.

Each setting is declared once. What several targets take stands in a class of
its own, and the group of a target inherits the classes that it takes, so a
consumer asks `isinstance(options, Sweep)` and not for names of targets.
Dataclasses list inherited fields from the last base to the first: the bases
stand in the reverse order of `--help`.
"""

import dataclasses
import pathlib
import re

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import setting

MODULES = {
    "trainer": "trainer.task",
    "data_prep": "data_prep.task",
    "serve": "trainer.serve",
}
TARGETS = (
    *("local", "docker", "slurm", "kubernetes"),
    *("vertex", "sagemaker", "skypilot"),
)
KINDS = ("job", "jobset", "trainjob", "tfjob")


@dataclasses.dataclass(frozen=True)
class Common(settings.Group):
    """The job, on every target."""

    target: str = setting(
        "local", "Where the job runs.", choices=TARGETS, first=True
    )
    job: str = setting(
        "trainer",
        "What runs: the trainer, data_prep, or on Kubernetes a server.",
        choices=tuple(MODULES),
        first=True,
    )
    name: str = setting(
        "shardtune",
        "Name of the job, and of the folder of its files.",
        first=True,
    )
    output_dir: str = setting(
        "launched", "Folder in which the job's folder is made."
    )
    dry_run: bool = setting(
        False,
        "Print the files and the commands; write and start nothing.",
        first=True,
    )

    env: tuple[str, ...] = setting(
        (),
        "NAME=VALUE, a variable of the environment that the job runs in; may "
        "be repeated. It stands in the job's files: no place for secrets.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in self.env:
            if not re.fullmatch(r"[A-Za-z_]\w*=.*", one, re.DOTALL):
                raise UsageError(
                    f"--env={one} is no variable: expected NAME=VALUE."
                )
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", self.name):
            raise UsageError(
                f"--name={self.name} cannot be the name of a job everywhere. "
                "Expected 1 to 40 of a-z, 0-9 and -, a letter first and no - "
                "last."
            )

    @property
    def variables(self) -> dict[str, str]:
        """The variables of the job's environment, by name."""
        return dict(one.split("=", 1) for one in self.env)

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the rendered files, absolute."""
        return pathlib.Path(self.output_dir, self.name).absolute()


@dataclasses.dataclass(frozen=True)
class Workers(settings.Group):
    """Of a training that runs on several machines."""

    workers: int = setting(
        1,
        "Machines (local: processes) that train together; of a server, pods.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class Gpus(settings.Group):
    """Of a target that is asked for GPUs."""

    gpus: int = setting(
        1,
        "GPUs of each machine; under docker, 1 is all that there are; 0 trains "
        "on CPUs.",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class Machine(settings.Group):
    """Of a target that is asked for CPU cores and memory."""

    cpus: int = setting(8, "CPU cores of each machine.", low=1)
    memory_gb: int = setting(32, "Memory of each machine in GB.", low=1)


@dataclasses.dataclass(frozen=True)
class Container(settings.Group):
    """Of a target that runs containers."""

    image: str = setting(
        "shardtune:0.1.0", "Container image, built from the Dockerfile here."
    )
    build: bool = setting(
        False,
        "First build --image from this checkout by docker, podman or buildah, "
        "and push it if its name has a registry and it runs elsewhere.",
    )
    build_options: str = setting(
        "", "More options of the build: --build-arg=WEIGHTS=imagenet."
    )


@dataclasses.dataclass(frozen=True)
class Grace(settings.Group):
    """Of a target whose notice to stop is ours to set."""

    grace_seconds: int = setting(
        120,
        "Seconds from the signal to stop to the kill, to save the state in.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class Restarts(settings.Group):
    """Of a target that starts a stopped job again."""

    restarts: int = setting(
        20,
        "How often a job that stopped with its state saved is started again.",
        low=0,
    )


@dataclasses.dataclass(frozen=True)
class TimeLimit(settings.Group):
    """Of a target that ends a job after some time."""

    time_limit: int = setting(
        1440,
        "Longest run in minutes; on Kubernetes with all of its restarts.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class Sweep(settings.Group):
    """Of a target that runs a training several times, with other flags."""

    grid: str = setting(
        "", 'A sweep: "dropout=0,0.5 batch_size=16,32" runs all four.'
    )
    flag_files: str = setting(
        "",
        "A sweep: files of trainer flags, one run each, with commas between.",
    )


@dataclasses.dataclass(frozen=True)
class Throttle(settings.Group):
    """Of a target whose scheduler can hold runs of a sweep back."""

    runs_at_once: int = setting(
        0, "Runs of a sweep at a time; 0 is all of them.", low=0
    )


@dataclasses.dataclass(frozen=True)
class Shell(settings.Group):
    """Of a target whose script starts Python itself."""

    python: str = setting(
        "",
        "Python interpreter; unless given, python on Slurm, and here the one "
        "that runs this command.",
    )
    setup: str = setting(
        "", "Shell line that runs first: module load cuda, for instance."
    )


@dataclasses.dataclass(frozen=True)
class Patch(settings.Group):
    """Of a target whose job is a document."""

    patch: str = setting(
        "",
        "YAML file that is merged into the job's own: tolerations, node "
        "selectors, networks, tags. Objects by their kind, lists of named "
        "things by name; other lists take the place of what is there.",
    )


@dataclasses.dataclass(frozen=True)
class Volumes(settings.Group):
    """Of a target that mounts folders into a container."""

    volumes: str = setting(
        "",
        "kubernetes: CLAIM:/path,...; docker: /host:/path,... beside the "
        "folders that the flags name.",
    )


@dataclasses.dataclass(frozen=True)
class Account(settings.Group):
    """Of a target with accounts for jobs."""

    service_account: str = setting(
        "",
        "Account that the job runs as, which may read and write its s3:// or "
        "gs:// folders.",
    )


@dataclasses.dataclass(frozen=True)
class Spot(settings.Group):
    """Of a target with spare capacity."""

    spot: bool = setting(False, "Use spare capacity that can be taken away.")


@dataclasses.dataclass(frozen=True)
class Cloud(Spot):
    """Of a training service of a cloud."""

    region: str = setting("us-central1", "Region of the cloud.")
    machine_type: str = setting(
        "",
        "Such as g2-standard-8 on Vertex AI, ml.g5.xlarge on SageMaker.",
    )
    output_uri: str = setting(
        "", "gs:// or s3:// folder for what the service writes."
    )


@dataclasses.dataclass(frozen=True)
class Local(Sweep, Shell, Restarts, Grace, Workers):
    """This machine; it uses all GPUs that it finds."""


@dataclasses.dataclass(frozen=True)
class Docker(Volumes, Grace, Container, Gpus):
    """A container on this machine."""


@dataclasses.dataclass(frozen=True)
class Slurm(
    Throttle, Sweep, Shell, Restarts, Grace, TimeLimit, Machine, Gpus, Workers
):
    """Slurm."""

    slurm_options: str = setting(
        "", "More #SBATCH options: --partition=gpu --account=me."
    )
    container: str = setting(
        "",
        "Run in a container: apptainer:/images/shardtune.sif (or "
        "apptainer:docker://IMAGE), or pyxis:IMAGE.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        runtime, colon, image = self.container.partition(":")
        if self.container and (
            runtime not in ("apptainer", "pyxis") or not image
        ):
            raise UsageError(
                f"--container={self.container} is unknown: expected "
                "apptainer:IMAGE or pyxis:IMAGE."
            )


@dataclasses.dataclass(frozen=True)
class Kubernetes(
    Patch,
    Throttle,
    Sweep,
    Account,
    Volumes,
    Restarts,
    Grace,
    TimeLimit,
    Container,
    Machine,
    Gpus,
    Workers,
):
    """Kubernetes."""

    kind: str = setting(
        "job",
        "job needs nothing but Kubernetes; jobset and trainjob need their "
        "controllers; tfjob is the legacy training operator's.",
        choices=KINDS,
    )
    namespace: str = setting("default", "Namespace of its objects.")
    scratch_gb: int = setting(
        20,
        "Local disk of each pod in GB: for downloaded weights, and copies of "
        "data in object storage.",
        low=1,
    )


@dataclasses.dataclass(frozen=True)
class Vertex(Patch, Sweep, Account, Cloud, TimeLimit, Container, Gpus, Workers):
    """Vertex AI."""

    accelerator: str = setting(
        "NVIDIA_L4", "Type of the --gpus of each machine."
    )
    package_uri: str = setting(
        "",
        "gs:// URI of our sdist, run in --image instead of the package inside "
        "it.",
    )
    tune: str = setting(
        "",
        "finetune_learning_rate=1e-5:1e-3:log dropout=0:0.5 batch_size=16,32, "
        "searched by Vertex AI for the best validation accuracy; written as "
        "`shardtune search` takes it.",
    )
    trials: int = setting(20, "Trials of --tune in all.", low=1)
    parallel_trials: int = setting(4, "Trials of --tune at a time.", low=1)


@dataclasses.dataclass(frozen=True)
class SageMaker(Patch, Sweep, Cloud, Restarts, TimeLimit, Container, Workers):
    """SageMaker."""

    role_arn: str = setting("", "Role that the job runs as.")


@dataclasses.dataclass(frozen=True)
class SkyPilot(Patch, Sweep, Spot, Restarts, Container, Machine, Gpus, Workers):
    """SkyPilot."""

    gpu_type: str = setting("L4", "Type of the --gpus, as SkyPilot names it.")
    infra: str = setting(
        "",
        "Where: aws, gcp/us-central1, k8s/CONTEXT; unless given, the cheapest "
        "place that has the machines.",
    )
