"""What a platform says about a job: one place that reads its variables.

Precedence: a flag, then the platform, then the flag's default. Imports no
TensorFlow, so that `launch` and a wrong command answer at once.

Sources: Vertex AI's AIP_*, TF_CONFIG and CLUSTER_SPEC; SageMaker's SM_* and
the files below /opt/ml; Slurm's SLURM_* of a step; an Indexed Job's
JOB_COMPLETION_INDEX beside SHARDTUNE_WORKERS, which `launch` writes.
"""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence

from data_prep.runtime.errors import UsageError

WORKERS_VARIABLE = "SHARDTUNE_WORKERS"
SAGEMAKER_PORT = 8890
# Slurm gives a job no port: 200 blocks of 100, below the ephemeral ones.
SLURM_FIRST_PORT = 12000
SLURM_BLOCKS = 200
SLURM_BLOCK = 100

_OPT_ML = pathlib.Path("/opt/ml")
_TERMINATION_LOG = pathlib.Path("/dev/termination-log")
_BOOLEANS = {"true", "false", "t", "f", "1", "0", "yes", "no", "y", "n"}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Who takes part in a training of several processes.

    Attributes:
        workers: "host:port" of each process, by rank; at least two.
        index: The rank of this process.
    """

    workers: tuple[str, ...]
    index: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where a platform wants things; None where it says nothing.

    Attributes:
        data_dir: The data set.
        model_dir: What survives a restart of the job: the model directory,
            with its checkpoints inside.
        publish_dir: Where the finished model is to be copied, where that is
            another place (SageMaker archives it when the job ends).
        log_dir: TensorBoard's events.
        failure_file: Why the job failed, for the platform to show.
        metric_file: Where hyper-parameter tuning reads a trial's figure.
    """

    data_dir: str | None = None
    model_dir: str | None = None
    publish_dir: str | None = None
    log_dir: str | None = None
    failure_file: pathlib.Path | None = None
    metric_file: pathlib.Path | None = None


def cluster(
    environ: Mapping[str, str], opt_ml: pathlib.Path = _OPT_ML
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
    resources = _sagemaker_resources(environ, opt_ml)
    if resources is not None:
        return _from_sagemaker(*resources)
    if _is_number(environ.get("SLURM_STEP_NUM_TASKS", "")):
        return _from_slurm(environ)
    return None


def settings(
    environ: Mapping[str, str],
    opt_ml: pathlib.Path = _OPT_ML,
    termination_log: pathlib.Path = _TERMINATION_LOG,
) -> Settings:
    """Returns where the platform wants things.

    Args:
        environ: Environment variables.
        opt_ml: SageMaker's folder.
        termination_log: Kubernetes's file of a container's last words.
    """
    if _sagemaker_resources(environ, opt_ml) is not None:
        return _sagemaker_settings(environ, opt_ml)
    failure_file = None
    if "KUBERNETES_SERVICE_HOST" in environ and termination_log.exists():
        failure_file = termination_log
    metric_file = None
    if environ.get("CLOUD_ML_HP_METRIC_FILE"):
        metric_file = pathlib.Path(environ["CLOUD_ML_HP_METRIC_FILE"])
    return Settings(
        model_dir=_mounted(environ.get("AIP_MODEL_DIR")),
        log_dir=_mounted(environ.get("AIP_TENSORBOARD_LOG_DIR")),
        failure_file=failure_file,
        metric_file=metric_file,
    )


def arguments(words: Sequence[str], booleans: Collection[str]) -> list[str]:
    """Returns a command line as absl reads it, from one as launchers pass it.

    `--flag False` of a boolean flag becomes `--flag=False`, which absl would
    take as True beside a stray word; `--job_dir` and `--job-dir`, which
    Google's launchers pass, become `--model_dir`.

    Args:
        words: The words after the program's name.
        booleans: Names of the flags that are booleans.
    """
    found: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.lstrip("-") in ("job_dir", "job-dir") and name[:1] == "-":
            word = f"--model_dir{equals}{value}"
        last = found[-1] if found else ""
        if (
            word.lower() in _BOOLEANS
            and last.startswith("-")
            and last.lstrip("-") in booleans
        ):
            found[-1] = f"{last}={word}"
        else:
            found.append(word)
    return found


def expand_hostlist(hostlist: str) -> list[str]:
    """Expands Slurm's short form of host names, in Slurm's own order.

    The order is that of the ranks, so nothing is sorted: `n[9-10,2]` is n9,
    n10, n2. It is what `scontrol show hostnames` prints.

    Args:
        hostlist: Such as `gpu[01-03,07],login`.

    Raises:
        UsageError: If a bracket or range makes no sense.
    """
    hosts = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", hostlist):
        parts = re.split(r"\[([^\]]*)\]", item)
        # Text outside of brackets and lists inside take turns.
        choices = [
            _expand_ranges(part, hostlist) if inside % 2 else [part]
            for inside, part in enumerate(parts)
        ]
        hosts += ["".join(pieces) for pieces in itertools.product(*choices)]
    return hosts


def _expand_ranges(ranges: str, hostlist: str) -> list[str]:
    numbers = []
    for piece in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        if not match:
            raise UsageError(
                f"the host list {hostlist!r} cannot be read: expected numbers "
                f"and ranges in brackets, received [{ranges}]."
            )
        low, high = match[1], match[2] or match[1]
        numbers += [
            str(number).zfill(len(low))
            for number in range(int(low), int(high) + 1)
        ]
    return numbers


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


def _sagemaker_resources(
    environ: Mapping[str, str], opt_ml: pathlib.Path
) -> tuple[list[str], str] | None:
    """Returns hosts and this host, None where this is not SageMaker.

    Its toolkits set SM_HOSTS; a container with an entry point of its own
    finds only the file.
    """
    if environ.get("SM_HOSTS"):
        return _sagemaker_hosts(
            "the variable SM_HOSTS",
            environ["SM_HOSTS"],
            environ.get("SM_CURRENT_HOST", ""),
        )
    path = opt_ml / "input" / "config" / "resourceconfig.json"
    if "TRAINING_JOB_NAME" not in environ or not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return list(content["hosts"]), content["current_host"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error!r}. Expected JSON with hosts and "
            "current_host."
        ) from None


def _sagemaker_hosts(
    what: str, text: str, current: str
) -> tuple[list[str], str]:
    try:
        return [str(host) for host in json.loads(text)], current
    except (ValueError, TypeError) as error:
        raise UsageError(
            f'{what} cannot be read: {error}. Expected JSON such as ["algo-1"].'
        ) from None


def _from_sagemaker(hosts: list[str], current: str) -> Cluster | None:
    if current not in hosts:
        raise UsageError(
            f"SageMaker's hosts are {hosts}, and this one is said to be "
            f"{current!r}: expected one of them."
        )
    workers = [f"{host}:{SAGEMAKER_PORT}" for host in hosts]
    return _checked("SM_HOSTS", workers, hosts.index(current))


def _sagemaker_settings(
    environ: Mapping[str, str], opt_ml: pathlib.Path
) -> Settings:
    channel = opt_ml / "input" / "data" / "train"
    data_dir = (
        environ.get("SM_CHANNEL_TRAIN")
        or environ.get("SM_CHANNEL_TRAINING")
        or (str(channel) if channel.exists() else None)
    )
    failure = environ.get("SM_OUTPUT_FAILURE", opt_ml / "output" / "failure")
    return Settings(
        data_dir=data_dir,
        # Copied to S3 while the job runs and back before a restart, which
        # SM_MODEL_DIR is not.
        model_dir=str(opt_ml / "checkpoints"),
        publish_dir=environ.get("SM_MODEL_DIR", str(opt_ml / "model")),
        log_dir=str(opt_ml / "output" / "tensorboard"),
        failure_file=pathlib.Path(failure),
    )


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    tasks = int(environ["SLURM_STEP_NUM_TASKS"])
    if tasks == 1:
        return None
    hosts = expand_hostlist(environ.get("SLURM_STEP_NODELIST", ""))
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


def _mounted(uri: str | None) -> str | None:
    """Returns the path at which Vertex AI mounts a Cloud Storage folder."""
    if uri and uri.startswith("gs://"):
        return f"/gcs/{uri.removeprefix('gs://').rstrip('/')}"
    return uri or None
