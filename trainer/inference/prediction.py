"""Classifies image files; reading and decoding run beside the model."""

import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from data_prep.images import plain
from data_prep.images.plain import BadImage
from data_prep.runtime import limits
from data_prep.runtime import storage
from data_prep.runtime.lookahead import ahead
from data_prep.runtime.progress import Progress
from trainer.inference.exported import Exported

BATCH = 32  # images that are classified at once
# While the model computes one batch, the pixels of the next are decoded.
_BATCHES = 2
_CONNECTIONS = 16  # a store answers after tens of milliseconds


class Answer(NamedTuple):
    """What is said of a file.

    Attributes:
        file: Its path.
        problem: Why it was not classified; "" where it was.
        predicted: The likeliest class; "" where none is likely enough.
        probabilities: float32 `[K]`, in class order; None where there is a
            problem.
    """

    file: str
    problem: str = ""
    predicted: str = ""
    probabilities: np.ndarray | None = None


def predict(
    model: Exported, files: Sequence[str], unsure_below: float = 0.0
) -> Iterator[Answer]:
    """Yields what the model says of each file, in their order.

    Args:
        model: The exported model.
        files: Local paths, and addresses in object storage.
        unsure_below: Where it is not 0, probabilities are calibrated, and
            nothing is predicted of an image where none reaches it.

    Raises:
        DataError: If a store refuses; Stopped if it does not answer.
    """
    remote = any(map(storage.is_url, files))
    workers = _CONNECTIONS if remote else limits.processors() + 1

    def classify(part: list[bytes | BadImage]) -> list[np.ndarray | BadImage]:
        return _classify(model, part, calibrated=unsure_below > 0)

    with (
        Progress("predict", len(files)) as progress,
        ThreadPoolExecutor(workers) as readers,
        ThreadPoolExecutor(_BATCHES) as runners,
    ):
        contents = ahead(readers, _load, files, BATCH + workers)
        parts = ahead(runners, classify, _batches(contents), _BATCHES)
        found = itertools.chain.from_iterable(parts)
        for file, result in zip(files, found, strict=True):
            if isinstance(result, BadImage):
                yield Answer(file, result.problem)
            else:
                best = int(result.argmax())
                sure = result[best] >= unsure_below
                predicted = model.classes[best] if sure else ""
                yield Answer(file, "", predicted, result)
            progress.update(1)


def _load(path: str) -> bytes | BadImage:
    try:
        return plain.load(path)
    except BadImage as error:
        return error


def _batches(contents: Iterable) -> Iterator[list]:
    contents = iter(contents)
    while part := list(itertools.islice(contents, BATCH)):
        yield part


def _classify(
    model: Exported, part: list[bytes | BadImage], calibrated: bool
) -> list[np.ndarray | BadImage]:
    """Returns probabilities in place of images."""
    good = [content for content in part if isinstance(content, bytes)]
    if not good:
        return part
    probabilities = model.classify(good)
    if calibrated:
        probabilities = model.calibrate(probabilities)
    rows = iter(probabilities)
    return [next(rows) if isinstance(c, bytes) else c for c in part]
