"""Slurm: one task per node, requeued where it left off."""

import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping

from data_prep.errors import UsageError
from launch import render as render_lib
from launch.job import Job
from launch.job import Rendered
from launch.job import Work

SCRIPT = "job.sbatch"


def render(job: Job, work: Work) -> Rendered:
    """Returns the batch script; a sweep is a job array."""
    if job.grace_seconds >= 60 * job.time_limit:
        raise UsageError(
            f"--grace_seconds={job.grace_seconds} is no less than "
            f"--time_limit={job.time_limit} minutes: the notice to stop would "
            "come before the start."
        )
    words = [job.python, "-m", *work.program, *work.arguments]
    line = render_lib.shell_lines(words)
    array, log = "", f"{job.name}-%j.out"
    if work.runs:
        array = f"#SBATCH --array=0-{len(work.runs) - 1}"
        log = f"{job.name}-%A_%a.out"
        runs = shlex.quote(str(job.folder / "runs"))
        line += f' \\\n  --flagfile={runs}/"$SLURM_ARRAY_TASK_ID".flags'
    script = job.folder / SCRIPT
    options = shlex.split(job.slurm_options)
    text = render_lib.template(
        "slurm.sbatch",
        name=job.name,
        file=script,
        workers=job.workers,
        cpus=job.cpus,
        memory=f"{job.memory_gb}G",
        gpus=f"#SBATCH --gpus-per-node={job.gpus}" if job.gpus else "",
        time_limit=job.time_limit,
        log=log,
        grace=job.grace_seconds,
        array=array,
        options="\n".join(f"#SBATCH {option}" for option in options),
        directory=shlex.quote(str(pathlib.Path.cwd())),
        setup=job.setup,
        line=line,
        restarts=job.restarts,
    )
    return Rendered(
        {SCRIPT: text, **render_lib.flag_files(work.runs)},
        # First Slurm itself reads it, without queueing it.
        (("sbatch", "--test-only", str(script)), ("sbatch", str(script))),
        f"Watch: squeue --name={job.name}. Stop: scancel --name={job.name}. "
        f"Resume: sbatch {script}",
    )


def check(files: Mapping[str, str]) -> None:
    """Refuses a script that would not stop or resume as it should."""
    text = files[SCRIPT]
    options = dict(
        re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE)
    )
    rules = {
        "signal": (
            r"USR1@\d+",
            "the tasks get no notice before the time limit (B: would send it "
            "to the shell alone)",
        ),
        "requeue": ("", "a preempted job would not come back"),
        "open-mode": ("append", "a requeued job would erase its log"),
        "ntasks-per-node": ("1", "a task uses all GPUs of its node"),
    }
    for name, (pattern, why) in rules.items():
        if name not in options or not re.fullmatch(pattern, options[name]):
            raise UsageError(
                f"{SCRIPT} lacks `#SBATCH --{name}` as it should be: {why}."
            )
    if re.search(r"srun[^\n]*(\\\n[^\n]*)*\b(ba)?sh -c", text):
        raise UsageError(
            f"{SCRIPT} puts a shell between srun and Python, which would "
            "swallow the signals."
        )
    if shutil.which("bash"):
        done = subprocess.run(
            ["bash", "-n"], input=text, capture_output=True, text=True
        )
        if done.returncode:
            raise UsageError(f"{SCRIPT} is no shell script: {done.stderr}")
