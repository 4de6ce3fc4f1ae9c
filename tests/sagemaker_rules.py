"""What must hold of a request to SageMaker, which botocore does not say."""

from rules import module_of
from rules import require

from launch import arguments

CHECKPOINTS = "/opt/ml/checkpoints"
SECONDS_OF_STOP = 120  # from SIGTERM to SIGKILL; SageMaker's own


def check(name, request):
    """Refuses what SageMaker would refuse, or take and not do.

    Args:
        name: Of the file.
        request: As `aws sagemaker create-training-job` reads it.
    """
    algorithm = request["AlgorithmSpecification"]
    module = module_of(algorithm.get("ContainerEntrypoint", []), name)
    words = algorithm.get("ContainerArguments", [])
    if module == "trainer.task":
        words = [
            "--data_dir=/opt/ml/input/data/train",
            f"--model_dir={CHECKPOINTS}",
            *words,
        ]
        _check_folders(name, request)
    arguments.parse(module, words)
    _check_stopping(name, request)


def _check_folders(name, request):
    channels = [c["ChannelName"] for c in request["InputDataConfig"]]
    require("train" in channels, name, "no channel is called train")
    require(
        all(
            c["DataSource"]["S3DataSource"].get("S3DataDistributionType")
            == "FullyReplicated"
            for c in request["InputDataConfig"]
        ),
        name,
        "every worker needs all of the data: FullyReplicated",
    )
    checkpoints = request.get("CheckpointConfig", {})
    require(
        checkpoints.get("LocalPath") == CHECKPOINTS,
        name,
        f"without CheckpointConfig at {CHECKPOINTS} a restart begins anew",
    )


def _check_stopping(name, request):
    stopping = request["StoppingCondition"]
    runtime = stopping["MaxRuntimeInSeconds"]
    if request.get("EnableManagedSpotTraining"):
        require(
            stopping.get("MaxWaitTimeInSeconds", 0) >= runtime,
            name,
            "spot training wants MaxWaitTimeInSeconds of at least "
            "MaxRuntimeInSeconds",
        )
    else:
        require(
            "MaxWaitTimeInSeconds" not in stopping,
            name,
            "MaxWaitTimeInSeconds is for spot training only",
        )
    require(
        runtime > SECONDS_OF_STOP,
        name,
        f"MaxRuntimeInSeconds leaves less than the {SECONDS_OF_STOP} s that a "
        "stop may take",
    )
