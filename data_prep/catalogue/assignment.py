"""Gives every image of the catalogue its split."""

import itertools

from data_prep.catalogue import splitting
from data_prep.catalogue.database import Catalogue
from data_prep.catalogue.database import shown
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime.errors import DataError

# Rank of a group, a class in it, and its number of images.
_GROUPS = (
    "SELECT grp, label, COUNT(*) FROM images "
    "WHERE grp NOT IN (SELECT grp FROM pinned) GROUP BY grp, label"
)


def keep(catalogue: Catalogue) -> None:
    """Keeps the splits that the source gives.

    Raises:
        DataError: If it gives none to some images.
    """
    catalogue.execute("INSERT INTO assigned SELECT id, given FROM images")
    missing = catalogue.value(
        "SELECT MIN(file) FROM images WHERE given IS NULL"
    )
    if missing:
        raise DataError(
            f"{shown(missing)} is in no split, but other images are. Give "
            "every image a split, or pass --splits to split all of them anew."
        )


def pin(catalogue: Catalogue, data_dir: str, seed: int) -> None:
    """Keeps the splits that images had in a former data set.

    A new picture that looks like images of two splits cannot join both: it is
    left out.

    Args:
        catalogue: Is changed.
        data_dir: The former data set.
        seed: As of the ranks in the catalogue.

    Raises:
        DataError: If that is no whole data set.
    """
    manifest = manifest_lib.read(data_dir)
    for name in manifest.splits:
        for sha256 in manifest_lib.load_fingerprints(manifest, data_dir, name):
            # The first split wins where the former set had a picture twice.
            catalogue.execute(
                "INSERT OR IGNORE INTO pins VALUES (?, ?)",
                (splitting.rank(sha256.tobytes(), seed), name),
            )
    catalogue.execute(
        "CREATE TABLE torn AS SELECT grp FROM images JOIN pins USING (rank) "
        "GROUP BY grp HAVING COUNT(DISTINCT split) > 1"
    )
    new = "grp IN torn AND rank NOT IN (SELECT rank FROM pins)"
    catalogue.execute(
        "INSERT INTO findings SELECT 'split_leak', file, 'looks like images "
        f"of two splits of --splits_from; left out' FROM images WHERE {new}"
    )
    catalogue.execute(f"INSERT INTO dropped SELECT id FROM images WHERE {new}")
    catalogue.execute("DELETE FROM joined WHERE root IN torn")
    catalogue.execute(
        "INSERT INTO pinned SELECT grp, MIN(split) FROM images "
        "JOIN pins USING (rank) GROUP BY grp"
    )


def anew(catalogue: Catalogue, amounts: dict[str, float]) -> None:
    """Splits all images but those that are pinned.

    Args:
        catalogue: Is changed.
        amounts: What `splitting.parse_spec` returned.

    Raises:
        DataError: If a class has too few images.
    """
    if splitting.is_fractions(amounts):
        _by_fraction(catalogue, amounts)
    else:
        _by_count(catalogue, amounts)
    catalogue.execute(
        "INSERT INTO assigned SELECT id, split FROM images JOIN "
        "(SELECT * FROM pinned UNION ALL SELECT * FROM grouped) USING (grp)"
    )


def check(catalogue: Catalogue, source: str) -> None:
    """Raises a DataError if a class cannot be trained."""
    sql = (
        "SELECT label FROM images EXCEPT SELECT label FROM images "
        "JOIN assigned USING (id) WHERE split = ? ORDER BY label"
    )
    for (label,) in catalogue.execute(sql, (splits.TRAIN,)):
        raise DataError(
            f"class {label!r} has no image in the train split, so it "
            f"cannot be learnt; its images are in other splits of "
            f"{source}. Add some, remove the class, or pass --splits "
            "to split all images anew."
        )


def _by_fraction(catalogue: Catalogue, amounts: dict[str, float]) -> None:
    groups = itertools.groupby(catalogue.execute(_GROUPS), lambda row: row[0])
    catalogue.insert(
        "grouped",
        ((rank, splitting.by_fraction(rank, amounts)) for rank, _ in groups),
    )
    # A class too small to reach every split by its ranks is cut by number.
    found = set(
        catalogue.execute(
            "SELECT DISTINCT label, split FROM images JOIN grouped USING (grp)"
        )
    )
    labels = catalogue.execute(
        "SELECT label FROM images EXCEPT SELECT label FROM images "
        "JOIN pinned USING (grp) ORDER BY label"
    ).fetchall()
    for (label,) in labels:
        if all((label, name) in found for name in amounts):
            continue
        sql = "SELECT DISTINCT grp FROM images WHERE label = ? ORDER BY grp"
        units = [(g, {label: 1}) for (g,) in catalogue.execute(sql, (label,))]
        counts = splitting.class_counts(label, len(units), amounts)
        for rank, name in splitting.by_count(units, {label: counts}):
            catalogue.execute(
                "UPDATE grouped SET split = ? WHERE grp = ?", (name, rank)
            )


def _by_count(catalogue: Catalogue, amounts: dict[str, float]) -> None:
    wanted = {
        label: splitting.class_counts(label, available, amounts)
        for label, available in catalogue.execute(
            "SELECT label, COUNT(*) FROM images GROUP BY label"
        )
    }
    for label, split, number in catalogue.execute(
        "SELECT label, split, COUNT(*) FROM images JOIN pinned USING (grp) "
        "GROUP BY label, split"
    ):
        left = wanted[label].get(split, 0) - number
        wanted[label][split] = max(0, left)
    rows = itertools.groupby(catalogue.execute(_GROUPS), lambda row: row[0])
    groups = ((rank, {row[1]: row[2] for row in of}) for rank, of in rows)
    catalogue.insert("grouped", splitting.by_count(groups, wanted))
