"""Gives every image of the catalogue its split."""

import itertools
import os

from data_prep.catalogue import splitting
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import printable
from data_prep.config import DEFAULT_SPLITS
from data_prep.config import Splits
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits as split_names
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

_KEEP_GIVEN = "INSERT INTO assigned SELECT id, given FROM images"
_COUNT_GIVEN = "SELECT COUNT(given) FROM images"
_FIRST_WITHOUT = "SELECT MIN(file) FROM images WHERE given IS NULL"
# Groups with images of several splits of the former data set.
_FIND_TORN = """
CREATE TABLE torn AS SELECT grp FROM images JOIN pins USING (rank)
GROUP BY grp HAVING COUNT(DISTINCT split) > 1
"""
# What joined such a group just now. It belongs to two splits: to none.
_FIND_BRIDGES = """
CREATE TABLE bridges AS SELECT id, file FROM images
WHERE grp IN torn AND rank NOT IN (SELECT rank FROM pins)
"""
_REPORT_BRIDGES = """
INSERT INTO findings SELECT 'split_leak', file, NULL,
    'looks like images of two splits of --splits_from; left out'
FROM bridges
"""
_DROP_BRIDGES = "INSERT INTO dropped SELECT id FROM bridges"
_PART_TORN = "DELETE FROM joined WHERE root IN torn"
_PIN_GROUPS = """
INSERT INTO pinned
SELECT grp, MIN(split) FROM images JOIN pins USING (rank) GROUP BY grp
"""
# Rank of a group, a class in it, and its number of images.
_GROUPS = """
SELECT grp, label, COUNT(*) FROM images
WHERE grp NOT IN (SELECT grp FROM pinned) GROUP BY grp, label
"""
_GROUPS_OF_CLASS = """
SELECT DISTINCT grp FROM images WHERE label = ? ORDER BY grp
"""
_SPLITS_REACHED = """
SELECT DISTINCT label, split FROM images JOIN grouped USING (grp)
"""
_CLASSES_NOT_PINNED = """
SELECT label FROM images
EXCEPT SELECT label FROM images JOIN pinned USING (grp) ORDER BY label
"""
_MOVE_GROUP = "UPDATE grouped SET split = ? WHERE grp = ?"
_IMAGES_PER_CLASS = "SELECT label, COUNT(*) FROM images GROUP BY label"
_PINNED_PER_CLASS = """
SELECT label, split, COUNT(*) FROM images JOIN pinned USING (grp)
GROUP BY label, split
"""
_ASSIGN = """
INSERT INTO assigned SELECT id, split FROM images
JOIN (SELECT * FROM pinned UNION ALL SELECT * FROM grouped) USING (grp)
"""
_CLASSES_NOT_IN_SPLIT = """
SELECT label FROM images
EXCEPT SELECT label FROM images JOIN assigned USING (id) WHERE split = ?
ORDER BY label
"""


def keeps_given(catalogue: Catalogue, splits: Splits) -> bool:
    """Tells whether the splits that the source gives are to be kept."""
    return bool(catalogue.value(_COUNT_GIVEN)) and not splits.splits


def assign(
    catalogue: Catalogue, splits: Splits, source: str, scratch: str
) -> None:
    """Gives every image its split.

    Args:
        catalogue: Holds the images and their groups; is changed.
        splits: The splits asked for, and the seed.
        source: The value of --source, for messages.
        scratch: Local folder for a copy of a former data set.

    Raises:
        UsageError: If the source gives splits and others are to be followed.
        DataError: If the images cannot be split so.
    """
    if keeps_given(catalogue, splits):
        if splits.splits_from:
            raise UsageError(
                f"--splits_from={splits.splits_from} cannot be followed: "
                f"{source} gives splits of its own. Pass --splits too, "
                "to split its images anew."
            )
        keep_given(catalogue)
    else:
        if splits.splits_from:
            former = _fetch_former(splits.splits_from, scratch)
            pin(catalogue, former, splits.seed)
        amounts = splitting.parse_spec(splits.splits or DEFAULT_SPLITS)
        split_groups(catalogue, amounts)
    _check_training(catalogue, source)


def keep_given(catalogue: Catalogue) -> None:
    """Keeps the splits that the source gives.

    Raises:
        DataError: If it gives none to some images.
    """
    catalogue.execute(_KEEP_GIVEN)
    missing = catalogue.value(_FIRST_WITHOUT)
    if missing:
        raise DataError(
            f"{printable(missing)} is in no split, but other images are. Give "
            "every image a split, or pass --splits to split all of them anew."
        )


def pin(catalogue: Catalogue, data_dir: str, seed: int) -> None:
    """Keeps the splits that images had in a former data set.

    A new image that looks like images of two splits cannot join both: it is
    left out.

    Args:
        catalogue: Is changed.
        data_dir: Folder of the former data set; local.
        seed: The seed of the ranks in the catalogue.

    Raises:
        DataError: If that is no whole data set.
    """
    manifest = manifest_lib.read(data_dir)
    for name in manifest.splits:
        prints = manifest_lib.load_fingerprints(manifest, data_dir, name)
        # The first split wins where the former set had an image twice.
        catalogue.insert(
            "pins",
            ((splitting.rank(one.tobytes(), seed), name) for one in prints),
        )
    catalogue.execute(_FIND_TORN)
    catalogue.execute(_FIND_BRIDGES)
    catalogue.execute(_REPORT_BRIDGES)
    catalogue.execute(_DROP_BRIDGES)
    catalogue.execute(_PART_TORN)
    catalogue.execute(_PIN_GROUPS)


def split_groups(catalogue: Catalogue, amounts: dict[str, float]) -> None:
    """Splits all images but those that are pinned.

    Args:
        catalogue: Is changed.
        amounts: Fraction, or images per class, by split.

    Raises:
        DataError: If a class has too few images.
    """
    if splitting.is_fractions(amounts):
        _split_by_fraction(catalogue, amounts)
    else:
        _split_by_count(catalogue, amounts)
    catalogue.execute(_ASSIGN)


def _split_by_fraction(catalogue: Catalogue, amounts: dict[str, float]) -> None:
    groups = itertools.groupby(catalogue.execute(_GROUPS), lambda row: row[0])
    catalogue.insert(
        "grouped",
        ((rank, splitting.by_fraction(rank, amounts)) for rank, _ in groups),
    )
    # A class too small to reach every split by its ranks is cut by number.
    reached = set(catalogue.execute(_SPLITS_REACHED))
    for (label,) in catalogue.execute(_CLASSES_NOT_PINNED).fetchall():
        if all((label, name) in reached for name in amounts):
            continue
        rows = catalogue.execute(_GROUPS_OF_CLASS, (label,))
        units = [(group, {label: 1}) for (group,) in rows]
        counts = splitting.class_counts(label, len(units), amounts)
        for rank, name in splitting.by_count(units, {label: counts}):
            catalogue.execute(_MOVE_GROUP, (name, rank))


def _split_by_count(catalogue: Catalogue, amounts: dict[str, float]) -> None:
    wanted = {
        label: splitting.class_counts(label, available, amounts)
        for label, available in catalogue.execute(_IMAGES_PER_CLASS)
    }
    for label, split, number in catalogue.execute(_PINNED_PER_CLASS):
        left = wanted[label].get(split, 0) - number
        wanted[label][split] = max(0, left)
    rows = itertools.groupby(catalogue.execute(_GROUPS), lambda row: row[0])
    groups = ((rank, {row[1]: row[2] for row in parts}) for rank, parts in rows)
    catalogue.insert("grouped", splitting.by_count(groups, wanted))


def _fetch_former(data_dir: str, scratch: str) -> str:
    """Returns a local folder with what `pin` takes of a former data set."""
    if not storage.is_url(data_dir):
        return data_dir
    url, folder = data_dir.rstrip("/"), os.path.join(scratch, "splits_from")
    name = manifest_lib.FILE_NAME
    storage.download(url, folder, [(name, name)])
    entries = manifest_lib.read(folder).splits.values()
    names = [entry.fingerprints.name for entry in entries]
    storage.download(url, folder, [(name, name) for name in names])
    return folder


def _check_training(catalogue: Catalogue, source: str) -> None:
    """Raises a DataError if a class has no image to be trained on."""
    for (label,) in catalogue.execute(
        _CLASSES_NOT_IN_SPLIT, (split_names.TRAIN,)
    ):
        raise DataError(
            f"class {label!r} has no image in the train split, so it "
            f"cannot be learnt; its images are in other splits of "
            f"{source}. Add some, remove the class, or pass --splits "
            "to split all images anew."
        )
