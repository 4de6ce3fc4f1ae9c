"""Command line: answers over HTTP what images are.

python -m trainer.serve --model_dir=model

A page to drop an image on is at /; POST /classify takes uploaded files, and
/v1/models/NAME:predict what clients of TensorFlow Serving send. /healthz, /readyz
and /metrics are for those who run it. SIGTERM ends it once all that was accepted
is answered.
"""

import socket
import sys
import threading
from typing import TYPE_CHECKING

from data_prep.images import memory
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from trainer.inference.exported import ExportedModel
from trainer.serve_config import ServeConfig

if TYPE_CHECKING:
    from trainer.inference.neighbours import Neighbours

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main(config: ServeConfig) -> None:
    """Serves until a signal ends it."""
    chosen = config.serving
    libraries = ("starlette", "uvicorn", "multipart", "prometheus_client")
    startup.require(libraries, "serve", "this command")
    from trainer.serving import running
    from trainer.serving.app import Server
    from trainer.serving.door import Limits

    limits = Limits(
        chosen.batch_size,
        chosen.batch_ms / 1000,
        chosen.queue,
        chosen.max_mb << 20,
    )
    memory.share(threading.RLock())
    with _listen(chosen.host, chosen.port) as listening:
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        address = f"http://{host}:{listening.getsockname()[1]}/"
        server = Server(
            chosen.name,
            lambda: _load(chosen.model_dir, chosen.nearest),
            limits,
            lambda: print(
                f"serving {chosen.model_dir} at {address}", flush=True
            ),
        )
        running.run(server, listening, only_local=chosen.host in _LOOPBACK)


def _load(
    model_dir: str, with_nearest: bool
) -> "tuple[ExportedModel, Neighbours | None]":
    """Returns a model, and what finds its nearest training images."""
    model = ExportedModel(model_dir)
    if not with_nearest:
        return model, None
    from trainer.inference import neighbours

    try:
        return model, neighbours.load(model_dir)
    except DataError as error:
        print(f"without nearest images: {error}", file=sys.stderr)
        return model, None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server(
            (host, port), family=family, backlog=1024
        )
        # asyncio sets it for sockets of a named protocol alone, and Python's are
        # of none: without it the end of an answer waits 40 ms for the client.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listening
    except OSError as error:
        raise UsageError(
            f"--host={host} --port={port} cannot be listened at: "
            f"{error.strerror or error}. Choose others; --port=0 takes a free "
            "one."
        ) from None


def cli() -> None:
    """Runs the command line."""
    command.run(main, ServeConfig)


if __name__ == "__main__":
    cli()
