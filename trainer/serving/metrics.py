"""What Prometheus reads of a server. Imports nothing local."""

from prometheus_client import CollectorRegistry
from prometheus_client import Counter
from prometheus_client import Gauge
from prometheus_client import Histogram
from prometheus_client import generate_latest


class Metrics:
    """Figures of one server.

    Attributes:
        requests: Requests for an answer, by status.
        seconds: From a request's first byte to its answer.
        images: Images that were answered, by class.
        batches: Images of a batch.
        inside: Images that were accepted and not yet answered.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "shardtune_requests",
            "Requests for an answer.",
            ["status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "shardtune_request_seconds",
            "From a request to its answer.",
            registry=registry,
        )
        self.images = Counter(
            "shardtune_images",
            "Images that were answered.",
            ["label"],
            registry=registry,
        )
        self.batches = Histogram(
            "shardtune_batch_images",
            "Images that the model took at once.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.inside = Gauge(
            "shardtune_images_waiting",
            "Images that were accepted and not yet answered.",
            registry=registry,
        )

    def page(self) -> bytes:
        """Returns all of it in Prometheus's text format."""
        return generate_latest(self._registry)
