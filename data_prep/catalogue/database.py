"""All that is known of every image, in a table on disk.

A Python object per image would take a gigabyte for a million of them. SQLite
sorts and groups in files, so the memory that a run takes does not grow with
the number of images. What does stay in memory is two numbers for every content
that has a near-duplicate.
"""

import os
import pathlib
import sqlite3
from collections.abc import Iterable
from collections.abc import Iterator
from typing import NamedTuple

from data_prep.catalogue import splitting
from data_prep.images.inspection import Facts
from data_prep.runtime.errors import DataError
from data_prep.sources.listing import ImageFile

# `rank` is a 63-bit number that a content has by chance. `grp` is the least one
# of a group, which is all images that look the same: it decides the split.
# `place` orders the records of a split. `other` is the image that a finding
# compares `file` with, NULL where there is none.
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -16384; -- KiB, whatever the number of images
CREATE TABLE files (
    id INTEGER PRIMARY KEY, file BLOB UNIQUE, path BLOB, label TEXT,
    given TEXT, problem TEXT, times INTEGER DEFAULT 1);
CREATE TABLE facts (
    id INTEGER PRIMARY KEY, problem TEXT, bytes INTEGER, width INTEGER,
    height INTEGER, kept INTEGER, sha256 BLOB, hash INTEGER, thumbnail BLOB,
    rank INTEGER, place INTEGER);
CREATE TABLE joined (rank INTEGER PRIMARY KEY, root INTEGER);
CREATE TABLE pins (rank INTEGER PRIMARY KEY, split TEXT);
CREATE TABLE pinned (grp INTEGER PRIMARY KEY, split TEXT);
CREATE TABLE grouped (grp INTEGER PRIMARY KEY, split TEXT);
CREATE TABLE assigned (id INTEGER PRIMARY KEY, split TEXT);
CREATE TABLE dropped (id INTEGER PRIMARY KEY);
CREATE TABLE findings (kind TEXT, file BLOB, other BLOB, detail TEXT);
CREATE VIEW images AS
    SELECT f.id, file, path, label, given, bytes, width, height, kept, sha256,
        hash, thumbnail, x.rank, place, COALESCE(j.root, x.rank) AS grp
    FROM facts x JOIN files f USING (id) LEFT JOIN joined j USING (rank)
    WHERE x.problem = '' AND f.id NOT IN (SELECT id FROM dropped);
"""
_INSERTS = {
    # What a table says twice is true if it says the same.
    "files": """
        INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, 1) ON CONFLICT (file)
        DO UPDATE SET times = times + 1, problem = CASE
            WHEN label IS NOT excluded.label THEN
                'is listed as ' || label || ' and as ' || excluded.label
            WHEN given IS NOT excluded.given THEN
                'is listed in two splits'
            ELSE problem END""",
    "facts": "INSERT INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "findings": "INSERT INTO findings VALUES (?, ?, ?, ?)",
    "joined": "INSERT INTO joined VALUES (?, ?)",
    "pins": "INSERT OR IGNORE INTO pins VALUES (?, ?)",
    "grouped": "INSERT INTO grouped VALUES (?, ?)",
}
_REPEATED = """
INSERT INTO findings
SELECT 'repeated', file, NULL, times || ' times' FROM files WHERE times > 1
"""
_FILES = "SELECT id, path, file, problem FROM files ORDER BY file"


class Row(NamedTuple):
    """A file as it stands in the catalogue, before it was opened.

    Attributes:
        id: Number of the row.
        path: The file, on this machine or in object storage.
        file: Path relative to the source.
        problem: The reason not to open it, or "".
    """

    id: int
    path: str
    file: str
    problem: str


class Catalogue:
    """The table.

    Args:
        folder: Local folder for it, and for what it sorts.
    """

    def __init__(self, folder: str):
        # Read by SQLite when it first makes a temporary file.
        os.environ["SQLITE_TMPDIR"] = folder
        path = pathlib.Path(folder, "catalogue.sqlite")
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(_SCHEMA)
        self.execute("BEGIN")

    def __enter__(self) -> "Catalogue":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def execute(self, sql: str, values: Iterable = ()) -> sqlite3.Cursor:
        """Runs one statement and returns its rows, to be run through."""
        return self._connection.execute(sql, tuple(values))

    def insert(self, table: str, rows: Iterable[tuple]) -> None:
        """Adds rows to a table; to `pins` only those of ranks it lacks.

        Args:
            table: Name, one of those that rows are added to one by one.
            rows: Values of all columns; drawn from as they are added.
        """
        self._connection.executemany(_INSERTS[table], rows)

    def value(self, sql: str, values: Iterable = ()):
        """Returns the first column of the first row."""
        return self.execute(sql, values).fetchone()[0]

    def add_files(self, images: Iterable[ImageFile]) -> None:
        """Adds the files of a source, each once; those of no class are findings.

        Raises:
            DataError: If a class has a name that is no text.
        """
        image = None

        def rows() -> Iterator[tuple]:
            nonlocal image
            for image in images:
                file = os.fsencode(image.file)
                if image.label is None:
                    self.insert("findings", [("ignored", file, None, "")])
                    continue
                path = os.fsencode(image.path)
                row = (None, file, path, image.label, image.split)
                yield (*row, image.problem)

        try:
            self.insert("files", rows())
        except UnicodeEncodeError:
            raise DataError(
                f"the class name {printable(image.label)} is no UTF-8. Rename "
                "the folder."
            ) from None
        self.execute(_REPEATED)

    def files(self) -> Iterator[Row]:
        """Yields every file of a class, sorted by name."""
        for id_, path, file, problem in self.execute(_FILES):
            yield Row(id_, os.fsdecode(path), os.fsdecode(file), problem)


def facts_row(row: Row, facts: Facts, seed: int) -> tuple:
    """Returns what the audit found of one file, for the table `facts`.

    Args:
        row: The file.
        facts: What the audit found.
        seed: Seed of `rank` (order of contents) and `place` (of records).
    """
    print_ = facts.fingerprint
    return (
        row.id,
        facts.problem,
        facts.bytes,
        facts.width,
        facts.height,
        facts.kept,
        facts.sha256,
        print_.hash if print_ else None,
        print_.thumbnail if print_ else None,
        splitting.rank(facts.sha256, seed) if facts.sha256 else None,
        splitting.place(row.file, seed),
    )


def finding_rows(row: Row, facts: Facts) -> list[tuple]:
    """Returns what is odd about one file, for the table `findings`."""
    file = os.fsencode(row.file)
    found = [(kind, file, None, detail) for kind, detail in facts.findings]
    if facts.problem:
        found.insert(0, (facts.kind, file, None, facts.problem))
    return found


def printable(file: bytes | str) -> str:
    """Returns a file's name for a message: on one line, odd bytes escaped."""
    text = os.fsdecode(file)
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text
    )
