"""Vertex AI: CustomJob and HyperparameterTuningJob, by gcloud.

What lies in gs:// is copied in and out by `launch.staged`. Managed data sets
(AIP_TRAINING_DATA_URI) are not read: they are no data sets of data_prep.
"""

import math
import re
import shlex

from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.job import Common
from launch.job import Vertex
from launch.targets import forms
from launch.targets import machines
from launch.targets import patch
from launch.targets import schemas
from launch.targets.rendering import Rendered
from launch.targets.rendering import dump_yaml
from launch.targets.rendering import named_values
from launch.targets.submitted import Submitted
from launch.work import Work

CONFIG = "job.yaml"
SCALES = {
    "linear": "UNIT_LINEAR_SCALE",
    "log": "UNIT_LOG_SCALE",
    "reverse_log": "UNIT_REVERSE_LOG_SCALE",
}

_HEADER_OF_JOB = """\
{name}: a CustomJob of Vertex AI.
  gcloud ai custom-jobs create --region={region} --display-name={name} \\
    --config=this file
Stop: gcloud ai custom-jobs cancel JOB. Resume: create it again; it goes on
from what lies in AIP_MODEL_DIR, which is {output_uri}/model.
"""
_HEADER_OF_TUNING = """\
{name}: a HyperparameterTuningJob of Vertex AI.
  gcloud ai hp-tuning-jobs create --region={region} --display-name={name} \\
    --max-trial-count={trials} --parallel-trial-count={parallel_trials} \\
    --config=this file
Stop: gcloud ai hp-tuning-jobs cancel JOB. Each trial writes below
{output_uri}/TRIAL; the metric is the accuracy on the validation
split, reported by the trainer when a trial ends.
"""
_HEADER_OF_SPEC = """
The first worker pool is the chief. SPOT machines cost less and can be taken
away with 30 s of notice. Synchronous training starts again as a whole when a
worker is lost: restartJobOnWorkerRestart. baseOutputDirectory becomes
AIP_MODEL_DIR, AIP_CHECKPOINT_DIR and AIP_TENSORBOARD_LOG_DIR. Python is
process 1, so it gets SIGTERM itself.
"""


def render(common: Common, options: Vertex, work: Work) -> Rendered:
    """Returns the configurations that gcloud takes; a sweep is a job a run.

    Args:
        common: Name and folder of the job.
        options: The machines, and what is tuned.
        work: What runs on them.

    Raises:
        UsageError: If the image or the package is not where Vertex AI reads,
            --tune is wrong, or Google's messages do not describe the job.
    """
    _check(options)
    if options.tune:
        if work.runs:
            raise UsageError("--tune does not go with --grid or --flag_files.")
        return _render_tuning(common, options, work)
    header = _HEADER_OF_JOB + _HEADER_OF_SPEC
    files, commands = {}, []
    for number, run in enumerate(work.runs or ((),)):
        name = f"{common.name}-{number:03d}" if work.runs else common.name
        file = f"{name}.yaml" if work.runs else CONFIG
        spec = _job_spec(common, options, work, (*work.arguments, *run))
        (spec,) = patch.apply([spec], options.patch)
        schemas.check_vertex(file, spec)
        values = {**vars(options), "name": name}
        files[file] = dump_yaml([spec], header.format(**values))
        commands.append(
            (
                *("gcloud", "ai", "custom-jobs", "create"),
                *(f"--region={options.region}", f"--display-name={name}"),
                f"--config={common.folder / file}",
                "--format=value(name)",
            )
        )
    return Rendered(
        files,
        tuple(commands),
        "Watch: gcloud ai custom-jobs stream-logs JOB "
        f"--region={options.region}. "
        "Stop: gcloud ai custom-jobs cancel JOB. Resume: the command above.",
        place=options.region,
        kind="custom-jobs",
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action; see `kubernetes.follow`."""
    result = []
    for one in found.ids:
        number = one.rpartition("/")[2]
        client = ["gcloud", "ai", found.kind]
        if action == "logs" and follow:
            words = [*client, "stream-logs", number, f"--region={found.place}"]
        elif action == "logs":
            words = [
                *("gcloud", "logging", "read", "--order=asc"),
                f'resource.labels.job_id="{number}"',
                "--format=value(timestamp,jsonPayload.message,textPayload)",
            ]
        else:
            verb = {"status": "describe", "cancel": "cancel"}[action]
            words = [*client, verb, number, f"--region={found.place}"]
        result.append([words])
    return result


def _check(options: Vertex) -> None:
    forms.require("region", options.region, "Google region")
    forms.require("image", options.image, "image")
    forms.require_store("output_uri", options.output_uri, ("gs",))
    if options.service_account:
        forms.require(
            "service_account", options.service_account, "Google account"
        )
    _check_machine(options)
    registry = re.match(r"([a-z0-9-]+)-docker\.pkg\.dev/", options.image)
    if registry and registry[1] not in ("us", "europe", "asia", options.region):
        raise UsageError(
            f"--image={options.image} lies in {registry[1]}, and the job runs "
            f"in --region={options.region}. Use one region for both."
        )
    if not options.tune:
        for name in ("trials", "parallel_trials"):
            if getattr(options, name) != getattr(Vertex, name):
                raise UsageError(f"--{name} is for --tune, which is not given.")
    if "/" not in options.image:
        raise UsageError(
            f"--image={options.image} is in no registry: expected something "
            f"like {options.region}-docker.pkg.dev/PROJECT/REPOSITORY/"
            "shardtune:0.1.0."
        )
    if options.package_uri and not re.fullmatch(
        r"gs://\S+\.(tar\.gz|whl)", options.package_uri
    ):
        raise UsageError(
            f"--package_uri={options.package_uri} is nothing that Vertex AI "
            "can read: expected gs://BUCKET/shardtune-0.1.0.tar.gz."
        )


def _check_machine(options: Vertex) -> None:
    if not options.gpus and options.accelerator != Vertex.accelerator:
        raise UsageError(
            f"--accelerator={options.accelerator} with --gpus=0: leave one out."
        )
    machine = _machine_type(options)
    if not machine:
        raise UsageError(
            f"no machine type is known with {options.gpus} "
            f"{options.accelerator}: pass --machine_type."
        )
    problem = machines.google_problem(
        machine, options.accelerator, options.gpus
    )
    if problem:
        raise UsageError(
            f"--machine_type={machine} does not go with --gpus={options.gpus} "
            f"--accelerator={options.accelerator}: {problem}."
        )


def _machine_type(options: Vertex) -> str:
    return options.machine_type or machines.google_machine(
        options.accelerator, options.gpus
    )


def _render_tuning(common: Common, options: Vertex, work: Work) -> Rendered:
    # A trial writes where Vertex AI gives it a folder of its own.
    given = arguments.replace(work.arguments, {"model_dir": None})
    parameters = [_parameter(word, work) for word in shlex.split(options.tune)]
    _check_search(options, given, [one["parameterId"] for one in parameters])
    config = {
        "studySpec": {
            "metrics": [{"metricId": "accuracy", "goal": "MAXIMIZE"}],
            "parameters": parameters,
        },
        "trialJobSpec": _job_spec(common, options, work, given),
    }
    (config,) = patch.apply([config], options.patch)
    schemas.check_vertex(CONFIG, config)
    header = (_HEADER_OF_TUNING + _HEADER_OF_SPEC).format(
        **{**vars(options), "name": common.name}
    )
    command = (
        *("gcloud", "ai", "hp-tuning-jobs", "create"),
        *(f"--region={options.region}", f"--display-name={common.name}"),
        f"--max-trial-count={options.trials}",
        f"--parallel-trial-count={options.parallel_trials}",
        f"--config={common.folder / CONFIG}",
        "--format=value(name)",
    )
    return Rendered(
        {CONFIG: dump_yaml([config], header)},
        (command,),
        "Watch: gcloud ai hp-tuning-jobs describe JOB "
        f"--region={options.region}. "
        "Stop: gcloud ai hp-tuning-jobs cancel JOB.",
        place=options.region,
        kind="hp-tuning-jobs",
    )


def _check_search(
    options: Vertex, given: tuple[str, ...], names: list[str]
) -> None:
    """Refuses a search that contradicts itself."""
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--tune has {name} twice: give one range.")
        if arguments.value_of(given, name):
            raise UsageError(
                f"--tune searches {name}, and --{name} gives it. Leave one out."
            )
    if options.parallel_trials > options.trials:
        raise UsageError(
            f"--parallel_trials={options.parallel_trials} is more than "
            f"--trials={options.trials}."
        )


def _parameter(word: str, work: Work) -> dict:
    """Returns one searched flag, such as dropout=0:0.5 or dropout=0:0.5:log."""
    name, _, bounds = word.removeprefix("--").partition("=")
    low, _, rest = bounds.partition(":")
    high, _, scale = rest.partition(":")
    scale = scale or "linear"
    try:
        ordered = -math.inf < float(low) < float(high) < math.inf
    except ValueError:
        ordered = False
    if ordered and scale != "linear" and float(low) <= 0:
        raise UsageError(
            f"--tune has {word!r}: a scale of {scale} begins above 0."
        )
    if not ordered or scale not in SCALES:
        raise UsageError(
            f"--tune has {word!r}: expected name=low:high or name=low:high:"
            "SCALE with low below high and a scale of linear, log or "
            "reverse_log."
        )
    if name not in _numbers():
        raise UsageError(
            f"--tune has {word!r}: {name} is no flag of the trainer that is a "
            "number."
        )
    for value in (low, high):
        arguments.parse(work.module, [*work.arguments, f"--{name}={value}"])
    is_whole = (
        low.isdigit() and high.isdigit() and not _takes_fractions(name, work)
    )
    number = int if is_whole else float
    return {
        "parameterId": name,
        "scaleType": SCALES[scale],
        "integerValueSpec" if is_whole else "doubleValueSpec": {
            "minValue": number(low),
            "maxValue": number(high),
        },
    }


def _numbers() -> set[str]:
    settings = arguments.CONFIGS["trainer.task"].settings()
    return {one.name for one in settings if one.type in (int, float)}


def _takes_fractions(name: str, work: Work) -> bool:
    try:
        arguments.parse(work.module, [*work.arguments, f"--{name}=0.5"])
    except UsageError:
        return False
    return True


def _job_spec(
    common: Common, options: Vertex, work: Work, given: tuple[str, ...]
) -> dict:
    program = _program(options, work, given)
    if common.env:
        (inside,) = program.values()
        inside["env"] = named_values(common.variables)
    pools = [_pool(options, 1, program)]  # the chief
    if options.workers > 1:
        pools.append(_pool(options, options.workers - 1, program))
    spec: dict = {
        "workerPoolSpecs": pools,
        "scheduling": {
            "timeout": f"{60 * options.time_limit}s",
            "strategy": "SPOT" if options.spot else "STANDARD",
            "restartJobOnWorkerRestart": options.workers > 1,
        },
    }
    if options.service_account:
        spec["serviceAccount"] = options.service_account
    spec["baseOutputDirectory"] = {"outputUriPrefix": options.output_uri}
    return spec


def _pool(options: Vertex, replicas: int, program: dict) -> dict:
    machine: dict = {"machineType": _machine_type(options)}
    if options.gpus:
        machine["acceleratorType"] = options.accelerator
        machine["acceleratorCount"] = options.gpus
    return {
        "machineSpec": machine,
        "replicaCount": replicas,
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 200},
        **program,
    }


def _program(options: Vertex, work: Work, given: tuple[str, ...]) -> dict:
    module, *before = work.program
    words = [*before, *given]
    if options.package_uri:
        return {
            "pythonPackageSpec": {
                "executorImageUri": options.image,
                "packageUris": [options.package_uri],
                "pythonModule": module,
                "args": words,
            }
        }
    return {
        "containerSpec": {
            "imageUri": options.image,
            "command": ["python", "-m", module],
            "args": words,
        }
    }
