"""Runs an application until a signal ends it."""

import contextlib
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.middleware.trustedhost import TrustedHostMiddleware


def run(app: Starlette, listening: socket.socket, only_local: bool) -> None:
    """Serves until SIGTERM or SIGINT; all that was accepted is answered first.

    Args:
        app: The application.
        listening: Where connections arrive.
        only_local: Whether to refuse requests under another name than this
            machine's own, as those of a web page that points its name here.
    """
    if only_local:
        names = ["127.0.0.1", "localhost", "::1", "[::1]"]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False
    )
    # uvicorn waits for its connections, then repeats the signal for those
    # who listened before.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])
