"""Runs a server until a signal ends it."""

import contextlib
import socket

import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from trainer.serving.app import Server


class _Patient(uvicorn.Server):
    """After a signal it goes on until all that was accepted is answered.

    Meanwhile whoever asks is told so, where uvicorn would close the door.
    """

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server

    async def on_tick(self, counter: int) -> bool:
        """Tells whether to end; called ten times a second."""
        if await super().on_tick(counter):
            return self._server.stop() or self.force_exit
        return self._server.has_failed()


def run(server: Server, listening: socket.socket, only_local: bool) -> None:
    """Serves until SIGTERM or SIGINT; all that was accepted is answered first.

    Args:
        server: What answers.
        listening: Where connections arrive.
        only_local: Whether to refuse requests under another name than this
            machine's own, as those of a web page that points its name here.

    Raises:
        Exception: What loading the model raised.
    """
    app = server.app()
    if only_local:
        names = ["127.0.0.1", "localhost", "::1", "[::1]"]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False
    )
    # In the end uvicorn repeats the signal for those who listened before.
    with contextlib.suppress(KeyboardInterrupt):
        _Patient(config, server).run(sockets=[listening])
    server.finish()
