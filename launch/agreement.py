"""What a job and the work in it must agree on, seen before it is queued."""

from collections.abc import Sequence

from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.groups import Docker
from launch.groups import Gpus
from launch.groups import SageMaker
from launch.groups import Throttle
from launch.groups import Workers
from launch.job import Job
from launch.targets import forms
from launch.targets import machines
from launch.work import Work

# What each cloud reads and writes.
_STORES = {
    "vertex": ("gs",),
    "sagemaker": ("s3",),
    "skypilot": ("s3", "gs"),
}


def check(job: Job, work: Work) -> None:
    """Refuses a job that would end as soon as it began.

    Args:
        job: What is to be launched.
        work: What runs in it.

    Raises:
        UsageError: Naming the flags that contradict each other.
    """
    options = job.options
    if isinstance(options, Throttle) and options.runs_at_once and not work.runs:
        raise UsageError(
            f"--runs_at_once={options.runs_at_once} is for a sweep: give one "
            "by --grid or --flag_files."
        )
    for words in (work.arguments, *work.runs):
        _check_places(job, work, words)
    if work.module == "trainer.serve":
        _check_server(work.arguments)
    if work.module == "trainer.task":
        for run in work.runs or ((),):
            _check_devices(job, (*work.arguments, *run))


def _check_places(job: Job, work: Work, words: Sequence[str]) -> None:
    """Refuses addresses and paths that the target cannot reach."""
    target = job.common.target
    for one, prefix, path in arguments.paths(work.module, words):
        name = one.name
        if "://" in path:
            stores = _STORES.get(target, ("gs", "s3", "abfs", "az", "hf"))
            forms.require_store(name, path, stores)
            if target == "sagemaker" and name == "weights":
                raise UsageError(
                    f"--weights={path} is not copied to SageMaker's machines: "
                    "build the image with --build-arg WEIGHTS=imagenet, and "
                    "leave it out."
                )
        elif target in _STORES and name != "cache_dir":
            scheme = _STORES[target][0]
            # Where Vertex AI mounts buckets, which is slow to read by position.
            mounted = path.removeprefix("/gcs/")
            example = f"{scheme}://BUCKET/..."
            if target == "vertex" and mounted != path:
                example = f"gs://{mounted}"
            raise UsageError(
                f"--{name}={prefix}{path} is a path of this machine, and "
                f"{target}'s machines do not have it. Expected {example}."
            )
        elif target != "local" and ".." in path.split("/"):
            if isinstance(job.options, Docker):
                continue  # mounted by its absolute path
            raise UsageError(
                f"--{name}={prefix}{path} has a .. in it: write the path that "
                "the job's machine is to open."
            )


def _check_server(words: Sequence[str]) -> None:
    """Refuses what would keep a pod from serving."""
    model_dir = arguments.value_of(words, "model_dir")
    if "://" in model_dir:
        raise UsageError(
            f"--model_dir={model_dir} is not copied to a server: mount a "
            "volume that holds the model, with --volumes=CLAIM:/path."
        )
    if arguments.value_of(words, "port") == "0":
        raise UsageError(
            "--port=0 takes any port, and the Service has to know it: leave it "
            "out."
        )


def _check_devices(job: Job, words: Sequence[str]) -> None:
    options = job.options
    workers = options.workers if isinstance(options, Workers) else 1
    gpus = _gpus(job)

    def value(name: str) -> str:
        return arguments.value_or_default("trainer.task", words, name)

    strategy, virtual = value("strategy"), int(value("virtual_devices"))
    if workers > 1 and strategy in ("one_device", "mirrored"):
        raise UsageError(
            f"--strategy={strategy} with --workers={workers}: each would "
            "train a model of its own. Leave --strategy out."
        )
    if strategy == "multi_worker" and workers == 1:
        raise UsageError(
            "--strategy=multi_worker with one worker: pass --workers, or leave "
            "it out."
        )
    if virtual and (workers > 1 or gpus):
        raise UsageError(
            f"--virtual_devices={virtual} stands in for GPUs on one machine "
            f"without: it does not go with --workers={workers} and {gpus} "
            "GPUs. Leave it out, or pass --gpus=0."
        )
    devices = 1 if strategy == "one_device" else virtual or max(gpus or 1, 1)
    batch, replicas = int(value("batch_size")), workers * devices
    if batch % replicas:
        nearest = max(1, round(batch / replicas)) * replicas
        raise UsageError(
            f"--batch_size={batch} cannot be shared by {replicas} devices "
            f"({workers} workers of {devices}). Use --batch_size={nearest}."
        )


def _gpus(job: Job) -> int | None:
    """Returns the GPUs of each machine, None where nothing says it."""
    options = job.options
    if isinstance(options, SageMaker):
        return machines.amazon_gpus(
            options.machine_type or machines.AMAZON_DEFAULT
        )
    if isinstance(options, Docker) and options.gpus == 1:
        return None  # all that there are
    return options.gpus if isinstance(options, Gpus) else None
