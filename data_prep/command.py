"""How every `python -m ...` of this project starts and ends."""

import signal
import sys
from collections.abc import Callable

from absl import app
from absl import flags

from data_prep.errors import EXIT_DATA
from data_prep.errors import EXIT_FAILURE
from data_prep.errors import EXIT_STOPPED
from data_prep.errors import EXIT_USAGE
from data_prep.errors import DataError
from data_prep.errors import TrainingError
from data_prep.errors import UsageError


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
    except KeyboardInterrupt:
        return _fail(
            "stopped by a signal. Run the same command again.",
            EXIT_STOPPED,
        )


def _parse(argv: list[str], positional: str | None) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
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
