"""Lists the images of whatever --source names."""

import dataclasses
import os

from data_prep.config import Source
from data_prep.runtime import storage
from data_prep.sources import corrections
from data_prep.sources import file_names
from data_prep.sources import folder
from data_prep.sources import table
from data_prep.sources import tfds
from data_prep.sources.listing import Listing


def list_images(source: Source, scratch: str) -> Listing:
    """Lists the labelled images of a source, their labels corrected.

    Args:
        source: The source, and how it is laid out.
        scratch: Local folder for what has to be copied first.

    Raises:
        DataError: If there is no such source; also while the images are run
            through.
    """
    listing = _list(source, scratch)
    if not source.corrections:
        return listing
    wanted = corrections.read(source.corrections)
    images = corrections.apply(listing.images, wanted, source.corrections)
    return dataclasses.replace(listing, images=images)


def _list(source: Source, scratch: str) -> Listing:
    place = source.place
    if source.kind == "csv":
        file = _fetch_table(place, scratch)
        return table.list_table(place, file, source.columns)
    if source.kind == "tfds":
        return tfds.list_tfds(place, os.path.join(scratch, "tfds"))
    if source.layout == "file_names":
        return file_names.list_file_names(place, source.label_pattern)
    return folder.list_folder(place, source.layout)


def _fetch_table(path: str, scratch: str) -> str:
    """Returns the path of a table on this machine."""
    if not storage.is_url(path):
        return path
    url, _, name = path.rpartition("/")
    storage.download(url, scratch, [(name, name)])
    return os.path.join(scratch, name)
