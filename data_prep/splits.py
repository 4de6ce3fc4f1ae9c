"""Which image goes into which split: stratified, seeded, a pure function."""

import hashlib
import re
from collections.abc import Sequence

from data_prep.errors import DataError
from data_prep.errors import UsageError

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
SPLITS = (TRAIN, VALIDATION, TEST)

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


def assign(
    files: Sequence[str],
    labels: Sequence[str],
    amounts: dict[str, float],
    seed: int,
) -> list[str | None]:
    """Assigns every image to a split, class by class.

    Within a class the images are ranked by a hash of seed and path, and the
    splits take their share from the top, test first. The result depends on
    the set of paths alone, not on their order.

    Args:
        files: Relative path of every image.
        labels: Class name of every image, as long as `files`.
        amounts: What `parse_spec` returned.
        seed: Another seed gives another split.

    Returns:
        The split of every image, as long as `files`; None where the amounts
        leave an image over.

    Raises:
        DataError: If a class has fewer images than the counts ask for, or too
            few for every split to get one.
    """
    by_class: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    result: list[str | None] = [None] * len(files)
    for label, positions in by_class.items():
        counts = _counts(label, len(positions), amounts)
        ranked = sorted(positions, key=lambda p: hash_rank(files[p], seed))
        start = 0
        for name in reversed(SPLITS):
            for position in ranked[start : start + counts.get(name, 0)]:
                result[position] = name
            start += counts.get(name, 0)
    return result


def hash_rank(file: str, seed: int) -> bytes:
    """Returns a sort key that shuffles paths by `seed`, the same everywhere."""
    text = f"{seed}:{file}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).digest()


def _counts(
    label: str, available: int, amounts: dict[str, float]
) -> dict[str, int]:
    """Returns how many of a class's images each split gets."""
    if any(isinstance(amount, float) for amount in amounts.values()):
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
