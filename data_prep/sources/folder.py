"""Labelled images in folders: class/file or split/class/file."""

from collections.abc import Iterator

from data_prep.runtime.errors import DataError
from data_prep.sources.listing import SPLIT_NAMES
from data_prep.sources.listing import ImageFile
from data_prep.sources.listing import Listing
from data_prep.sources.listing import folders
from data_prep.sources.listing import no_folder
from data_prep.sources.listing import resolve_root
from data_prep.sources.listing import walk


def list_folder(source: str, layout: str) -> Listing:
    """Lists the labelled images below a folder.

    A class is a folder; its images may lie at any depth below it. Names that
    begin with a dot belong to no class, nor do files beside the class folders.

    Args:
        source: The folder.
        layout: "class_folders" (source/class/...), "split_folders"
            (source/split/class/...) or "auto", which is split folders where
            every folder below the source has the name of a split.

    Raises:
        DataError: If there is no such folder, or no class folder in it.
    """
    root = resolve_root(source)
    if root is None:
        raise no_folder(
            source,
            "a folder with one folder of images per class, or train, "
            "validation and test folders that hold those; or csv:FILE or "
            "tfds:NAME",
        )
    below = folders(root)
    unknown = [name for name in below if name.lower() not in SPLIT_NAMES]
    if layout == "auto":
        layout = "split_folders" if below and not unknown else "class_folders"
    if layout == "split_folders":
        if unknown:
            raise DataError(
                f"--layout=split_folders found the folder {unknown[0]!r} in "
                f"{source}, which names no split. Expected only "
                f"{', '.join(SPLIT_NAMES)}."
            )
        classes = {
            name for split in below for name in folders(f"{root}/{split}")
        }
    else:
        classes = set(below)
    if not classes:
        raise DataError(
            f"{source} holds no class folder. Expected "
            "CLASS/image.jpg, or train/CLASS/image.jpg and so on. Images "
            "whose names hold the label need --label_pattern."
        )
    images = _images(root, with_splits=layout == "split_folders")
    return Listing(images, sorted(classes))


def _images(root: str, with_splits: bool) -> Iterator[ImageFile]:
    depth = 2 if with_splits else 1  # folders above an image, at the least
    for path, file, problem in walk(root):
        parts = file.split("/")
        label = split = None
        # A refused link to a folder of images stands for what it hides.
        if len(parts) > depth - bool(problem):
            label = parts[depth - 1]
            split = SPLIT_NAMES[parts[0].lower()] if with_splits else None
        if any(part.startswith(".") for part in parts):
            label = None
        yield ImageFile(path, file, label, split, problem)
