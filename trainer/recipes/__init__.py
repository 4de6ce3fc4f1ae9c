"""Recipes: files of flags, shipped with the package and named by `--recipe`."""

import pathlib
from collections.abc import Sequence
from typing import Any

from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import Setting

FOLDER = pathlib.Path(__file__).parent


def names() -> tuple[str, ...]:
    """Returns the names of all recipes."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.flags")))


def load(name: str, settings: Sequence[Setting]) -> dict[str, Any]:
    """Returns the values that a recipe gives, by name of setting.

    Args:
        name: One of `names`.
        settings: What its flags set.

    Raises:
        UsageError: If there is no such recipe, or a line of it is no flag.
    """
    path = FOLDER / f"{name}.flags"
    if name not in names():
        raise UsageError(
            f"--recipe={name} is no recipe. Expected one of "
            f"{', '.join(names())}."
        )
    types = {one.name: one.type for one in settings}
    values: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        flag, equals, text = line.strip().removeprefix("--").partition("=")
        if flag not in types or (not equals and types[flag] is not bool):
            raise UsageError(f"{path} has the line {line!r}, which is no flag.")
        kind = types[flag]
        values[flag] = kind(text) if equals and kind is not bool else True
    return values
