"""The flags of the work, parsed by its own definitions before it is queued."""

import itertools
import pathlib
import shlex
from collections.abc import Sequence

from absl import flags

from data_prep.runtime import settings
from data_prep.runtime.errors import UsageError
from launch.job import CONFIGS
from launch.job import MODULES
from launch.job import Job
from launch.job import Work
from launch.job import value_of
from trainer.distribution import command_line
from trainer.distribution import platform_settings


def check(
    module: str, words: Sequence[str], defaults: Sequence[str] = ()
) -> tuple[str, ...]:
    """Parses the words as `python -m MODULE` will, and spells them out.

    Flag files are read here, as the machine that runs the job may not see
    them.

    Args:
        module: "trainer.task" or "data_prep.task".
        words: Its command line, without the program.
        defaults: Flags that the platform will give where the words do not.

    Returns:
        Each flag that was given, as `--name=value`.

    Raises:
        UsageError: As the module itself would, and for words that are no
            flags.
    """
    config_class = CONFIGS[module]
    values = flags.FlagValues()
    # So that a flag file within the words is understood.
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    settings.define_flags(config_class, values)
    booleans = {name for name in values if values[name].boolean}
    words = command_line.normalise([*defaults, *words], booleans)
    try:
        rest = values([module, *words])
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
    settings.from_flags(config_class, values)
    present = {
        one.name: values[one.name].value
        for one in config_class.settings()
        if values[one.name].present
    }
    return tuple(settings.spelled(present))


def work(job: Job, words: Sequence[str]) -> Work:
    """Returns what runs inside of a job, every run of its sweep checked.

    Raises:
        UsageError: If a flag of the work, or the grid, is wrong.
    """
    module = MODULES[job.common.job]
    defaults = _platform_defaults(job)
    arguments = check(module, words, defaults)
    variants = grid(job.value("grid")) + _flag_files(job.value("flag_files"))
    # Vertex AI and SageMaker bring folders of a bucket themselves.
    staged = job.common.target not in ("vertex", "sagemaker") and any(
        "://" in value_of(arguments, name)
        for name in ("data_dir", "model_dir", "weights")
    )
    if not variants:
        return Work(module, arguments, staged=staged)
    if module != "trainer.task":
        raise UsageError("--grid and --flag_files are for --job=trainer.")
    base = value_of(arguments, "model_dir").rstrip("/")
    spelt = [
        check(
            module,
            [*arguments, *variant, f"--model_dir={base}/{number:03d}"],
        )
        for number, variant in enumerate(variants)
    ]
    common = tuple(a for a in spelt[0] if all(a in run for run in spelt))
    runs = [tuple(a for a in run if a not in common) for run in spelt]
    return Work(module, common, tuple(runs), staged)


def grid(text: str) -> list[list[str]]:
    """Returns the flags of every point of a grid.

    Args:
        text: Such as "dropout=0,0.5 batch_size=16,32": flags with their
            values, all combined, the last changing fastest.

    Raises:
        UsageError: If it is written otherwise.
    """
    if not text:
        return []
    axes = []
    for word in shlex.split(text):
        name, equals, values = word.removeprefix("--").partition("=")
        if not equals or "" in values.split(","):
            raise UsageError(
                f"--grid has {word!r}: expected name=value,value and a space "
                'between flags, such as "dropout=0,0.5 batch_size=16,32".'
            )
        axes.append([f"--{name}={value}" for value in values.split(",")])
    return [list(point) for point in itertools.product(*axes)]


def _flag_files(text: str) -> list[list[str]]:
    paths = [path for path in text.split(",") if path]
    for path in paths:
        if not pathlib.Path(path).is_file():
            raise UsageError(
                f"--flag_files names {path}, which is no file. Expected files "
                "with one flag of the trainer a line."
            )
    return [[f"--flagfile={path}"] for path in paths]


def _platform_defaults(job: Job) -> list[str]:
    """Returns what the platform will say where the flags do not."""
    output_uri = job.value("output_uri")
    if job.common.job != "trainer" or not output_uri:
        return []
    if job.common.target == "vertex" and output_uri.startswith("gs://"):
        environ = {"AIP_MODEL_DIR": f"{output_uri.rstrip('/')}/model/"}
        return [f"--model_dir={platform_settings.find(environ).model_dir}"]
    if job.common.target == "sagemaker":
        return [f"--model_dir={output_uri.rstrip('/')}/{job.common.name}"]
    return []
