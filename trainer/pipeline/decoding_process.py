"""A process that decodes: rows of an index come in, pixels go to shared memory.

`decoding_pool` starts it. It imports no TensorFlow, and ends when the process
that started it closes its connection, or is killed.
"""

import contextlib
import mmap
import signal
import struct
import sys
from multiprocessing.connection import Connection

import numpy as np

from data_prep.dataset.records import INDEX_DTYPE
from data_prep.runtime.errors import DataError
from trainer.pipeline.shard_files import ShardFiles

_OFFSET = struct.Struct("<q")


def pack(offset: int, rows: np.ndarray) -> bytes:
    """Returns a request. To pickle it took six times as long.

    Args:
        offset: Where the pixels go, in bytes; a multiple of a page's.
        rows: `[b]` of `records.INDEX_DTYPE`.
    """
    return _OFFSET.pack(offset) + rows.tobytes()


def serve(connection: Connection, memory: int) -> None:
    """Decodes what it is asked for, without end.

    It first receives `(Shards, image_size)`, then again and again what `pack`
    made: where in the memory the pixels of these rows go. Its answer is empty,
    or says what is wrong with the data.

    Args:
        connection: To the process that asks.
        memory: File descriptor of the memory that is shared with it.

    Raises:
        EOFError: If the connection is closed.
        ConnectionError: If it is closed while it waits for an answer.
    """
    shards, size = connection.recv()
    files = ShardFiles(shards)
    places: dict[tuple[int, int], np.ndarray] = {}
    while True:
        message = connection.recv_bytes()
        (offset,) = _OFFSET.unpack_from(message)
        rows = np.frombuffer(message, INDEX_DTYPE, offset=_OFFSET.size)
        place = (offset, len(rows))
        if place not in places:
            count = len(rows) * size * size * 3
            mapped = mmap.mmap(memory, count, offset=offset)
            places[place] = np.frombuffer(mapped, np.uint8).reshape(
                -1, size, size, 3
            )
        try:
            files.decode(rows, places[place])
            problem = ""
        except DataError as error:
            problem = str(error)
        connection.send_bytes(problem.encode())


def main(arguments: list[str]) -> None:
    """Serves.

    Args:
        arguments: File descriptors of the connection and of the memory.
    """
    # Ctrl-C reaches every process of a terminal; the one that asks says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection, memory = map(int, arguments)
    # Whoever asked may end before the answer.
    with contextlib.suppress(EOFError, ConnectionError):
        serve(Connection(connection), memory)


if __name__ == "__main__":
    main(sys.argv[1:])
