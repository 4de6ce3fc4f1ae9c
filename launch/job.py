"""What is to be launched: all settings of `launch.submit`, checked when built."""

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from launch.groups import Common
from launch.groups import Container
from launch.groups import Docker
from launch.groups import Kubernetes
from launch.groups import Local
from launch.groups import Restarts
from launch.groups import SageMaker
from launch.groups import SkyPilot
from launch.groups import Slurm
from launch.groups import Sweep
from launch.groups import Throttle
from launch.groups import TimeLimit
from launch.groups import Vertex
from launch.groups import Workers


class Job(settings.Config):
    """The flags of `launch.submit`.

    Raises:
        UsageError: If a setting is impossible, or the target does not take
            it.
    """

    common: Common
    local: Local
    docker: Docker
    slurm: Slurm
    kubernetes: Kubernetes
    vertex: Vertex
    sagemaker: SageMaker
    skypilot: SkyPilot

    @property
    def options(self) -> settings.Group:
        """The settings of the target."""
        return getattr(self, self.common.target)

    def check(self) -> None:
        """Refuses settings that the target does not take, or the job."""
        self._refuse_unused()
        job = self.common.job
        options = self.options
        if job == "serve":
            self._check_server()
        if (
            job == "data_prep"
            and isinstance(options, Workers)
            and options.workers > 1
        ):
            raise UsageError(
                f"--workers={options.workers} with --job=data_prep: data_prep is one "
                "process per machine. Leave it out; data_prep's own --workers "
                "is how many processors it uses."
            )
        if isinstance(options, Container):
            if options.build_options and not options.build:
                raise UsageError(
                    f"--build_options={options.build_options} without --build: "
                    "pass it, or leave them out."
                )
        if isinstance(options, Vertex):
            uri = options.output_uri
            if not uri.startswith("gs://"):
                raise UsageError(
                    f"--output_uri={uri} is no place for Vertex AI to write "
                    "to: expected a gs:// folder."
                )
            if options.tune and job != "trainer":
                raise UsageError(f"--tune is for --job=trainer, not {job}.")

    def _check_server(self) -> None:
        """Refuses what would have no effect on a server."""
        if not isinstance(self.options, Kubernetes):
            raise UsageError(
                f"--job=serve with --target={self.common.target}: only "
                "Kubernetes keeps a server running. On a machine it is "
                "`shardtune serve`."
            )
        unused = {"kind"}.union(
            one.name
            for group in (Sweep, Throttle, Restarts, TimeLimit)
            for one in group.settings()
        )
        values = self.values()
        for one in self.settings():
            value = values[one.name]
            if one.name in unused and value != one.default:
                raise UsageError(
                    f"--{one.name}={value} is of no use to a server, which "
                    "runs until it is deleted. Leave it out."
                )

    def _refuse_unused(self) -> None:
        """Refuses what is not at its default and would have no effect."""
        target, values = self.common.target, self.values()
        taken = {s.name for s in (*Common.settings(), *self.options.settings())}
        for unused in self.settings():
            value = values[unused.name]
            if unused.name in taken or value == unused.default:
                continue
            takers = [
                name
                for name, group in self.groups().items()
                if unused.name in {s.name for s in group.settings()}
            ]
            raise UsageError(
                f"--{unused.name}={value} is for --target="
                f"{' or '.join(takers)}: --target={target} does not use it. "
                "Leave it out."
            )
