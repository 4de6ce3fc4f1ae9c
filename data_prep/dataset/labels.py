"""Names of classes, and the file that lists them: a name a line, by label."""

import pathlib
import unicodedata
from collections.abc import Iterable
from collections.abc import Sequence

from data_prep.runtime import atomic
from data_prep.runtime.errors import DataError

FILE_NAME = "labels.txt"


def check(names: Iterable[str]) -> None:
    """Refuses names that a list of lines cannot hold, or people not tell apart.

    Args:
        names: Of all classes.

    Raises:
        DataError: If one is blank, has a line separator of any kind or spaces
            around it (readers strip them, that of TFDS among others), or is
            spelled as another in other code points.
    """
    spelled: dict[str, str] = {}
    for name in sorted(names):
        if not name.strip():
            problem = "is blank"
        elif name.splitlines() != [name]:
            problem = "does not fit on one line"
        elif name.strip() != name:
            problem = "has spaces around it"
        else:
            same = spelled.setdefault(unicodedata.normalize("NFC", name), name)
            if same == name:
                continue
            problem = f"looks as {ascii(same)} does, in other code points"
        raise DataError(
            f"the class name {ascii(name)} {problem}. Rename it, in the "
            "folders or the table of the source."
        )


def to_lines(names: Sequence[str]) -> str:
    """Returns the content of a file that lists names, by label."""
    check(names)
    return "".join(f"{name}\n" for name in names)


def write(path: pathlib.Path, names: Sequence[str]) -> None:
    """Writes a file that lists names, whole or not at all."""
    atomic.write_text(path, to_lines(names))


def read(path: pathlib.Path) -> list[str]:
    """Returns the names that `write` wrote, by label."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]
