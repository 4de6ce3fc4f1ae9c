"""The work of data_prep on Apache Beam instead of local processes.

What runs on Beam is the two parts that look at every image; listing, grouping
and the manifest stay with the machine that starts it. Work and results travel
in files that all workers see, on a shared file system or in object storage, so
neither the pipeline's graph nor the machine that starts it holds all of them.
"""

import io
import itertools
import os
import pickle
import shlex
import uuid
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

BATCH_BYTES = 1 << 18  # of pickled items that are one element for Beam


class Beam:
    """Runs a function on many items, as `processes.Processes` does.

    Args:
        options: Options of the pipeline, as on its command line. Empty is the
            DirectRunner. Its workers must have this package, and see source
            and output under the same names as this process does: in object
            storage, or on a shared file system.
        folder: Folder that this process and the workers exchange files in;
            also in a store.

    Raises:
        UsageError: If Apache Beam is not installed, or the options are wrong.
    """

    def __init__(self, options: str, folder: str):
        try:
            from apache_beam.options.pipeline_options import PipelineOptions
        except ImportError:
            raise UsageError(
                "--runner=beam needs Apache Beam: "
                "pip install 'shardtune[beam]'."
            ) from None
        try:
            words = shlex.split(options)
        except ValueError as error:
            raise UsageError(
                f"--beam_options={options} cannot be read: {error}."
            ) from None
        self._options = PipelineOptions(words)
        self._folder = folder

    def __enter__(self) -> "Beam":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(self, function: Callable, items: Iterable) -> Iterator[Any]:
        """Yields `function(item)` of every item, in the order of the items.

        Args:
            function: Can be pickled, as can what it takes and returns.
            items: All are written to files before the first result.

        Raises:
            DataError: That the function raised.
        """
        import apache_beam

        folder = f"{self._folder}/{uuid.uuid4().hex}"
        if not storage.is_url(folder):
            os.mkdir(folder)
        batches = list(_write_batches(items, folder))
        with apache_beam.Pipeline(options=self._options) as pipeline:
            _ = (
                pipeline
                | "batches" >> apache_beam.Create(batches)
                | "spread" >> apache_beam.Reshuffle()
                | "work" >> apache_beam.Map(_work, pickle.dumps(function))
            )
        for batch in batches:
            for result in _unpickle(storage.read(f"{batch}.done")):
                if isinstance(result, DataError):
                    raise result
                yield result


def _write_batches(items: Iterable, folder: str) -> Iterator[str]:
    """Writes the items to files of about equal size; yields their paths."""
    items = iter(items)
    for number in itertools.count():
        content = io.BytesIO()
        while content.tell() < BATCH_BYTES:
            try:
                pickle.dump(next(items), content)
            except StopIteration:
                break
        if not content.tell():
            return
        path = f"{folder}/{number:06d}"
        storage.write(path, content.getvalue())
        yield path


def _work(batch: str, function: bytes) -> None:
    """Runs the function on the items of one file, on some worker."""
    run = pickle.loads(function)
    results = io.BytesIO()
    for item in _unpickle(storage.read(batch)):
        try:
            result = run(item)
        except DataError as error:
            # No fault of the worker, so Beam need not try again.
            result = error
        pickle.dump(result, results)
    # A worker that was given up for lost may write it too: the same.
    storage.write(f"{batch}.done", results.getvalue())


def _unpickle(content: bytes) -> Iterator[Any]:
    """Yields the objects that were pickled one behind the other."""
    file = io.BytesIO(content)
    while file.tell() < len(content):
        yield pickle.load(file)
