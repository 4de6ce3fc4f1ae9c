"""Kubernetes: an Indexed Job by default; JobSet, TrainJob and TFJob too.

A server is a Deployment and its Service.
"""

import posixpath

from data_prep.runtime.errors import UsageError
from launch.groups import Common
from launch.groups import Kubernetes
from launch.targets import forms
from launch.targets import kubernetes_objects
from launch.targets import kubernetes_pod
from launch.targets import kubernetes_server
from launch.targets import patch
from launch.targets import schemas
from launch.targets.rendering import Rendered
from launch.targets.rendering import dump_yaml
from launch.targets.submitted import Submitted
from launch.work import Work

# Kubernetes's own default, and about what saving the state of a large model
# to a network file system takes.
_LEAST_GRACE_SECONDS = 30

_HEADERS = {
    "job": """\
{name}: an Indexed Job; needs Kubernetes 1.31 or later, and nothing else.
Start: kubectl apply -f this file. Watch: kubectl logs -f job/{name}
Stop: kubectl delete job {name}. Resume: apply this file again.

Pod N is worker N, has N in JOB_COMPLETION_INDEX, and is found at
{name}-N by a Service. Workers wait for each other, so the Service
publishes the addresses of pods that are not ready.
podFailurePolicy runs a pod again after exit code 75 (stopped, or lost a peer,
with the state saved) up to backoffLimit, and any number of times after an
eviction, a preemption or the drain of its node. activeDeadlineSeconds
(--time_limit) ends all of it, waiting included: the state is saved, and the Job
has failed. A plain Job does not start its pods all at once or none: where
workers of several jobs may block one another, use --kind=jobset with Kueue (a
--patch sets its queue's label). Exit codes 64 (the command is wrong) and 65
(the data) end the Job, as running it again cannot help; in a sweep they end one
run and not the others.
The ConfigMap of a sweep holds the flags of each run, by its index.
""",
    "jobset": """\
{name}: a JobSet; needs its controller (jobset.sigs.k8s.io). When one
worker is lost all are started again together, as synchronous training wants:
a lost worker ends the Job (backoffLimit 0), and the JobSet starts all again.
Start: kubectl apply -f this file. Stop: kubectl delete jobset {name}.
Resume: apply this file again.

Exit codes 64 (the command is wrong) and 65 (the data) fail the Job by its
podFailurePolicy, and with it the JobSet: running it again cannot help.
""",
    "trainjob": """\
{name}: a TrainJob of Kubeflow Trainer v2, which brings no runtime for
TensorFlow: this plain one of our own starts the processes, and the trainer
forms the cluster itself.
Start: kubectl apply -f this file. Stop: kubectl delete trainjob {name}.
Resume: apply this file again.

Exit codes 64 (the command is wrong) and 65 (the data) fail the Job by its
podFailurePolicy, and with it the TrainJob: running it again cannot help.
""",
    "tfjob": """\
LEGACY. {name}: a TFJob of the training operator v1, which Kubeflow no
longer develops; --kind=job needs no operator. The operator sets TF_CONFIG.
Start: kubectl apply -f this file. Stop: kubectl delete tfjob {name}.
Resume: apply this file again.

restartPolicy ExitCode would take every code below 128 for the end, also our
75 (stopped with the state saved): so it is OnFailure.
""",
    kubernetes_server.KIND: kubernetes_server.HEADER,
}
_HEADER_OF_PODS = """
In every pod Python is process 1, with no shell before it: it gets SIGTERM
itself, and has terminationGracePeriodSeconds to save the state, or to answer
what was accepted. Files are cached in HOME, as the image's user has no other.
/dev/shm is what NCCL shares between the GPUs of a machine; a container's own is
64 MB.
"""


_POD_LABELS = {
    "job": "batch.kubernetes.io/job-name",
    "jobset": "jobset.sigs.k8s.io/jobset-name",
    "trainjob": "jobset.sigs.k8s.io/jobset-name",
    "tfjob": "training.kubeflow.org/job-name",
    kubernetes_server.KIND: kubernetes_server.LABEL,
}


def render(common: Common, options: Kubernetes, work: Work) -> Rendered:
    """Returns the manifest; a sweep is an Indexed Job of single workers.

    Args:
        common: Name and folder of the job.
        options: The pods and their volumes.
        work: What runs in them.

    Raises:
        UsageError: If a path would be lost with its pod, for a sweep of
            several workers each, or where Kubernetes would refuse the
            manifest.
    """
    forms.require("namespace", options.namespace, "Kubernetes namespace")
    forms.require("image", options.image, "image")
    if options.service_account:
        forms.require(
            "service_account", options.service_account, "Kubernetes name"
        )
    volumes = _parse_volumes(options.volumes)
    _check_paths(work, volumes)
    if work.runs and (options.workers > 1 or options.kind != "job"):
        raise UsageError(
            "a sweep on Kubernetes is an Indexed Job with one worker a run: "
            "leave --workers and --kind out."
        )
    if options.grace_seconds < _LEAST_GRACE_SECONDS:
        raise UsageError(
            f"--grace_seconds={options.grace_seconds} is too short to save the "
            f"state: expected at least {_LEAST_GRACE_SECONDS} on Kubernetes."
        )
    kind, manifest = options.kind, kubernetes_objects.manifest
    if work.module == "trainer.serve":
        kind, manifest = kubernetes_server.KIND, kubernetes_server.manifest
    documents = patch.apply(
        manifest(common, options, work, volumes), options.patch
    )
    for document in documents:
        schemas.check_kubernetes(document)
    header = _HEADERS[kind].format(name=common.name)
    file = common.folder / "job.yaml"
    note = ""
    if "/" not in options.image:
        note = (
            f"\nNote: {options.image} is in no registry, so only nodes that "
            "have it can run it. Push it, and pass --image=REGISTRY/NAME:TAG."
        )
    return Rendered(
        {"job.yaml": dump_yaml(documents, header + _HEADER_OF_PODS)},
        (("kubectl", "apply", "-f", str(file)),),
        f"Watch: kubectl -n {options.namespace} get pods. "
        f"Stop: kubectl delete -f {file}; resume: kubectl apply -f the same."
        + note,
        place=options.namespace,
        kind=kind,
        names=(common.name,),
    )


def follow(
    action: str, found: Submitted, follow: bool
) -> list[list[list[str]]]:
    """Returns the client's commands for an action.

    Args:
        action: "status", "logs" or "cancel".
        found: What was submitted.
        follow: Of logs: go on until the job ends.

    Returns:
        For each part of the job commands, of which the first that succeeds
        is enough.
    """
    kubectl = ["kubectl", f"--namespace={found.place}"]
    if action == "cancel":
        file = f"{found.folder}/job.yaml"
        return [[["kubectl", "delete", f"--filename={file}"]]]
    pods = f"--selector={_POD_LABELS[found.kind]}={found.name}"
    if action == "logs":
        more = ["--follow"] if follow else []
        return [
            [
                [*kubectl, "logs", pods, "--prefix", "--tail=-1"]
                + ["--max-log-requests=1000", *more]
            ]
        ]
    return [
        [[*kubectl, "get", found.kind, found.name]],
        [[*kubectl, "get", "pods", pods]],
    ]


def _parse_volumes(text: str) -> dict[str, str]:
    """Returns the claim of each mounted path.

    Raises:
        UsageError: If the text is not CLAIM:/path,... or two volumes are
            mounted at one path.
    """
    claims: dict[str, str] = {}
    for volume in filter(None, text.split(",")):
        claim, colon, path = volume.partition(":")
        plain = path == posixpath.normpath(path) and ":" not in path
        if not colon or not path.startswith("/") or not plain or path == "/":
            raise UsageError(
                f"--volumes has {volume!r}: expected CLAIM:/path, the name of "
                "a PersistentVolumeClaim and where to mount it, no / at its end."
            )
        forms.require("volumes", claim, "Kubernetes name")
        if path.rstrip("/") in (
            *kubernetes_pod.OWN_MOUNTS,
            *(taken.rstrip("/") for taken in claims),
        ):
            raise UsageError(
                f"--volumes has {volume!r}: something else is mounted at "
                f"{path}. Expected another path."
            )
        claims[path] = claim
    return claims


def _check_paths(work: Work, volumes: dict[str, str]) -> None:
    places = [f"{path.rstrip('/')}/" for path in volumes]
    for one, prefix, path in work.local_paths:
        if not any(f"{path}/".startswith(place) for place in places):
            store = ", or give an s3:// or gs:// folder" * one.path.stores
            raise UsageError(
                f"--{one.name}={prefix}{path} lies on no volume, so a pod "
                "would not see it or lose it. Mount one with "
                f"--volumes=CLAIM:/path and name a path below it{store}."
            )
