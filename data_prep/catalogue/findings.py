"""What the audit found: its kinds, and `audit.json`, which names them all."""

import json
import os

from data_prep.catalogue.database import Catalogue

FILE_NAME = "audit.json"
# What is found, and what it means; the names are those of --fail_on.
KINDS = {
    "bad_image": "cannot be decoded",
    "missing_file": "is listed, but not there",
    "no_image": "is no image; left out",
    "repeated": "is listed more than once; used once",
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
    "class_not_in_split": "class without an image in a split",
    "uneven_split": "class split unevenly, as many images look alike",
    "size_outlier": "is far larger or smaller than most",
    "class_imbalance": "class with few images beside another",
    "ignored": "file in no class",
}

_IMAGES_PER_CLASS = """
SELECT label, COUNT(*) FROM images GROUP BY label ORDER BY label
"""
_COUNT_FILES = "SELECT COUNT(*) FROM files"
_COUNT_GOOD = "SELECT COUNT(*) FROM facts WHERE problem = ''"
_COUNT_DROPPED = "SELECT COUNT(*) FROM dropped"
_COUNT_KIND = "SELECT COUNT(*) FROM findings WHERE kind = ?"
_ALL = "SELECT kind, file, other, detail FROM findings ORDER BY kind, rowid"


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


def _count(catalogue: Catalogue, kind: str) -> int:
    return catalogue.value(_COUNT_KIND, (kind,))
