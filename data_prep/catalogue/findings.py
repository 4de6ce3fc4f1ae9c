"""What the audit found: `audit.json`, a table, and what stops the run."""

import json
import os
import pathlib
import tempfile
from collections.abc import Iterable
from collections.abc import Iterator

from data_prep.catalogue import duplicates
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError

FILE_NAME = "audit.json"
# What is found, and what it means; the names are those of --fail_on.
KINDS = {
    "bad_image": "cannot be decoded",
    "decoder_warning": "decodes, but is damaged",
    "duplicate": "has the same bytes as another file",
    "near_duplicate": "looks like another image",
    "label_conflict": "is the picture of another class too",
    "split_leak": "is the picture of another split too",
    "wrong_ending": "is not what its ending says",
    "exif_rotated": "is stored turned; stored upright",
    "cmyk": "has inks for colours; stored as RGB",
    "alpha": "is transparent in parts; stored without",
    "palette": "has a palette",
    "sixteen_bit": "has 16 bits per channel; used with 8",
    "animated": "has several frames",
    "size_outlier": "is far larger or smaller than most",
    "class_imbalance": "class with few images beside another",
    "ignored": "file in no class",
}
MANY = 10  # named in a message before "and N more"

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
_COUNT_FILES = "SELECT COUNT(*) FROM files"
_COUNT_GOOD = "SELECT COUNT(*) FROM facts WHERE problem = ''"
_COUNT_DROPPED = "SELECT COUNT(*) FROM dropped"
_COUNT_IMAGES = "SELECT COUNT(*) FROM images"
_COUNT_KIND = "SELECT COUNT(*) FROM findings WHERE kind = ?"
_EXAMPLES = "SELECT file, detail FROM findings WHERE kind = ? LIMIT ?"
_ALL = "SELECT kind, file, other, detail FROM findings ORDER BY kind, rowid"


def compare_images(catalogue: Catalogue, splits_kept: bool) -> None:
    """Adds what only a look at all images together can tell.

    Args:
        catalogue: Holds what the audit found of each image.
        splits_kept: Whether the splits of the source are kept, so that one
            picture in two of them is a leak.
    """
    catalogue.insert("findings", _near_duplicates(catalogue))
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


def drop_duplicates(catalogue: Catalogue) -> None:
    """Leaves out all but one of the files with the same bytes.

    The one that is kept is in the test split, or else in validation, where
    the source gives splits, so that no evaluation changes. Where their
    classes differ, nobody knows which is right: all are left out.
    """
    catalogue.execute(_DROP_DUPLICATES)


def refuse(catalogue: Catalogue, kinds: Iterable[str], output_dir: str) -> None:
    """Ends the run if there are such findings.

    Args:
        catalogue: Holds the findings.
        kinds: Names of `KINDS`.
        output_dir: The data set to be; `audit.json`, which names all findings,
            is written beside it, or deleted where an earlier run left it.

    Raises:
        DataError: That names what was found of the first such kind.
    """
    path = output_dir.rstrip("/")
    if not storage.is_url(path):
        path = str(pathlib.Path(path).absolute())
    path = f"{path}.{FILE_NAME}"
    for kind in kinds:
        if count := _count(catalogue, kind):
            _save_beside(catalogue, path)
            raise DataError(
                f"{_describe(catalogue, kind, count)} All findings: {path}"
            )
    storage.delete(path)


def save(catalogue: Catalogue, path: str) -> None:
    """Writes every finding to a JSON file, one by one.

    Args:
        catalogue: Holds the findings.
        path: The file to write; local.
    """
    head = {
        "files": catalogue.value(_COUNT_FILES),
        "good": catalogue.value(_COUNT_GOOD),
        "dropped": catalogue.value(_COUNT_DROPPED),
        "classes": dict(catalogue.execute(_IMAGES_PER_CLASS)),
        "counts": count_kinds(catalogue),
    }
    with open(path, "w", encoding="ascii") as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "findings": [')
        comma = ""
        for kind, name, other, detail in catalogue.execute(_ALL):
            finding = {"kind": kind, "file": os.fsdecode(name)}
            if other:
                finding["other"] = os.fsdecode(other)
            if detail:
                finding["detail"] = detail
            file.write(f"{comma}\n  {json.dumps(finding)}")
            comma = ","
        file.write("\n ]\n}\n")


def count_kinds(catalogue: Catalogue) -> dict[str, int]:
    """Returns how many there are of every kind that was found."""
    return {kind: n for kind in KINDS if (n := _count(catalogue, kind))}


def _near_duplicates(catalogue: Catalogue) -> Iterator[tuple]:
    for pair in duplicates.join_near_duplicates(catalogue):
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


def _count(catalogue: Catalogue, kind: str) -> int:
    return catalogue.value(_COUNT_KIND, (kind,))


def _describe(catalogue: Catalogue, kind: str, count: int) -> str:
    """Returns what is to be done about findings, and names some of them."""
    rows = catalogue.execute(_EXAMPLES, (kind, MANY))
    names = [f"  {printable(file)} {detail}".rstrip() for file, detail in rows]
    if count > MANY:
        names.append(f"  and {count - MANY} more")
    listed = "\n".join(names)
    if kind == "bad_image":
        files = catalogue.value(_COUNT_FILES)
        return (
            f"{count} of {files} images are bad:\n{listed}\nMend or remove "
            "them, or pass --on_bad_image=skip to leave them out."
        )
    remedy = (
        "pass --duplicates=drop or keep"
        if kind == "duplicate"
        else f"run without {kind} in --fail_on"
    )
    return (
        f"{count} findings of {kind} ({KINDS[kind]}):\n{listed}\nMend or "
        f"remove them, or {remedy}."
    )


def _save_beside(catalogue: Catalogue, path: str) -> None:
    """Writes every finding to a file on this machine or in a store."""
    if not storage.is_url(path):
        save(catalogue, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        listed = os.path.join(folder, FILE_NAME)
        save(catalogue, listed)
        storage.upload(listed, path)
