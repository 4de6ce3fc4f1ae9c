"""Opens every image and enters what it turns out to be in the catalogue."""

import functools
import itertools
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import Protocol

from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import Row
from data_prep.catalogue.database import facts_row
from data_prep.catalogue.database import finding_rows
from data_prep.dataset import labels
from data_prep.images import inspection
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.progress import Progress

CHUNK = 64  # images that a process opens in one call

_COUNT_FILES = "SELECT COUNT(*) FROM files"
_LABELS_LISTED = "SELECT DISTINCT label FROM files"
_LABELS_OF_IMAGES = "SELECT DISTINCT label FROM images"


class Runner(Protocol):
    """Runs a function on many items; see the room `runners`."""

    def map(self, function: Any, items: Iterable) -> Iterator[Any]:
        """Yields `function(item)` of every item, in the order of the items."""


def inspect_images(catalogue: Catalogue, runner: Runner, seed: int) -> None:
    """Opens every image of the catalogue.

    Args:
        catalogue: Holds the files; facts and findings are added.
        runner: Runs the work, here or on other machines.
        seed: Seed of the splits and of the order of the records.
    """
    total = catalogue.value(_COUNT_FILES)
    files = catalogue.files()
    chunks = iter(lambda: list(itertools.islice(files, CHUNK)), [])
    inspect = functools.partial(_inspect, seed=seed)
    with Progress("audit", total) as progress:
        for facts, found in runner.map(inspect, chunks):
            catalogue.insert("facts", facts)
            catalogue.insert("findings", found)
            progress.update(len(facts))


def list_classes(
    catalogue: Catalogue, declared: list[str], source: str
) -> list[str]:
    """Returns the sorted names of the classes, before any image is opened.

    Args:
        catalogue: Holds the files.
        declared: Names of classes that the source has, perhaps empty ones.
        source: The value of --source, for messages.

    Raises:
        DataError: If there are fewer than two classes, or one has a name that
            cannot be kept.
    """
    listed = {label for (label,) in catalogue.execute(_LABELS_LISTED)}
    classes = sorted({*listed, *declared} - {""})
    labels.check(classes)
    if not listed:
        raise DataError(
            f"{source} holds no image: its {len(classes)} classes are empty."
            if classes
            else f"{source} holds no image of a class."
        )
    if len(classes) < 2:
        raise DataError(
            f"{source} holds one class only: {classes}. Expected at least "
            "two. If these are folders of classes one level further down, "
            "pass that folder as --source."
        )
    return classes


def check_classes(
    catalogue: Catalogue, classes: list[str], source: str
) -> None:
    """Raises DataError if a class has no good image.

    Args:
        catalogue: Holds what the audit found of the files.
        classes: Names of all classes.
        source: The value of --source, for messages.
    """
    found = {label for (label,) in catalogue.execute(_LABELS_OF_IMAGES)}
    for label in classes:
        if label not in found:
            raise DataError(
                f"{source} has no good image of class {label!r}. Add some, or "
                "remove the folder."
            )


def _inspect(rows: list[Row], seed: int) -> tuple[list[tuple], list[tuple]]:
    """Returns what goes into two tables of the catalogue.

    As plain tuples, which pass between processes faster than objects.
    """
    facts, found = [], []
    urls = [r.path for r in rows if not r.problem and storage.is_url(r.path)]
    contents = storage.contents(urls)
    for row in rows:
        if row.problem:
            fact = inspection.Facts(0, problem=row.problem)
        elif storage.is_url(row.path):
            fact = inspection.inspect_content(next(contents), row.path)
        else:
            fact = inspection.inspect(row.path)
        facts.append(facts_row(row, fact, seed))
        found += finding_rows(row, fact)
    return facts, found
