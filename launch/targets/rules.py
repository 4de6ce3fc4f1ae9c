"""Rules that the jobs of several platforms keep."""

import importlib.util
from collections.abc import Sequence

from data_prep.runtime.errors import UsageError


def require(holds: bool, what: str, why: str) -> None:
    """Refuses what does not hold.

    Raises:
        UsageError: Saying what is wrong, and why.
    """
    if not holds:
        raise UsageError(f"{what} is wrong: {why}.")


def installed(module: str) -> bool:
    """Tells whether a module is there, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False  # not even the package that it would be in


def module_of(command: Sequence[str], what: str) -> str:
    """Returns the MODULE of a container's command `python -m MODULE`.

    Raises:
        UsageError: If it is another, such as a shell as process 1.
    """
    require(
        list(command[:2]) == ["python", "-m"] and len(command) == 3,
        what,
        f"its command is {list(command)}: expected python -m MODULE, as a "
        "shell before it (SageMaker's default is bash) would swallow SIGTERM",
    )
    return command[2]
