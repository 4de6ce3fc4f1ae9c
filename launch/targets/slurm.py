"""Slurm: one task per node, requeued where it left off.

srun waits for the other tasks (`--kill-on-bad-exit=0 --wait`): a worker that
has saved its state and left with 75 must not have its peers killed while they
save theirs.
"""

import glob
import pathlib
import re
import shlex

from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import WRITTEN
from launch.groups import Common
from launch.groups import Slurm
from launch.targets.rendering import Rendered
from launch.targets.rendering import check_setup
from launch.targets.rendering import export_lines
from launch.targets.rendering import fill_template
from launch.targets.rendering import flag_files
from launch.targets.rendering import shell_lines
from launch.targets.submitted import Submitted
from launch.work import Work

SCRIPT = "job.sbatch"
# What stopping and resuming rely on: the values that --slurm_options, which
# come last and so win, may give these options, and what others would do.
_RELIED_ON = {
    "signal": (
        r"USR1@\d+",
        "the tasks would get no notice before the time limit (B: sends it to "
        "the shell alone)",
    ),
    "requeue": ("", "a preempted job would not come back"),
    "open-mode": ("append", "a requeued job would erase its log"),
    "ntasks-per-node": ("1", "a task uses all GPUs of its node"),
}


def render(common: Common, options: Slurm, work: Work) -> Rendered:
    """Returns the batch script; a sweep is a job array.

    Args:
        common: Name and folder of the job.
        options: The nodes, and how often they start.
        work: What runs on them.

    Raises:
        UsageError: For options under which a job would not stop or resume,
            or a --setup that is no shell line.
    """
    more = _parse_options(options.slurm_options)
    _check(options, more)
    line = shell_lines(
        [
            *_container(common, options, work),
            *(options.python or "python", "-m"),
            *(*work.program, *work.arguments),
        ]
    )
    array, log = "", f"{common.name}-%j.out"
    if work.runs:
        array = f"#SBATCH --array=0-{len(work.runs) - 1}"
        if options.runs_at_once:
            array += f"%{options.runs_at_once}"
        log = f"{common.name}-%A_%a.out"
        runs = shlex.quote(str(common.folder / "runs"))
        line += f' \\\n  --flagfile={runs}/"$SLURM_ARRAY_TASK_ID".flags'
    script = common.folder / SCRIPT
    gpus = f"#SBATCH --gpus-per-node={options.gpus}" if options.gpus else ""
    text = fill_template(
        "slurm.sbatch",
        name=common.name,
        file=script,
        workers=options.workers,
        cpus=options.cpus,
        memory=f"{options.memory_gb}G",
        gpus=gpus,
        time_limit=options.time_limit,
        log=log,
        grace=options.grace_seconds,
        array=array,
        options="\n".join(f"#SBATCH {shlex.quote(word)}" for word in more),
        directory=shlex.quote(str(pathlib.Path.cwd())),
        environment=export_lines(common.variables),
        setup=options.setup,
        line=line,
        restarts=options.restarts,
    )
    return Rendered(
        {SCRIPT: text, **flag_files(work.runs)},
        # First Slurm itself reads it, without queueing it.
        (
            ("sbatch", "--test-only", str(script)),
            ("sbatch", "--parsable", str(script)),
        ),
        f"Watch: squeue --name={common.name}. "
        f"Stop: scancel --name={common.name}. Resume: sbatch {script}",
        log=str(
            pathlib.Path.cwd() / f"{common.name}-ID{'_*' * bool(work.runs)}.out"
        ),
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action; see `kubernetes.follow`."""
    if action == "logs":
        files = [
            file
            for one in found.ids
            for file in sorted(glob.glob(found.log.replace("ID", one)))
        ]
        if not files:
            raise UsageError(
                f"there is no {found.log} yet: the job has not begun, or "
                "another machine holds the folder."
            )
        return [[["tail", "--lines=+1", *["--follow"] * follow, *files]]]
    if action == "cancel":
        return [[["scancel", one]] for one in found.ids]
    return [
        # What has ended is known to the accounting, if there is one.
        [["squeue", f"--jobs={one}"], ["sacct", f"--jobs={one}"]]
        for one in found.ids
    ]


def _container(common: Common, options: Slurm, work: Work) -> list[str]:
    """Returns the words before Python that start it in a container.

    It sees what the flags name, the job's folder and the current one.
    """
    if not options.container:
        return []
    runtime, _, image = options.container.partition(":")
    here = pathlib.Path.cwd()
    folders = {str(here), str(common.folder)}
    for one, prefix, path in work.local_paths:
        place = pathlib.Path(path).absolute()
        is_file = prefix == "csv:" or bool(place.suffix)
        # What is written need not be there yet.
        outer = one.path.mode == WRITTEN or is_file
        folders.add(str(place.parent if outer else place))
    if runtime == "pyxis":
        mounts = ",".join(f"{folder}:{folder}" for folder in sorted(folders))
        return [
            f"--container-image={image}",
            f"--container-mounts={mounts}",
            f"--container-workdir={here}",
        ]
    gpus = ["--nv"] if options.gpus else []
    binds = [f"--bind={folder}" for folder in sorted(folders)]
    return ["apptainer", "exec", *gpus, *binds, f"--pwd={here}", image]


def _parse_options(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(
            f"--slurm_options={text} cannot be read: {error}."
        ) from None
    for word in words:
        # A value by itself would be an option of its own line.
        if not re.match(r"--[a-z]|-[a-zA-Z]", word):
            raise UsageError(
                f"--slurm_options has {word!r}: expected options as "
                "--name=value, such as --partition=gpu."
            )
    return words


def _check(options: Slurm, more: list[str]) -> None:
    if options.grace_seconds >= 60 * options.time_limit:
        raise UsageError(
            f"--grace_seconds={options.grace_seconds} is no less than "
            f"--time_limit={options.time_limit} minutes: the notice to stop "
            "would come before the start."
        )
    for word in more:
        name, _, value = word.removeprefix("--").partition("=")
        pattern, consequence = _RELIED_ON.get(name, (".*", ""))
        if not re.fullmatch(pattern, value):
            raise UsageError(
                f"--slurm_options has {word}: {consequence}. Leave it out; "
                "the script sets it."
            )
    check_setup(options.setup)
