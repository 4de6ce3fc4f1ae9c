"""What a platform gets when a job ends: the model, a metric, or an error.

Imports no TensorFlow.
"""

import os
import pathlib
import shutil
import sys

from data_prep.runtime.errors import UsageError

FAILURE_BYTES = 1024  # what SageMaker shows; Kubernetes shows 4096
METRIC = "accuracy"


def refuse_unwritable(path: pathlib.Path) -> None:
    """Refuses a place that could not be written to when the job ends.

    Platforms make such folders as root, and our image is another user's.

    Args:
        path: A file or a folder; it need not exist.

    Raises:
        UsageError: Naming the place and the user.
    """
    place = path
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        raise UsageError(
            f"the platform wants {path}, and user {os.getuid()} may not write "
            f"to {place}. Build the image with --build-arg USER=root."
        )


def publish(model_dir: str, publish_dir: str) -> None:
    """Copies a finished model, without its checkpoints, to another folder.

    Args:
        model_dir: What `trainer.run` wrote.
        publish_dir: Target folder; DONE.json is copied last.
    """
    source, target = pathlib.Path(model_dir), pathlib.Path(publish_dir)
    last = "DONE.json"
    shutil.copytree(
        source,
        target,
        ignore=shutil.ignore_patterns("checkpoints", "incomplete.*", last),
        dirs_exist_ok=True,
    )
    shutil.copy2(source / last, target / last)


def report_failure(path: pathlib.Path, error: BaseException) -> None:
    """Writes why a job failed to the file that the platform reads.

    Args:
        path: The platform's file.
        error: The exception that ended the job.
    """
    text = f"{type(error).__name__}: {error}\n".encode()[:FAILURE_BYTES]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    except OSError as refused:  # the failure itself is what matters
        print(f"warning: {path} was not written: {refused}", file=sys.stderr)


def report_trial(accuracy: float, step: int) -> None:
    """Reports the metric that Vertex AI tunes hyper-parameters by.

    Args:
        accuracy: Validation accuracy, in [0, 1].
        step: Number of the epoch that reached it.
    """
    # Google's own package knows the file and its format.
    import hypertune

    hypertune.HyperTune().report_hyperparameter_tuning_metric(
        hyperparameter_metric_tag=METRIC,
        metric_value=accuracy,
        global_step=step,
    )
