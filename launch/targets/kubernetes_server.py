"""A server on Kubernetes: a Deployment of equal pods, and their Service."""

import dataclasses
from collections.abc import Mapping

from launch import arguments
from launch.groups import Common
from launch.groups import Kubernetes
from launch.targets import kubernetes_pod
from launch.work import Work

KIND = "deployment"
LABEL = "app.kubernetes.io/name"
HEADER = """\
{name}: a Deployment, and the Service that spreads requests over its pods.
Start: kubectl apply -f this file.
Ask: kubectl port-forward service/{name} 8501:80
Stop: kubectl delete -f this file.

/readyz is 200 once the model is loaded, which may wait for the nearest training
images, and /healthz at once: so a long start is no reason to kill a pod. A pod
that is to end leaves the Service first (preStop), then answers what it accepted.
Beyond the cluster it belongs behind an Ingress or a Gateway: it asks nobody who
they are.
"""

# Until all nodes know that a pod has left the Service.
_LEAVE_SECONDS = 5


def manifest(
    common: Common,
    options: Kubernetes,
    work: Work,
    volumes: Mapping[str, str],
) -> list[dict]:
    """Returns the Service and the Deployment.

    Args:
        common: Name of both.
        options: The pods; `workers` is how many.
        work: The server.
        volumes: The PersistentVolumeClaim of each mounted path.
    """
    metadata = {"name": common.name, "namespace": options.namespace}
    labels = {LABEL: common.name}
    port = arguments.value_or_default(work.module, work.arguments, "port")
    # Each is alone: none has to find the others.
    alone = dataclasses.replace(options, workers=1)
    pod = kubernetes_pod.pod_spec(common, alone, work, volumes)
    pod["restartPolicy"] = "Always"
    (container,) = pod["containers"]
    container |= _of_server(int(port))
    service = {
        "selector": labels,
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }
    deployment = {
        "replicas": options.workers,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": service,
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": metadata,
            "spec": deployment,
        },
    ]


def _of_server(port: int) -> dict:
    """Returns what the container of a server has of its own."""
    return {
        "name": "server",
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": "http"},
            "periodSeconds": 5,
        },
        # Its answers wait for no model; a busy processor may take its time.
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVE_SECONDS}}},
    }
