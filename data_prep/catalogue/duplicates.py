"""Groups of near-duplicates, in time that stays near linear.

Images are compared only where their hashes agree in one of 5 bands of their 64
bits: of pairs that differ in at most 4 bits that misses none (pigeonhole; M.
Norouzi et al., "Fast Search in Hamming Space with Multi-Index Hashing", CVPR
2012), and of others it finds many. Their thumbnails decide. Images without
contrast are not compared.
"""

import itertools
from collections.abc import Iterable
from collections.abc import Iterator

import numpy as np

from data_prep.catalogue.database import Catalogue
from data_prep.images import fingerprint

_BANDS = 5
_BLOCK = 64  # images that are compared at once
# So alike an image is to one before it that what is alike to the one is so to
# the other, by a hair: a film of a million frames is compared by a few.
_STANDS_FOR = 0.9995

_INDEX = "CREATE INDEX facts_rank ON facts (rank)"
# The same content gives the same thumbnail.
_LOOKS = """
CREATE TABLE looks AS
SELECT rank, hash, thumbnail FROM facts WHERE hash IS NOT NULL GROUP BY rank
"""
_BAND = """
SELECT hash >> ? & ? AS band, rank, thumbnail FROM looks ORDER BY band, rank
"""


def bands() -> list[tuple[int, int]]:
    """Returns index of the lowest bit, and mask, of each band."""
    edges = np.linspace(0, fingerprint.HASH_BITS, _BANDS + 1).astype(int)
    return [
        (int(low), (1 << int(high - low)) - 1)
        for low, high in zip(edges, edges[1:], strict=False)
    ]


def alike_pairs(
    rows: Iterable[tuple[int, int, bytes]], similarity: float
) -> Iterator[tuple[int, int]]:
    """Yields pairs that join all images of one band value that look the same.

    Not every pair, but enough to connect them: a thousand copies make no
    million pairs.

    Args:
        rows: Band value, key, and thumbnail (see `fingerprint.Fingerprint`) of
            images, sorted by band value.
        similarity: Least correlation of two thumbnails that count as alike.

    Yields:
        The key of an image, and of one before it.
    """
    rows = iter(rows)
    bands = keys = parts = np.empty(0, np.int64)
    looks = np.empty((0, fingerprint.THUMBNAIL_BYTES), np.float32)
    while block := list(itertools.islice(rows, _BLOCK)):
        before = len(keys)
        new_bands, new_keys, thumbnails = zip(*block, strict=True)
        bands = np.concatenate([bands, new_bands])
        keys = np.concatenate([keys, new_keys])
        parts = np.concatenate([parts, new_keys])  # one number if connected
        looks = np.concatenate([looks, fingerprint.normalize(thumbnails)])
        # Each with those before it that share its band value.
        alike = np.tril(looks[before:] @ looks.T, before - 1)
        alike *= bands[before:, None] == bands
        needed = np.ones(len(keys), bool)
        for row in np.flatnonzero(alike.max(axis=1) >= similarity):
            own = before + row
            (others,) = np.nonzero(alike[row] >= similarity)
            for other in others[np.unique(parts[others], return_index=True)[1]]:
                yield int(keys[own]), int(keys[other])
                parts[parts == parts[other]] = parts[own]
            needed[own] = not needed[alike[row] >= _STANDS_FOR].any()
        needed &= bands == bands[-1]
        bands, keys, parts, looks = (
            array[needed] for array in (bands, keys, parts, looks)
        )


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

    def join(self, one: int, other: int) -> bool:
        """Makes one group of two; tells whether they were two."""
        low, high = sorted((self.find(one), self.find(other)))
        self._parent.setdefault(low, low)
        self._parent[high] = low
        return low != high

    def members(self) -> Iterator[tuple[int, int]]:
        """Yields every key that was joined, and the least of its group."""
        for key in self._parent:
            yield key, self.find(key)


def join_near_duplicates(
    catalogue: Catalogue, similarity: float
) -> Iterator[tuple[int, int]]:
    """Joins the images that look nearly the same.

    Args:
        catalogue: Holds the fingerprints; its groups are changed.
        similarity: Least correlation of two thumbnails that count as alike.

    Yields:
        Ranks of two contents that were found alike, and so joined two groups.
    """
    catalogue.execute(_INDEX)
    catalogue.execute(_LOOKS)
    groups = Groups()
    for low, mask in bands():
        rows = catalogue.execute(_BAND, (low, mask))
        for one, other in alike_pairs(rows, similarity):
            if groups.join(one, other):
                yield one, other
    catalogue.insert("joined", groups.members())
