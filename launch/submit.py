"""Command line: the same trainer command, run elsewhere.

python -m launch.submit --target=slurm --workers=2 -- --data_dir=data ...

Renders plain files into a folder, checks them, and hands them to the
platform's own client; with --dry_run it prints what it would do.
"""

import importlib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

from absl import flags

from data_prep import command
from data_prep.errors import EXIT_FAILURE
from data_prep.errors import UsageError
from launch import arguments
from launch.job import KINDS
from launch.job import MODULES
from launch.job import TARGETS
from launch.job import Job
from launch.job import Rendered

_HELPS = {
    "target": "Where it runs.",
    "job": "What runs: the trainer, or data_prep.",
    "name": "Of the job and of the folder of its files.",
    "output_dir": "The folder of the job's files is made below it.",
    "dry_run": "Print the files and the commands; write and start nothing.",
    "workers": "Machines (local: processes) that train together.",
    "gpus": "GPUs of each; 0 trains on CPUs. local always uses all it finds.",
    "cpus": "CPU cores of each, for slurm and kubernetes.",
    "memory_gb": "Memory of each in GB, for slurm and kubernetes.",
    "image": "Container image, made by the Dockerfile here.",
    "time_limit": "Longest run in minutes; slurm, vertex, sagemaker.",
    "grace_seconds": "From the notice to stop to the kill: time to save.",
    "restarts": "How often a job that stopped with its state saved is "
    "started again.",
    "spot": "Use spare capacity that can be taken away; vertex, sagemaker.",
    "grid": 'A sweep: "dropout=0,0.5 batch_size=16,32" runs all four.',
    "flag_files": "A sweep: files of trainer flags, one run each.",
    "python": "Interpreter, for local and slurm.",
    "setup": "A shell line before the work, for local and slurm: module "
    "load cuda, for instance.",
    "slurm_options": "More #SBATCH options: --partition=gpu --account=me.",
    "kind": "job needs nothing but Kubernetes; jobset and trainjob need "
    "their controllers; tfjob is the legacy training operator's.",
    "namespace": "Of Kubernetes.",
    "volumes": "kubernetes: CLAIM:/path,...; docker: /host:/path,... beside "
    "the folders that the flags name.",
    "region": "Of Vertex AI or SageMaker.",
    "machine_type": "g2-standard-8 and such on Vertex AI; ml.g5.xlarge and "
    "such on SageMaker.",
    "accelerator": "Of Vertex AI, --gpus of them per machine.",
    "output_uri": "gs:// or s3:// folder for what Vertex AI or SageMaker "
    "makes.",
    "package_uri": "vertex: gs:// URI of our sdist, run in --image instead of "
    "the package inside of it.",
    "service_account": "vertex, kubernetes: the account that the job runs as, "
    "which s3:// and gs:// folders want.",
    "tune": "vertex: finetune_learning_rate=1e-5:1e-3:log dropout=0:0.5, "
    "searched by Vertex AI for the best validation accuracy.",
    "trials": "vertex: of --tune, in all.",
    "parallel_trials": "vertex: of --tune, at once.",
    "role_arn": "sagemaker: the role that the job runs as.",
}
_CHOICES = {"target": TARGETS, "job": tuple(MODULES), "kind": KINDS}
_BOUNDS = {
    "workers": (1, None),
    "gpus": (0, None),
    "cpus": (1, None),
    "memory_gb": (1, None),
    "time_limit": (1, None),
    "grace_seconds": (1, None),
    "restarts": (0, None),
    "trials": (1, None),
    "parallel_trials": (1, None),
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    command.define_flags(
        Job,
        helps=_HELPS,
        choices=_CHOICES,
        bounds=_BOUNDS,
        flag_values=flag_values,
    )


def render(job: Job, words: list[str]) -> Rendered:
    """Returns the checked files and commands of a job.

    Args:
        job: What is to be launched.
        words: The command line of the work.

    Raises:
        UsageError: If a flag is wrong, or what was rendered breaks a rule of
            the platform.
    """
    work = arguments.work(job, words)
    target = importlib.import_module(f"launch.targets.{job.target}")
    rendered = target.render(job, work)
    target.check(rendered.files)
    return rendered


def submit(rendered: Rendered, folder: pathlib.Path) -> int:
    """Writes the files and runs the commands; returns the first code not 0.

    Raises:
        UsageError: If a client is not installed.
    """
    missing = {c[0] for c in rendered.commands if not shutil.which(c[0])}
    if missing:
        raise UsageError(
            f"{', '.join(sorted(missing))} is not installed here. Install it, "
            "or render with --dry_run and submit elsewhere."
        )
    for name, text in rendered.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in rendered.commands:
        print(f"$ {shlex.join(words)}", flush=True)
        if rendered.runs_here:
            print(rendered.afterwards, flush=True)
            # In the place of this process: a signal reaches the work itself.
            os.execvp(words[0], words)
        code = subprocess.run(words, check=False).returncode
        if code:
            print(f"error: submitting failed with {code}.", file=sys.stderr)
            return EXIT_FAILURE
    print(rendered.afterwards)
    return 0


def main(words: list[str]) -> int:
    """Renders, checks, and prints or submits."""
    job = command.config_from_flags(Job)
    rendered = render(job, words)
    if job.dry_run:
        for name, text in rendered.files.items():
            print(f"==> {job.folder / name} <==\n{text}")
        for line in rendered.commands:
            print(f"$ {shlex.join(line)}")
        print(f"\n{rendered.afterwards}")
        return 0
    return submit(rendered, job.folder)


if __name__ == "__main__":
    define_flags()
    flags.adopt_module_key_flags(command)
    command.run(main, positional="-- and the flags of the trainer")
