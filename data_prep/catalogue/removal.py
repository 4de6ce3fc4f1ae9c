"""Leaves images out that are in the catalogue twice."""

from data_prep.catalogue.database import Catalogue
from data_prep.runtime.errors import DataError

# All but one of the files with the same bytes, or all where labels differ.
_DROP_DUPLICATES = """
INSERT INTO dropped SELECT id FROM (
    SELECT id,
        ROW_NUMBER() OVER (
            PARTITION BY rank ORDER BY CASE given
                WHEN 'test' THEN 0 WHEN 'validation' THEN 1 ELSE 2 END, file
        ) AS number,
        MIN(label) OVER (PARTITION BY rank) AS least,
        MAX(label) OVER (PARTITION BY rank) AS most
    FROM images)
WHERE number > 1 OR least != most
"""
# The images of a picture in all but its first split of test, validation and
# train; all of a picture with two labels.
_DROP_LEAKS = """
INSERT INTO dropped SELECT id FROM (
    SELECT id, evaluated,
        MIN(evaluated) OVER (PARTITION BY grp) AS first,
        MIN(label) OVER (PARTITION BY grp) AS least,
        MAX(label) OVER (PARTITION BY grp) AS most
    FROM (SELECT *, CASE given
            WHEN 'test' THEN 0 WHEN 'validation' THEN 1 ELSE 2 END AS evaluated
        FROM images))
WHERE evaluated != first OR least != most
"""
_LABELS_LEFT = "SELECT DISTINCT label FROM images"


def drop_duplicates(catalogue: Catalogue, classes: list[str]) -> None:
    """Leaves out all but one of the files with the same bytes.

    The one that is kept is in the test split, or else in validation, where
    the source gives splits, so that no evaluation changes. Where their
    classes differ, nobody knows which is right: all are left out.

    Raises:
        DataError: If no image of a class is left.
    """
    catalogue.execute(_DROP_DUPLICATES)
    _check_left(catalogue, classes, "--duplicates=keep")


def drop_leaks(catalogue: Catalogue, classes: list[str]) -> None:
    """Leaves out what is in a split and in one that evaluates it, too.

    An image of test stays; what shows the same picture in validation and train
    is left out, and in train what shows a picture of validation. Pictures with
    two labels are left out everywhere.

    Raises:
        DataError: If no image of a class is left.
    """
    catalogue.execute(_DROP_LEAKS)
    _check_left(catalogue, classes, "--on_leak=keep")


def _check_left(catalogue: Catalogue, classes: list[str], remedy: str) -> None:
    left = {label for (label,) in catalogue.execute(_LABELS_LEFT)}
    for label in classes:
        if label not in left:
            raise DataError(
                f"class {label!r} has no image left: each of them has a copy "
                "in another class, so one of the two labels is wrong. Mend "
                f"the labels, or pass {remedy}."
            )
