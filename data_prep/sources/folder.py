"""Labelled images in folders: class/file or split/class/file."""

import dataclasses
import os
import pathlib

from data_prep.errors import DataError

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "evaluation": "test",
}


@dataclasses.dataclass(frozen=True)
class ImageFile:
    """One file that a source holds as a labelled image.

    Attributes:
        path: Where it lies on this machine.
        file: Path relative to the source, with forward slashes.
        label: Class name.
        split: The split it was found in, or None where the source has none.
    """

    path: str
    file: str
    label: str
    split: str | None


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a source holds.

    Attributes:
        images: Every file that stands as an image of a class, sorted by path.
        classes: Sorted names of all class folders, empty ones included.
        ignored: Relative paths of the files that belong to no class.
    """

    images: list[ImageFile]
    classes: list[str]
    ignored: list[str]


def list_folder(source: str, layout: str) -> Listing:
    """Lists the labelled images below a folder.

    A class is a folder; its images may lie at any depth below it. Names that
    begin with a dot are ignored, as are files beside the class folders: both
    are counted in `ignored`.

    Args:
        source: The folder.
        layout: "class_folders" (source/class/...), "split_folders"
            (source/split/class/...) or "auto", which is split folders where
            every folder below the source has the name of a split.

    Raises:
        DataError: If there is no such folder, or no class folder in it.
    """
    root = pathlib.Path(source)
    if not root.is_dir():
        raise DataError(
            f"--source={source} is no folder. Expected a folder with one "
            "folder of images per class, or train, validation and test "
            "folders that hold those."
        )
    below = _folders(root)
    unknown = [d.name for d in below if d.name.lower() not in SPLIT_FOLDERS]
    if layout == "auto":
        layout = "split_folders" if below and not unknown else "class_folders"
    if layout == "split_folders":
        if unknown:
            raise DataError(
                f"--layout=split_folders found the folder {unknown[0]!r} in "
                f"{source}, which names no split. Expected only "
                f"{', '.join(SPLIT_FOLDERS)}."
            )
        places = [
            (folder, SPLIT_FOLDERS[split.name.lower()])
            for split in below
            for folder in _folders(split)
        ]
        parents = [root, *below]
    else:
        places = [(folder, None) for folder in below]
        parents = [root]
    if not places:
        raise DataError(
            f"{source} holds no class folder. Expected "
            "CLASS/image.jpg, or train/CLASS/image.jpg and so on."
        )

    images: list[ImageFile] = []
    ignored = [
        _relative(entry, root)
        for parent in parents
        for entry in parent.iterdir()
        if not entry.is_dir() or entry.name.startswith(".")
    ]
    for folder, split in places:
        for path in _files(folder):
            if path.name.startswith("."):
                ignored.append(_relative(path, root))
            else:
                images.append(
                    ImageFile(
                        str(path), _relative(path, root), folder.name, split
                    )
                )
    images.sort(key=lambda image: image.file)
    classes = sorted({folder.name for folder, _ in places})
    return Listing(images, classes, sorted(ignored))


def _folders(parent: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        entry
        for entry in parent.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _files(folder: pathlib.Path):
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        for name in names:
            yield pathlib.Path(place, name)


def _relative(path: pathlib.Path, root: pathlib.Path) -> str:
    return path.relative_to(root).as_posix()
