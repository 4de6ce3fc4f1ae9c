"""What runs inside of a job: a module, its arguments, the runs of a sweep."""

import dataclasses
import os
from collections.abc import Iterator
from collections.abc import Sequence

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.groups import MODULES
from launch.groups import Cloud
from launch.groups import Local
from launch.groups import Sweep
from launch.groups import Vertex
from launch.groups import Workers
from launch.job import Job

# Each machine pulls its image and copies the data by itself.
_STARTUP_SECONDS = 1800


@dataclasses.dataclass(frozen=True)
class Work:
    """What runs inside of a job.

    Attributes:
        module: Run as `python -m MODULE`.
        arguments: Its flags, each `--name=value`, checked.
        runs: The flags that each run of a sweep adds; empty for one run.
        staged: Whether `launch.staged` runs the module, because it takes
            local folders and was given some in object storage.
    """

    module: str
    arguments: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...] = ()
    staged: bool = False

    @property
    def program(self) -> tuple[str, ...]:
        """The words before the arguments, after `python -m`."""
        return ("launch.staged", "--") if self.staged else (self.module,)

    @property
    def model_dirs(self) -> tuple[str, ...]:
        """Where each run of a training writes; local ones absolute."""
        if self.module != "trainer.task":
            return ()
        found = (
            arguments.value_of((*self.arguments, *run), "model_dir")
            for run in self.runs or ((),)
        )
        return tuple(
            path if "://" in path else os.path.abspath(path) for path in found
        )

    @property
    def local_paths(self) -> Iterator[tuple[settings.Setting, str, str]]:
        """The paths that any run names, but for addresses in object storage.

        Yields:
            The setting, what stands before the path ("csv:"), and the path.
        """
        for words in (self.arguments, *self.runs):
            for one, prefix, path in arguments.paths(self.module, words):
                if "://" not in path:
                    yield one, prefix, path


def plan(job: Job, words: Sequence[str]) -> Work:
    """Returns what runs inside of a job, every run of its sweep checked.

    Args:
        job: What is to be launched.
        words: The command line of what runs.

    Raises:
        UsageError: If a flag among the words, or the grid, is wrong.
    """
    module = MODULES[job.common.job]
    common = arguments.parse(module, words, _platform_defaults(job))
    runs: list[tuple[str, ...]] = []
    if variants := _variants(job.options):
        if module != "trainer.task":
            raise UsageError("--grid and --flag_files are for --job=trainer.")
        base = arguments.value_of(common, "model_dir").rstrip("/")
        whole = [
            arguments.parse(
                module, [*common, *variant, f"--model_dir={base}/{number:03d}"]
            )
            for number, variant in enumerate(variants)
        ]
        common = tuple(a for a in whole[0] if all(a in run for run in whole))
        runs = [tuple(a for a in run if a not in common) for run in whole]
    return Work(
        module, common, tuple(runs), _is_staged(job, module, (common, *runs))
    )


def _variants(options: settings.Group) -> list[list[str]]:
    if not isinstance(options, Sweep):
        return []
    grid = arguments.expand_grid(options.grid)
    return grid + arguments.name_flag_files(options.flag_files)


def _is_staged(job: Job, module: str, runs: Sequence[Sequence[str]]) -> bool:
    # SageMaker copies folders of a bucket itself, and data_prep reads and writes
    # object storage itself. Vertex AI mounts buckets, but reading by position
    # is slow there, and a folder cannot be renamed.
    if job.common.target == "sagemaker" or module != "trainer.task":
        return False
    return any(
        "://" in path
        for words in runs
        for _, _, path in arguments.paths(module, words)
    )


def _platform_defaults(job: Job) -> list[str]:
    """Returns the flags that the platform gives where the words do not."""
    options = job.options
    if job.common.job == "serve":
        # For the Service and the probes, which come from outside the pod.
        return ["--host=0.0.0.0"]
    if job.common.job != "trainer":
        return []
    found = []
    if isinstance(options, Workers) and not isinstance(options, Local):
        if options.workers > 1:
            found.append(f"--startup_timeout={_STARTUP_SECONDS}")
    if isinstance(options, Cloud) and options.output_uri:
        # On Vertex AI also what AIP_MODEL_DIR will say.
        name = "model" if isinstance(options, Vertex) else job.common.name
        found.append(f"--model_dir={options.output_uri.rstrip('/')}/{name}")
    return found
