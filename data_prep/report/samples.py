"""Findings that the page shows: a sample of each kind, with their pictures."""

import dataclasses
import os
from collections.abc import Iterator

from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.catalogue.findings import KINDS
from data_prep.report import thumbnails

MOST = 24  # findings of a kind

_COUNT = "SELECT COUNT(*) FROM findings WHERE kind = ?"
# The same ones each time, from all parts of the list: a multiplicative hash
# (Knuth, The Art of Computer Programming, volume 3, section 6.4).
_SAMPLE = """
SELECT file, other, detail FROM (
    SELECT * FROM findings WHERE kind = ?
    ORDER BY rowid * 2654435761 % 4294967296, rowid LIMIT ?)
ORDER BY file
"""
_IMAGE = """
SELECT f.path, f.label, COALESCE(a.split, f.given), x.width, x.height
FROM files f JOIN facts x USING (id) LEFT JOIN assigned a USING (id)
WHERE f.file = ? AND x.problem = ''
"""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image of a finding.

    Attributes:
        file: Its name.
        image: Data address of its thumbnail; "" where there is none.
        about: Class, split and size, as far as they are known.
    """

    file: str
    image: str
    about: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found, and on which images.

    Attributes:
        pictures: The image, and the one that it is compared with.
        detail: What is said of it; "" where the kind says all.
    """

    pictures: list[Picture]
    detail: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """Findings of one kind.

    Attributes:
        kind: Its name.
        meaning: What it means.
        count: How many there are.
        findings: Some of them, or all.
        shows: Whether any has a thumbnail.
    """

    kind: str
    meaning: str
    count: int
    findings: list[Finding]
    shows: bool


def draw(catalogue: Catalogue) -> Iterator[Sample]:
    """Yields a sample of every kind of finding that there is."""
    for kind, meaning in KINDS.items():
        if count := catalogue.value(_COUNT, (kind,)):
            rows = list(catalogue.execute(_SAMPLE, (kind, MOST)))
            found = [
                Finding(
                    [
                        _picture(catalogue, name)
                        for name in (file, other)
                        if name
                    ],
                    detail,
                )
                for file, other, detail in rows
            ]
            shows = any(p.image for finding in found for p in finding.pictures)
            yield Sample(kind, meaning, count, found, shows)


def _picture(catalogue: Catalogue, file: bytes) -> Picture:
    name = printable(file)
    row = catalogue.execute(_IMAGE, (file,)).fetchone()
    if not row:  # a bad image, or a class
        return Picture(name, "", "")
    path, label, split, width, height = row
    about = [printable(label), *([split] if split else []), f"{width}×{height}"]
    image = thumbnails.make(os.fsdecode(path))
    return Picture(name, image, " · ".join(about))
