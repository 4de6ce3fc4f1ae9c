"""The door of the server: who is let in, how many, and what of them is counted.

An image is accepted before its request is read, so that what is in memory has
a bound.
"""

import contextlib
import dataclasses
import time
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.responses import Response

from trainer.serving import bodies
from trainer.serving import rest_api
from trainer.serving.metrics import Metrics

# Why nothing is answered, by the state of the model.
_NOT_READY = {
    rest_api.LOADING: "the model is being loaded. Ask again later.",
    rest_api.UNLOADING: "the server is stopping. Ask another one.",
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a server takes.

    Attributes:
        batch: Images that the model takes at once.
        seconds: How long an image waits for others at most, while the model
            is idle.
        images: Images that are accepted and not yet answered.
        bytes: Of a request.
    """

    batch: int
    seconds: float
    images: int
    bytes: int


class Door:
    """Lets requests in; see `state`.

    Args:
        limits: What is taken.
        metrics: Where requests are counted.

    Attributes:
        state: Of the model: `rest_api.LOADING`, `AVAILABLE` or `UNLOADING`.
    """

    def __init__(self, limits: Limits, metrics: Metrics):
        self.state = rest_api.LOADING
        self._limits = limits
        self._metrics = metrics
        self._inside = 0  # images

    def close(self) -> bool:
        """Lets nobody in any more; tells whether nobody is inside."""
        self.state = rest_api.UNLOADING
        return not self._inside

    def check_ready(self) -> None:
        """Refuses whoever asks before the model is loaded, or at the end."""
        if why := _NOT_READY.get(self.state):
            raise HTTPException(503, why, {"Retry-After": "1"})

    @contextlib.contextmanager
    def accepted(self, images: int) -> Iterator[None]:
        """Counts images that are inside; refuses them where it is full."""
        if self._inside + images > self._limits.images:
            raise HTTPException(
                429,
                f"{self._inside} images wait already, and {self._limits.images}"
                " may. Ask again later.",
                {"Retry-After": "1"},
            )
        self._inside += images
        self._metrics.inside.set(self._inside)
        try:
            yield
        finally:
            self._inside -= images
            self._metrics.inside.set(self._inside)

    def counted(
        self, handle: Callable[[Request], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Returns an endpoint whose requests are limited and counted."""

        async def endpoint(request: Request) -> Response:
            start, status = time.monotonic(), 500
            try:
                self.check_ready()
                limited = bodies.limited(request, self._limits.bytes)
                response = JSONResponse(await handle(limited))
                status = response.status_code
                return response
            except ClientDisconnect:
                status = 400
                raise HTTPException(status, "the request was cut.") from None
            except HTTPException as error:
                status = error.status_code
                raise
            finally:
                self._metrics.requests.labels(str(status)).inc()
                self._metrics.seconds.observe(time.monotonic() - start)

        return endpoint
