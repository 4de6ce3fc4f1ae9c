"""Where the platform of a job wants things: read from what it sets.

Precedence: a flag, then the platform, then the flag's default. Sources: Vertex
AI's AIP_* and CLOUD_ML_*, SageMaker's SM_* and the files below /opt/ml, and
Kubernetes's termination log. Imports no TensorFlow, so that `launch` and a
wrong command answer at once.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from trainer.distribution import sagemaker_hosts

_TERMINATION_LOG = pathlib.Path("/dev/termination-log")


@dataclasses.dataclass(frozen=True)
class PlatformSettings:
    """Where a platform wants things; None where it says nothing.

    Attributes:
        data_dir: The data set.
        model_dir: What survives a restart of the job: the model directory,
            with its checkpoints inside.
        publish_dir: Where the finished model is to be copied, where that is
            another place (SageMaker archives it when the job ends).
        log_dir: TensorBoard's events.
        failure_file: Why the job failed, for the platform to show.
        metric_file: Where hyper-parameter tuning reads a trial's metric.
    """

    data_dir: str | None = None
    model_dir: str | None = None
    publish_dir: str | None = None
    log_dir: str | None = None
    failure_file: pathlib.Path | None = None
    metric_file: pathlib.Path | None = None


def find(
    environ: Mapping[str, str],
    opt_ml: pathlib.Path = sagemaker_hosts.OPT_ML,
    termination_log: pathlib.Path = _TERMINATION_LOG,
) -> PlatformSettings:
    """Returns where the platform wants things.

    Args:
        environ: Environment variables.
        opt_ml: SageMaker's folder.
        termination_log: The file whose content Kubernetes shows of a container
            that has failed.
    """
    if sagemaker_hosts.find(environ, opt_ml) is not None:
        return _of_sagemaker(environ, opt_ml)
    failure_file = None
    if "KUBERNETES_SERVICE_HOST" in environ and termination_log.exists():
        failure_file = termination_log
    metric_file = None
    if environ.get("CLOUD_ML_HP_METRIC_FILE"):
        metric_file = pathlib.Path(environ["CLOUD_ML_HP_METRIC_FILE"])
    return PlatformSettings(
        model_dir=_mounted(environ.get("AIP_MODEL_DIR")),
        log_dir=_mounted(environ.get("AIP_TENSORBOARD_LOG_DIR")),
        failure_file=failure_file,
        metric_file=metric_file,
    )


def _of_sagemaker(
    environ: Mapping[str, str], opt_ml: pathlib.Path
) -> PlatformSettings:
    channel = opt_ml / "input" / "data" / "train"
    data_dir = (
        environ.get("SM_CHANNEL_TRAIN")
        or environ.get("SM_CHANNEL_TRAINING")
        or (str(channel) if channel.exists() else None)
    )
    failure = environ.get("SM_OUTPUT_FAILURE", opt_ml / "output" / "failure")
    return PlatformSettings(
        data_dir=data_dir,
        # Copied to S3 while the job runs and back before a restart, which
        # SM_MODEL_DIR is not.
        model_dir=str(opt_ml / "checkpoints"),
        publish_dir=environ.get("SM_MODEL_DIR", str(opt_ml / "model")),
        log_dir=str(opt_ml / "output" / "tensorboard"),
        failure_file=pathlib.Path(failure),
    )


def _mounted(uri: str | None) -> str | None:
    """Returns the path at which Vertex AI mounts a Cloud Storage folder."""
    if uri and uri.startswith("gs://"):
        return f"/gcs/{uri.removeprefix('gs://').rstrip('/')}"
    return uri or None
