"""Keeps images in the split that they had in a former data set."""

import os

from data_prep.catalogue import splitting
from data_prep.catalogue.database import Catalogue
from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime import storage

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


def pin(catalogue: Catalogue, data_dir: str, scratch: str, seed: int) -> None:
    """Pins the groups of images that a former data set holds to its splits.

    A new image that looks like images of two splits cannot join both: it is
    left out.

    Args:
        catalogue: Is changed.
        data_dir: Folder of the former data set, also in object storage.
        scratch: Local folder for a copy of what is needed of it.
        seed: The seed of the ranks in the catalogue.

    Raises:
        DataError: If that is no whole data set.
    """
    folder = _fetch(data_dir, scratch)
    manifest = manifest_lib.read(folder)
    for name in manifest.splits:
        prints = manifest_lib.load_fingerprints(manifest, folder, name)
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


def _fetch(data_dir: str, scratch: str) -> str:
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
