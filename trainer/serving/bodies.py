"""What is read of a request: within a limit of bytes, and within a time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

_PATIENCE = 30.0  # seconds in which a request has to arrive


def limited(request: Request, limit: int) -> Request:
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
async def in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError:
        raise HTTPException(
            408, f"the request did not arrive within {_PATIENCE:g} seconds."
        ) from None


async def uploads(request: Request) -> list[tuple[str, bytes]]:
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
