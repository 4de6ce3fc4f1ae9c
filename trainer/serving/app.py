"""The server's addresses: what is asked, refused and answered over HTTP.

An image is accepted before its request is read, so that what is in memory has
a bound, and is answered or refused with one message as JSON, {"error": ...}.
"""

import asyncio
import base64
import contextlib
import dataclasses
import importlib.resources
import io
import time
from collections.abc import AsyncIterator
from collections.abc import Awaitable
from collections.abc import Callable
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.responses import JSONResponse
from starlette.responses import PlainTextResponse
from starlette.responses import Response
from starlette.routing import Route

from data_prep.images import plain
from data_prep.images.plain import BadImage
from data_prep.runtime import limits
from trainer.inference.exported import ExportedModel
from trainer.inference.neighbours import Neighbours
from trainer.serving import rest_api
from trainer.serving.batcher import Batcher
from trainer.serving.metrics import Metrics

_PATIENCE = 30.0  # seconds in which a request has to arrive
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
    "img-src blob: data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
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


class Server:
    """Answers requests; `app` is what an ASGI server runs.

    Args:
        name: What the model is called in addresses.
        model: The exported model.
        neighbours: Finds the nearest training images; None finds none.
        limits: What is taken.
    """

    def __init__(
        self,
        name: str,
        model: ExportedModel,
        neighbours: Neighbours | None,
        limits: Limits,
    ):
        self._name = name
        self._model = model
        self._neighbours = neighbours
        self._limits = limits
        self._metrics = Metrics()
        self._inside = 0  # images

    def app(self) -> Starlette:
        """Returns the application."""
        model = f"/v1/models/{self._name}"
        routes = [
            Route("/", self._page),
            Route("/classify", self._counted(self._classify), methods=["POST"]),
            Route("/healthz", self._health),
            Route("/readyz", self._health),
            Route("/metrics", self._show_metrics),
        ]
        for place in (model, f"{model}/versions/{rest_api.VERSION}"):
            predict = self._counted(self._predict)
            routes += [
                Route(place, self._status),
                Route(f"{place}/metadata", self._metadata),
                Route(f"{place}:predict", predict, methods=["POST"]),
            ]
        return Starlette(
            routes=routes,
            lifespan=self._lifespan,
            exception_handlers={HTTPException: _refuse, Exception: _fail},
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._batcher = Batcher(
            self._model.classify,
            self._limits.batch,
            self._limits.seconds,
            self._metrics.batches.observe,
        )
        with ThreadPoolExecutor(limits.processors()) as self._readers:
            running = asyncio.create_task(self._batcher.run())
            # The first call is slow: it is ready when that is behind it.
            await self._batcher.submit([_an_image()])
            yield
            # All connections are closed: whatever was accepted is answered.
            running.cancel()

    # ---- what is answered ----

    async def _page(self, _: Request) -> Response:
        folder = importlib.resources.files("trainer.serving")
        page = (folder / "templates" / "page.html").read_text()
        return HTMLResponse(page, headers=_HEADERS)

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _show_metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._metrics.page())

    async def _status(self, _: Request) -> Response:
        return JSONResponse(rest_api.status())

    async def _metadata(self, _: Request) -> Response:
        count = len(self._model.classes)
        return JSONResponse(rest_api.metadata(self._name, count))

    async def _predict(self, request: Request) -> dict[str, Any]:
        """Answers as TensorFlow Serving does."""
        with self._accepted(1):
            async with _in_time():
                body = await request.body()
            try:
                contents, by_row = await self._beside(
                    rest_api.read_request, body
                )
            except ValueError as error:
                raise HTTPException(400, str(error)) from None
            named = [(f"instance {n}", c) for n, c in enumerate(contents)]
            rows, _ = await self._answer(named)
        return rest_api.answer(rows, self._model.classes, by_row)

    async def _classify(self, request: Request) -> dict[str, Any]:
        """Answers uploaded files, or a body that is one image."""
        nearest = _number(request.query_params.get("nearest", "0"))
        with self._accepted(1):
            async with _in_time():
                named = await _uploads(request)
            rows, contents = await self._answer(named)
            sure = self._model.calibrate(np.stack(rows)).max(axis=1)
            return {
                "predictions": [
                    {
                        "file": name,
                        "label": self._model.classes[int(row.argmax())],
                        "certainty": float(certainty),
                        "probabilities": dict(
                            zip(
                                self._model.classes,
                                map(float, row),
                                strict=True,
                            )
                        ),
                        "nearest": await self._nearest(content, nearest),
                    }
                    for (name, _), row, certainty, content in zip(
                        named, rows, sure, contents, strict=True
                    )
                ]
            }

    async def _nearest(self, content: bytes, count: int) -> list[dict]:
        if not count or self._neighbours is None:
            return []
        found = await self._batcher.call(
            self._neighbours.nearest, content, count
        )
        return [
            {
                "file": near.file,
                "label": near.label,
                "similarity": near.similarity,
                "picture": "data:image/jpeg;base64,"
                + base64.b64encode(near.picture).decode(),
            }
            for near in found
        ]

    async def _answer(
        self, named: list[tuple[str, bytes]]
    ) -> tuple[list[np.ndarray], list[bytes]]:
        """Returns rows, and the images as the model took them."""
        if len(named) > self._limits.images:
            raise HTTPException(
                413,
                f"{len(named)} images are too many for one request: expected "
                f"{self._limits.images} at most.",
            )
        with self._accepted(len(named) - 1):
            try:
                contents = await asyncio.gather(
                    *(
                        self._beside(plain.convert, content, name)
                        for name, content in named
                    )
                )
            except BadImage as error:
                raise HTTPException(400, str(error)) from None
            rows = await self._batcher.submit(contents)
        for row in rows:
            self._metrics.images.labels(
                self._model.classes[int(row.argmax())]
            ).inc()
        return rows, contents

    async def _beside(self, function: Callable, *arguments: Any) -> Any:
        """Calls a function in a thread, beside the model and other requests."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, function, *arguments)

    # ---- what is refused ----

    @contextlib.contextmanager
    def _accepted(self, images: int) -> Iterator[None]:
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

    def _counted(
        self, handle: Callable[[Request], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Returns an endpoint whose requests are limited and counted."""

        async def endpoint(request: Request) -> Response:
            start, status = time.monotonic(), 500
            try:
                limited = _limited(request, self._limits.bytes)
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


def _limited(request: Request, limit: int) -> Request:
    """Returns a request whose body is read up to a limit in bytes."""
    too_large = HTTPException(
        413, f"the request is larger than {limit >> 20} MiB."
    )
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    read = 0

    async def receive() -> Any:
        nonlocal read
        message = await request.receive()
        read += len(message.get("body", b""))
        if read > limit:
            raise too_large
        return message

    return Request(request.scope, receive)


@contextlib.asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise HTTPException(
            408, f"the request did not arrive within {_PATIENCE:g} seconds."
        ) from None


async def _uploads(request: Request) -> list[tuple[str, bytes]]:
    """Returns name and content of every image of a request."""
    if not request.headers.get("content-type", "").startswith("multipart/"):
        return [("the image", await request.body())]
    async with request.form(max_fields=100) as form:
        found = [
            (value.filename or key, await value.read())
            for key, value in form.multi_items()
            if isinstance(value, UploadFile)
        ]
    if not found:
        raise HTTPException(400, "the form holds no file.")
    return found


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 20):
        raise HTTPException(400, f"nearest={text}: expected 0 to 20.")
    return int(text)


def _an_image() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "PNG")
    return content.getvalue()


async def _refuse(_: Request, error: HTTPException) -> Response:
    message = {"error": error.detail}
    return JSONResponse(message, error.status_code, error.headers)


async def _fail(_: Request, error: Exception) -> Response:
    message = f"the model failed: {type(error).__name__}"
    return JSONResponse({"error": message}, 500)
