"""What must hold of a manifest, which Kubernetes's own schemas do not say.

The schemas themselves (kubernetes-validate) and the models of JobSet and
TrainJob (kubeflow-trainer-api) are asked too where they are installed:
`pip install shardtune[kubernetes]`.
"""

from collections.abc import Iterator
from collections.abc import Sequence

from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import EXIT_USAGE
from data_prep.runtime.errors import UsageError
from launch import arguments
from launch.targets import rules
from trainer.distribution.cluster import WORKERS_VARIABLE

_MODELS = {
    "JobSet": "JobsetV1alpha2JobSet",
    "TrainJob": "TrainerV1alpha1TrainJob",
    "TrainingRuntime": "TrainerV1alpha1TrainingRuntime",
}
_ENUMS = {
    "completionMode": {"Indexed", "NonIndexed"},
    "podReplacementPolicy": {"Failed", "TerminatingOrFailed"},
    "restartPolicy": {"Never", "OnFailure", "Always", "ExitCode"},
    "operator": {"In", "NotIn"},
    "medium": {"", "Memory", "HugePages"},
    "cleanPodPolicy": {"Running", "All", "None"},
    "action": {
        *("Ignore", "FailJob", "FailIndex", "Count"),
        *("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"),
    },
}


def check(documents: Sequence[dict]) -> None:
    """Refuses what a cluster would refuse, or accept and not do.

    Args:
        documents: The objects of a manifest.

    Raises:
        UsageError: Naming the object and the rule.
    """
    runs = None
    for document in documents:
        kind = document.get("kind", "?")
        _check_schema(document)
        for path, value in _leaves(document):
            allowed = _ENUMS.get(path[-1])
            rules.require(
                allowed is None or value in allowed,
                kind,
                f"{'.'.join(path)} is {value!r}: expected one of "
                f"{', '.join(sorted(allowed or ()))}",
            )
        if kind == "ConfigMap":
            runs = [text.splitlines() for text in document["data"].values()]
    for document in documents:
        for job in _specs(document, "podFailurePolicy"):
            _check_job(document["kind"], job)
        for pod in _specs(document, "containers"):
            _check_pod(document, pod, runs)
    _check_service(documents)


def _check_schema(document: dict) -> None:
    kind = document.get("kind", "?")
    core = "." not in document.get("apiVersion", "").partition("/")[0]
    if core and rules.installed("kubernetes_validate"):
        import kubernetes_validate

        try:
            kubernetes_validate.validate(document, "1.37", strict=True)
        except kubernetes_validate.ValidationError as error:
            raise UsageError(
                f"Kubernetes refuses the {kind}: {error.message} at "
                f"{'.'.join(map(str, error.path)) or 'its top'}."
            ) from None
    if kind in _MODELS and rules.installed("kubeflow_trainer_api"):
        from kubeflow_trainer_api import models

        model = getattr(models, _MODELS[kind])
        try:
            kept = model.from_dict(document).to_dict()
        except ValueError as error:
            raise UsageError(f"the {kind} is wrong: {error}") from None
        lost = set(_paths(document)) - set(_paths(kept))
        rules.require(not lost, kind, f"it knows no {', '.join(sorted(lost))}")
    if kind == "TFJob" and rules.installed("kubeflow.training"):
        _check_tfjob(document)


def _check_tfjob(document: dict) -> None:
    from kubeflow.training import models

    known = set(models.KubeflowOrgV1TFJobSpec.attribute_map.values())
    policy = set(models.KubeflowOrgV1RunPolicy.attribute_map.values())
    replica = set(models.KubeflowOrgV1ReplicaSpec.attribute_map.values())
    spec = document["spec"]
    for what, found, allowed in (
        ("spec", spec, known),
        ("spec.runPolicy", spec.get("runPolicy", {}), policy),
        *(
            (f"spec.tfReplicaSpecs.{name}", one, replica)
            for name, one in spec.get("tfReplicaSpecs", {}).items()
        ),
    ):
        lost = set(found) - allowed
        rules.require(not lost, "TFJob", f"{what} knows no {', '.join(lost)}")
    types = set(spec.get("tfReplicaSpecs", {}))
    strange = types - {"Chief", "Worker", "PS", "Evaluator"}
    rules.require(not strange, "TFJob", f"it knows no replica type {strange}")


def _check_job(kind: str, job: dict) -> None:
    pod = job["template"]["spec"]
    rules.require(
        pod.get("restartPolicy") == "Never",
        kind,
        "podFailurePolicy wants restartPolicy: Never",
    )
    rules.require(
        job.get("completionMode") == "Indexed",
        kind,
        "only completionMode: Indexed gives the pods their ranks",
    )
    names = {container["name"] for container in pod["containers"]}
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {})
        container = codes.get("containerName")
        rules.require(
            container is None or container in names,
            kind,
            f"podFailurePolicy names the container {container!r}, which is "
            f"none of {sorted(names)}",
        )
        for code in codes.get("values", ()):
            rules.require(code != 0, kind, "exit code 0 is no failure")
            actions.setdefault(code, rule["action"])
        rules.require(
            rule["action"] != "FailIndex" or "backoffLimitPerIndex" in job,
            kind,
            "FailIndex wants backoffLimitPerIndex",
        )
    for code in (EXIT_USAGE, EXIT_DATA):
        rules.require(
            actions.get(code) in ("FailJob", "FailIndex"),
            kind,
            f"exit code {code} must fail the job: running it again cannot help",
        )
    rules.require(
        actions.get(EXIT_STOPPED) not in ("FailJob", "FailIndex"),
        kind,
        f"exit code {EXIT_STOPPED} says that the state is saved: it must not "
        "fail the job",
    )


def _check_pod(document: dict, pod: dict, runs: list | None) -> None:
    kind = document["kind"]
    (container,) = pod["containers"]
    module = rules.module_of(container.get("command", []), f"the {kind}")
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    rules.require(
        set(mounts.values()) <= set(volumes),
        kind,
        "a volumeMount names no volume of the pod",
    )
    shared = volumes.get(mounts.get("/dev/shm", ""), {})
    rules.require(
        shared.get("emptyDir", {}).get("medium") == "Memory",
        kind,
        "/dev/shm is no emptyDir in memory, which NCCL needs",
    )
    rules.require(
        pod.get("terminationGracePeriodSeconds", 30) >= 30,
        kind,
        "terminationGracePeriodSeconds is too short to save the state",
    )
    requests = container["resources"].get("requests", {})
    rules.require(
        "nvidia.com/gpu" not in requests
        or requests["nvidia.com/gpu"]
        == container["resources"].get("limits", {}).get("nvidia.com/gpu"),
        kind,
        "nvidia.com/gpu stands under limits",
    )
    rules.require(
        kind != "TFJob" or container["name"] == "tensorflow",
        kind,
        "its container must be called tensorflow",
    )
    words = [a for a in container.get("args", ()) if a != "--"]
    kept = [a for a in words if "$(JOB_COMPLETION_INDEX)" not in a]
    module = module.replace("launch.staged", "trainer.task")
    if len(kept) == len(words):
        arguments.check(module, words)
    for run in runs or ():
        arguments.check(module, [*kept, *run])


def _check_service(documents: Sequence[dict]) -> None:
    services = {
        d["metadata"]["name"]: d["spec"]
        for d in documents
        if d["kind"] == "Service"
    }
    for job in (d for d in documents if d["kind"] == "Job"):
        name, spec = job["metadata"]["name"], job["spec"]
        pod = spec["template"]["spec"]
        environ = {
            entry["name"]: entry.get("value")
            for entry in pod["containers"][0].get("env", ())
        }
        rules.require(
            spec["completions"] == spec["parallelism"],
            "Job",
            "completions and parallelism differ, so workers would wait for "
            "others that are not started",
        )
        listed = environ.get(WORKERS_VARIABLE)
        if not listed:
            continue
        subdomain = pod.get("subdomain")
        rules.require(
            subdomain in services,
            "Job",
            f"subdomain {subdomain!r} is no Service, so the workers would not "
            "find each other",
        )
        service = services[subdomain]
        rules.require(
            service.get("clusterIP") == "None"
            and service.get("publishNotReadyAddresses") is True
            and service.get("selector")
            == {"batch.kubernetes.io/job-name": name},
            "Service",
            "it must be headless, publish addresses that are not ready, and "
            "select the Job's pods",
        )
        hosts = [worker.partition(":")[0] for worker in listed.split(",")]
        expected = [
            f"{name}-{n}.{subdomain}" for n in range(spec["completions"])
        ]
        rules.require(
            hosts == expected,
            "Job",
            f"{WORKERS_VARIABLE} lists {hosts}, but the pods are {expected}",
        )


def _specs(node: object, key: str) -> Iterator[dict]:
    """Yields every mapping below a node that has a key."""
    if isinstance(node, dict):
        if key in node:
            yield node
        for value in node.values():
            yield from _specs(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _specs(value, key)


def _leaves(node: object, path: tuple[str, ...] = ()) -> Iterator[tuple]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    elif path:
        yield path, node


def _paths(node: object) -> Iterator[str]:
    for path, _ in _leaves(node):
        yield ".".join(path)
