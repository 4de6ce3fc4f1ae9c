"""How the rules of `launch_rules` are said."""


def require(holds, what, why):
    """Refuses what does not hold, saying what is wrong and why.

    Raises:
        AssertionError: Also where Python runs without assert statements.
    """
    if not holds:
        raise AssertionError(f"{what} is wrong: {why}.")


def module_of(command, what):
    """Returns the MODULE of a container's command `python -m MODULE`."""
    require(
        list(command[:2]) == ["python", "-m"] and len(command) == 3,
        what,
        f"its command is {list(command)}: expected python -m MODULE, as a "
        "shell before it (SageMaker's default is bash) would swallow SIGTERM",
    )
    return command[2]
