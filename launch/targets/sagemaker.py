"""SageMaker: CreateTrainingJob, by the AWS command line.

The model directory is /opt/ml/checkpoints, as only that folder comes back
after a spot interruption. The finished model is copied to /opt/ml/model, which
becomes model.tar.gz.
"""

import datetime
import json
import re

from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.groups import Common
from launch.groups import SageMaker
from launch.targets import forms
from launch.targets import machines
from launch.targets import patch
from launch.targets import schemas
from launch.targets.rendering import Rendered
from launch.targets.submitted import Submitted
from launch.work import Work

CHECKPOINTS = "/opt/ml/checkpoints"
TENSORBOARD = "/opt/ml/output/tensorboard"
_MOST_RESTARTS = 30
_MOST_MINUTES = 28 * 24 * 60
SECONDS_OF_STOP = 120  # from SIGTERM to SIGKILL; SageMaker's own
# What it reads the figures of the log by.
_METRICS = (
    # Of the lines of epochs alone: those of a fitted head and of the test are
    # other figures.
    ("train:loss", r": loss ([0-9.]+), accuracy"),
    ("validation:loss", r"; val ([0-9.]+), [0-9.]+;"),
    ("validation:accuracy", r"; val [0-9.]+, ([0-9.]+);"),
)


def render(common: Common, options: SageMaker, work: Work) -> Rendered:
    """Returns a request per run, as `aws sagemaker` reads it.

    JSON has no comments, so what is not obvious in it: ContainerEntrypoint
    makes Python process 1, which the default (bash) keeps SIGTERM from;
    CheckpointConfig's folder is copied to S3 while the job runs, and back
    before a restart.

    Args:
        common: Name and folder of the job.
        options: The role, the machines and how long they may run.
        work: What runs on them.

    Raises:
        UsageError: If the role, the image or a folder is missing, or Amazon's
            description of the request does not allow it.
    """
    _check(options, work)
    # A name is used once in an account.
    stamp = f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    files, commands, names = {}, [], []
    for number, run in enumerate(work.runs or ((),)):
        part = f"-{number:03d}" if work.runs else ""
        given = (*work.arguments, *run)
        request = _request(
            options, work.module, given, f"{common.name}{part}-{stamp}"
        )
        if common.env:
            request["Environment"] = common.variables
        (request,) = patch.apply([request], options.patch)
        names.append(request["TrainingJobName"])
        name = f"job{part}.json"
        schemas.check_sagemaker(name, request)
        files[name] = json.dumps(request, indent=1) + "\n"
        commands.append(
            (
                *("aws", "sagemaker", "create-training-job"),
                f"--region={options.region}",
                # Two words: the client reads no file from --name=value.
                *("--cli-input-json", f"file://{common.folder / name}"),
            )
        )
    return Rendered(
        files,
        tuple(commands),
        "Watch: aws sagemaker describe-training-job --training-job-name=NAME. "
        "Stop: aws sagemaker stop-training-job, which gives 120 s to save. "
        "Resume: render again (a name is used once); it goes on from the "
        "same --model_dir.",
        place=options.region,
        names=tuple(names),
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action; see `kubernetes.follow`."""
    aws = ["aws", f"--region={found.place}"]
    if action == "logs":
        group = "/aws/sagemaker/TrainingJobs"
        return [
            [
                [*aws, "logs", "tail", group, "--since=28d"]
                + [f"--log-stream-name-prefix={one}", *["--follow"] * follow]
            ]
            for one in found.ids
        ]
    verb = {"status": "describe", "cancel": "stop"}[action]
    return [
        [
            [*aws, "sagemaker", f"{verb}-training-job"]
            + [f"--training-job-name={one}"]
        ]
        for one in found.ids
    ]


def _check(options: SageMaker, work: Work) -> None:
    folders = ("data_dir",)
    if work.module == "data_prep.task":
        folders = ("source", "output_dir")
    given = {name: arguments.value_of(work.arguments, name) for name in folders}
    for name, value, start, example in (
        (
            "role_arn",
            options.role_arn,
            "arn:",
            "arn:aws:iam::ACCOUNT:role/NAME",
        ),
        ("output_uri", options.output_uri, "s3://", "s3://BUCKET/FOLDER"),
        *((name, given[name], "s3://", "s3://BUCKET/DATA") for name in folders),
    ):
        if not value.removeprefix("csv:").startswith(start):
            raise UsageError(
                f"--{name}={value} is nothing that SageMaker can use: expected "
                f"{example}."
            )
    forms.require("region", options.region, "Amazon region")
    forms.require("role_arn", options.role_arn, "Amazon role")
    forms.require("image", options.image, "image")
    forms.require_store("output_uri", options.output_uri, ("s3",))
    if options.machine_type:
        forms.require("machine_type", options.machine_type, "Amazon instance")
    registry = re.search(r"\.dkr\.ecr\.([a-z0-9-]+)\.", options.image)
    if registry and registry[1] != options.region:
        raise UsageError(
            f"--image={options.image} lies in {registry[1]}, and the job runs "
            f"in --region={options.region}. SageMaker reads images of its own "
            "region."
        )
    if options.restarts > _MOST_RESTARTS:
        raise UsageError(
            f"--restarts={options.restarts} is more than SageMaker allows: "
            f"expected at most {_MOST_RESTARTS}."
        )
    if options.time_limit > _MOST_MINUTES:
        raise UsageError(
            f"--time_limit={options.time_limit} minutes is more than "
            f"SageMaker allows: expected at most {_MOST_MINUTES}, 28 days."
        )
    if "/" not in options.image:
        raise UsageError(
            f"--image={options.image} is in no registry: expected something "
            f"like ACCOUNT.dkr.ecr.{options.region}.amazonaws.com/"
            "shardtune:0.1.0."
        )
    if 60 * options.time_limit <= SECONDS_OF_STOP:
        raise UsageError(
            f"--time_limit={options.time_limit} minutes is too short: a stop "
            f"alone may take {SECONDS_OF_STOP} s of MaxRuntimeInSeconds."
        )


def _request(
    options: SageMaker, module: str, given: tuple[str, ...], name: str
) -> dict:
    seconds = 60 * options.time_limit
    stopping = {"MaxRuntimeInSeconds": seconds}
    if options.spot:
        # Twice the time, to wait for spare machines.
        stopping["MaxWaitTimeInSeconds"] = 2 * seconds
    request = {
        "TrainingJobName": name,
        "RoleArn": options.role_arn,
        "AlgorithmSpecification": _algorithm(options, module, given),
        "OutputDataConfig": {"S3OutputPath": options.output_uri.rstrip("/")},
        "ResourceConfig": {
            "InstanceType": options.machine_type or machines.AMAZON_DEFAULT,
            "InstanceCount": options.workers,
            "VolumeSizeInGB": 100,
        },
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": options.spot,
    }
    if options.restarts:
        request["RetryStrategy"] = {"MaximumRetryAttempts": options.restarts}
    if module == "trainer.task":
        request |= _folders(options, given)
    return request


def _algorithm(options: SageMaker, module: str, given: tuple[str, ...]) -> dict:
    # The platform's folders, which platform_settings finds. data_prep reads and
    # writes S3 itself.
    words = arguments.replace(given, {"data_dir": None, "model_dir": None})
    algorithm: dict = {
        "TrainingImage": options.image,
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["python", "-m", module],
    }
    if module == "trainer.task":
        algorithm["MetricDefinitions"] = [
            {"Name": metric, "Regex": regex} for metric, regex in _METRICS
        ]
    if words:
        algorithm["ContainerArguments"] = list(words)
    return algorithm


def _folders(options: SageMaker, given: tuple[str, ...]) -> dict:
    """Returns what SageMaker copies in and out for the trainer."""
    model_dir = arguments.value_of(given, "model_dir")
    if not model_dir.startswith("s3://"):
        raise UsageError(
            f"--model_dir={model_dir} would be lost with the machine: expected "
            "an s3:// folder, or leave it out for a folder of --output_uri."
        )
    data_dir = arguments.value_of(given, "data_dir")
    return {
        "InputDataConfig": [
            {
                "ChannelName": "train",
                "DataSource": {
                    "S3DataSource": {
                        "S3DataType": "S3Prefix",
                        "S3Uri": data_dir.rstrip("/") + "/",
                        # Every worker gets all of the data.
                        "S3DataDistributionType": "FullyReplicated",
                    }
                },
            }
        ],
        "CheckpointConfig": {"S3Uri": model_dir, "LocalPath": CHECKPOINTS},
        "TensorBoardOutputConfig": {
            "S3OutputPath": f"{options.output_uri.rstrip('/')}/tensorboard",
            "LocalPath": TENSORBOARD,
        },
    }
