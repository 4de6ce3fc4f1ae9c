"""Numbers of the page: classes, splits, sizes, and what was left out."""

import dataclasses
from collections.abc import Sequence

from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.dataset.splits import SPLITS

MANY = 100  # classes shown of the largest, and of the smallest

_BY_CLASS = """
SELECT label, COALESCE(split, given, ''), COUNT(*) FROM images
LEFT JOIN assigned USING (id) GROUP BY 1, 2
"""
_LEFT_OUT = """
SELECT kind, COUNT(*) FROM findings
WHERE kind IN ('bad_image', 'missing_file', 'no_image', 'ignored')
GROUP BY kind ORDER BY kind
"""
_COUNT_FILES = "SELECT COUNT(*) FROM files"
_COUNT_IMAGES = "SELECT COUNT(*) FROM images"
_COUNT_DROPPED = "SELECT COUNT(*) FROM dropped"
# Of which the page shows how many images lie between two edges.
_SIZES = (
    (
        "Shorter side, pixels",
        "MIN(width, height)",
        (32, 64, 96, 128, 160, 224, 300, 384, 512, 768, 1024, 2048, 4096),
    ),
    (
        "Width / height",
        "width * 1.0 / height",
        (0.25, 0.5, 0.67, 0.75, 0.9, 1.1, 1.33, 1.5, 2, 4),
    ),
    (
        "Bytes of the file, kB",
        "bytes / 1000.0",
        (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000),
    ),
)


@dataclasses.dataclass(frozen=True)
class ClassRow:
    """Images of a class.

    Attributes:
        name: The class.
        count: All of its images.
        splits: Those in each split, in the order of `Classes.splits`.
    """

    name: str
    count: int
    splits: list[int]


@dataclasses.dataclass(frozen=True)
class Classes:
    """Images by class and split.

    Attributes:
        splits: Names of the splits; "no split" for images that are in none.
        rows: The classes, by size; of many, the largest and the smallest.
        hidden: Number of classes that are not among the rows.
        total: All classes together.
        largest: Images of the largest class.
    """

    splits: list[str]
    rows: list[ClassRow]
    hidden: int
    total: ClassRow
    largest: int


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many images have which size.

    Attributes:
        name: What is counted, with its unit.
        bars: Range and number of images, from the first that has any to the
            last.
        highest: The largest of the numbers.
    """

    name: str
    bars: list[tuple[str, int]]
    highest: int


def count_files(catalogue: Catalogue) -> list[tuple[str, int]]:
    """Returns what became of the listed files; the first is their sum."""
    left_out = dict(catalogue.execute(_LEFT_OUT))
    dropped = catalogue.value(_COUNT_DROPPED)
    listed = catalogue.value(_COUNT_FILES) + left_out.get("ignored", 0)
    rows = [("files", listed), ("images", catalogue.value(_COUNT_IMAGES))]
    return [*rows, *left_out.items(), *([("dropped", dropped)] * bool(dropped))]


def count_classes(catalogue: Catalogue) -> Classes:
    """Returns the images of all classes and splits."""
    counts: dict[str, dict[str, int]] = {}
    for label, split, count in catalogue.execute(_BY_CLASS):
        counts.setdefault(label, {})[split] = count
    found = {split for row in counts.values() for split in row}
    splits = [split for split in (*SPLITS, "") if split in found]
    rows = [
        ClassRow(
            printable(label),
            sum(row.values()),
            [row.get(split, 0) for split in splits],
        )
        for label, row in counts.items()
    ]
    rows.sort(key=lambda row: (-row.count, row.name))
    total = ClassRow(
        f"all {len(rows)} classes",
        sum(row.count for row in rows),
        [sum(column) for column in zip(*(r.splits for r in rows), strict=True)],
    )
    largest = rows[0].count if rows else 0
    hidden = max(0, len(rows) - 2 * MANY)
    if hidden:
        rows = rows[:MANY] + rows[-MANY:]
    names = [split or "no split" for split in splits]
    return Classes(names, rows, hidden, total, largest)


def count_sizes(catalogue: Catalogue) -> list[Histogram]:
    """Returns how the images' sizes are spread."""
    sums = ", ".join(
        f"SUM({value} >= {low} AND {value} < {high})"
        for _, value, edges in _SIZES
        for low, high in zip((0, *edges), (*edges, 1e18), strict=True)
    )
    row = catalogue.execute(f"SELECT {sums} FROM images").fetchone()
    histograms = []
    for name, _, edges in _SIZES:
        counts, row = row[: len(edges) + 1], row[len(edges) + 1 :]
        histograms.append(_histogram(name, edges, counts))
    return histograms


def _histogram(
    name: str, edges: Sequence[float], counts: Sequence[int | None]
) -> Histogram:
    inner = zip(edges, edges[1:], strict=False)
    ranges = [
        f"< {edges[0]:,}",
        *(f"{low:,} – {high:,}" for low, high in inner),
        f"≥ {edges[-1]:,}",
    ]
    bars = [(r, count or 0) for r, count in zip(ranges, counts, strict=True)]
    taken = [number for number, (_, count) in enumerate(bars) if count]
    bars = bars[taken[0] : taken[-1] + 1] if taken else []
    return Histogram(name, bars, max((count for _, count in bars), default=0))
