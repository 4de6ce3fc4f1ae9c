"""What only a look at all images together can tell: copies, leaks, outliers."""

import os
from collections.abc import Iterator

import threadpoolctl

from data_prep.catalogue import duplicates
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable

_AREA_RATIO = 16  # to the median; four times as wide and as high
_CLASS_RATIO = 10  # to the largest class

# Images that share a group with one whose column holds another value: their
# name, and name and value of the first one of the group.
_DIFFERS_FROM_FIRST = """
SELECT file, first, other FROM (
    SELECT file, {column} AS own,
        FIRST_VALUE(file) OVER same AS first,
        FIRST_VALUE({column}) OVER same AS other
    FROM images WINDOW same AS (PARTITION BY {group} ORDER BY {column}, file))
WHERE own != other ORDER BY file
"""
_DUPLICATES = _DIFFERS_FROM_FIRST.format(group="rank", column="file")
_LABEL_CONFLICTS = _DIFFERS_FROM_FIRST.format(group="grp", column="label")
_SPLIT_LEAKS = _DIFFERS_FROM_FIRST.format(group="grp", column="given")
_NAMES_OF_PAIR = """
SELECT MIN(file) AS name FROM facts JOIN files USING (id)
WHERE rank IN (?, ?) GROUP BY rank ORDER BY name
"""
_MEDIAN_AREA = """
SELECT width * height AS area FROM images ORDER BY area LIMIT 1 OFFSET ?
"""
_SIZE_OUTLIERS = """
SELECT file, width, height FROM images
WHERE width * height > ? OR width * height < ? ORDER BY file
"""
_IMAGES_PER_CLASS = """
SELECT label, COUNT(*) FROM images GROUP BY label ORDER BY label
"""
_COUNT_IMAGES = "SELECT COUNT(*) FROM images"


def compare_images(
    catalogue: Catalogue, splits_kept: bool, similarity: float
) -> None:
    """Adds what only a look at all images together can tell.

    Args:
        catalogue: Holds what the audit found of each image.
        splits_kept: Whether the splits of the source are kept, so that one
            picture in two of them is a leak.
        similarity: Least correlation of two thumbnails that show one picture;
            0 compares none, and only the same bytes are one picture.
    """
    if similarity:
        # Its products are small: threads wait for each other, 14 times as long
        # as one needs where other work has the cores.
        with threadpoolctl.threadpool_limits(1, "blas"):
            catalogue.insert(
                "findings", _near_duplicates(catalogue, similarity)
            )
    for file, first, _ in catalogue.execute(_DUPLICATES):
        detail = f"has the bytes of {printable(first)}"
        _add(catalogue, "duplicate", file, detail, first)
    for file, first, label in catalogue.execute(_LABEL_CONFLICTS):
        detail = f"shows the picture of {printable(first)}, of class {label}"
        _add(catalogue, "label_conflict", file, detail, first)
    if splits_kept:
        for file, first, split in catalogue.execute(_SPLIT_LEAKS):
            detail = (
                f"shows the picture of {printable(first)}, of split {split}"
            )
            _add(catalogue, "split_leak", file, detail, first)
    _add_size_outliers(catalogue)
    _add_class_imbalance(catalogue)


def _near_duplicates(
    catalogue: Catalogue, similarity: float
) -> Iterator[tuple]:
    for pair in duplicates.join_near_duplicates(catalogue, similarity):
        (first,), (second,) = catalogue.execute(_NAMES_OF_PAIR, pair)
        yield "near_duplicate", second, first, f"looks like {printable(first)}"


def _add(
    catalogue: Catalogue,
    kind: str,
    file: bytes,
    detail: str,
    other: bytes | None = None,
) -> None:
    catalogue.insert("findings", [(kind, file, other, detail)])


def _add_size_outliers(catalogue: Catalogue) -> None:
    count = catalogue.value(_COUNT_IMAGES)
    if not count:
        return
    median = catalogue.value(_MEDIAN_AREA, (count // 2,))
    limits = (median * _AREA_RATIO, median / _AREA_RATIO)
    for file, width, height in catalogue.execute(_SIZE_OUTLIERS, limits):
        detail = f"is {width}x{height}; the median area is {median} pixels"
        _add(catalogue, "size_outlier", file, detail)


def _add_class_imbalance(catalogue: Catalogue) -> None:
    classes = catalogue.execute(_IMAGES_PER_CLASS).fetchall()
    largest, most = max(classes, key=lambda c: c[1], default=("", 0))
    for label, count in classes:
        if count * _CLASS_RATIO < most:
            detail = f"has {count} images, {largest} has {most}"
            _add(catalogue, "class_imbalance", os.fsencode(label), detail)
