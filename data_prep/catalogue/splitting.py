"""Which image goes into which split: stratified, seeded, pure functions.

A split is a share of the range of a content hash. What is assigned is a group:
all images that look the same. Its rank, the least of its members', is a 63-bit
number, a hash of seed and content, so it depends on no other image.
"""

import hashlib
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping

from data_prep.dataset.splits import SPLITS
from data_prep.dataset.splits import TRAIN
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

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


def by_count(
    groups: Iterable[tuple[int, Mapping[str, int]]],
    counts: Mapping[str, Mapping[str, int]],
) -> Iterator[tuple[int, str | None]]:
    """Yields every group and its split: the first with room for all of it.

    Groups of one image, the usual ones, fill test, validation and train in
    the order of their ranks.

    Args:
        groups: Rank, and number of images per class; sorted by rank.
        counts: Images per split, of every class.

    Yields:
        The rank, and None where no split has room.

    Raises:
        DataError: If a class could not be filled up.
    """
    room = {label: dict(splits) for label, splits in counts.items()}
    for group, images in groups:
        for name in reversed(SPLITS):
            if all(room[c].get(name, 0) >= n for c, n in images.items()):
                for label, number in images.items():
                    room[label][name] -= number
                yield group, name
                break
        else:
            yield group, None
    for label, splits in room.items():
        for name, missing in splits.items():
            if missing:
                raise DataError(
                    f"class {label!r} has {missing} images too few for "
                    f"{name}:{counts[label][name]}, because images of one "
                    "picture stay in one split. Ask for less with --splits, "
                    "or pass --duplicates=drop."
                )


def class_counts(
    label: str, available: int, amounts: Mapping[str, float]
) -> dict[str, int]:
    """Returns how many of a class's images each split gets.

    Args:
        label: Name of the class, for the message.
        available: Its number of images.
        amounts: Fraction, or images per class, by split. Of a fraction every
            split gets at least one image.

    Raises:
        DataError: If the class has too few images.
    """
    if is_fractions(amounts):
        # Training takes what the rounding of the others leaves.
        counts = {
            name: max(1, round(amount * available))
            for name, amount in amounts.items()
            if name != TRAIN
        }
        total = round(sum(amounts.values()) * available)
        counts[TRAIN] = total - sum(counts.values())
    else:
        counts = {name: int(amount) for name, amount in amounts.items()}
    if counts[TRAIN] < 1 or sum(counts.values()) > available:
        wanted = ", ".join(f"{name}:{counts[name]}" for name in amounts)
        raise DataError(
            f"class {label!r} has {available} images, too few for "
            f"{wanted}. Every split needs at least one image of every class: "
            "add images, or ask for less with --splits."
        )
    return counts


def is_fractions(amounts: Mapping[str, float]) -> bool:
    """Tells fractions from counts in what `parse_spec` returned."""
    return any(isinstance(amount, float) for amount in amounts.values())


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
