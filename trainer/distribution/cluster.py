"""Which processes train together: read from what the platform sets.

Sources: TF_CONFIG; Vertex AI's CLUSTER_SPEC; SHARDTUNE_WORKERS, which `launch`
writes, beside JOB_COMPLETION_INDEX of a Kubernetes Indexed Job; SageMaker's
hosts; SLURM_* of a Slurm step. Imports no TensorFlow, so that `launch` and a
wrong command answer at once.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from collections.abc import Sequence

from data_prep.runtime.errors import UsageError
from trainer.distribution import sagemaker_hosts
from trainer.distribution import slurm_hostlist

WORKERS_VARIABLE = "SHARDTUNE_WORKERS"
SAGEMAKER_PORT = 8890
# Slurm gives a job no port: 200 blocks of 100, below the ephemeral ones.
SLURM_FIRST_PORT = 12000
SLURM_BLOCKS = 200
SLURM_BLOCK = 100


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes that work together, as one of them sees it.

    Attributes:
        workers: "host:port" of each process, by rank; at least two.
        index: The rank of this process.
    """

    workers: tuple[str, ...]
    index: int

    @property
    def on_host(self) -> int:
        """How many of the processes run on this one's host, itself included."""
        hosts = [worker.rpartition(":")[0] for worker in self.workers]
        return hosts.count(hosts[self.index])


def is_first(cluster: Cluster | None) -> bool:
    """Returns whether this worker writes files and prints."""
    return cluster is None or cluster.index == 0


def find_cluster(
    environ: Mapping[str, str], opt_ml: pathlib.Path = sagemaker_hosts.OPT_ML
) -> Cluster | None:
    """Returns the cluster that the platform describes, None for one process.

    The first of these that is set decides: TF_CONFIG, CLUSTER_SPEC,
    SHARDTUNE_WORKERS, SageMaker's hosts, a Slurm step.

    Args:
        environ: Environment variables.
        opt_ml: SageMaker's folder.

    Raises:
        UsageError: If the description cannot be what is meant.
    """
    for name, first, second in (
        ("TF_CONFIG", "chief", "worker"),
        ("CLUSTER_SPEC", "workerpool0", "workerpool1"),
    ):
        if environ.get(name):
            return _from_json(name, environ[name], first, second)
    if environ.get(WORKERS_VARIABLE):
        workers = environ[WORKERS_VARIABLE].split(",")
        return _checked(
            WORKERS_VARIABLE,
            workers,
            _integer(environ, "JOB_COMPLETION_INDEX"),
        )
    resources = sagemaker_hosts.find(environ, opt_ml)
    if resources is not None:
        return _from_sagemaker(*resources)
    if _is_number(environ.get("SLURM_STEP_NUM_TASKS", "")):
        return _from_slurm(environ)
    return None


def _from_json(name: str, text: str, first: str, second: str) -> Cluster | None:
    try:
        content = json.loads(text)
        members = content.get("cluster") or {}
        groups = {kind: list(hosts) for kind, hosts in members.items() if hosts}
        task = content.get("task") or {}
        kind, index = task.get("type", second), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"the variable {name} cannot be read: {error}. Expected JSON such "
            f'as {{"cluster": {{"{second}": ["host:port", ...]}}, "task": '
            f'{{"type": "{second}", "index": 0}}}}.'
        ) from None
    if not groups:
        return None
    strange = set(groups) - {first, second}
    if strange or kind not in groups:
        raise UsageError(
            f"the variable {name} names the groups {sorted(groups)} and the "
            f"task {kind!r}. Expected only {first} and {second}: training is "
            "synchronous, without parameter servers or evaluators."
        )
    if not 0 <= index < len(groups[kind]):
        raise UsageError(
            f"the variable {name} says that this is {kind} {index}, but lists "
            f"{len(groups[kind])} of them."
        )
    before = len(groups.get(first, ())) if kind == second else 0
    workers = groups.get(first, []) + groups.get(second, [])
    return _checked(name, workers, before + index)


def _from_sagemaker(hosts: list[str], current: str) -> Cluster | None:
    if current not in hosts:
        raise UsageError(
            f"SageMaker's hosts are {hosts}, and this one is said to be "
            f"{current!r}: expected one of them."
        )
    workers = [f"{host}:{SAGEMAKER_PORT}" for host in hosts]
    return _checked("SM_HOSTS", workers, hosts.index(current))


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    tasks = int(environ["SLURM_STEP_NUM_TASKS"])
    if tasks == 1:
        return None
    hosts = slurm_hostlist.expand(environ.get("SLURM_STEP_NODELIST", ""))
    if len(hosts) != tasks:
        raise UsageError(
            f"this Slurm step has {tasks} tasks on {len(hosts)} nodes "
            f"({environ.get('SLURM_STEP_NODELIST')}). Expected one task per "
            "node, which uses all of its GPUs: srun --ntasks-per-node=1."
        )
    job = int(environ.get("SLURM_JOB_ID", "0"))
    base = SLURM_FIRST_PORT + job % SLURM_BLOCKS * SLURM_BLOCK
    # A port of its own per rank, for nodes that share an address.
    workers = [
        f"{host}:{base + rank % SLURM_BLOCK}" for rank, host in enumerate(hosts)
    ]
    return _checked(
        "SLURM_STEP_NODELIST", workers, _integer(environ, "SLURM_PROCID")
    )


def _checked(name: str, workers: Sequence[str], index: int) -> Cluster | None:
    for worker in workers:
        if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/,]+):\d+", str(worker)):
            raise UsageError(
                f"{name} names the worker {worker!r}: expected host:port."
            )
    if len(set(workers)) != len(workers):
        raise UsageError(
            f"{name} names a worker twice: {', '.join(workers)}. Every process "
            "needs an address of its own."
        )
    if not 0 <= index < len(workers):
        raise UsageError(
            f"{name} lists {len(workers)} workers, and this process is said to "
            f"be number {index}, counted from 0."
        )
    return Cluster(tuple(workers), index) if len(workers) > 1 else None


def _integer(environ: Mapping[str, str], name: str) -> int:
    if not _is_number(environ.get(name, "")):
        raise UsageError(
            f"the variable {name} is {environ.get(name)!r}: expected the rank "
            "of this process, counted from 0."
        )
    return int(environ[name])


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]+", text) is not None
