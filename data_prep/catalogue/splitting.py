"""Which image goes into which split: stratified, seeded, pure functions.

What is assigned is a group: all images that look the same. Its rank, the least
of its members', is a 63-bit number, a hash of seed and content, so it depends
on no other image. Splits of a large class are shares of the range of ranks;
those of a small class are cut by number, in the order of the ranks: the
boundaries then lie near those shares, and an image that is added moves only
images next to a boundary.
"""

import hashlib
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

from data_prep.dataset.splits import SPLITS
from data_prep.dataset.splits import TRAIN
from data_prep.runtime.errors import UsageError

# A class with fewer groups is cut by number, which meets the fractions; above,
# the share of the range does within a tenth, and adding images moves none.
CUT_BY_NUMBER = 1000
# Images per split; None is no split.
Quotas = dict[str | None, int]
# Rank, and number of images per class.
Group = tuple[int, Mapping[str, int]]

_RANKS = 1 << 63
_AMOUNT = re.compile(rf"(?P<name>{'|'.join(SPLITS)}):(?P<amount>\d+|\d*\.\d+)")


def parse_spec(text: str) -> dict[str, float]:
    """Parses the text of `--splits`.

    Args:
        text: `train:0.8,validation:0.1,test:0.1` (fractions, together at most
            1) or `train:1000,validation:500,test:500` (images per class).

    Returns:
        Amount per split, in the order train, validation, test.

    Raises:
        UsageError: If the text is none of the two.
    """
    expected = (
        "Expected fractions such as train:0.8,validation:0.1,test:0.1 or "
        "images per class such as train:1000,validation:500,test:500."
    )
    amounts: dict[str, float] = {}
    for part in text.split(","):
        match = _AMOUNT.fullmatch(part.strip())
        if not match or match["name"] in amounts:
            raise UsageError(
                f"--splits={text} cannot be read at {part!r}. {expected}"
            )
        amount = match["amount"]
        # The text "1" is one image and "1.0" the whole: only a point tells.
        value = float(amount) if "." in amount else int(amount)
        if not value:
            raise UsageError(
                f"--splits={text} leaves {match['name']} empty: leave it out "
                f"instead. {expected}"
            )
        amounts[match["name"]] = value
    kinds = {type(value) for value in amounts.values()}
    if len(kinds) > 1:
        raise UsageError(
            f"--splits mixes fractions and counts: {text!r}. {expected}"
        )
    if kinds == {float} and sum(amounts.values()) > 1 + 1e-9:
        raise UsageError(
            f"--splits adds up to {sum(amounts.values()):g}, more than all "
            f"images: {text!r}. {expected}"
        )
    if TRAIN not in amounts:
        raise UsageError(f"--splits names no train split: {text!r}. {expected}")
    return {name: amounts[name] for name in SPLITS if name in amounts}


def rank(sha256: bytes, seed: int) -> int:
    """Returns a number in [0, 2^63) that shuffles contents by `seed`.

    Args:
        sha256: Digest of the image file's content; 32 bytes.
        seed: Another seed gives another order.
    """
    return _hash(f"{seed}:".encode() + sha256)


def place(file: str, seed: int) -> int:
    """Returns a number in [0, 2^63) that shuffles paths by `seed`."""
    return _hash(f"{seed}:{file}".encode("utf-8", "surrogateescape"))


def by_fraction(group: int, amounts: Mapping[str, float]) -> str | None:
    """Returns the split of a group: a share of the range of ranks, test first.

    It depends on no other image, so adding images moves none; the counts come
    out near the fractions, not at them.

    Args:
        group: The rank of the group.
        amounts: Fraction per split.

    Returns:
        None where the fractions leave the group over.
    """
    end = 0.0
    for name in reversed(SPLITS):
        end += amounts.get(name, 0)
        # Fractions such as 0.8, 0.1 and 0.1 may add up to a little less.
        if group < end * _RANKS or end > 1 - 1e-9:
            return name
    return None


def quotas(images: int, amounts: Mapping[str, float]) -> Quotas:
    """Returns how many of a class's images each split gets.

    Args:
        images: Number of images of the class.
        amounts: Fraction, or images per class, by split; not more than there
            are, and at least one image for every split.

    Returns:
        Images per split, and of None, which is no split. Of a fraction, every
        split has at least one image, and training has what the rounding of
        the others leaves.
    """
    if is_fractions(amounts):
        total = round(sum(amounts.values()) * images)
        counts = {
            name: max(1, round(amount * images))
            for name, amount in amounts.items()
        }
        counts[TRAIN] = max(1, total - sum(counts.values()) + counts[TRAIN])
        while sum(counts.values()) > images:
            counts[max(counts, key=counts.__getitem__)] -= 1
    else:
        counts = {name: int(amount) for name, amount in amounts.items()}
    return {**counts, None: images - sum(counts.values())}


def by_quota(
    groups: Iterable[Group],
    room: dict[str, Quotas],
    amounts: Mapping[str, float],
    reserved: Mapping[int, str],
) -> Iterator[tuple[int, str | None]]:
    """Yields every group and its split: the first with room for all of it.

    Groups of one image, the usual ones, fill test, validation and train in
    the order of their ranks. Where no split has room, a group goes to train if
    the amounts are fractions, and to no split if they are counts.

    Args:
        groups: Sorted by rank.
        room: Images that each split still takes, of every class that is cut
            by number; is counted down. Other classes of a group do not
            matter; a group of none of these is split `by_fraction`.
        amounts: Fraction, or images per class, by split.
        reserved: The split of groups that are not asked for room.

    Yields:
        The rank, and None where the group is in no split.
    """
    otherwise = TRAIN if is_fractions(amounts) else None

    def first_with_room(counted: Mapping[str, int]) -> str | None:
        for name in (*reversed(SPLITS), None):
            if all(room[c].get(name, 0) >= n for c, n in counted.items()):
                return name
        return otherwise

    for group, images in groups:
        counted = {c: n for c, n in images.items() if c in room}
        if group in reserved:
            split = reserved[group]
        elif counted:
            split = first_with_room(counted)
        else:
            split = by_fraction(group, amounts)
        for label, number in counted.items():
            left = room[label].get(split, 0)
            room[label][split] = left - number
        yield group, split


def reserve(sizes: Iterable[tuple[int, int]], splits: Iterable[str]) -> dict:
    """Returns the group that each split surely gets, the smallest ones.

    Args:
        sizes: Rank and number of images of each group of one class; at least
            as many groups as splits.
        splits: Names.

    Returns:
        Splits by rank; the smallest group is test's, then validation's.
    """
    smallest = sorted(sizes, key=lambda group: (group[1], group[0]))
    names = [name for name in reversed(SPLITS) if name in splits]
    return {
        rank: name for (rank, _), name in zip(smallest, names, strict=False)
    }


def is_fractions(amounts: Mapping[str, float]) -> bool:
    """Tells fractions from counts in what `parse_spec` returned."""
    return any(isinstance(amount, float) for amount in amounts.values())


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
