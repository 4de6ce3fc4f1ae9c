"""The objects of a manifest, as data; the keys stand as people read them."""

import math
from collections.abc import Mapping

from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import EXIT_USAGE
from launch.groups import Common
from launch.groups import Kubernetes
from launch.targets import kubernetes_pod
from launch.targets.rendering import flag_files
from launch.work import Work

# Running it again cannot help.
_FATAL = [EXIT_USAGE, EXIT_DATA]
_JOBSET_FAILURE_RULES = [
    {
        "name": "fatal",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
    }
]
# Not ready, too: workers wait for each other.
_NETWORK = {"enableDNSHostnames": True, "publishNotReadyAddresses": True}


def manifest(
    common: Common,
    options: Kubernetes,
    work: Work,
    volumes: Mapping[str, str],
) -> list[dict]:
    """Returns the objects of a job.

    Args:
        common: Name of the job.
        options: The kind of the job and its pods.
        work: What runs in the pods.
        volumes: The PersistentVolumeClaim of each mounted path.
    """
    metadata = {"name": common.name, "namespace": options.namespace}
    pod = kubernetes_pod.pod_spec(common, options, work, volumes)
    if options.kind == "jobset":
        return [_jobset(metadata, options, pod)]
    if options.kind == "trainjob":
        return [_runtime(metadata, options, pod), _trainjob(metadata, options)]
    if options.kind == "tfjob":
        return [_tfjob(metadata, options, pod)]
    if work.runs:
        return [
            _config_map(metadata, work),
            _sweep(metadata, work, options, pod),
        ]
    job = _indexed_job(
        metadata,
        options.workers,
        # Of a lost worker all others stop and count, too.
        {"backoffLimit": options.restarts * options.workers}
        | _deadline(options),
        "FailJob",
        pod,
    )
    return [_service(metadata), job] if options.workers > 1 else [job]


def _service(metadata: dict) -> dict:
    """Gives each worker a name that the others find it by."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"batch.kubernetes.io/job-name": metadata["name"]},
        },
    }


def _config_map(metadata: dict, work: Work) -> dict:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"{metadata['name']}-runs"},
        "data": {
            name.removeprefix("runs/"): text
            for name, text in flag_files(work.runs).items()
        },
    }


def _sweep(metadata: dict, work: Work, options: Kubernetes, pod: dict) -> dict:
    count = len(work.runs)
    at_once = min(options.runs_at_once or count, count)
    # A wrong run does not end the others.
    limits = {"backoffLimitPerIndex": options.restarts}
    limits |= _deadline(options, rounds=math.ceil(count / at_once))
    job = _indexed_job(metadata, count, limits, "FailIndex", pod)
    job["spec"]["parallelism"] = at_once
    return job


def _deadline(options: Kubernetes, rounds: int = 1) -> dict:
    """Returns what ends a Job that is evicted or stops again and again."""
    return {"activeDeadlineSeconds": 60 * options.time_limit * rounds}


def _indexed_job(
    metadata: dict, count: int, limits: dict, fatal: str, pod: dict
) -> dict:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": count,
            **limits,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    # Evicted, preempted, or its node drained.
                    {
                        "action": "Ignore",
                        "onPodConditions": [
                            {"type": "DisruptionTarget", "status": "True"}
                        ],
                    },
                    # Up to the limit of restarts.
                    _on_exit("Count", "trainer", [EXIT_STOPPED]),
                    _on_exit(fatal, "trainer", _FATAL),
                ]
            },
            "template": {
                "metadata": {
                    "labels": {"app.kubernetes.io/name": metadata["name"]}
                },
                "spec": pod,
            },
        },
    }


def _on_exit(action: str, container: str, codes: list[int]) -> dict:
    return {
        "action": action,
        "onExitCodes": {
            "containerName": container,
            "operator": "In",
            "values": codes,
        },
    }


def _jobset(metadata: dict, options: Kubernetes, pod: dict) -> dict:
    count = options.workers
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": _NETWORK,
            "failurePolicy": {
                "maxRestarts": options.restarts,
                "rules": _JOBSET_FAILURE_RULES,
            },
            "replicatedJobs": [
                {
                    "name": "workers",
                    "replicas": 1,
                    "template": {
                        "spec": {
                            "completionMode": "Indexed",
                            "completions": count,
                            "parallelism": count,
                            **_deadline(options),
                            **_fails_as_a_whole("trainer"),
                            "template": {"spec": pod},
                        }
                    },
                }
            ],
        },
    }


def _fails_as_a_whole(container: str) -> dict:
    """Returns what ends a Job with any of its pods, for others to restart."""
    return {
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {"rules": [_on_exit("FailJob", container, _FATAL)]},
    }


def _runtime(metadata: dict, options: Kubernetes, pod: dict) -> dict:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": metadata,
        "spec": {
            "mlPolicy": {"numNodes": options.workers},
            "template": {
                "spec": {
                    "network": _NETWORK,
                    "failurePolicy": {
                        "maxRestarts": options.restarts,
                        "rules": _JOBSET_FAILURE_RULES,
                    },
                    "replicatedJobs": [_nodes(options, pod)],
                }
            },
        },
    }


def _nodes(options: Kubernetes, pod: dict) -> dict:
    return {
        "name": "node",
        "replicas": 1,
        "template": {
            "metadata": {
                "labels": {
                    "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
                }
            },
            "spec": {
                "completionMode": "Indexed",
                **_deadline(options),
                **_fails_as_a_whole("node"),
                "template": {"spec": pod},
            },
        },
    }


def _trainjob(metadata: dict, options: Kubernetes) -> dict:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": metadata["name"],
            },
            "trainer": {"numNodes": options.workers},
        },
    }


def _tfjob(metadata: dict, options: Kubernetes, pod: dict) -> dict:
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "TFJob",
        "metadata": metadata,
        "spec": {
            "runPolicy": {
                "cleanPodPolicy": "Running",
                "backoffLimit": options.restarts,
                **_deadline(options),
            },
            "tfReplicaSpecs": {
                "Worker": {
                    "replicas": options.workers,
                    # ExitCode would take 75 for the end.
                    "restartPolicy": "OnFailure",
                    "template": {"spec": pod},
                }
            },
        },
    }
