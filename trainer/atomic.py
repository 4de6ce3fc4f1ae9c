"""Files that are whole or absent."""

import contextlib
import json
import pathlib
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a file to write to, which takes the place of `path` at the end.

    A reader of `path` sees the old file or the whole new one. After an
    exception it is the old one; what was written is removed.

    Args:
        path: Where to; its folder is made if need be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"incomplete.{path.name}")
    try:
        yield incomplete
        incomplete.replace(path)
    except BaseException:
        incomplete.unlink(missing_ok=True)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file; see `replacing`.

    Args:
        path: Where to; its folder is made if need be.
        text: The content.
    """
    with replacing(path) as incomplete:
        incomplete.write_text(text)


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a dict as JSON; see `replacing`."""
    write_text(path, json.dumps(content, indent=1) + "\n")
