"""Vertex AI: CustomJob and HyperparameterTuningJob, by gcloud.

What lies in gs:// is copied in and out by `launch.staged`. Managed data sets
(AIP_TRAINING_DATA_URI) are not read: they are no data sets of data_prep.
"""

import re
from collections.abc import Mapping

from data_prep.runtime import setting_flags
from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.groups import Common
from launch.groups import Vertex
from launch.targets import forms
from launch.targets import machines
from launch.targets import patch
from launch.targets import schemas
from launch.targets.rendering import Rendered
from launch.targets.rendering import dump_yaml
from launch.targets.rendering import named_values
from launch.targets.submitted import Submitted
from launch.work import Work
from trainer.tuning import space
from trainer.tuning.space import Range
from trainer.tuning.space import Values

CONFIG = "job.yaml"

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
    searched = space.parse(options.tune)
    _check_search(options, work, given, searched)
    parameters = [_parameter(name, one) for name, one in searched.items()]
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
    options: Vertex,
    work: Work,
    given: tuple[str, ...],
    searched: Mapping[str, Range | Values],
) -> None:
    """Refuses a search that contradicts itself, or a value that is impossible."""
    for name, one in searched.items():
        if arguments.value_of(given, name):
            raise UsageError(
                f"--tune searches {name}, and --{name} gives it. Leave one out."
            )
        for value in one.ends:
            tried = setting_flags.spelled({name: value})
            arguments.parse(work.module, [*work.arguments, *tried])
    if options.parallel_trials > options.trials:
        raise UsageError(
            f"--parallel_trials={options.parallel_trials} is more than "
            f"--trials={options.trials}."
        )


def _parameter(name: str, searched: Range | Values) -> dict:
    """Returns a searched setting as Vertex AI's ParameterSpec."""
    if isinstance(searched, Values):
        # As words, not as its discrete numbers, which are doubles: 16.0.
        values = list(map(setting_flags.text, searched.ends))
        return {
            "parameterId": name,
            "categoricalValueSpec": {"values": values},
        }
    whole = isinstance(searched.low, int)
    return {
        "parameterId": name,
        "scaleType": f"UNIT_{'LOG' if searched.log else 'LINEAR'}_SCALE",
        "integerValueSpec" if whole else "doubleValueSpec": {
            "minValue": searched.low,
            "maxValue": searched.high,
        },
    }


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
