"""The pods of a job on Kubernetes, the same for every kind of job."""

from collections.abc import Mapping

from launch.groups import Common
from launch.groups import Kubernetes
from launch.targets.rendering import named_values
from launch.work import Work
from trainer.distribution.cluster import WORKERS_VARIABLE

PORT = 2222  # of every worker
RUNS = "/etc/shardtune/runs"
SHARED_MEMORY = "/dev/shm"
SCRATCH = "/scratch"
OWN_MOUNTS = (RUNS, SHARED_MEMORY, SCRATCH)

# Operators look for their container by its name.
_CONTAINERS = {"trainjob": "node", "tfjob": "tensorflow"}


def pod_spec(
    common: Common, options: Kubernetes, work: Work, volumes: Mapping[str, str]
) -> dict:
    """Returns the spec of every pod.

    Args:
        common: The job's name and variables.
        options: The kind of the job and the size of its pods.
        work: What runs in them.
        volumes: The PersistentVolumeClaim of each mounted path.
    """
    name = common.name
    found: dict = {}
    if options.kind == "job" and options.workers > 1:
        found["subdomain"] = name
    is_tfjob = options.kind == "tfjob"
    found["restartPolicy"] = "OnFailure" if is_tfjob else "Never"
    if options.service_account:
        found["serviceAccountName"] = options.service_account
    mounts = _mounts(name, work, volumes)
    return {
        **found,
        "terminationGracePeriodSeconds": options.grace_seconds,
        # With that of the container what the "restricted" standard asks for.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,
            # Not a chown of every file of a large volume at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            _container(common, options, work)
            | {
                "volumeMounts": [
                    {"name": volume["name"], "mountPath": path}
                    for path, volume in mounts.items()
                ]
            }
        ],
        "volumes": list(mounts.values()),
    }


def _container(common: Common, options: Kubernetes, work: Work) -> dict:
    module, *before = work.program
    arguments = [*before, *work.arguments]
    if work.runs:
        arguments.append(f"--flagfile={RUNS}/$(JOB_COMPLETION_INDEX).flags")
    memory, disk = f"{options.memory_gb}Gi", f"{options.scratch_gb}Gi"
    limits: dict = {"memory": memory, "ephemeral-storage": disk}
    if options.gpus:
        limits["nvidia.com/gpu"] = options.gpus
    # A node may hold what was built under this name before.
    pull = {"imagePullPolicy": "Always"} if options.build else {}
    return {
        "name": _CONTAINERS.get(options.kind, "trainer"),
        "image": options.image,
        **(pull if "/" in options.image else {}),
        # No shell, which would keep SIGTERM from Python.
        "command": ["python", "-m", module],
        "args": arguments,
        "env": [
            # Files are cached here; the image's user has no other home.
            {"name": "HOME", "value": SCRATCH},
            {"name": "TMPDIR", "value": SCRATCH},
            *_workers(common.name, options),
            *named_values(common.variables),
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "ports": [{"containerPort": PORT}],
        "resources": {
            "requests": {
                "cpu": options.cpus,
                "memory": memory,
                "ephemeral-storage": disk,
            },
            "limits": limits,
        },
    }


def _workers(name: str, options: Kubernetes) -> list[dict]:
    """Returns the variable that names all workers, where there are several."""
    host = {
        "job": f"{name}-{{}}.{name}",
        "jobset": f"{name}-workers-0-{{}}.{name}",
        "trainjob": f"{name}-node-0-{{}}.{name}",
    }.get(options.kind)  # of a tfjob, the operator sets TF_CONFIG
    if options.workers == 1 or host is None:
        return []
    hosts = [f"{host.format(n)}:{PORT}" for n in range(options.workers)]
    return [{"name": WORKERS_VARIABLE, "value": ",".join(hosts)}]


def _mounts(
    name: str, work: Work, volumes: Mapping[str, str]
) -> dict[str, dict]:
    """Returns the volume of each mounted path."""
    shared = {"medium": "Memory", "sizeLimit": "8Gi"}
    found: dict[str, dict] = {
        SHARED_MEMORY: {"name": "shm", "emptyDir": shared},
        SCRATCH: {"name": "scratch", "emptyDir": {}},
    }
    for number, (path, claim) in enumerate(volumes.items()):
        found[path] = {
            "name": f"volume-{number}",
            "persistentVolumeClaim": {"claimName": claim},
        }
    if work.runs:
        config_map = {"name": f"{name}-runs"}
        found[RUNS] = {"name": "runs", "configMap": config_map}
    return found
