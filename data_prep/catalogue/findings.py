"""What the audit found: `audit.json`, a table, and what stops the run."""

import json
import os
import pathlib
import tempfile
from collections.abc import Mapping

from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError

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
MANY = 10  # named in a message before "and N more"

_IMAGES_PER_CLASS = """
SELECT label, COUNT(*) FROM images GROUP BY label ORDER BY label
"""
_COUNT_FILES = "SELECT COUNT(*) FROM files"
_COUNT_GOOD = "SELECT COUNT(*) FROM facts WHERE problem = ''"
_COUNT_DROPPED = "SELECT COUNT(*) FROM dropped"
_COUNT_KIND = "SELECT COUNT(*) FROM findings WHERE kind = ?"
_EXAMPLES = "SELECT file, detail FROM findings WHERE kind = ? LIMIT ?"
_ALL = "SELECT kind, file, other, detail FROM findings ORDER BY kind, rowid"


def refuse(
    catalogue: Catalogue, remedies: Mapping[str, str], output_dir: str
) -> None:
    """Ends the run if there are findings of some kinds.

    Args:
        catalogue: Holds the findings.
        remedies: What to do about each of these kinds, beside mending the
            files.
        output_dir: The data set to be; `audit.json`, which names all findings,
            is written beside it, or deleted where an earlier run left it.

    Raises:
        DataError: That names what was found of each such kind.
    """
    path = output_dir.rstrip("/")
    if not storage.is_url(path):
        path = str(pathlib.Path(path).absolute())
    path = f"{path}.{FILE_NAME}"
    found = [
        f"{_describe(catalogue, kind, count)}\nMend or remove them, or {remedy}."
        for kind, remedy in remedies.items()
        if (count := _count(catalogue, kind))
    ]
    if found:
        _save_beside(catalogue, path)
        raise DataError("\n".join([*found, f"All findings: {path}"]))
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


def _count(catalogue: Catalogue, kind: str) -> int:
    return catalogue.value(_COUNT_KIND, (kind,))


def _describe(catalogue: Catalogue, kind: str, count: int) -> str:
    """Returns how many findings there are of a kind, and names some."""
    rows = catalogue.execute(_EXAMPLES, (kind, MANY))
    names = [f"  {printable(file)} {detail}".rstrip() for file, detail in rows]
    if count > MANY:
        names.append(f"  and {count - MANY} more")
    head = f"{count} findings of {kind} ({KINDS[kind]})"
    if kind == "bad_image":
        files = catalogue.value(_COUNT_FILES)
        head = f"{count} of {files} images are bad"
    return "\n".join([f"{head}:", *names])


def _save_beside(catalogue: Catalogue, path: str) -> None:
    """Writes every finding to a file on this machine or in a store."""
    if not storage.is_url(path):
        save(catalogue, path)
        return
    with tempfile.TemporaryDirectory() as folder:
        listed = os.path.join(folder, FILE_NAME)
        save(catalogue, listed)
        storage.upload(listed, path)
