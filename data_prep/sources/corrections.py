"""Labels that were found wrong, as a table: left out, or replaced."""

import csv
import os
from collections.abc import Iterator

from data_prep.runtime.errors import DataError
from data_prep.sources.listing import ImageFile

_EXPECTED = (
    "Expected a CSV file in UTF-8 with the columns file and label, as "
    "`shardtune inspect` writes it; an empty label leaves the image out."
)


def read(path: str) -> dict[str, str]:
    """Returns the label of each file that a table names, "" to leave it out.

    Args:
        path: The table.

    Raises:
        DataError: If it cannot be read, or names a file twice.
    """
    found: dict[str, str] = {}
    try:
        with open(
            path, newline="", encoding="utf-8-sig", errors="surrogateescape"
        ) as lines:
            rows = csv.DictReader(lines)
            if not {"file", "label"} <= set(rows.fieldnames or ()):
                raise DataError(
                    f"--corrections={path} has the columns {rows.fieldnames}. "
                    + _EXPECTED
                )
            for row in rows:
                file = row["file"]
                if not file:
                    raise DataError(
                        f"line {rows.line_num} of --corrections={path} names "
                        f"no file. {_EXPECTED}"
                    )
                if file in found:
                    raise DataError(
                        f"--corrections={path} names {file} twice. Leave one "
                        "of the lines out."
                    )
                found[file] = (row["label"] or "").strip()
    except (OSError, csv.Error) as error:
        raise DataError(
            f"--corrections={path} cannot be read: {error}. {_EXPECTED}"
        ) from None
    return found


def apply(
    images: Iterator[ImageFile], corrections: dict[str, str], path: str
) -> Iterator[ImageFile]:
    """Yields the images with other labels; those left out are of no class.

    Args:
        images: Of a source.
        corrections: What `read` returned.
        path: Where they stand, for the message.

    Raises:
        DataError: If a file is named that is of no class, or, at the end, one
            that was not among them.
    """
    left = dict(corrections)
    for image in images:
        label = corrections.get(image.file)
        if label is None:
            yield image
            continue
        left.pop(image.file, None)
        if label and image.label is None:
            raise DataError(
                f"--corrections={path} makes {image.file} a {label}, which is "
                "of no class in the source. Give it one there, or leave the "
                "line out."
            )
        yield ImageFile(
            image.path,
            image.file,
            label or None,
            image.split,
            image.problem,
        )
    if left:
        raise DataError(
            f"--corrections={path} names {os.fspath(next(iter(left)))}"
            f"{f' and {len(left) - 1} more' if len(left) > 1 else ''}, which "
            "the source does not have. Paths are relative to the source."
        )
