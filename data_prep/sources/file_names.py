"""Labelled images whose file names carry the label, such as cat.123.jpg."""

import re
from collections.abc import Iterator

from data_prep.runtime.errors import UsageError
from data_prep.sources.listing import SPLIT_NAMES
from data_prep.sources.listing import ImageFile
from data_prep.sources.listing import Listing
from data_prep.sources.listing import folders
from data_prep.sources.listing import no_folder
from data_prep.sources.listing import resolve_root
from data_prep.sources.listing import walk

PRESETS = {
    "kaggle": r"(?P<label>[a-z]+)\.\d+\.\w+$",  # cat.123.jpg
    "food5k": r"(?P<label>\d+)_\d+\.\w+$",  # 1_23.jpg
}


def compile_pattern(text: str) -> re.Pattern:
    """Returns the regular expression of `--label_pattern`.

    Args:
        text: A name of `PRESETS`, or an expression with a group `label`,
            matched from the start of the file's name without its folders.

    Raises:
        UsageError: If it is neither.
    """
    try:
        pattern = re.compile(PRESETS.get(text, text))
    # The others: a number of repeats or of brackets that is too large.
    except (re.error, OverflowError, RecursionError) as error:
        raise UsageError(
            f"--label_pattern={text} is no regular expression: {error}."
        ) from None
    if "label" not in pattern.groupindex:
        raise UsageError(
            f"--label_pattern={text} has no group named label. Expected one of "
            f"{', '.join(PRESETS)}, or an expression such as "
            r"'(?P<label>[a-z]+)\.\d+'."
        )
    return pattern


def list_file_names(source: str, label_pattern: str) -> Listing:
    """Lists the images below a folder by what their names say.

    Where every folder in the source has the name of a split (training,
    validation, evaluation and so on), those are the splits.

    Args:
        source: The folder; images may lie at any depth.
        label_pattern: As `compile_pattern` takes it. A file whose name it
            does not match belongs to no class.

    Raises:
        DataError: If there is no such folder.
        UsageError: If the pattern cannot be used.
    """
    pattern = compile_pattern(label_pattern)
    root = resolve_root(source)
    if root is None:
        raise no_folder(
            source,
            "a folder of images whose names match "
            f"--label_pattern={label_pattern}",
        )
    below = folders(root)
    with_splits = bool(below) and all(n.lower() in SPLIT_NAMES for n in below)
    return Listing(_images(root, pattern, with_splits), [])


def _images(
    root: str, pattern: re.Pattern, with_splits: bool
) -> Iterator[ImageFile]:
    for path, file, problem in walk(root):
        *above, name = file.split("/")
        match = pattern.match(name)
        label = match["label"] if match else None
        split = None
        if with_splits:
            split = SPLIT_NAMES[above[0].lower()] if above else None
            label = label if above else None
        if any(part.startswith(".") for part in (*above, name)):
            label = None
        yield ImageFile(path, file, label or None, split, problem)
