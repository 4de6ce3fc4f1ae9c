"""What must hold of a manifest, which Kubernetes's own schemas do not say."""

from rules import module_of
from rules import require

from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import EXIT_USAGE
from launch import arguments
from trainer.distribution.cluster import WORKERS_VARIABLE

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


def check(documents):
    """Refuses what a cluster would refuse, or accept and not do.

    Args:
        documents: The objects of a manifest.

    Raises:
        AssertionError: Naming the object and the rule.
        UsageError: If the trainer would refuse its flags.
    """
    runs = None
    for document in documents:
        kind = document.get("kind", "?")
        for path, value in _leaves(document):
            allowed = _ENUMS.get(path[-1])
            require(
                allowed is None or value in allowed,
                kind,
                f"{'.'.join(path)} is {value!r}: expected one of "
                f"{', '.join(sorted(allowed or ()))}",
            )
        if kind == "ConfigMap":
            runs = [text.splitlines() for text in document["data"].values()]
        if kind == "TFJob":
            _check_tfjob(document)
    for document in documents:
        for job in _specs(document, "podFailurePolicy"):
            _check_job(document["kind"], job)
        for pod in _specs(document, "containers"):
            _check_pod(document, pod, runs)
    _check_server(documents)
    _check_service(documents)
    _check_hosts(documents)


def _check_tfjob(document):
    try:
        from kubeflow.training import models
    except ImportError:
        return  # the tests that rely on it are skipped
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
        require(not lost, "TFJob", f"{what} knows no {', '.join(lost)}")
    types = set(spec.get("tfReplicaSpecs", {}))
    strange = types - {"Chief", "Worker", "PS", "Evaluator"}
    require(not strange, "TFJob", f"it knows no replica type {strange}")


def _check_job(kind, job):
    pod = job["template"]["spec"]
    require(
        pod.get("restartPolicy") == "Never",
        kind,
        "podFailurePolicy wants restartPolicy: Never",
    )
    require(
        job.get("completionMode") == "Indexed",
        kind,
        "only completionMode: Indexed gives the pods their ranks",
    )
    require(
        "activeDeadlineSeconds" in job,
        kind,
        "evictions count as no restart: a Job needs activeDeadlineSeconds",
    )
    names = {container["name"] for container in pod["containers"]}
    actions = {}
    for rule in job["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes", {})
        container = codes.get("containerName")
        require(
            container is None or container in names,
            kind,
            f"podFailurePolicy names the container {container!r}, which is "
            f"none of {sorted(names)}",
        )
        for code in codes.get("values", ()):
            require(code != 0, kind, "exit code 0 is no failure")
            actions.setdefault(code, rule["action"])
        require(
            rule["action"] != "FailIndex" or "backoffLimitPerIndex" in job,
            kind,
            "FailIndex wants backoffLimitPerIndex",
        )
    for code in (EXIT_USAGE, EXIT_DATA):
        require(
            actions.get(code) in ("FailJob", "FailIndex"),
            kind,
            f"exit code {code} must fail the job: running it again cannot help",
        )
    require(
        actions.get(EXIT_STOPPED) not in ("FailJob", "FailIndex"),
        kind,
        f"exit code {EXIT_STOPPED} says that the state is saved: it must not "
        "fail the job",
    )


def _check_pod(document, pod, runs):
    kind = document["kind"]
    (container,) = pod["containers"]
    module = module_of(container.get("command", []), f"the {kind}")
    mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    require(
        set(mounts.values()) <= set(volumes),
        kind,
        "a volumeMount names no volume of the pod",
    )
    shared = volumes.get(mounts.get("/dev/shm", ""), {})
    require(
        shared.get("emptyDir", {}).get("medium") == "Memory",
        kind,
        "/dev/shm is no emptyDir in memory, which NCCL needs",
    )
    require(
        pod.get("terminationGracePeriodSeconds", 30) >= 30,
        kind,
        "terminationGracePeriodSeconds is too short to save the state",
    )
    _check_restricted(kind, pod, container)
    requests = container["resources"].get("requests", {})
    require(
        "nvidia.com/gpu" not in requests
        or requests["nvidia.com/gpu"]
        == container["resources"].get("limits", {}).get("nvidia.com/gpu"),
        kind,
        "nvidia.com/gpu stands under limits",
    )
    require(
        kind != "TFJob" or container["name"] == "tensorflow",
        kind,
        "its container must be called tensorflow",
    )
    words = [a for a in container.get("args", ()) if a != "--"]
    kept = [a for a in words if "$(JOB_COMPLETION_INDEX)" not in a]
    module = module.replace("launch.staged", "trainer.task")
    if len(kept) == len(words):
        arguments.parse(module, words)
    for run in runs or ():
        arguments.parse(module, [*kept, *run])


def _check_restricted(kind, pod, container):
    """By the Pod Security Standard "restricted", as far as a pod states it."""
    of_pod, of_container = pod["securityContext"], container["securityContext"]
    require(
        of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser") != 0,
        kind,
        "the pod may run as root",
    )
    require(
        of_pod.get("seccompProfile") == {"type": "RuntimeDefault"},
        kind,
        "system calls are not limited",
    )
    require(
        of_container.get("allowPrivilegeEscalation") is False
        and of_container.get("capabilities") == {"drop": ["ALL"]},
        kind,
        "the container has rights that it does not need",
    )
    hosts = {"hostNetwork", "hostPID", "hostIPC", "hostPath"}
    found = {part for path, _ in _leaves(pod) for part in path} & hosts
    require(not found, kind, f"it uses the node's own: {', '.join(found)}")


def _check_server(documents):
    """Requests reach the server, and none is lost when a pod ends."""
    found = {one["kind"]: one.get("spec") for one in documents}
    if "Deployment" not in found:
        return
    deployment, service = found["Deployment"], found["Service"]
    labels = deployment["template"]["metadata"]["labels"]
    require(
        labels == deployment["selector"]["matchLabels"] == service["selector"],
        "Service",
        "it selects other pods than the Deployment makes",
    )
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    words = dict(
        word.removeprefix("--").split("=", 1) for word in container["args"]
    )
    (port,) = container["ports"]
    require(
        port["containerPort"] == int(words.get("port", "8501")),
        "Deployment",
        "the server listens at another port",
    )
    require(
        words["host"] == "0.0.0.0",
        "Deployment",
        "nothing from outside the pod reaches the server",
    )
    wanted = {"readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    asked = {name: container[name]["httpGet"] for name in wanted}
    require(
        {name: one["path"] for name, one in asked.items()} == wanted,
        "Deployment",
        "a probe asks another address than the server has for it",
    )
    names = {service["ports"][0]["targetPort"]}
    names |= {one["port"] for one in asked.values()}
    require(names == {port["name"]}, "Deployment", "a port is called otherwise")
    require(
        pod["restartPolicy"] == "Always",
        "Deployment",
        "a Deployment starts its pods again",
    )
    require(
        0
        < container["lifecycle"]["preStop"]["sleep"]["seconds"]
        < pod["terminationGracePeriodSeconds"] - 30,
        "Deployment",
        "a pod has to leave the Service before it ends, and then to have the "
        "30 s in which a request may arrive",
    )


def _check_service(documents):
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
        require(
            spec["completions"] == spec["parallelism"]
            or "backoffLimitPerIndex" in spec,  # runs, which need no other
            "Job",
            "completions and parallelism differ, so workers would wait for "
            "others that are not started",
        )
        listed = environ.get(WORKERS_VARIABLE)
        if not listed:
            continue
        subdomain = pod.get("subdomain")
        require(
            subdomain in services,
            "Job",
            f"subdomain {subdomain!r} is no Service, so the workers would not "
            "find each other",
        )
        service = services[subdomain]
        require(
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
        require(
            hosts == expected,
            "Job",
            f"{WORKERS_VARIABLE} lists {hosts}, but the pods are {expected}",
        )


def _check_hosts(documents):
    """The workers of a JobSet and of a TrainJob are called as their pods."""
    for document in documents:
        if document["kind"] == "JobSet":
            count = None
        elif document["kind"] == "TrainingRuntime":
            count = document["spec"]["mlPolicy"]["numNodes"]
            (trainjob,) = [d for d in documents if d["kind"] == "TrainJob"]
            require(
                trainjob["spec"]["runtimeRef"]["name"]
                == document["metadata"]["name"],
                "TrainJob",
                "it names another runtime",
            )
            require(
                trainjob["spec"]["trainer"]["numNodes"] == count,
                "TrainJob",
                "it wants another number of nodes than its runtime",
            )
        else:
            continue
        name = document["metadata"]["name"]
        (jobs,) = [
            s["replicatedJobs"] for s in _specs(document, "replicatedJobs")
        ]
        (replicated,) = jobs
        spec = replicated["template"]["spec"]
        count = count or spec["completions"]
        require(
            spec.get("parallelism", count) == count,
            document["kind"],
            "completions and parallelism differ",
        )
        (container,) = spec["template"]["spec"]["containers"]
        environ = {e["name"]: e["value"] for e in container["env"]}
        listed = environ.get(WORKERS_VARIABLE, "")
        hosts = [worker.partition(":")[0] for worker in listed.split(",")]
        expected = [
            f"{name}-{replicated['name']}-0-{n}.{name}" for n in range(count)
        ]
        require(
            hosts == expected if count > 1 else not listed,
            document["kind"],
            f"{WORKERS_VARIABLE} lists {hosts}, but the pods are {expected}",
        )


def _specs(node, key):
    """Yields every mapping below a node that has a key."""
    if isinstance(node, dict):
        if key in node:
            yield node
        for value in node.values():
            yield from _specs(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from _specs(value, key)


def _leaves(node, path=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, path)
    elif path:
        yield path, node
