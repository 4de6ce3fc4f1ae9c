"""What must hold of the jobs that we render, so that they stop and resume.

The platforms' own schemas, which `launch.targets.schemas` asks, do not say it.
`check` reads the files as the platform would, knowing nothing of how they were
made; the tests break them on purpose and expect it to notice.
"""

import json
import re
import shlex
import subprocess

import kubernetes_rules
import sagemaker_rules
import vertex_rules
import yaml
from rules import require

from launch import arguments
from launch.targets import schemas


def check(target, files):
    """Refuses files that a platform would refuse, or take and not do.

    Args:
        target: As `--target` names it.
        files: Their content by name.

    Raises:
        AssertionError: If a rule of ours is broken.
        UsageError: If a schema, or the trainer, refuses something.
    """
    if target == "kubernetes":
        documents = list(yaml.safe_load_all(files["job.yaml"]))
        for document in documents:
            schemas.check_kubernetes(document)
        kubernetes_rules.check(documents)
    elif target == "vertex":
        for name, text in files.items():
            config = yaml.safe_load(text)
            schemas.check_vertex(name, config)
            vertex_rules.check(name, config)
    elif target == "sagemaker":
        for name, text in files.items():
            request = json.loads(text)
            schemas.check_sagemaker(name, request)
            sagemaker_rules.check(name, request)
    elif target == "skypilot":
        for name, text in files.items():
            _skypilot(name, yaml.safe_load(text))
    else:
        {"local": _local, "docker": _docker, "slurm": _slurm}[target](files)


def _skypilot(name, task):
    """It comes back, its script parses, and Python is not below a shell."""
    recovery = task["resources"]["job_recovery"]
    require(
        75 in recovery["recover_on_exit_codes"],
        name,
        "75 says that the state is saved: it is started again",
    )
    _parses(task["run"])
    require(
        _last_line(task["run"]).startswith("exec python -m "),
        name,
        "without exec a SIGTERM would reach the shell, not the training",
    )
    _check_flags(task["run"])


def _local(files):
    """The training is a child that signals reach."""
    text = files["run.sh"]
    _parses(text)
    if "--flagfile=" not in text:
        require(
            _last_line(text).startswith("exec "),
            "run.sh",
            "without exec a SIGTERM would reach the shell, not the training",
        )
    else:
        require(
            "trap " in text and "kill -TERM" in text,
            "run.sh",
            "a SIGTERM would not reach the training",
        )
    _check_flags(text)


def _docker(files):
    """No line loses a signal or starts another program."""
    _parses(files["run.sh"])
    line = _last_line(files["run.sh"])
    require(
        line.startswith("exec docker run "),
        "run.sh",
        "without exec a SIGTERM would reach the shell, not the container",
    )
    require(
        not re.search("--entrypoint| sh -c| bash ", line),
        "run.sh",
        "a shell before Python would swallow SIGTERM",
    )
    require(
        "--stop-timeout=" in line,
        "run.sh",
        "Docker kills after 10 s, which may be before the state is saved",
    )
    _check_flags(files["run.sh"])


def _slurm(files):
    text = files["job.sbatch"]
    _parses(text)
    options = dict(
        re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE)
    )
    for name, pattern, why in (
        # B: would send it to the shell alone.
        ("signal", r"USR1@\d+", "no notice before the time limit"),
        ("requeue", "", "a preempted job would not come back"),
        ("open-mode", "append", "a requeued job would erase its log"),
        ("ntasks-per-node", "1", "a task uses all GPUs of its node"),
    ):
        require(
            name in options and re.fullmatch(pattern, options[name]),
            f"#SBATCH --{name}",
            why,
        )
    require(
        not re.search(r"srun[^\n]*(\\\n[^\n]*)*\b(ba)?sh -c", text),
        "job.sbatch",
        "a shell between srun and Python would swallow the signals",
    )
    _check_flags(text)


def _check_flags(text):
    """What starts a module of ours gives it flags that it takes.

    Raises:
        UsageError: As the module would.
    """
    for line in text.replace("\\\n", " ").splitlines():
        if " -m " not in line or line.startswith("#"):
            continue
        words = shlex.split(line)
        if "-m" not in words:
            continue
        module, *words = words[words.index("-m") + 1 :]
        if "--" in words:  # of what starts the trainer
            module, words = "trainer.task", words[words.index("--") + 1 :]
        if not any(word.startswith("--flagfile=") for word in words):
            arguments.parse(module, words)


def _last_line(text):
    return text.replace("\\\n", " ").strip().splitlines()[-1]


def _parses(text):
    done = subprocess.run(
        ["bash", "-n"], input=text, capture_output=True, text=True
    )
    require(done.returncode == 0, "the script", done.stderr)
