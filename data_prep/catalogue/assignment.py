"""Gives every image of the catalogue its split."""

import os

from data_prep.catalogue import pinning
from data_prep.catalogue import splitting
from data_prep.catalogue import stratification
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.config import DEFAULT_SPLITS
from data_prep.config import Splits
from data_prep.dataset.splits import SPLITS
from data_prep.dataset.splits import TRAIN
from data_prep.dataset.splits import VALIDATION
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

_COUNT_GIVEN = "SELECT COUNT(given) FROM images"
_COUNT_IN_GIVEN = "SELECT COUNT(*) FROM images WHERE given = ?"
_FIRST_WITHOUT = "SELECT MIN(file) FROM images WHERE given IS NULL"
_ASSIGN_GIVEN = "INSERT INTO assigned SELECT id, given FROM images"
# Groups that reach out of train stay what they are.
_PIN_ALL_BUT_TRAIN = """
INSERT INTO pinned SELECT grp, NULL FROM images
GROUP BY grp HAVING MIN(given) != 'train' OR MAX(given) != 'train'
"""
_ASSIGN_CARVED = """
INSERT INTO assigned SELECT id, COALESCE(split, given) FROM images
LEFT JOIN grouped USING (grp)
"""
_ASSIGN_GROUPED = """
INSERT INTO assigned SELECT id, split FROM images
JOIN (SELECT * FROM pinned UNION ALL SELECT * FROM grouped) USING (grp)
"""
_CLASSES = "SELECT DISTINCT label FROM images ORDER BY label"
_SPLITS = "SELECT DISTINCT split FROM assigned WHERE split IS NOT NULL"
_SPLITS_OF_CLASSES = """
SELECT DISTINCT label, split FROM images JOIN assigned USING (id)
WHERE split IS NOT NULL
"""


def keeps_given(catalogue: Catalogue, splits: Splits) -> bool:
    """Tells whether the splits that the source gives are to be kept."""
    return bool(catalogue.value(_COUNT_GIVEN)) and not splits.splits


def assign(
    catalogue: Catalogue, splits: Splits, source: str, scratch: str
) -> list[str]:
    """Gives every image its split.

    Args:
        catalogue: Holds the images and their groups; is changed.
        splits: The splits asked for, and the seed.
        source: The value of --source, for messages.
        scratch: Local folder for a copy of a former data set.

    Returns:
        The sorted names of the classes that were not left out.

    Raises:
        UsageError: If the splits asked for do not go with those that the
            source gives, or with its giving none.
        DataError: If the images cannot be split so.
    """
    if keeps_given(catalogue, splits):
        _keep_given(catalogue, splits, source)
    else:
        _split_anew(catalogue, splits, source, scratch)
    classes = [label for (label,) in catalogue.execute(_CLASSES)]
    if len(classes) < 2:
        raise DataError(
            f"--small_classes=drop leaves {len(classes)} classes of {source}. "
            "Expected at least two: add images, or keep small classes."
        )
    _find_missing(catalogue, classes, source)
    return classes


def _keep_given(catalogue: Catalogue, splits: Splits, source: str) -> None:
    """Keeps the splits that the source gives, and carves one out if asked."""
    if splits.splits_from:
        raise UsageError(
            f"--splits_from={splits.splits_from} cannot be followed: "
            f"{source} gives splits of its own. Pass --splits too, "
            "to split its images anew."
        )
    if missing := catalogue.value(_FIRST_WITHOUT):
        raise DataError(
            f"{printable(missing)} is in no split, but other images are. Give "
            "every image a split, or pass --splits to split all of them anew."
        )
    fraction = splits.validation_fraction
    if not fraction:
        catalogue.execute(_ASSIGN_GIVEN)
        return
    if count := catalogue.value(_COUNT_IN_GIVEN, (VALIDATION,)):
        raise UsageError(
            f"--validation_fraction={fraction:g} makes a validation split out "
            f"of train, and {source} gives one, of {count} images. Leave it "
            "out, or pass --splits to split all images anew."
        )
    catalogue.execute(_PIN_ALL_BUT_TRAIN)
    amounts = {TRAIN: 1 - fraction, VALIDATION: fraction}
    stratification.split_groups(catalogue, amounts, splits.small_classes)
    catalogue.execute(_ASSIGN_CARVED)


def _split_anew(
    catalogue: Catalogue, splits: Splits, source: str, scratch: str
) -> None:
    """Splits by --splits, but for what --splits_from pins."""
    if splits.validation_fraction:
        raise UsageError(
            f"--validation_fraction={splits.validation_fraction:g} is for a "
            f"source that gives the splits train and test, and {source} "
            "is split by --splits. Name validation there."
        )
    if splits.splits_from:
        pinning.pin(catalogue, splits.splits_from, scratch, splits.seed)
    amounts = splitting.parse_spec(splits.splits or DEFAULT_SPLITS)
    stratification.split_groups(catalogue, amounts, splits.small_classes)
    catalogue.execute(_ASSIGN_GROUPED)
    reached = {split for (split,) in catalogue.execute(_SPLITS)}
    for name in amounts:
        if name not in reached:
            raise DataError(
                f"no image is left for {name}: every class of {source} has "
                f"fewer than {len(amounts)} different images, too few for "
                f"{', '.join(amounts)}. Add images, or ask for less with "
                "--splits."
            )


def _find_missing(
    catalogue: Catalogue, classes: list[str], source: str
) -> None:
    """Adds the classes without an image in a split that others are in.

    Raises:
        DataError: If that split is train.
    """
    reached = set(catalogue.execute(_SPLITS_OF_CLASSES))
    present = {TRAIN, *(split for _, split in reached)}
    splits = [name for name in SPLITS if name in present]
    for label in classes:
        missing = [name for name in splits if (label, name) not in reached]
        if TRAIN in missing:
            raise DataError(
                f"class {label!r} has no image in the train split, so it "
                f"cannot be learnt; its images are in other splits of "
                f"{source}. Add some, remove the class, or pass --splits "
                "to split all images anew."
            )
        if missing:
            detail = f"has no image in {' and '.join(missing)}"
            row = ("class_not_in_split", os.fsencode(label), None, detail)
            catalogue.insert("findings", [row])
