"""Templates that are read as they are: plain files with $names in them."""

import json
import pathlib
import shlex
import string
from collections.abc import Iterable

_TEMPLATES = pathlib.Path(__file__).parent.with_name("templates")


def template(file: str, /, **values: object) -> str:
    """Fills a file of `launch/templates`.

    A line of which nothing is left but its value "" is dropped.

    Args:
        file: Its name.
        **values: For each $name in it.
    """
    lines = []
    for line in (_TEMPLATES / file).read_text().splitlines():
        filled = string.Template(line).substitute(values)
        if filled.strip() or not line.strip():
            lines.append(filled)
    return "\n".join(lines) + "\n"


def quoted(value: object) -> str:
    """Returns a value as YAML and JSON both read it."""
    return json.dumps(value)


def yaml_list(values: Iterable[object], indent: int) -> str:
    """Returns a block list, its first line without the indent."""
    return f"\n{' ' * indent}".join(f"- {quoted(v)}" for v in values)


def shell_lines(words: Iterable[str], indent: int = 2) -> str:
    """Returns words as one shell command, a flag a line."""
    lines = [""]
    for word in map(shlex.quote, words):
        if lines[-1] and word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return f" \\\n{' ' * indent}".join(lines)


def flag_files(runs: Iterable[Iterable[str]]) -> dict[str, str]:
    """Returns a file of flags for each run of a sweep."""
    return {
        f"runs/{number}.flags": "".join(f"{flag}\n" for flag in run)
        for number, run in enumerate(runs)
    }
