"""The files of a job: shell templates, YAML, lists of flags."""

import dataclasses
import pathlib
import re
import shlex
import shutil
import string
import subprocess
from collections.abc import Iterable
from collections.abc import Mapping

import yaml

from data_prep.runtime.errors import UsageError

_TEMPLATES = pathlib.Path(__file__).parent.with_name("templates")
# YAML 1.1 and 1.2 disagree on which words without quotes are numbers or truth
# values (1e-5, 0o17, y): what might be one is quoted.
_AMBIGUOUS = re.compile(r"[-+.~\d]|[yYnN]$")


@dataclasses.dataclass(frozen=True)
class Rendered:
    """What a target makes of a job.

    Attributes:
        files: Content by name, below the job's folder.
        commands: Programs with their words, which submit it.
        afterwards: How to watch, stop and resume it.
        runs_here: The one command is the work itself, not its submission.
        place: Region or namespace that its client has to know later.
        kind: Of the platform's object, where there are several.
        log: Path of the log's files; ID stands for the job's.
        names: What the platform is going to call the jobs, where we say it.
        before: Commands that make ready what the job needs, its image.
    """

    files: Mapping[str, str]
    commands: tuple[tuple[str, ...], ...]
    afterwards: str
    runs_here: bool = False
    place: str = ""
    kind: str = ""
    log: str = ""
    names: tuple[str, ...] = ()
    before: tuple[tuple[str, ...], ...] = ()


def fill_template(file: str, /, **values: object) -> str:
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


def dump_yaml(documents: Iterable[object], header: str) -> str:
    """Returns objects as YAML, their keys in the order that they have.

    Args:
        documents: The objects of a manifest, made of dictionaries, lists and scalars.
        header: Lines that become a comment at the top.
    """
    comment = "".join(
        f"# {line}".rstrip() + "\n" for line in header.strip().splitlines()
    )
    return comment + "---\n".join(
        yaml.dump(
            document,
            Dumper=_Dumper,
            sort_keys=False,
            allow_unicode=True,
            width=float("inf"),
        )
        for document in documents
    )


def shell_lines(words: Iterable[str], indent: int = 2) -> str:
    """Returns words as one shell command, a flag a line."""
    lines = [""]
    for word in map(shlex.quote, words):
        if lines[-1] and word.startswith("--"):
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return f" \\\n{' ' * indent}".join(lines)


def named_values(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Returns variables as Kubernetes and Vertex AI write them."""
    return [{"name": n, "value": value} for n, value in variables.items()]


def export_lines(variables: Mapping[str, str]) -> str:
    """Returns shell lines that set variables of the environment."""
    return "\n".join(
        f"export {name}={shlex.quote(value)}"
        for name, value in variables.items()
    )


def flag_files(runs: Iterable[Iterable[str]]) -> dict[str, str]:
    """Returns a file of flags for each run of a sweep."""
    return {
        f"runs/{number}.flags": "".join(f"{flag}\n" for flag in run)
        for number, run in enumerate(runs)
    }


def check_setup(line: str) -> None:
    """Refuses a --setup that would break the script that it stands in.

    Raises:
        UsageError: With bash's message, where bash is installed.
    """
    if line and shutil.which("bash"):
        done = subprocess.run(
            ["bash", "-n"], input=line, capture_output=True, text=True
        )
        if done.returncode:
            raise UsageError(
                f"--setup={line} is no shell line: {done.stderr.strip()}"
            )


class _Dumper(yaml.SafeDumper):
    """Block style; no anchors where an object occurs twice."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if _AMBIGUOUS.match(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
