"""A command line as launchers pass it, made one that absl reads."""

from collections.abc import Collection
from collections.abc import Sequence

_BOOLEANS = {"true", "false", "t", "f", "1", "0", "yes", "no", "y", "n"}


def normalise(words: Sequence[str], booleans: Collection[str]) -> list[str]:
    """Returns the words of a command line in the form that absl reads.

    `--flag False` of a boolean flag becomes `--flag=False`: absl would take
    the former as True and a stray word. `--job_dir` and `--job-dir`, which
    Google's launchers pass, become `--model_dir`.

    Args:
        words: The words after the program's name.
        booleans: Names of the boolean flags.
    """
    found: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.lstrip("-") in ("job_dir", "job-dir") and name[:1] == "-":
            word = f"--model_dir{equals}{value}"
        last = found[-1] if found else ""
        if (
            word.lower() in _BOOLEANS
            and last.startswith("-")
            and last.lstrip("-") in booleans
        ):
            found[-1] = f"{last}={word}"
        else:
            found.append(word)
    return found
