"""Kubernetes: an Indexed Job by default; JobSet, TrainJob and TFJob too."""

import textwrap
from collections.abc import Mapping

import yaml

from data_prep.runtime.errors import UsageError
from launch.job import Job
from launch.job import Rendered
from launch.job import Work
from launch.targets import kubernetes_rules
from launch.targets import render as render_lib
from trainer.distribution.cluster import WORKERS_VARIABLE

PORT = 2222
RUNS = "/etc/shardtune/runs"


def render(job: Job, work: Work) -> Rendered:
    """Returns the manifest; a sweep is an Indexed Job of single workers.

    Raises:
        UsageError: If a path would be lost with its pod, or for a sweep of
            several workers each.
    """
    _check_paths(job, work)
    if work.runs and (
        job.kubernetes.workers > 1 or job.kubernetes.kind != "job"
    ):
        raise UsageError(
            "a sweep on Kubernetes is an Indexed Job with one worker a run: "
            "leave --workers and --kind out."
        )
    count = len(work.runs) or job.kubernetes.workers
    before, backoff, fatal = (
        "",
        f"backoffLimit: {job.kubernetes.restarts}",
        "FailJob",
    )
    if work.runs:
        before = _config_map(job, work)
        # A wrong run does not end the others.
        backoff, fatal = (
            f"backoffLimitPerIndex: {job.kubernetes.restarts}",
            "FailIndex",
        )
    elif job.kubernetes.workers > 1:
        before = render_lib.template(
            "kubernetes_service.yaml",
            name=job.common.name,
            namespace=job.kubernetes.namespace,
        )
    indents = {"job": 6, "jobset": 12, "trainjob": 16, "tfjob": 10}
    text = render_lib.template(
        f"kubernetes_{job.kubernetes.kind}.yaml",
        name=job.common.name,
        namespace=job.kubernetes.namespace,
        count=count,
        restarts=job.kubernetes.restarts,
        before=before.rstrip("\n"),
        backoff=backoff,
        fatal=fatal,
        pod=_indented(_pod(job, work), indents[job.kubernetes.kind]),
    )
    return Rendered(
        {"job.yaml": text},
        (("kubectl", "apply", "-f", str(job.common.folder / "job.yaml")),),
        f"Watch: kubectl -n {job.kubernetes.namespace} get pods. Stop: kubectl delete -f "
        f"{job.common.folder / 'job.yaml'}; resume: kubectl apply -f the same.",
    )


def check(files: Mapping[str, str]) -> None:
    """Refuses a manifest that Kubernetes, or our rules, would not have."""
    kubernetes_rules.check(list(yaml.safe_load_all(files["job.yaml"])))


def _pod(job: Job, work: Work) -> str:
    module, *options = work.program
    arguments = [*options, *work.arguments]
    claims = [v.split(":") for v in job.kubernetes.volumes.split(",") if v]
    mounts = [(f"volume-{n}", path) for n, (_, path) in enumerate(claims)]
    volumes = [
        f"- name: volume-{number}\n  persistentVolumeClaim:\n"
        f"    claimName: {claim}"
        for number, (claim, _) in enumerate(claims)
    ]
    if work.runs:
        arguments.append(f"--flagfile={RUNS}/$(JOB_COMPLETION_INDEX).flags")
        mounts.append(("runs", RUNS))
        volumes.append(
            f"- name: runs\n  configMap:\n    name: {job.common.name}-runs"
        )
    hosts = {
        "job": f"{job.common.name}-{{}}.{job.common.name}",
        "jobset": f"{job.common.name}-workers-0-{{}}.{job.common.name}",
        "trainjob": f"{job.common.name}-node-0-{{}}.{job.common.name}",
        "tfjob": "",  # the operator sets TF_CONFIG
    }[job.kubernetes.kind]
    workers = ""
    if job.kubernetes.workers > 1 and hosts:
        names = [
            f"{hosts.format(n)}:{PORT}" for n in range(job.kubernetes.workers)
        ]
        value = render_lib.quoted(",".join(names))
        workers = f"- name: {WORKERS_VARIABLE}\n    value: {value}"
    subdomain = job.kubernetes.kind == "job" and job.kubernetes.workers > 1
    account = job.kubernetes.service_account
    # Operators look for their container by its name.
    container = {"trainjob": "node", "tfjob": "tensorflow"}
    return render_lib.template(
        "kubernetes_pod.yaml",
        subdomain=f"subdomain: {job.common.name}" if subdomain else "",
        restart_policy="OnFailure"
        if job.kubernetes.kind == "tfjob"
        else "Never",
        account=f"serviceAccountName: {account}" if account else "",
        grace=job.kubernetes.grace_seconds,
        container=container.get(job.kubernetes.kind, "trainer"),
        image=render_lib.quoted(job.kubernetes.image),
        module=render_lib.quoted(module),
        arguments=render_lib.yaml_list(arguments, 2),
        workers=workers,
        port=PORT,
        cpus=job.kubernetes.cpus,
        memory=f"{job.kubernetes.memory_gb}Gi",
        gpus=f"nvidia.com/gpu: {job.kubernetes.gpus}"
        if job.kubernetes.gpus
        else "",
        mounts="\n  ".join(
            f"- name: {name}\n    mountPath: {path}" for name, path in mounts
        ),
        volumes="\n".join(volumes),
    )


def _config_map(job: Job, work: Work) -> str:
    lines = [
        "# The flags of each run, by its index.",
        "apiVersion: v1",
        "kind: ConfigMap",
        "metadata:",
        f"  name: {job.common.name}-runs",
        f"  namespace: {job.kubernetes.namespace}",
        "data:",
    ]
    for name, text in render_lib.flag_files(work.runs).items():
        lines.append(f"  {name.removeprefix('runs/')}: |")
        lines.append(textwrap.indent(text, "    ").rstrip("\n"))
    return "\n".join([*lines, "---"])


def _check_paths(job: Job, work: Work) -> None:
    places = []
    for volume in filter(None, job.kubernetes.volumes.split(",")):
        claim, colon, path = volume.partition(":")
        if not colon or not path.startswith("/") or not claim:
            raise UsageError(
                f"--volumes has {volume!r}: expected CLAIM:/path, the name of "
                "a PersistentVolumeClaim and where to mount it."
            )
        places.append(path.rstrip("/") + "/")
    for one, prefix, path in work.paths:
        if not any(f"{path}/".startswith(place) for place in places):
            raise UsageError(
                f"--{one.name}={prefix}{path} lies on no volume, so a pod would "
                "not see it or lose it. Mount one with --volumes=CLAIM:/path "
                "and name a path below it"
                + (
                    ", or give an s3:// or gs:// folder."
                    if one.path.stores
                    else "."
                )
            )


def _indented(text: str, spaces: int) -> str:
    return textwrap.indent(text, " " * spaces).strip()
