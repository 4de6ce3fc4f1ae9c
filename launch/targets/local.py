"""This machine: all of its GPUs, or several processes to try a cluster."""

import getpass
import glob
import os
import pathlib
import shlex
import shutil
import sys

import psutil

from data_prep.runtime.errors import UsageError
from launch.groups import Common
from launch.groups import Local
from launch.targets.rendering import Rendered
from launch.targets.rendering import check_setup
from launch.targets.rendering import export_lines
from launch.targets.rendering import fill_template
from launch.targets.rendering import flag_files
from launch.targets.rendering import shell_lines
from launch.targets.submitted import Submitted
from launch.work import Work

_EPOCHS = "metrics.jsonl"  # in the model directory, a line an epoch


def render(common: Common, options: Local, work: Work) -> Rendered:
    """Returns a script, and a systemd unit for a single run.

    Args:
        common: Name and folder of the job.
        options: The interpreter, and how often it starts.
        work: What runs.

    Raises:
        UsageError: For several workers on object storage, or a --setup that
            is no shell line.
    """
    if options.workers > 1 and work.staged:
        raise UsageError(
            "--workers on one machine takes local folders: copy the data, or "
            "use --target=slurm or kubernetes."
        )
    check_setup(options.setup)
    # A line of --setup may bring another one.
    if (
        options.python
        and not options.setup
        and not shutil.which(options.python)
    ):
        raise UsageError(
            f"--python={options.python} is no program here. Leave it out for "
            f"{sys.executable}."
        )
    values = {
        "name": common.name,
        "directory": shlex.quote(str(pathlib.Path.cwd())),
        "environment": export_lines(common.variables),
        "setup": options.setup,
        "line": shell_lines(_line(common, options, work)),
    }
    if work.runs:
        script = fill_template(
            "run_sweep.sh",
            **values,
            folder=shlex.quote(str(common.folder)),
            numbers=" ".join(str(n) for n in range(len(work.runs))),
        )
        files = {"run.sh": script, **flag_files(work.runs)}
    else:
        files = {
            "run.sh": fill_template("run.sh", **values),
            f"{common.name}.service": _unit(common, options),
        }
    return Rendered(
        files,
        (("bash", str(common.folder / "run.sh")),),
        "Stop: Ctrl-C or SIGTERM; the state is saved within a step. Resume: "
        f"bash {common.folder / 'run.sh'}",
        runs_here=True,
        log=_log(common, options, work),
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action; see `kubernetes.follow`.

    Raises:
        UsageError: Of a job that has ended, or that left nothing to show.
    """
    if action == "logs":
        files = sorted(glob.glob(found.log))
        if not files:
            raise UsageError(
                "a job of this machine prints where it was started, as a "
                f"systemd unit to `journalctl --unit={found.name}`. "
                f"There is no {found.log or 'file of it'}."
            )
        return [[["tail", "--lines=+1", *["--follow"] * follow, *files]]]
    # The process that submitted it has become the work: its number stays.
    (number,) = found.ids
    if not _is_running(int(number), found):
        raise UsageError(
            f"{found.name} has ended. What it reached is in "
            f"{', '.join(found.model_dirs) or 'its --output_dir'}."
        )
    if action == "cancel":
        return [[["kill", "-TERM", number]]]
    return [[["ps", "-p", number, "-o", "pid,lstart,etime,args"]]]


def _is_running(number: int, found: Submitted) -> bool:
    """Tells the job's process from a later one of the same number."""
    try:
        process = psutil.Process(number)
        is_its = process.create_time() == found.began
        return is_its and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _log(common: Common, options: Local, work: Work) -> str:
    """Returns the files that tell how the job goes on, with wildcards.

    One process prints where it was started, but for its epochs.
    """
    if options.workers > 1:
        return glob.escape(str(_log_dir(common))) + "/*.log"
    places = [pathlib.Path(one) for one in work.model_dirs]
    if not places or work.staged:
        return ""
    if work.runs:
        return glob.escape(str(places[0].parent)) + f"/*/{_EPOCHS}"
    return glob.escape(str(places[0])) + f"/{_EPOCHS}"


def _log_dir(common: Common) -> pathlib.Path:
    """Returns the folder of what each of several processes prints."""
    return common.folder / "logs"


def _line(common: Common, options: Local, work: Work) -> list[str]:
    python = options.python or sys.executable
    program = [python, "-m", *work.program]
    if options.workers > 1:
        program = [
            *(python, "-m", "launch.workers"),
            f"--workers={options.workers}",
            f"--restarts={options.restarts}",
            f"--grace_seconds={options.grace_seconds}",
            f"--logs_dir={_log_dir(common)}",
            "--",
        ]
    return [*program, *work.arguments]


def _unit(common: Common, options: Local) -> str:
    return fill_template(
        "systemd.service",
        name=common.name,
        starts=options.restarts + 1,
        user=_user(),
        path=_quoted(os.environ.get("PATH", os.defpath)),
        # In ExecStart alone $ names a variable.
        script=_quoted(str(common.folder / "run.sh")).replace("$", "$$"),
        grace=options.grace_seconds,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _quoted(text: str) -> str:
    """Returns a text as it stands between " in a unit of systemd."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        text = text.replace(plain, escaped)
    return text
