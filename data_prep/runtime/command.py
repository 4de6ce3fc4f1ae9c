"""How every `python -m ...` of this project starts and ends."""

import atexit
import importlib.metadata
import os
import signal
import sys
from collections.abc import Callable
from typing import Any
from typing import NoReturn

from absl import app
from absl import flags

from data_prep.runtime import operating_system
from data_prep.runtime import setting_flags
from data_prep.runtime import setting_help
from data_prep.runtime import settings
from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import EXIT_FAILURE
from data_prep.runtime.errors import EXIT_STOPPED
from data_prep.runtime.errors import EXIT_USAGE
from data_prep.runtime.errors import NO_ROOM
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.errors import remedy

_HELP = {"--help", "-help", "-h", "-?"}


def run(
    main: Callable[..., int | None],
    config_class: type[settings.Config] | None = None,
    *,
    positional: str | None = None,
    adopt: Callable[[flags.FlagValues], None] | None = None,
) -> None:
    """Parses the command line, runs `main` and exits with its code.

    A user's mistake ends in one message on stderr and exit code 64 or 65, a
    stop by SIGINT or SIGTERM in 75; anything else keeps its traceback.

    Args:
        main: Takes the config that the flags describe, and returns an exit
            code, where None is 0.
        config_class: Whose settings are the flags; with None, `main` takes
            nothing and reads flags that were defined before.
        positional: What the words that are no flags stand for; `main` then
            takes the list of them too. None refuses such words.
        adopt: Called before parsing, may set other defaults of the flags.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    if config_class is not None:
        setting_flags.define_flags(config_class)

    def parse(argv: list[str]) -> list[str]:
        _answer_questions(argv, main, config_class)
        if code := _guard(operating_system.refuse_unsupported):
            sys.exit(code)
        if adopt is not None:
            code = _guard(lambda: adopt(flags.FLAGS))
            if code:
                sys.exit(code)
            argv = sys.argv
        return _parse(argv, positional, config_class)

    def guarded(argv: list[str]) -> int | None:
        def whole() -> int | None:
            arguments: list[Any] = []
            if config_class is not None:
                arguments.append(setting_flags.from_flags(config_class))
            if positional is not None:
                arguments.append(argv[1:])
            return main(*arguments)

        code = _guard(whole)
        if code and "tensorflow" in sys.modules:
            _exit_at_once(code)
        return code

    app.run(guarded, flags_parser=parse)


def version() -> str:
    """Returns the version of the installed package."""
    return importlib.metadata.version("shardtune")


def _answer_questions(
    argv: list[str],
    main: Callable,
    config_class: type[settings.Config] | None,
) -> None:
    """Answers --help and --version, and exits."""
    own = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if "--version" in own:
        print(f"shardtune {version()}")
        sys.exit(0)
    if config_class is not None and _HELP & set(own):
        intro = (sys.modules[main.__module__].__doc__ or "").strip()
        _print_to_reader(
            f"{intro}\n\n{setting_help.help_text(config_class)}\n\n"
            "Flags can stand in a file: --flagfile=FILE"
        )
        sys.exit(0)


def _print_to_reader(text: str) -> None:
    """Prints a text of which `head` or a pager may read a part only."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        if error.errno not in NO_ROOM:
            raise
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            f"a file{where} could not be written: {error.strerror}. "
            f"{remedy(error).capitalize()}, and run the same command again.",
            EXIT_DATA,
        )


def _exit_at_once(code: int) -> NoReturn:
    """Ends the process without the end of the interpreter and of TensorFlow.

    Threads of TensorFlow's pipelines may still call Python. Where one does
    while the interpreter ends, the process aborts instead (Python,
    "Cautions regarding runtime finalization"). TensorFlow's own end waits for
    workers, which may be gone. Exit functions are called as usual: AutoGraph
    removes its files there.
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parse(
    argv: list[str],
    positional: str | None,
    config_class: type[settings.Config] | None,
) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
    except SystemExit:
        sys.exit(0)  # --helpfull was given; absl itself would say 1
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.lstrip("-")
        hint = config_class.suggest(name) if config_class else ""
        sys.exit(
            _fail(
                f"there is no flag --{name}. {hint}--help lists every flag.",
                EXIT_USAGE,
            )
        )
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
