"""Settings, each declared once: name, default, meaning, limits, and use.

A group is a frozen dataclass whose fields are made by `setting`; a `Config` is
made of groups. From these declarations alone come the flags
(`setting_flags`), `--help` and the tables of docs/flags.md (`setting_help`),
the checks of every value, what a model directory is recognised by, and what
`launch` mounts, stages or refuses.
"""

import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import ClassVar
from typing import Self

from data_prep.runtime.errors import UsageError

READ, WRITTEN = "read", "written"
# How far a setting reaches: it is part of what a run is; or it may change when
# a run is resumed, but all workers must agree on it; or it is each process's.
RUN, START, PROCESS = "run", "start", "process"

_METADATA = "setting"


@dataclasses.dataclass(frozen=True)
class Path:
    """What a setting whose value is a path names.

    Attributes:
        mode: `READ` or `WRITTEN`.
        stores: Whether it may be an address in object storage.
        words: Values that are no path, such as "none".
        prefixes: What may stand before the path, such as "csv:".
    """

    mode: str
    stores: bool = False
    words: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def split(self, value: str) -> tuple[str, str]:
        """Returns the prefix and the path of a value; "" where it has none."""
        if value in self.words:
            return "", ""
        prefix = next((p for p in self.prefixes if value.startswith(p)), "")
        path = value.removeprefix(prefix)
        if prefix == "tfds:" and "/" not in path:  # a name, no directory
            return prefix, ""
        return prefix, path


@dataclasses.dataclass(frozen=True)
class Setting:
    """The declaration of one setting.

    Attributes:
        name: The flag's and the field's name.
        type: str, int, float, bool, or tuple for texts of which several may
            be given.
        default: Its value unless given.
        help: What it means, one sentence or a few.
        choices: All values that it may have; empty where others tell.
        low: Least value; None for any.
        high: Greatest value; None for any.
        path: What it names, where its value is a path.
        scope: `RUN`, `START` or `PROCESS`.
        first: Whether `--help` shows it among the few that everybody needs.
        required: Whether it has to be given; its default is then "".
    """

    name: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...]
    low: float | None
    high: float | None
    path: Path | None
    scope: str
    first: bool
    required: bool

    def check(self, value: Any) -> Any:
        """Returns the value, an int as a float where one is declared.

        Raises:
            UsageError: If the value is none that the setting may have.
        """
        if self.type is float and type(value) is int:
            try:
                value = float(value)
            except OverflowError:
                value = math.inf  # refused below
        if self.type is tuple and type(value) is list:
            value = tuple(value)
        if type(value) is not self.type:
            raise self._wrong(value, f"expected {_KINDS[self.type]}")
        if self.type is tuple and not all(type(w) is str for w in value):
            raise self._wrong(value, f"expected {_KINDS[tuple]}")
        for word in value if self.type is tuple else (value,):
            if type(word) is str and not _can_be_given(word):
                raise self._wrong(
                    repr(word), "no command line holds such a character"
                )
            if self.choices and word not in self.choices:
                raise self._wrong(
                    word,
                    f"{did_you_mean(word, self.choices)}expected one of "
                    f"{', '.join(c or '(empty)' for c in self.choices)}",
                )
        if self.type is float and not math.isfinite(value):
            raise self._wrong(value, "expected a finite number")
        low, high = self.low, self.high
        if (low is not None and value < low) or (
            high is not None and value > high
        ):
            raise self._wrong(value, f"expected {self.range}")
        if self.path and not self.path.stores and "://" in value:
            raise self._wrong(
                value,
                "it lies in object storage, and expected is a folder of the "
                "machine that runs this",
            )
        return value

    @property
    def range(self) -> str:
        """The limits as people read them, "" where there are none."""
        if self.low is not None and self.high is not None:
            return f"{self.low:.10g} to {self.high:.10g}"
        if self.low is not None:
            return f"at least {self.low:.10g}"
        return "" if self.high is None else f"at most {self.high:.10g}"

    def _wrong(self, value: Any, expected: str) -> UsageError:
        return UsageError(f"--{self.name}={value} is impossible: {expected}.")


def _can_be_given(word: str) -> bool:
    """Returns whether a text can be an argument of a process, or a path."""
    try:
        return b"\0" not in os.fsencode(word)
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return False


_KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "several texts",
}


def setting(
    default: Any,
    help: str,
    *,
    choices: Iterable[str] = (),
    low: float | None = None,
    high: float | None = None,
    path: Path | None = None,
    scope: str = RUN,
    first: bool = False,
    required: bool = False,
) -> Any:
    """Declares a field of a group; see `Setting` for the arguments."""
    options = {
        "help": help,
        "choices": tuple(choices),
        "low": low,
        "high": high,
        "path": path,
        "scope": scope,
        "first": first or required,
        "required": required,
    }
    return dataclasses.field(default=default, metadata={_METADATA: options})


def same_as(group: type["Group"], name: str, **changes: Any) -> Any:
    """Declares a field as another group does, but for some changes.

    Args:
        group: Where it is declared.
        name: The field's name there.
        **changes: Arguments of `setting`.
    """
    found = {one.name: one for one in group.settings()}[name]
    options = {
        field.name: getattr(found, field.name)
        for field in dataclasses.fields(Setting)
        if field.name not in ("name", "type")
    }
    return setting(**{**options, **changes})


class Group:
    """Base of frozen dataclasses whose fields are settings.

    Every value is checked when a group is built; what depends on several is
    for a group's own `__post_init__`, after this one's.

    Raises:
        UsageError: If a value is none that its setting may have.
    """

    def __post_init__(self) -> None:
        for one in self.settings():
            value = one.check(getattr(self, one.name))
            object.__setattr__(self, one.name, value)

    @classmethod
    def settings(cls) -> list[Setting]:
        """Returns the declarations of all fields."""
        return [
            Setting(
                name=field.name,
                type=typing.get_origin(field.type) or field.type,
                default=field.default,
                **field.metadata[_METADATA],
            )
            for field in dataclasses.fields(cls)
        ]

    @classmethod
    def title(cls) -> str:
        """Returns the first line of the docstring, without its period."""
        return (cls.__doc__ or "").strip().splitlines()[0].rstrip(".")


class Config:
    """Groups of settings, built from flat values; the annotations name them.

    `also_called` holds names that other tools give to settings.

    `Config(dropout=0.5).model.dropout` is 0.5 where `model` is annotated with
    the group that declares `dropout`. It cannot be changed; `replace` makes
    another.

    Args:
        *required: Values of the settings that have to be given, in order.
        **values: Values by name of setting; all others have their defaults.

    Raises:
        UsageError: If there is no such setting, one is missing, or a value is
            impossible.
    """

    also_called: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self, *required: Any, **values: Any):
        settings = self.settings()
        declared = [one.name for one in settings]
        names = [one.name for one in settings if one.required]
        if len(required) > len(names):
            raise UsageError(
                f"{type(self).__name__} takes {', '.join(names)} by position, "
                f"and all else by name. Received: {required}."
            )
        values = {**dict(zip(names, required, strict=False)), **values}
        for one in settings:
            if one.required and not values.get(one.name):
                raise UsageError(f"--{one.name} is missing: {one.help}")
        for name in values:
            if name not in declared:
                raise UsageError(
                    f"there is no setting {name!r}. "
                    f"{self.suggest(name)}"
                    f"{type(self).__name__} takes {', '.join(declared)}."
                )
        for attribute, group in self.groups().items():
            names = {one.name for one in group.settings()} & values.keys()
            part = group(**{name: values[name] for name in names})
            object.__setattr__(self, attribute, part)
        self.check()

    def check(self) -> None:
        """Refuses what settings of several groups forbid together."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name}: a config is not changed; use replace")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.values() == other.values()

    def __hash__(self) -> int:
        return hash(tuple(self.values().items()))

    def __repr__(self) -> str:
        values = self.values()
        given = ", ".join(
            f"{one.name}={values[one.name]!r}"
            for one in self.settings()
            if values[one.name] != one.default
        )
        return f"{type(self).__name__}({given})"

    @classmethod
    def groups(cls) -> dict[str, type[Group]]:
        """Returns the groups by the attribute that holds each."""
        return {
            name: group
            for name, group in typing.get_type_hints(cls).items()
            if isinstance(group, type) and issubclass(group, Group)
        }

    @classmethod
    def settings(cls) -> list[Setting]:
        """Returns the declarations of all settings, group by group."""
        found = [one for g in cls.groups().values() for one in g.settings()]
        return list({one.name: one for one in found}.values())

    @classmethod
    def suggest(cls, name: str) -> str:
        """Returns "Did you mean X or Y? " for a name that no setting has.

        Args:
            name: What was given; "" is returned where nothing is like it.
        """
        known = [one.name for one in cls.settings()]
        parts = {one: one.split("_") for one in known}
        found = cls.also_called.get(name) or [
            one for one in known if name in parts[one]
        ]
        found = found or difflib.get_close_matches(name, known, n=1)
        return f"Did you mean {' or '.join(found)}? " if found else ""

    def values(self) -> dict[str, Any]:
        """Returns all values by name of setting."""
        return {
            one.name: getattr(getattr(self, attribute), one.name)
            for attribute, group in self.groups().items()
            for one in group.settings()
        }

    def replace(self, **changes: Any) -> Self:
        """Returns a config with other values of some settings."""
        return type(self)(**{**self.values(), **changes})

    def identity(self, *scopes: str) -> dict[str, Any]:
        """Returns the values of the settings of some scopes.

        Args:
            *scopes: Of `RUN`, `START` and `PROCESS`; `RUN` unless given.
        """
        wanted = scopes or (RUN,)
        values = self.values()
        return {
            one.name: values[one.name]
            for one in self.settings()
            if one.scope in wanted
        }


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns "did you mean X? ", or "" where nothing known is alike."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""
