"""Groups of near-duplicates, in time that stays near linear.

Two hashes that differ in at most r bits agree in at least one of r + 1 bands
of their bits (pigeonhole; M. Norouzi et al., "Fast Search in Hamming Space
with Multi-Index Hashing", CVPR 2012). So only images that share a band are
compared. Images without contrast are not compared.
"""

import itertools
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from data_prep.catalogue.database import Catalogue
from data_prep.images import fingerprint

_BLOCK = 2048  # hashes that are compared with all others of a bucket at once

_INDEX = "CREATE INDEX facts_rank ON facts (rank)"
# Short rows, which are sorted once for every band.
_HASHES = """
CREATE TABLE hashes AS
SELECT rank, MIN(hash) AS hash FROM facts WHERE hash IS NOT NULL GROUP BY rank
"""
_BAND = """
SELECT hash >> ? & ? AS band, rank, hash FROM hashes ORDER BY band, hash, rank
"""


def bands() -> list[tuple[int, int]]:
    """Returns index of the lowest bit, and mask, of each band."""
    number = fingerprint.MAX_DISTANCE + 1
    edges = np.linspace(0, fingerprint.HASH_BITS, number + 1).astype(int)
    return [
        (int(low), (1 << int(high - low)) - 1)
        for low, high in zip(edges, edges[1:], strict=False)
    ]


def candidates(bucket: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields the pairs of a bucket whose hashes are close.

    Args:
        bucket: Key and hash (signed 64-bit) of images that share a band.

    Yields:
        Two keys. Of images with one and the same hash, all are paired with the
        first only, so that a thousand copies make no million pairs.
    """
    first: dict[int, int] = {}
    for key, value in bucket:
        if value in first:
            yield first[value], key
        else:
            first[value] = key
    if len(first) < 2:
        return
    keys = list(first.values())
    hashes = np.fromiter(first, np.int64, len(first)).view(np.uint64)
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK, None]
        distance = np.bitwise_count(block ^ hashes[None, start:])
        rows, columns = np.nonzero(distance <= fingerprint.MAX_DISTANCE)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if row < column:
                yield keys[start + row], keys[start + column]


class Groups:
    """Joins keys into groups (union-find); holds only keys that were joined."""

    def __init__(self):
        self._parent: dict[int, int] = {}

    def find(self, key: int) -> int:
        """Returns the least key of the group of `key`."""
        root = key
        while (above := self._parent.get(root, root)) != root:
            root = above
        while key != root:  # the next search is short
            above = self._parent.get(key, root)
            self._parent[key] = root
            key = above
        return root

    def join(self, one: int, other: int) -> None:
        """Makes one group of two."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent.setdefault(low, low)
        self._parent[high] = low

    def members(self) -> Iterator[tuple[int, int]]:
        """Yields every key that was joined, and the least of its group."""
        for key in self._parent:
            yield key, self.find(key)


def join_near_duplicates(catalogue: Catalogue) -> Iterator[tuple[int, int]]:
    """Joins the images that look nearly the same.

    Args:
        catalogue: Holds the fingerprints; its groups are changed.

    Yields:
        Ranks of two contents that were found alike, and so joined two groups.
    """
    catalogue.execute(_INDEX)
    catalogue.execute(_HASHES)
    groups = Groups()
    for low, mask in bands():
        rows = catalogue.execute(_BAND, (low, mask))
        for _, bucket in itertools.groupby(rows, key=lambda row: row[0]):
            for one, other in candidates(row[1:] for row in bucket):
                if groups.find(one) == groups.find(other):
                    continue
                if fingerprint.is_same(*catalogue.thumbnails(one, other)):
                    groups.join(one, other)
                    yield one, other
    catalogue.insert("joined", groups.members())
