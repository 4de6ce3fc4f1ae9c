"""Labelled images that a CSV or TSV file lists."""

import csv
import functools
import os
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.images.formats import ENDINGS
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.sources.listing import SPLIT_NAMES
from data_prep.sources.listing import ImageFile
from data_prep.sources.listing import Listing
from data_prep.sources.listing import find_problem

_EXPECTED = (
    "Expected a table in UTF-8 whose first line names its columns, separated "
    "by commas, semicolons or tabs."
)
FIELD = re.compile(r"\{([^{}]*)\}")
_SPLIT = "split"  # the column of splits, where there is one of this name
_ENDINGS = [
    f".{ending}"
    for endings in ENDINGS.values()
    for lower in endings
    for ending in (lower, lower.upper())
]


class Columns(NamedTuple):
    """Which columns of a table say what.

    Attributes:
        path: Template of the path, relative to the table's folder, with names
            of columns in braces: "train/{id}.jpg".
        label: Name of the column of the class.
        split: Name of the column of the split; "" is "split", where there is
            one.
    """

    path: str
    label: str
    split: str


def list_table(table: str, file: str, columns: Columns) -> Listing:
    """Lists the images that a table names.

    Args:
        table: A CSV or TSV file in UTF-8 whose first line names its columns.
            Paths are relative to its folder, which they must not leave. On
            this machine a path may lack its ending.
        file: Its path on this machine: `table`, or a copy of it.
        columns: Those that are read; others do not matter.

    Raises:
        DataError: If the table cannot be read; also while its images are run
            through.
        UsageError: If it has no such column.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            header = lines.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--source=csv:{table} cannot be read: {error}. {_EXPECTED}"
        ) from None
    delimiter = next((d for d in "\t;" if d in header), ",")
    if delimiter == ";" and "," in header:
        delimiter = ","
    names = [
        n.strip() for n in next(csv.reader([header], delimiter=delimiter), [])
    ]
    split = columns.split or (_SPLIT if _SPLIT in names else "")
    columns = columns._replace(split=split)
    _check_columns(table, names, columns)
    images = _images(table, file, delimiter, names, columns)
    return Listing(images, [])


def _check_columns(table: str, names: list[str], columns: Columns) -> None:
    """Raises UsageError unless a table has each column that is read, once."""
    read = {
        "--label_column": [columns.label],
        "--split_column": [columns.split] if columns.split else [],
        "--path_column or --path_template": FIELD.findall(columns.path),
    }
    for flag, wanted in read.items():
        for name in wanted:
            if names.count(name) != 1:
                raise UsageError(
                    f"{table} has {names.count(name)} columns {name!r}; its "
                    f"first line is {names}. Name the right one by {flag}. "
                    + _EXPECTED
                )


def _images(
    table: str, file: str, delimiter: str, names: list[str], columns: Columns
) -> Iterator[ImageFile]:
    root = table.rpartition("/")[0]
    if not storage.is_url(table):
        root = os.path.dirname(os.path.realpath(table))
    with open(file, encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines, names, delimiter=delimiter, restval="")
        try:
            next(rows)  # the names
            for row in rows:
                place = f"line {rows.line_num} of {table}"
                yield _image(row, columns, root, place)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(
                f"{table} cannot be read near line {rows.line_num}: {error}. "
                + _EXPECTED
            ) from None


def _image(
    row: dict[str, str], columns: Columns, root: str, place: str
) -> ImageFile:
    values = [row[name].strip() for name in FIELD.findall(columns.path)]
    if "" in values or any("\0" in value for value in values):
        raise DataError(
            f"{place} names no path: the row is "
            f"{', '.join(map(repr, row.values()))}."
        )
    path = FIELD.sub(lambda match: row[match[1]].strip(), columns.path)
    label = row[columns.label].strip()
    name = row[columns.split].strip() if columns.split else ""
    full, file, problem = _locate(path, root)
    split = SPLIT_NAMES.get(name.lower()) if name else None
    if not label:
        problem = f"has no label ({place})"
    elif name and not split:
        problem = f"is in an unknown split {name!r} ({place})"
    return ImageFile(full, file, label, split, problem)


def _locate(path: str, root: str) -> tuple[str, str, str]:
    """Returns an image's address, its name, and the reason not to open it.

    That there is no such file is found when it is opened.
    """
    if storage.is_url(root):
        # Tables for Google's services hold whole addresses.
        path = path.removeprefix(f"{root}/")
        if storage.is_url(path) or storage.leads_out(path):
            return path, path, "leads out of the source"
        file = posixpath.normpath(path)
        return f"{root}/{file}", file, ""
    folder, name = os.path.split(os.path.join(root, path))
    # One name for a file, whichever links lead to its folder.
    full = os.path.join(_real_folder(folder), name)
    ambiguous = ""
    inside = os.path.commonpath((root, full)) == root
    if inside and not os.path.lexists(full):
        found = [end for end in _ENDINGS if os.path.lexists(full + end)]
        full += found[0] if found else ""
        if len(found) > 1:
            ambiguous = f"is one of several: {name} with {', '.join(found)}"
    file = os.path.relpath(full, root).replace(os.sep, "/")
    if inside and not os.path.lexists(full):
        return full, file, ""
    return full, file, ambiguous or find_problem(full, root)


@functools.lru_cache(maxsize=1024)
def _real_folder(path: str) -> str:
    return os.path.realpath(path)
