"""SageMaker: CreateTrainingJob, by the AWS command line."""

import datetime
import json
import re
from collections.abc import Iterator
from collections.abc import Mapping

from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.job import replaced
from launch.job import value_of
from launch.targets import rules

DEFAULT_INSTANCE = "ml.g5.xlarge"
CHECKPOINTS = "/opt/ml/checkpoints"
TENSORBOARD = "/opt/ml/output/tensorboard"
_SECONDS_OF_STOP = 120  # from SIGTERM to SIGKILL; SageMaker's own
# What it reads the figures of the log by.
_METRICS = (
    ("loss", r" loss ([0-9.]+),"),
    ("validation:accuracy", r"validation accuracy ([0-9.]+)"),
)


def render(job: Job, work: Work) -> Rendered:
    """Returns a request per run, as `aws sagemaker` reads it.

    JSON has no comments, so what is not obvious in it: ContainerEntrypoint
    makes Python process 1, which the default (bash) keeps SIGTERM from;
    CheckpointConfig's folder is copied to S3 all the while and back before a
    restart, so the whole model directory lies there; a finished model is
    copied to /opt/ml/model, which becomes model.tar.gz.

    Raises:
        UsageError: If the role, the image or a folder is missing.
    """
    folders = ("data_dir",)
    if work.module == "data_prep.task":
        folders = ("source", "output_dir")
    for flag, value, start, example in (
        (
            "role_arn",
            job.sagemaker.role_arn,
            "arn:",
            "arn:aws:iam::ACCOUNT:role/NAME",
        ),
        ("output_uri", job.sagemaker.output_uri, "s3://", "s3://BUCKET/FOLDER"),
        *((f, work.value(f), "s3://", "s3://BUCKET/DATA") for f in folders),
    ):
        if not value.removeprefix("csv:").startswith(start):
            raise UsageError(
                f"--{flag}={value} is nothing that SageMaker can use: expected "
                f"{example}."
            )
    if "/" not in job.sagemaker.image:
        raise UsageError(
            f"--image={job.sagemaker.image} is in no registry: expected something like "
            f"ACCOUNT.dkr.ecr.{job.sagemaker.region}.amazonaws.com/shardtune:0.1.0."
        )
    stamp = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    files, commands = {}, []
    for number, run in enumerate(work.runs or ((),)):
        part = f"-{number:03d}" if work.runs else ""
        given = (*work.arguments, *run)
        request = _request(
            job, work.module, given, f"{job.common.name}{part}-{stamp}"
        )
        if work.module == "trainer.task":
            request |= _folders(job, given)
        name = f"job{part}.json"
        files[name] = json.dumps(request, indent=1) + "\n"
        commands.append(
            (
                *("aws", "sagemaker", "create-training-job"),
                f"--region={job.sagemaker.region}",
                # Two words: the client reads no file from --name=value.
                *("--cli-input-json", f"file://{job.common.folder / name}"),
            )
        )
    return Rendered(
        files,
        tuple(commands),
        "Watch: aws sagemaker describe-training-job --training-job-name=NAME. "
        "Stop: aws sagemaker stop-training-job, which gives 120 s to save. "
        "Resume: render again (a name is used once); it goes on from the "
        "same --model_dir.",
    )


def check(files: Mapping[str, str]) -> None:
    """Refuses what SageMaker would refuse, or take and not do.

    Amazon's own description of the request is asked too where
    `pip install shardtune[sagemaker]` put it: every key, type, choice,
    length and pattern.
    """
    for name, text in files.items():
        request = json.loads(text)
        if rules.installed("botocore"):
            _check_shape(name, request)
        _check_rules(name, request)


def _request(job: Job, module: str, given: tuple[str, ...], name: str) -> dict:
    # The platform's folders, which platform_settings finds. data_prep reads and
    # writes S3 itself.
    words = replaced(given, {"data_dir": None, "model_dir": None})
    seconds = 60 * job.sagemaker.time_limit
    stopping = {"MaxRuntimeInSeconds": seconds}
    if job.sagemaker.spot:
        # Twice the time, to wait for spare machines.
        stopping["MaxWaitTimeInSeconds"] = 2 * seconds
    algorithm = {
        "TrainingImage": job.sagemaker.image,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["python", "-m", module],
    }
    if module == "trainer.task":
        algorithm["MetricDefinitions"] = [
            {"Name": metric, "Regex": regex} for metric, regex in _METRICS
        ]
    if words:
        algorithm["ContainerArguments"] = list(words)
    return {
        "TrainingJobName": name,
        "RoleArn": job.sagemaker.role_arn,
        "AlgorithmSpecification": algorithm,
        "OutputDataConfig": {
            "S3OutputPath": job.sagemaker.output_uri.rstrip("/")
        },
        "ResourceConfig": {
            "InstanceType": job.sagemaker.machine_type or DEFAULT_INSTANCE,
            "InstanceCount": job.sagemaker.workers,
            "VolumeSizeInGB": 100,
        },
        "StoppingCondition": stopping,
        "RetryStrategy": {
            "MaximumRetryAttempts": min(max(job.sagemaker.restarts, 1), 30)
        },
        "EnableManagedSpotTraining": job.sagemaker.spot,
    }


def _folders(job: Job, given: tuple[str, ...]) -> dict:
    """Returns what SageMaker copies in and out for the trainer."""
    model_dir = value_of(given, "model_dir")
    if not model_dir.startswith("s3://"):
        raise UsageError(
            f"--model_dir={model_dir} would be lost with the machine: expected "
            "an s3:// folder, or leave it out for a folder of --output_uri."
        )
    return {
        "InputDataConfig": [
            {
                "ChannelName": "train",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": value_of(given, "data_dir").rstrip("/") + "/",
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "CheckpointConfig": {"S3Uri": model_dir, "LocalPath": CHECKPOINTS},
        "TensorBoardOutputConfig": {
            "S3OutputPath": f"{job.sagemaker.output_uri.rstrip('/')}/tensorboard",
            "LocalPath": TENSORBOARD,
        },
    }


def _check_shape(name: str, request: dict) -> None:
    import botocore.session
    import botocore.validate

    # Without a look at the machine's credentials, or at the network.
    model = botocore.session.Session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    report = botocore.validate.ParamValidator().validate(request, shape)
    wrong = [report.generate_report()] if report.has_errors() else []
    # It leaves choices and patterns to the service.
    wrong += [] if wrong else list(_breaches(request, shape, ""))
    if wrong:
        raise UsageError(f"SageMaker refuses {name}: {'; '.join(wrong)}")


def _breaches(value: object, shape: object, path: str) -> Iterator[str]:
    """Yields what breaks a choice, length or pattern of a botocore shape."""
    if shape.type_name == "structure":
        for key, one in value.items():
            yield from _breaches(one, shape.members[key], f"{path}.{key}")
    elif shape.type_name == "list":
        yield from _bounds(len(value), shape, path, "entries")
        for number, one in enumerate(value):
            yield from _breaches(one, shape.member, f"{path}[{number}]")
    elif shape.type_name == "map":
        for key, one in value.items():
            yield from _breaches(one, shape.value, f"{path}[{key}]")
    elif shape.type_name == "string":
        yield from _bounds(len(value), shape, path, "characters")
        if shape.enum and value not in shape.enum:
            yield f"{path} is {value!r}, none of its {len(shape.enum)} choices"
        pattern = shape.metadata.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            yield f"{path} is {value!r}, which does not match {pattern}"
    elif shape.type_name in ("integer", "long"):
        yield from _bounds(value, shape, path, "")


def _bounds(size: int, shape: object, path: str, unit: str) -> Iterator[str]:
    low = shape.metadata.get("min", size)
    high = shape.metadata.get("max", size)
    if not low <= size <= high:
        yield f"{path} has {size} {unit}: expected {low} to {high}"


def _check_rules(name: str, request: dict) -> None:
    algorithm = request["AlgorithmSpecification"]
    module = rules.module_of(algorithm.get("ContainerEntrypoint", []), name)
    words = algorithm.get("ContainerArguments", [])
    if module == "trainer.task":
        words = [
            "--data_dir=/opt/ml/input/data/train",
            f"--model_dir={CHECKPOINTS}",
            *words,
        ]
        _check_folders(name, request)
    arguments.check(module, words)
    _check_stopping(name, request)


def _check_folders(name: str, request: dict) -> None:
    channels = [c["ChannelName"] for c in request["InputDataConfig"]]
    rules.require("train" in channels, name, "no channel is called train")
    rules.require(
        all(
            c["DataSource"]["S3DataSource"].get("S3DataDistributionType")
            == "FullyReplicated"
            for c in request["InputDataConfig"]
        ),
        name,
        "every worker needs all of the data: FullyReplicated",
    )
    checkpoints = request.get("CheckpointConfig", {})
    rules.require(
        checkpoints.get("LocalPath") == CHECKPOINTS,
        name,
        f"without CheckpointConfig at {CHECKPOINTS} a restart begins anew",
    )


def _check_stopping(name: str, request: dict) -> None:
    stopping = request["StoppingCondition"]
    runtime = stopping["MaxRuntimeInSeconds"]
    if request.get("EnableManagedSpotTraining"):
        rules.require(
            stopping.get("MaxWaitTimeInSeconds", 0) >= runtime,
            name,
            "spot training wants MaxWaitTimeInSeconds of at least "
            "MaxRuntimeInSeconds",
        )
    else:
        rules.require(
            "MaxWaitTimeInSeconds" not in stopping,
            name,
            "MaxWaitTimeInSeconds is for spot training only",
        )
    rules.require(
        runtime > _SECONDS_OF_STOP,
        name,
        f"MaxRuntimeInSeconds leaves less than the {_SECONDS_OF_STOP} s that a "
        "stop may take",
    )
