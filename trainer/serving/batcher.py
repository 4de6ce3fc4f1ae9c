"""Joins what requests ask at the same time into batches for the model.

One thread runs the model. While it computes, images gather; the next batch is
all that wait, up to a limit. Where it is idle, an image waits for company for a
few milliseconds at most. Imports nothing local.
"""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from typing import NamedTuple

import numpy as np

Classify = Callable[[Sequence[bytes]], np.ndarray]


class _Waiting(NamedTuple):
    until: float  # on the loop's clock: it waits for company no longer
    content: bytes
    answer: asyncio.Future


class Batcher:
    """Runs a model on batches; `run` has to be running.

    Args:
        classify: From B images to an array `[B, K]`; called in one thread.
        size: Images of a batch at most.
        seconds: How long an image waits for others while the model is idle.
        observe: Told the size of every batch.
    """

    def __init__(
        self,
        classify: Classify,
        size: int,
        seconds: float,
        observe: Callable[[int], object],
    ):
        self._classify = classify
        self._size = size
        self._seconds = seconds
        self._observe = observe
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def submit(self, contents: Sequence[bytes]) -> list[np.ndarray]:
        """Returns a row `[K]` for each image, in their order.

        Raises:
            Exception: What the model raised for the first that it refuses.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._seconds
        answers = []
        for content in contents:
            answers.append(loop.create_future())
            self._queue.put_nowait(_Waiting(until, content, answers[-1]))
        found = await asyncio.gather(*answers, return_exceptions=True)
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
        return found

    async def call(self, function: Callable, *arguments: Any) -> Any:
        """Calls a function in the model's thread, between two batches."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, function, *arguments)

    async def run(self) -> None:
        """Answers without end."""
        while True:
            part = await self._gather()
            self._observe(len(part))
            rows = await self.call(self._try, [one.content for one in part])
            for one, row in zip(part, rows, strict=True):
                if one.answer.done():  # whoever asked is gone
                    continue
                if isinstance(row, Exception):
                    one.answer.set_exception(row)
                else:
                    one.answer.set_result(row)

    async def _gather(self) -> list[_Waiting]:
        """Waits for an image, and returns the next batch."""
        part = [await self._queue.get()]
        while len(part) < self._size:
            try:
                async with asyncio.timeout_at(part[0].until):
                    part.append(await self._queue.get())
            except TimeoutError:
                break
        return part

    def _try(self, contents: list[bytes]) -> Sequence[np.ndarray | Exception]:
        """Returns a row for each; one that fails takes no other with it."""
        try:
            return self._classify(contents)
        except Exception as error:
            if len(contents) == 1:
                return [error]
            return [self._try([content])[0] for content in contents]
