"""Splits the groups of the catalogue: every class by the same amounts."""

import itertools
import json
import os
from collections.abc import Iterator

from data_prep.catalogue import splitting
from data_prep.catalogue.database import Catalogue
from data_prep.dataset.splits import TRAIN
from data_prep.runtime.errors import DataError

# A class of so many images is not small: if it has too few groups to be split,
# then because its images look alike.
_NOT_SMALL = 10
_MANY = 10  # classes named in a message before "and N more"

# Of every class with images that are not pinned: its name, images and groups,
# those pinned to a split included.
_CLASSES = """
SELECT label, COUNT(*), COUNT(DISTINCT grp) FROM images
LEFT JOIN pinned USING (grp)
WHERE pinned.grp IS NULL OR pinned.split IS NOT NULL
GROUP BY label HAVING SUM(pinned.grp IS NULL) > 0
"""
# Rank of a group, a class in it, and its number of images.
_GROUPS = """
SELECT grp, label, COUNT(*) FROM images
WHERE grp NOT IN (SELECT grp FROM pinned) GROUP BY grp, label
"""
_GROUPS_BY_CLASS = """
SELECT label, grp, COUNT(*) FROM images
WHERE grp NOT IN (SELECT grp FROM pinned) GROUP BY label, grp
"""
_PINNED = """
SELECT label, split, COUNT(*) FROM images JOIN pinned USING (grp)
WHERE split IS NOT NULL GROUP BY label, split
"""
_REACHED = """
SELECT label, split, COUNT(*) FROM images
JOIN (SELECT * FROM pinned UNION ALL SELECT * FROM grouped) USING (grp)
WHERE split IS NOT NULL GROUP BY label, split
"""
_CLEAR_GROUPED = "DELETE FROM grouped"
_DROP_CLASSES = """
INSERT INTO dropped SELECT id FROM images
WHERE label IN (SELECT value FROM json_each(?))
"""


def split_groups(
    catalogue: Catalogue, amounts: dict[str, float], small_classes: str
) -> None:
    """Gives every group that is not pinned its split, in the table `grouped`.

    Args:
        catalogue: Is changed.
        amounts: Fraction, or images per class, by split.
        small_classes: What becomes of a class with too few images for the
            splits: "train" keeps them in that split, "drop" leaves the class
            out, "fail" raises; "" is "train" for fractions, "fail" for counts.

    Raises:
        DataError: If the images cannot be split so.
    """
    fractions = splitting.is_fractions(amounts)
    policy = small_classes or ("train" if fractions else "fail")
    wanted, small = {}, {}
    for label, images, groups in catalogue.execute(_CLASSES):
        if _is_too_small(label, images, groups, amounts):
            small[label] = images
        elif not fractions or groups < splitting.CUT_BY_NUMBER:
            wanted[label] = splitting.quotas(images, amounts)
    if small and policy == "fail":
        raise _too_small(small, amounts)
    if policy == "drop":
        catalogue.execute(_DROP_CLASSES, (json.dumps(list(small)),))
    else:
        wanted |= {label: {TRAIN: images} for label, images in small.items()}
    room = _fill(catalogue, wanted, amounts, {})
    if not fractions:
        _check_counts(room, wanted)
        return
    cut = {
        label: quota for label, quota in wanted.items() if label not in small
    }
    if reserved := _find_reserved(catalogue, cut, amounts):
        catalogue.execute(_CLEAR_GROUPED)
        _fill(catalogue, wanted, amounts, reserved)
    _find_uneven(catalogue, cut)


def _fill(
    catalogue: Catalogue,
    wanted: dict[str, splitting.Quotas],
    amounts: dict[str, float],
    reserved: dict[int, str],
) -> dict[str, splitting.Quotas]:
    """Fills `grouped`; returns the images that are missing in each split."""
    room = {label: dict(quota) for label, quota in wanted.items()}
    for label, split, number in catalogue.execute(_PINNED):
        if label in room:
            left = room[label].get(split, 0) - number
            room[label][split] = max(0, left)
    groups = splitting.by_quota(_groups(catalogue), room, amounts, reserved)
    catalogue.insert("grouped", groups)
    return room


def _groups(catalogue: Catalogue) -> Iterator[splitting.Group]:
    rows = catalogue.execute(_GROUPS)
    for rank, parts in itertools.groupby(rows, lambda row: row[0]):
        yield rank, {label: number for _, label, number in parts}


def _is_too_small(
    label: str, images: int, groups: int, amounts: dict[str, float]
) -> bool:
    """Tells whether a class has too few images for its splits.

    Raises:
        DataError: If it has enough, but they look alike.
    """
    if not splitting.is_fractions(amounts):
        return images < sum(amounts.values())
    if groups >= len(amounts):
        return False
    if images >= _NOT_SMALL:
        raise DataError(
            f"class {label!r} has {images} images, but they look alike: "
            f"{groups} different ones, too few for {', '.join(amounts)}, as "
            "images of one picture stay in one split. If they are different "
            "pictures of one scene, such as those of a fixed camera, pass "
            "--similarity=0, which compares only bytes, or one closer to 1."
        )
    return True


def _too_small(small: dict[str, int], amounts: dict[str, float]) -> DataError:
    named = [
        f"{label!r} ({images} images)"
        for label, images in itertools.islice(small.items(), _MANY)
    ]
    if len(small) > _MANY:
        named.append(f"and {len(small) - _MANY} more")
    wanted = ", ".join(f"{name}:{number}" for name, number in amounts.items())
    return DataError(
        f"{len(small)} classes have too few images for {wanted}: "
        f"{', '.join(named)}. Add images, ask for less with --splits, or pass "
        "--small_classes=train to keep them in the train split alone, or "
        "drop to leave these classes out."
    )


def _check_counts(
    room: dict[str, splitting.Quotas], wanted: dict[str, splitting.Quotas]
) -> None:
    """Raises a DataError if a class could not be filled up."""
    for label, splits in room.items():
        for name, missing in splits.items():
            if name and missing > 0:
                raise DataError(
                    f"class {label!r} has {missing} images too few for "
                    f"{name}:{wanted[label][name]}, because images of one "
                    "picture stay in one split. Ask for less with --splits, "
                    "or, if they only look alike, pass a --similarity closer "
                    "to 1, or 0."
                )


def _find_reserved(
    catalogue: Catalogue,
    cut: dict[str, splitting.Quotas],
    amounts: dict[str, float],
) -> dict[int, str]:
    """Returns the split of groups that keep classes from missing one.

    Large groups can leave a split without room for any. Classes that did not
    reach a split have their smallest groups reserved for the splits.
    """
    pinned = {(label, split) for label, split, _ in catalogue.execute(_PINNED)}
    reached = {row[:2] for row in catalogue.execute(_REACHED)}
    lacking = {
        label
        for label in cut
        if any((label, name) not in reached for name in amounts)
    }
    reserved = {}
    rows = catalogue.execute(_GROUPS_BY_CLASS) if lacking else ()
    for label, groups in itertools.groupby(rows, lambda row: row[0]):
        if label not in lacking:
            continue
        names = [name for name in amounts if (label, name) not in pinned]
        reserved |= splitting.reserve((g[1:] for g in groups), names)
    return reserved


def _find_uneven(
    catalogue: Catalogue, cut: dict[str, splitting.Quotas]
) -> None:
    """Adds the classes that look-alikes keep far from the fractions."""
    found = {row[:2]: row[2] for row in catalogue.execute(_REACHED)}
    for label, quota in cut.items():
        for name, wanted in quota.items():
            got = found.get((label, name), 0)
            if name and sum(quota.values()) >= _NOT_SMALL and got * 2 < wanted:
                detail = (
                    f"has {got} images in {name} instead of {wanted}, as many "
                    "of its images look alike and stay in one split; see "
                    "--similarity"
                )
                row = ("uneven_split", os.fsencode(label), None, detail)
                catalogue.insert("findings", [row])
