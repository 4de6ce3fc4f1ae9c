"""Text files that are whole or absent."""

import json
import pathlib


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file; a reader sees the old text or the whole new one.

    Args:
        path: Where to; its folder is made if need be.
        text: The content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"incomplete.{path.name}")
    incomplete.write_text(text)
    incomplete.replace(path)


def write_json(path: pathlib.Path, content: dict) -> None:
    """Writes a dict as JSON; see `write_text`."""
    write_text(path, json.dumps(content, indent=1) + "\n")
