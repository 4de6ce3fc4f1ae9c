"""Labelled images that a CSV or TSV file lists."""

import csv
import os
import posixpath
from collections.abc import Iterator

from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.sources.listing import SPLIT_NAMES
from data_prep.sources.listing import ImageFile
from data_prep.sources.listing import Listing
from data_prep.sources.listing import find_problem

_EXPECTED = (
    "Expected a first line that names the columns path, label and, if the "
    "images are split already, split; separated by commas or tabs."
)


def list_table(table: str, file: str) -> Listing:
    """Lists the images that a table names.

    Args:
        table: A CSV or TSV file in UTF-8 whose first line names its columns.
            Paths are relative to its folder, which they must not leave.
        file: Its path on this machine: `table`, or a copy of it.

    Raises:
        DataError: If the table cannot be read; also while its images are run
            through.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            header = lines.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--source=csv:{table} cannot be read: {error}. {_EXPECTED}"
        ) from None
    delimiter = "\t" if "\t" in header else ","
    columns = next(csv.reader([header], delimiter=delimiter), [])
    if "path" not in columns or "label" not in columns:
        raise DataError(f"the first line of {table} is {header!r}. {_EXPECTED}")
    return Listing(_images(table, file, delimiter), [])


def _images(table: str, file: str, delimiter: str) -> Iterator[ImageFile]:
    root = table.rpartition("/")[0]
    if not storage.is_url(table):
        root = os.path.dirname(os.path.realpath(table))
    with open(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, delimiter=delimiter)
        try:
            for row in rows:
                yield _image(row, root, f"line {rows.line_num} of {table}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{table} cannot be read near line {rows.line_num}: {error}. "
                + _EXPECTED
            ) from None


def _image(row: dict[str, str], root: str, place: str) -> ImageFile:
    path, label = row["path"] or "", row["label"] or ""
    if not path or "\0" in path:
        raise DataError(f"{place} names no path. {_EXPECTED}")
    name = row.get("split")
    full, file, problem = _locate(path, root)
    split = SPLIT_NAMES.get(name.strip().lower()) if name else None
    if not label:
        problem = f"has no label ({place})"
    elif name and not split:
        problem = f"is in an unknown split {name!r} ({place})"
    return ImageFile(full, file, label, split, problem)


def _locate(path: str, root: str) -> tuple[str, str, str]:
    """Returns an image's address, its name, and the reason not to open it."""
    if storage.is_url(root):
        # Tables for Google's services hold whole addresses.
        path = path.removeprefix(f"{root}/")
        if storage.is_url(path) or storage.leads_out(path):
            return path, path, "leads out of the source"
        file = posixpath.normpath(path)
        return f"{root}/{file}", file, ""
    full = os.path.join(root, path)  # an absolute path stays what it is
    file = posixpath.normpath(os.path.relpath(full, root).replace(os.sep, "/"))
    return full, file, find_problem(full, root)
