"""The work of data_prep on Apache Beam instead of local processes.

The story is the same; what runs on Beam is the two parts that look at every
image. Work and results travel in files of a shared folder, so neither the
pipeline's graph nor the machine that starts it holds all of them.
"""

import os
import pickle
import shlex
import tempfile
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

from data_prep.errors import DataError
from data_prep.errors import UsageError

BATCH_BYTES = 1 << 18  # of pickled items that are one element for Beam


class Beam:
    """Runs a function on many items, as `workers.Processes` does.

    Args:
        options: Of the pipeline, as on its command line. Empty is the
            DirectRunner. Its workers must see source and output folder under
            the same paths as this process does, and have this package.
        folder: Where to exchange files with the workers.

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

        folder = tempfile.mkdtemp(dir=self._folder)
        batches = list(_write_batches(items, folder))
        with apache_beam.Pipeline(options=self._options) as pipeline:
            _ = (
                pipeline
                | "batches" >> apache_beam.Create(batches)
                | "spread" >> apache_beam.Reshuffle()
                | "work" >> apache_beam.Map(_work, pickle.dumps(function))
            )
        for batch in batches:
            with open(f"{batch}.done", "rb") as results:
                while True:
                    try:
                        result = pickle.load(results)
                    except EOFError:
                        break
                    if isinstance(result, DataError):
                        raise result
                    yield result


def _write_batches(items: Iterable, folder: str) -> Iterator[str]:
    """Writes the items to files of about equal size; yields their paths."""
    file = None
    number = 0
    for item in items:
        if file is None:
            path = os.path.join(folder, f"{number:06d}")
            file = open(path, "wb")
            number += 1
        pickle.dump(item, file)
        if file.tell() >= BATCH_BYTES:
            file.close()
            file = None
            yield path
    if file is not None:
        file.close()
        yield path


def _work(batch: str, function: bytes) -> None:
    """Runs the function on the items of one file, on some worker."""
    run = pickle.loads(function)
    # A worker that was given up for lost may still write: whoever renames
    # last leaves a whole file.
    handle, path = tempfile.mkstemp(dir=os.path.dirname(batch))
    with open(batch, "rb") as items, os.fdopen(handle, "wb") as results:
        while True:
            try:
                item = pickle.load(items)
            except EOFError:
                break
            try:
                result = run(item)
            except DataError as error:
                # No fault of the worker, so Beam need not try again.
                result = error
            pickle.dump(result, results)
    os.replace(path, f"{batch}.done")
