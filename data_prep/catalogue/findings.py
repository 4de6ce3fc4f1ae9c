"""What the audit found: `audit.json`, a table, and what stops the run."""

import json
import os
from collections.abc import Iterable

from data_prep.catalogue import duplicates
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import shown
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


def find(catalogue: Catalogue, splits_kept: bool) -> None:
    """Adds what only a look at all images together can tell.

    Args:
        catalogue: Holds what the audit found of each image.
        splits_kept: Whether the splits of the source are kept, so that one
            picture in two of them is a leak.
    """
    catalogue.insert("findings", _near_duplicates(catalogue))
    _same(catalogue, "duplicate", "rank", "file", "has the bytes of {}")
    _same(
        catalogue,
        "label_conflict",
        "grp",
        "label",
        "shows the picture of {}, of class {}",
    )
    if splits_kept:
        _same(
            catalogue,
            "split_leak",
            "grp",
            "given",
            "shows the picture of {}, of split {}",
        )
    _size_outliers(catalogue)
    _class_imbalance(catalogue)


def drop_duplicates(catalogue: Catalogue) -> None:
    """Leaves out all but one of the files with the same bytes.

    The one that is kept is in the test split, or else in validation, where
    the source gives splits, so that no evaluation changes. Where their
    classes differ, nobody knows which is right: all are left out.
    """
    catalogue.execute(
        "INSERT INTO dropped SELECT id FROM (SELECT id, ROW_NUMBER() OVER "
        "(PARTITION BY rank ORDER BY CASE given WHEN 'test' THEN 0 "
        "WHEN 'validation' THEN 1 ELSE 2 END, file) AS number, "
        "MIN(label) OVER (PARTITION BY rank) AS least, "
        "MAX(label) OVER (PARTITION BY rank) AS most FROM images) "
        "WHERE number > 1 OR least != most"
    )


def stop(catalogue: Catalogue, kinds: Iterable[str]) -> None:
    """Raises a DataError that names what was found of the given kinds.

    Args:
        catalogue: Holds the findings.
        kinds: Names of `KINDS`.
    """
    files = catalogue.value("SELECT COUNT(*) FROM files")
    for kind in kinds:
        count = _count(catalogue, kind)
        if not count:
            continue
        names = [f"  {text}" for text in _examples(catalogue, kind, MANY)]
        if count > MANY:
            names.append(f"  and {count - MANY} more")
        listed = "\n".join(names)
        if kind == "bad_image":
            raise DataError(
                f"{count} of {files} images are bad:\n{listed}\nMend or remove "
                "them, or pass --on_bad_image=skip to leave them out."
            )
        cure = (
            "pass --duplicates=drop or keep"
            if kind == "duplicate"
            else f"run without {kind} in --fail_on"
        )
        raise DataError(
            f"{count} findings of {kind} ({KINDS[kind]}):\n{listed}\nMend or "
            f"remove them, or {cure}."
        )


def save(catalogue: Catalogue, path: str) -> None:
    """Writes all findings as JSON, one line for each."""
    value = catalogue.value
    head = {
        "files": value("SELECT COUNT(*) FROM files"),
        "good": value("SELECT COUNT(*) FROM facts WHERE problem = ''"),
        "dropped": value("SELECT COUNT(*) FROM dropped"),
        "classes": dict(
            catalogue.execute(
                "SELECT label, COUNT(*) FROM images GROUP BY label"
            )
        ),
        "counts": counts(catalogue),
    }
    with open(path, "w", encoding="ascii") as file:
        file.write(json.dumps(head, indent=1)[:-2] + ',\n "findings": [')
        comma = ""
        for kind, name, detail in catalogue.execute(
            "SELECT kind, file, detail FROM findings ORDER BY kind, rowid"
        ):
            finding = {"kind": kind, "file": os.fsdecode(name)}
            if detail:
                finding["detail"] = detail
            file.write(f"{comma}\n  {json.dumps(finding)}")
            comma = ","
        file.write("\n ]\n}\n")


def counts(catalogue: Catalogue) -> dict[str, int]:
    """Returns how many there are of every kind that was found."""
    return {kind: n for kind in KINDS if (n := _count(catalogue, kind))}


def _near_duplicates(catalogue: Catalogue) -> Iterable[tuple[str, bytes, str]]:
    names = (
        "SELECT MIN(file) AS name FROM facts JOIN files USING (id) "
        "WHERE rank IN (?, ?) GROUP BY rank ORDER BY name"
    )
    for pair in duplicates.join_near(catalogue):
        (first,), (second,) = catalogue.execute(names, pair)
        yield "near_duplicate", second, f"looks like {shown(first)}"


def _same(
    catalogue: Catalogue, kind: str, group: str, column: str, text: str
) -> None:
    """Adds images that share a group with one whose `column` is another."""
    rows = catalogue.execute(
        f"SELECT file, first, other FROM (SELECT file, {column} AS own, "
        f"FIRST_VALUE(file) OVER w AS first, "
        f"FIRST_VALUE({column}) OVER w AS other FROM images "
        f"WINDOW w AS (PARTITION BY {group} ORDER BY {column}, file)) "
        "WHERE own != other ORDER BY file"
    )
    for file, first, other in rows:
        detail = text.format(shown(first), other)
        catalogue.insert("findings", [(kind, file, detail)])


def _size_outliers(catalogue: Catalogue) -> None:
    count = catalogue.value("SELECT COUNT(*) FROM images")
    if not count:
        return
    median = catalogue.value(
        "SELECT width * height AS area FROM images ORDER BY area "
        "LIMIT 1 OFFSET ?",
        (count // 2,),
    )
    rows = catalogue.execute(
        "SELECT file, width, height FROM images "
        "WHERE width * height > ? OR width * height < ? ORDER BY file",
        (median * _AREA_RATIO, median / _AREA_RATIO),
    )
    for file, width, height in rows:
        detail = f"is {width}x{height}; the median area is {median} pixels"
        catalogue.insert("findings", [("size_outlier", file, detail)])


def _class_imbalance(catalogue: Catalogue) -> None:
    classes = catalogue.execute(
        "SELECT label, COUNT(*) FROM images GROUP BY label ORDER BY label"
    ).fetchall()
    largest, most = max(classes, key=lambda c: c[1], default=("", 0))
    for label, count in classes:
        if count * _CLASS_RATIO < most:
            detail = f"has {count} images, {largest} has {most}"
            row = ("class_imbalance", os.fsencode(label), detail)
            catalogue.insert("findings", [row])


def _count(catalogue: Catalogue, kind: str) -> int:
    sql = "SELECT COUNT(*) FROM findings WHERE kind = ?"
    return catalogue.value(sql, (kind,))


def _examples(catalogue: Catalogue, kind: str, number: int) -> list[str]:
    rows = catalogue.execute(
        "SELECT file, detail FROM findings WHERE kind = ? LIMIT ?",
        (kind, number),
    )
    return [f"{shown(file)} {detail}".strip() for file, detail in rows]
