"""The server's addresses: what is asked, refused and answered over HTTP.

What is refused gets one message as JSON, {"error": ...}.
"""

import asyncio
import base64
import contextlib
import importlib.resources
import io
import threading
from collections.abc import AsyncIterator
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from typing import Any

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
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
from trainer.serving import bodies
from trainer.serving import rest_api
from trainer.serving.batcher import Batcher
from trainer.serving.door import Door
from trainer.serving.door import Limits
from trainer.serving.metrics import Metrics

if TYPE_CHECKING:
    from trainer.inference.neighbours import Neighbours

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; "
    "img-src blob: data:; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


class Server:
    """Answers requests; `app` is what an ASGI server runs.

    Args:
        name: What the model is called in addresses.
        load: Returns the exported model, and what finds the nearest training
            images or None; called in a thread.
        limits: What is taken.
        announce: Called once it answers.
    """

    def __init__(
        self,
        name: str,
        load: "Callable[[], tuple[ExportedModel, Neighbours | None]]",
        limits: Limits,
        announce: Callable[[], object],
    ):
        self._name = name
        self._load = load
        self._limits = limits
        self._announce = announce
        self._metrics = Metrics()
        self._door = Door(limits, self._metrics)
        self._was_ready = False

    def stop(self) -> bool:
        """Accepts nothing more; tells whether all that was is answered."""
        return self._door.close()

    def has_failed(self) -> bool:
        """Tells whether it ended by itself; `finish` raises why."""
        return self._work.done()

    def finish(self) -> None:
        """Raises why the end was none that was asked for, if so.

        Raises:
            KeyboardInterrupt: If a signal came before the model was loaded.
            Exception: What loading the model raised.
        """
        if not self._work.cancelled():
            self._work.result()
        if not self._was_ready:
            raise KeyboardInterrupt

    def app(self) -> Starlette:
        """Returns the application."""
        model = f"/v1/models/{self._name}"
        routes = [
            Route("/", self._page),
            Route(
                "/classify",
                self._door.counted(self._classify),
                methods=["POST"],
            ),
            Route("/healthz", self._health),
            Route("/readyz", self._readiness),
            Route("/metrics", self._show_metrics),
        ]
        for place in (model, f"{model}/versions/{rest_api.VERSION}"):
            predict = self._door.counted(self._predict)
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
        with ThreadPoolExecutor(limits.processors()) as self._readers:
            self._work = asyncio.create_task(self._run())
            yield
            # All connections are closed: whatever was accepted is answered.
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _run(self) -> None:
        """Loads the model, and answers without end."""
        self._model, self._neighbours = await _in_thread(self._load)
        self._batcher = Batcher(
            self._model.classify,
            self._limits.batch,
            self._limits.seconds,
            self._metrics.batches.observe,
        )
        # The first call is slow: it is ready when that is behind it.
        await self._batcher.call(self._model.classify, [_an_image()])
        if self._door.state == rest_api.LOADING:  # and not stopped meanwhile
            self._door.state, self._was_ready = rest_api.AVAILABLE, True
            self._announce()
        await self._batcher.run()

    # ---- what is answered ----

    async def _page(self, _: Request) -> Response:
        folder = importlib.resources.files("trainer.serving")
        page = (folder / "templates" / "page.html").read_text()
        return HTMLResponse(page, headers=_HEADERS)

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _readiness(self, _: Request) -> Response:
        self._door.check_ready()
        return PlainTextResponse("ok\n")

    async def _show_metrics(self, _: Request) -> Response:
        return PlainTextResponse(self._metrics.page())

    async def _status(self, _: Request) -> Response:
        return JSONResponse(rest_api.status(self._door.state))

    async def _metadata(self, _: Request) -> Response:
        self._door.check_ready()
        signatures = self._model.signatures()
        return JSONResponse(rest_api.metadata(self._name, signatures))

    async def _predict(self, request: Request) -> dict[str, Any]:
        """Answers as TensorFlow Serving does."""
        with self._door.accepted(1):
            async with bodies.in_time():
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
        with self._door.accepted(1):
            async with bodies.in_time():
                named = await bodies.uploads(request)
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
        with self._door.accepted(len(named) - 1):
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


def _in_thread(function: Callable[[], Any]) -> asyncio.Future:
    """Calls a function in a thread whose end no end of the process awaits."""
    result: Future = Future()
    result.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def call() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return asyncio.wrap_future(result)


def _number(text: str) -> int:
    # Two digits: Python refuses to read thousands of them.
    digits = text.isascii() and text.isdigit() and len(text) <= 2
    if not (digits and int(text) <= 20):
        raise HTTPException(400, f"nearest={text[:20]}: expected 0 to 20.")
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
