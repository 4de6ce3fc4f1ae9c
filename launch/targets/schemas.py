"""The platforms' own descriptions of a job, asked where they are installed.

`pip install 'shardtune[kubernetes]'` (or vertex, sagemaker) brings them. They
know what a user can get wrong and we cannot list: types of machines and
accelerators, lengths and patterns of names, keys of a later version. That our
rendering stops and resumes as it should is what the tests say.
"""

import functools
import importlib.util
import re
from collections.abc import Iterator

from data_prep.runtime.errors import UsageError

_KUBERNETES = "1.37"
_OPERATORS_MODELS = {
    "JobSet": "JobsetV1alpha2JobSet",
    "TrainJob": "TrainerV1alpha1TrainJob",
    "TrainingRuntime": "TrainerV1alpha1TrainingRuntime",
}


def check_kubernetes(document: dict) -> None:
    """Refuses an object that Kubernetes, JobSet or Trainer would refuse.

    Args:
        document: One object of a manifest.

    Raises:
        UsageError: Naming the field.
    """
    kind = document.get("kind", "?")
    group = document.get("apiVersion", "").partition("/")[0]
    if "." not in group and _is_installed("kubernetes_validate"):
        import kubernetes_validate

        try:
            kubernetes_validate.validate(document, _KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise UsageError(
                f"Kubernetes refuses the {kind}: {error.message} at "
                f"{'.'.join(map(str, error.path)) or 'its top'}."
            ) from None
    if kind in _OPERATORS_MODELS and _is_installed("kubeflow_trainer_api"):
        from kubeflow_trainer_api import models

        model = getattr(models, _OPERATORS_MODELS[kind])
        try:
            kept = model.from_dict(document).to_dict()
        except ValueError as error:
            raise UsageError(f"the {kind} is wrong: {error}") from None
        # It leaves out keys that it does not know.
        if lost := set(key_paths(document)) - set(key_paths(kept)):
            raise UsageError(
                f"the {kind} is wrong: it knows no {', '.join(sorted(lost))}."
            )


def check_vertex(name: str, config: dict) -> None:
    """Refuses a configuration that Google's messages do not describe.

    gcloud passes a misspelt key on, and Vertex AI ignores it.

    Args:
        name: The file's name, for the message.
        config: A CustomJob or a HyperparameterTuningJob.

    Raises:
        UsageError: Naming the field.
    """
    if not _is_installed("google.cloud.aiplatform_v1"):
        return
    # One to two seconds of processor time: the messages come with the clients
    # of all services. Only --target=vertex pays, where they are installed.
    from google.cloud.aiplatform_v1 import types
    from google.protobuf import json_format

    is_tuning = "studySpec" in config or "trialJobSpec" in config
    kind = types.HyperparameterTuningJob if is_tuning else types.CustomJobSpec
    try:
        json_format.ParseDict(config, kind.pb(kind()))
    except json_format.ParseError as error:
        raise UsageError(f"Vertex AI refuses {name}: {error}") from None


def check_sagemaker(name: str, request: dict) -> None:
    """Refuses what Amazon's description of CreateTrainingJob does not allow.

    Args:
        name: The file's name, for the message.
        request: Every key, type, choice, length and pattern in it is checked.

    Raises:
        UsageError: Naming the field.
    """
    if not _is_installed("botocore"):
        return
    import botocore.validate

    shape = _training_job_shape()
    report = botocore.validate.ParamValidator().validate(request, shape)
    wrong = [report.generate_report()] if report.has_errors() else []
    # It leaves choices and patterns to the service.
    wrong += [] if wrong else list(_breaches(request, shape, ""))
    if wrong:
        raise UsageError(f"SageMaker refuses {name}: {'; '.join(wrong)}")


def check_skypilot(name: str, task: dict) -> None:
    """Refuses a task that SkyPilot's own loader refuses.

    Args:
        name: The file's name, for the message.
        task: What stands in it.

    Raises:
        UsageError: With its message.
    """
    if not _is_installed("sky"):
        return
    import sky

    try:
        sky.Task.from_yaml_config(task)
    except ValueError as error:
        raise UsageError(f"SkyPilot refuses {name}: {error}") from None


def key_paths(node: object, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the keys that lead to each scalar, with dots between."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from key_paths(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from key_paths(value, path)
    else:
        yield ".".join(path)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False  # not even the package that it would be in


@functools.cache
def _training_job_shape() -> object:
    import botocore.session

    # Without a look at the machine's credentials, or at the network.
    model = botocore.session.Session().get_service_model("sagemaker")
    return model.operation_model("CreateTrainingJob").input_shape


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
        # Classes of Unicode, which Python's own expressions do not have.
        if pattern and "\\p{" in pattern:
            pattern = None
        if pattern and not re.fullmatch(pattern, value):
            yield f"{path} is {value!r}, which does not match {pattern}"
    elif shape.type_name in ("integer", "long"):
        yield from _bounds(value, shape, path, "")


def _bounds(size: int, shape: object, path: str, unit: str) -> Iterator[str]:
    low = shape.metadata.get("min", size)
    high = shape.metadata.get("max", size)
    if not low <= size <= high:
        yield f"{path} has {size} {unit}: expected {low} to {high}"
