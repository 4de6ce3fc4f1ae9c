"""The command line of what a job runs, parsed before the job is queued."""

import itertools
import pathlib
import shlex
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

from absl import flags

from data_prep.config import PrepareConfig
from data_prep.runtime import setting_flags
from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.distribution import command_line
from trainer.serve_config import ServeConfig

CONFIGS = {
    "trainer.task": Config,
    "data_prep.task": PrepareConfig,
    "trainer.serve": ServeConfig,
}


def parse(
    module: str, words: Sequence[str], defaults: Sequence[str] = ()
) -> tuple[str, ...]:
    """Parses a command line as `python -m MODULE` will, and spells it out.

    Flag files are read here, as the machine that runs the job may not see
    them.

    Args:
        module: Of `CONFIGS`.
        words: Its command line, without the program.
        defaults: Flags that the platform will give where the words do not.

    Returns:
        Each flag that was given, as `--name=value`.

    Raises:
        UsageError: As the module itself would, and for positional arguments.
    """
    config_class = CONFIGS[module]
    values = flags.FlagValues()
    # So that a flag file within the words is understood.
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    setting_flags.define_flags(config_class, values)
    booleans = {name for name in values if values[name].boolean}
    words = command_line.normalise([*defaults, *words], booleans)
    try:
        rest = values([module, *words])
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.lstrip("-")
        raise UsageError(
            f"{module} has no flag --{name}. {config_class.suggest(name)}"
            f"`python -m {module} --help` lists its flags."
        ) from None
    except flags.Error as error:
        raise UsageError(
            f"{module} does not take these flags: {error}. "
            f"`python -m {module} --help` lists its flags."
        ) from None
    if rest[1:]:
        raise UsageError(
            f"{module} takes no positional argument. Received: {rest[1:]}. "
            "Write every flag as --name=value."
        )
    setting_flags.from_flags(config_class, values)
    present = {
        one.name: values[one.name].value
        for one in config_class.settings()
        if values[one.name].present
    }
    return tuple(setting_flags.spelled(present))


def value_of(arguments: Sequence[str], name: str) -> str:
    """Returns the value of `--name=value` among arguments, "" for none."""
    found = ""
    for argument in arguments:
        if argument.startswith(f"--{name}="):
            found = argument.partition("=")[2]
    return found


def value_or_default(module: str, arguments: Sequence[str], name: str) -> str:
    """Returns the value of a flag, or its default, as text.

    Args:
        module: Of `CONFIGS`.
        arguments: Flags, each `--name=value`.
        name: The flag.
    """
    declared = {one.name: one for one in CONFIGS[module].settings()}
    return value_of(arguments, name) or str(declared[name].default)


def replace(
    arguments: Sequence[str], values: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Returns arguments with other values of flags; None leaves a flag out."""
    kept = [
        a
        for a in arguments
        if a.partition("=")[0].removeprefix("--") not in values
    ]
    given = [f"--{n}={v}" for n, v in values.items() if v is not None]
    return (*given, *kept)


def paths(
    module: str, arguments: Sequence[str]
) -> Iterator[tuple[settings.Setting, str, str]]:
    """Yields the arguments whose value is a path, by the settings' own word.

    Args:
        module: Of `CONFIGS`.
        arguments: Flags, each `--name=value`.

    Yields:
        The setting, what stands before the path (such as "csv:"), and the
        path: a local one, or an address in object storage.
    """
    declared = {one.name: one for one in CONFIGS[module].settings()}
    for argument in arguments:
        name, _, value = argument.removeprefix("--").partition("=")
        one = declared.get(name)
        if one is not None and one.path:
            prefix, path = one.path.split(value)
            if path:
                yield one, prefix, path


def expand_grid(text: str) -> list[list[str]]:
    """Returns the flags of every point of a grid.

    Args:
        text: Such as "dropout=0,0.5 batch_size=16,32": flags with their
            values, all combined, the last changing fastest.

    Raises:
        UsageError: If it is written otherwise.
    """
    if not text:
        return []
    axes: dict[str, list[str]] = {}
    for word in shlex.split(text):
        name, equals, values = word.removeprefix("--").partition("=")
        if not equals or "" in values.split(","):
            raise UsageError(
                f"--grid has {word!r}: expected name=value,value and a space "
                'between flags, such as "dropout=0,0.5 batch_size=16,32".'
            )
        if name == "model_dir":
            raise UsageError(
                "--grid has model_dir: each run gets a folder of its own below "
                "the one that --model_dir names. Leave it out."
            )
        if name in axes:
            raise UsageError(
                f"--grid has {name} twice: write all its values once."
            )
        found = values.split(",")
        if len(set(found)) < len(found):
            raise UsageError(f"--grid has a value of {name} twice: {values}.")
        axes[name] = [f"--{name}={value}" for value in found]
    return [list(point) for point in itertools.product(*axes.values())]


def name_flag_files(text: str) -> list[list[str]]:
    """Returns the one flag, `--flagfile`, of each run of a sweep.

    Args:
        text: Paths with commas between.

    Raises:
        UsageError: If one is not there.
    """
    found = [path for path in text.split(",") if path]
    for path in found:
        if not pathlib.Path(path).is_file():
            raise UsageError(
                f"--flag_files names {path}, which is no file. Expected files "
                "with one flag of the trainer a line."
            )
    return [[f"--flagfile={path}"] for path in found]
