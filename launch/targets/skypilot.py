"""SkyPilot: a managed job on whichever cloud has the machines.

It finds the cheapest place, brings the job back after a spot machine is taken
away, and on exit code 75. What lies in s3:// or gs:// is staged.
"""

from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import UsageError
from launch.groups import Common
from launch.groups import SkyPilot
from launch.targets import forms
from launch.targets import patch
from launch.targets import schemas
from launch.targets.rendering import Rendered
from launch.targets.rendering import dump_yaml
from launch.targets.rendering import shell_lines
from launch.targets.submitted import Submitted
from launch.work import Work
from trainer.distribution.cluster import WORKERS_VARIABLE

PORT = 2222  # of every worker

_HEADER = """\
{name}: a managed job of SkyPilot.
  sky jobs launch --yes --detach-run --name {name} this file
Watch: sky jobs logs --name {name}. Stop: sky jobs cancel --name {name}.
Resume: launch it again; it goes on from what lies in --model_dir.

After a machine is taken away all nodes are started again, and after exit code
75 (stopped, or lost a peer, with the state saved).
"""
# Machines whose addresses SkyPilot tells, one a line; see its documentation of
# distributed jobs.
_SEVERAL = """\
export {variable}="$(echo "$SKYPILOT_NODE_IPS" | sed 's/$/:{port}/' | paste -sd,)"
export JOB_COMPLETION_INDEX="$SKYPILOT_NODE_RANK"
"""


def render(common: Common, options: SkyPilot, work: Work) -> Rendered:
    """Returns a task's YAML, one for each run of a sweep.

    Args:
        common: Name and folder of the job.
        options: The machines, and where they may be.
        work: What runs on them.

    Raises:
        UsageError: If the image is in no registry, or SkyPilot would refuse
            the task.
    """
    forms.require("image", options.image, "image")
    if "/" not in options.image:
        raise UsageError(
            f"--image={options.image} is in no registry that a cloud's "
            "machines can read: push it, and pass --image=REGISTRY/NAME:TAG."
        )
    files, commands, names = {}, [], []
    for number, run in enumerate(work.runs or ((),)):
        name = f"{common.name}-{number:03d}" if work.runs else common.name
        file = f"{name}.yaml" if work.runs else "job.yaml"
        task = _task(common, options, work, (*work.arguments, *run), name)
        (task,) = patch.apply([task], options.patch)
        schemas.check_skypilot(file, task)
        files[file] = dump_yaml([task], _HEADER.format(name=name))
        names.append(name)
        path = str(common.folder / file)
        commands.append(
            ("sky", "jobs", "launch", "--yes", "--detach-run")
            + ("--name", name, path)
        )
    return Rendered(
        files,
        tuple(commands),
        f"Watch: sky jobs logs --name {names[0]}. "
        f"Stop: sky jobs cancel --name {names[0]}. Resume: the command above.",
        names=tuple(names),
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action; see `kubernetes.follow`."""
    if action == "status":
        return [[["sky", "jobs", "queue"]]]
    more = {
        "cancel": ["--yes"],
        "logs": ["--follow" if follow else "--no-follow"],
    }[action]
    return [
        [["sky", "jobs", action, *more, "--name", name]] for name in found.ids
    ]


def _task(
    common: Common,
    options: SkyPilot,
    work: Work,
    given: tuple[str, ...],
    name: str,
) -> dict:
    resources: dict = {
        "cpus": f"{options.cpus}+",
        "memory": f"{options.memory_gb}+",
        "image_id": f"docker:{options.image}",
        "job_recovery": {
            "max_restarts_on_errors": options.restarts,
            "recover_on_exit_codes": [EXIT_STOPPED],
        },
    }
    if options.gpus:
        resources["accelerators"] = f"{options.gpu_type}:{options.gpus}"
    if options.infra:
        resources["infra"] = options.infra
    if options.spot:
        resources["use_spot"] = True
    before = ""
    if options.workers > 1:
        before = _SEVERAL.format(variable=WORKERS_VARIABLE, port=PORT)
    line = shell_lines(["python", "-m", *work.program, *given])
    task = {"name": name, "num_nodes": options.workers, "resources": resources}
    if common.env:
        task["envs"] = common.variables
    return {**task, "run": f"{before}exec {line}\n"}
