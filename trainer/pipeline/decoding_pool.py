"""Processes that decode images into memory that is shared with them.

One Python process runs one thread of Python at a time. Decoding in its threads
took 60 to 100 us of that time per image, so it stopped at about 12,000 images/s
however many processors there were. Here each process has an interpreter of its
own, and this one spends its time per batch, not per image.
"""

import mmap
import multiprocessing
import os
import queue
import subprocess
import threading
import weakref
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from data_prep.runtime import limits
from data_prep.runtime import operating_system
from data_prep.runtime import subprocesses
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from trainer.pipeline import decoding_process
from trainer.pipeline.shard_files import Shards


class _Decoder(NamedTuple):
    process: subprocess.Popen
    connection: Connection


class DecodingPool:
    """Decodes batches of a split's images, each in one of several processes.

    A process is started when a batch finds none that is idle, up to one per
    processor; they end with the pool, or with this process.

    Args:
        shards: The files that hold the images.
        image_size: S, width and height of the result in pixels.
        module: What each process runs; `benchmarks` has another one.
    """

    def __init__(
        self,
        shards: Shards,
        image_size: int,
        module: str = "trainer.pipeline.decoding_process",
    ):
        self._begin = (shards, image_size)
        self._module = module
        self._size = image_size
        self._lock = threading.Lock()
        self._most = limits.processors()
        self._decoders: list[_Decoder] = []
        self._idle: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
        # A memory file, since /dev/shm is 64 MiB in many containers.
        self._memory = operating_system.memory_file("decoded")
        self._free: dict[int, list[tuple[int, mmap.mmap]]] = {}
        weakref.finalize(self, _end, self._decoders, self._memory)

    def pixels(self, rows: np.ndarray) -> np.ndarray:
        """Returns images; several threads may ask at once.

        Args:
            rows: `[b]` of `records.INDEX_DTYPE`.

        Returns:
            uint8 `[b, S, S, 3]`, RGB. Its memory is used again when neither it
            nor a view of it is left.

        Raises:
            DataError: If a record is damaged.
            TrainingError: If the process that decodes it ended, or the system
                gives no memory for it.
        """
        offset, result = self._place(len(rows))
        decoder = self._acquire()
        try:
            decoder.connection.send_bytes(decoding_process.pack(offset, rows))
            problem = decoder.connection.recv_bytes()
        except (EOFError, OSError):
            code = decoder.process.wait()
            raise TrainingError(
                f"a process that decodes images ended with {code}"
                f"{', killed: is there too little memory?' if code == -9 else ''}. "
                "Run the same command again."
            ) from None
        finally:
            self._idle.put(decoder)
        if problem:
            raise DataError(problem.decode())
        return result

    def _acquire(self) -> _Decoder:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            pass
        with self._lock:
            if len(self._decoders) < self._most:
                self._decoders.append(self._start())
                return self._decoders[-1]
        return self._idle.get()

    def _start(self) -> _Decoder:
        ours, theirs = multiprocessing.Pipe()
        with theirs:
            passed = (theirs.fileno(), self._memory)
            process = subprocess.Popen(
                subprocesses.python_module(self._module, *map(str, passed)),
                env=subprocesses.environment(),
                pass_fds=passed,
            )
        ours.send(self._begin)
        return _Decoder(process, ours)

    def _place(self, count: int) -> tuple[int, np.ndarray]:
        """Returns memory for images that nobody uses, and its offset.

        How much is in use at once is up to TensorFlow, so there is no limit
        that one might wait at.
        """
        size = count * self._size**2 * 3
        with self._lock:
            free = self._free.setdefault(size, [])
            if free:
                offset, mapped = free.pop()
            else:
                offset, mapped = self._grow(size)
        # All views refer to this array, not to one another. Its address is a
        # page's, so TensorFlow takes it as it is.
        array = np.frombuffer(mapped, np.uint8)
        weakref.finalize(array, free.append, (offset, mapped)).atexit = False
        return offset, array.reshape(count, self._size, self._size, 3)

    def _grow(self, size: int) -> tuple[int, mmap.mmap]:
        offset = os.fstat(self._memory).st_size
        pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            os.ftruncate(self._memory, offset + pages)
            return offset, mmap.mmap(self._memory, size, offset=offset)
        except OSError as error:
            raise TrainingError(
                f"this process cannot share {size} bytes with processes that "
                f"decode images: {error}. Limits such as `ulimit -f` and "
                "`ulimit -v` must be above that."
            ) from None


def _end(decoders: list[_Decoder], memory: int) -> None:
    for decoder in decoders:
        decoder.connection.close()
    for decoder in decoders:
        decoder.process.wait()
    os.close(memory)
