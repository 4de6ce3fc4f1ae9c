"""Work that a pool does ahead of whoever takes its results, in order."""

import collections
import itertools
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any


def ahead(
    pool: Executor, function: Callable, items: Iterable, count: int
) -> Iterator[Any]:
    """Yields `function(item)` of every item, in the order of the items.

    Args:
        pool: Threads or processes.
        function: What they do.
        items: Drawn from as results are taken.
        count: Calls that wait, run or have ended before their result is
            taken: all that is held in memory.
    """
    items = iter(items)
    waiting = collections.deque(
        pool.submit(function, item) for item in itertools.islice(items, count)
    )
    while waiting:
        result = waiting.popleft().result()
        for item in itertools.islice(items, 1):
            waiting.append(pool.submit(function, item))
        yield result
