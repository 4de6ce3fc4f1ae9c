"""What a platform is handed when a job ends: the model, a figure, or why not.

Imports nothing local and no TensorFlow.
"""

import pathlib
import shutil

FAILURE_BYTES = 1024  # what SageMaker shows; Kubernetes shows 4096
METRIC = "accuracy"


def publish(model_dir: str, publish_dir: str) -> None:
    """Copies a finished model, without its checkpoints, to another folder.

    Args:
        model_dir: What `trainer.run` wrote.
        publish_dir: Gets every file, and DONE.json last.
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
    """Writes why a job failed where the platform looks for it.

    Args:
        path: The platform's file.
        error: What was raised.
    """
    text = f"{type(error).__name__}: {error}\n".encode()[:FAILURE_BYTES]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)


def report_trial(accuracy: float, step: int) -> None:
    """Reports the figure that Vertex AI tunes hyper-parameters by.

    Args:
        accuracy: Of the validation split, 0 to 1.
        step: The epoch that reached it.
    """
    # Google's own writer: it knows where, and which lines to keep.
    import hypertune

    hypertune.HyperTune().report_hyperparameter_tuning_metric(
        hyperparameter_metric_tag=METRIC,
        metric_value=accuracy,
        global_step=step,
    )
