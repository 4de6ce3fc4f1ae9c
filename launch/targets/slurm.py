"""Slurm: one task per node, requeued where it left off."""

import pathlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping

from data_prep.runtime.errors import UsageError
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.targets import render as render_lib

SCRIPT = "job.sbatch"


def render(job: Job, work: Work) -> Rendered:
    """Returns the batch script; a sweep is a job array."""
    if job.slurm.grace_seconds >= 60 * job.slurm.time_limit:
        raise UsageError(
            f"--grace_seconds={job.slurm.grace_seconds} is no less than "
            f"--time_limit={job.slurm.time_limit} minutes: the notice to stop would "
            "come before the start."
        )
    words = [job.slurm.python, "-m", *work.program, *work.arguments]
    line = render_lib.shell_lines(words)
    array, log = "", f"{job.common.name}-%j.out"
    if work.runs:
        array = f"#SBATCH --array=0-{len(work.runs) - 1}"
        log = f"{job.common.name}-%A_%a.out"
        runs = shlex.quote(str(job.common.folder / "runs"))
        line += f' \\\n  --flagfile={runs}/"$SLURM_ARRAY_TASK_ID".flags'
    script = job.common.folder / SCRIPT
    options = shlex.split(job.slurm.slurm_options)
    text = render_lib.template(
        "slurm.sbatch",
        name=job.common.name,
        file=script,
        workers=job.slurm.workers,
        cpus=job.slurm.cpus,
        memory=f"{job.slurm.memory_gb}G",
        gpus=f"#SBATCH --gpus-per-node={job.slurm.gpus}"
        if job.slurm.gpus
        else "",
        time_limit=job.slurm.time_limit,
        log=log,
        grace=job.slurm.grace_seconds,
        array=array,
        options="\n".join(f"#SBATCH {option}" for option in options),
        directory=shlex.quote(str(pathlib.Path.cwd())),
        setup=job.slurm.setup,
        line=line,
        restarts=job.slurm.restarts,
    )
    return Rendered(
        {SCRIPT: text, **render_lib.flag_files(work.runs)},
        # First Slurm itself reads it, without queueing it.
        (("sbatch", "--test-only", str(script)), ("sbatch", str(script))),
        f"Watch: squeue --name={job.common.name}. Stop: scancel --name={job.common.name}. "
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
