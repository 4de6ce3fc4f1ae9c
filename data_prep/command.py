"""How every `python -m ...` of this project starts and ends."""

import dataclasses
import errno
import signal
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from absl import app
from absl import flags

from data_prep.errors import EXIT_DATA
from data_prep.errors import EXIT_FAILURE
from data_prep.errors import EXIT_STOPPED
from data_prep.errors import EXIT_USAGE
from data_prep.errors import DataError
from data_prep.errors import Stopped
from data_prep.errors import TrainingError
from data_prep.errors import UsageError

# A full disk, a used-up quota, a limit on the size of files, a disk that takes
# no more because it is damaged.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def define_flags(
    config_class: type,
    *,
    helps: Mapping[str, str],
    choices: Mapping[str, Sequence[str]],
    bounds: Mapping[str, tuple],
    flag_values: flags.FlagValues = flags.FLAGS,
) -> None:
    """Defines one flag per field of a config, with the field's default.

    Args:
        config_class: A dataclass of str, int, float and bool fields.
        helps: What `--help` says of each field.
        choices: The values of a field that takes one of a few.
        bounds: Lowest and highest value of a number, None for none. What
            depends on several fields is the config's own to check.
        flag_values: Where to define them.
    """
    for field in dataclasses.fields(config_class):
        name, default = field.name, field.default
        if default is dataclasses.MISSING:
            default = ""
        common = {"help": helps[name], "flag_values": flag_values}
        low, high = bounds.get(name, (None, None))
        limits = {"lower_bound": low, "upper_bound": high}
        if name in choices:
            flags.DEFINE_enum(name, default, choices[name], **common)
        elif field.type is bool:
            flags.DEFINE_bool(name, default, **common)
        elif field.type is int:
            flags.DEFINE_integer(name, default, **limits, **common)
        elif field.type is float:
            flags.DEFINE_float(name, default, **limits, **common)
        else:
            flags.DEFINE_string(name, default, **common)


def config_from_flags(
    config_class: type, flag_values: flags.FlagValues = flags.FLAGS
) -> Any:
    """Builds the config that the flags of `define_flags` describe.

    Raises:
        UsageError: If they contradict each other.
    """
    names = [field.name for field in dataclasses.fields(config_class)]
    return config_class(**{name: flag_values[name].value for name in names})


def run(
    main: Callable[..., int | None], *, positional: str | None = None
) -> None:
    """Parses the command line, runs `main` and exits with its code.

    A user's mistake ends in one message on stderr and exit code 64 or 65, a
    stop by SIGINT or SIGTERM in 75; anything else keeps its traceback.

    Args:
        main: Reads the parsed flags; returns an exit code, where None is 0.
        positional: What the words that are no flags stand for; `main` then
            takes the list of them. None refuses such words.
    """
    signal.signal(signal.SIGTERM, _interrupt)

    def parse(argv: list[str]) -> list[str]:
        return _parse(argv, positional)

    def guarded(argv: list[str]) -> int | None:
        arguments = () if positional is None else (argv[1:],)
        return _guard(lambda: main(*arguments))

    app.run(guarded, flags_parser=parse)


def _guard(main: Callable[[], int | None]) -> int | None:
    try:
        return main()
    except UsageError as error:
        return _fail(error, EXIT_USAGE)
    except DataError as error:
        return _fail(error, EXIT_DATA)
    except TrainingError as error:
        return _fail(error, EXIT_FAILURE)
    except Stopped as error:
        return _fail(error, EXIT_STOPPED)
    except KeyboardInterrupt:
        return _fail(
            "stopped by a signal. Run the same command again.",
            EXIT_STOPPED,
        )
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            f"a file{where} could not be written: {error.strerror}. Free some "
            "space, and run the same command again.",
            EXIT_DATA,
        )


def _parse(argv: list[str], positional: str | None) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --help was given; absl itself would say 1
    except flags.Error as error:
        sys.exit(_fail(f"{error}\n--help lists every flag.", EXIT_USAGE))
    # absl takes `--flag False` as `--flag` and a stray word: refuse the word
    # rather than run with the opposite of what was meant.
    if positional is None and len(rest) > 1:
        message = (
            f"no positional argument is expected. Received: {rest[1:]}. "
            "Write every flag as --name=value."
        )
        sys.exit(_fail(message, EXIT_USAGE))
    if positional is not None and len(rest) == 1:
        sys.exit(_fail(f"expected {positional}.", EXIT_USAGE))
    return rest


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
