"""Settings as flags of a command line, to and fro."""

from collections.abc import Mapping
from typing import Any

from absl import flags

from data_prep.runtime.settings import Config


def define_flags(
    config_class: type[Config], flag_values: flags.FlagValues = flags.FLAGS
) -> None:
    """Defines a flag for every setting.

    Choices and limits are checked when the config is built, so that a flag and
    a value given in Python meet the same check and the same message.
    """
    define = {
        str: flags.DEFINE_string,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        bool: flags.DEFINE_bool,
        tuple: flags.DEFINE_multi_string,
    }
    for one in config_class.settings():
        default = list(one.default) if one.type is tuple else one.default
        define[one.type](one.name, default, one.help, flag_values=flag_values)


def given(
    config_class: type[Config], flag_values: flags.FlagValues = flags.FLAGS
) -> dict[str, Any]:
    """Returns the values of flags that were given, or set by the platform."""
    return {
        one.name: flag_values[one.name].value
        for one in config_class.settings()
        if flag_values[one.name].present
        or flag_values[one.name].value not in (one.default, [])
    }


def from_flags(
    config_class: type[Config], flag_values: flags.FlagValues = flags.FLAGS
) -> Config:
    """Builds the config that the flags of `define_flags` describe.

    Raises:
        UsageError: If a value is impossible, or some contradict each other.
    """
    return config_class(**given(config_class, flag_values))


def spelled(values: Mapping[str, Any]) -> list[str]:
    """Returns values of settings as flags, `--name=value` each."""
    return [f"--{name}={text(value)}" for name, value in values.items()]


def text(value: Any) -> str:
    """Returns a value as it stands on a command line."""
    return str(value).lower() if isinstance(value, bool) else f"{value}"
