"""What a search tries: settings, each with a range or with values.

Imports no TensorFlow, so that a wrong command fails at once.
"""

import dataclasses
import itertools
import math
import shlex
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from data_prep.runtime.errors import UsageError
from data_prep.runtime.settings import PROCESS
from data_prep.runtime.settings import Setting
from trainer.config import Config

_FORM = (
    "name=low:high, name=low:high:log or name=value,value, with a space "
    'between settings, such as "dropout=0:0.5 batch_size=16,32"'
)


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers between two, both included.

    Attributes:
        low: The least.
        high: The greatest; whole numbers where both are int.
        log: Whether each power of ten is as likely as the next.
    """

    low: float
    high: float
    log: bool = False

    @property
    def ends(self) -> tuple[float, ...]:
        """Values that stand for all in a check."""
        return self.low, self.high


@dataclasses.dataclass(frozen=True)
class Values:
    """Some values.

    Attributes:
        ends: All of them.
    """

    ends: tuple[Any, ...]


def parse(text: str) -> dict[str, Range | Values]:
    """Returns what is searched, by setting.

    Args:
        text: Such as "dropout=0:0.5 finetune_learning_rate=1e-5:1e-3:log
            batch_size=16,32".

    Raises:
        UsageError: If it is written otherwise, or names no setting of a
            training that can be searched.
    """
    declared = {one.name: one for one in Config.settings()}
    found: dict[str, Range | Values] = {}
    for word in shlex.split(text):
        name, equals, rest = word.removeprefix("--").partition("=")
        if not equals or "" in rest.replace(":", ",").split(","):
            raise UsageError(f"--tune has {word!r}: expected {_FORM}.")
        if name not in declared:
            raise UsageError(
                f"--tune has {word!r}: {name} is no setting of a training. "
                f"{Config.suggest(name)}".rstrip()
            )
        if declared[name].scope == PROCESS:
            raise UsageError(
                f"--tune has {word!r}: {name} changes nothing that a training "
                "learns, and --recipe is a name for other settings. Leave it "
                "out."
            )
        if name in found:
            raise UsageError(f"--tune has {name} twice: write it once.")
        found[name] = _dimension(word, declared[name], rest)
    if not found:
        raise UsageError(f"--tune is empty: expected {_FORM}.")
    return found


def grid(
    dimensions: Mapping[str, Range | Values],
) -> Iterator[dict[str, Any]]:
    """Yields every point of a grid; nothing where one dimension is a range.

    Args:
        dimensions: What `parse` returned.
    """
    if any(isinstance(one, Range) for one in dimensions.values()):
        return
    for point in itertools.product(*(one.ends for one in dimensions.values())):
        yield dict(zip(dimensions, point, strict=True))


def check(config: Config, dimensions: Mapping[str, Range | Values]) -> None:
    """Refuses values that a training does not take, before any is tried.

    Args:
        config: The settings that are not searched.
        dimensions: What `parse` returned.

    Raises:
        UsageError: If one is impossible, with the other settings as they are.
    """
    for name, one in dimensions.items():
        for value in one.ends:
            config.replace(**{name: value})


def _dimension(word: str, declared: Setting, text: str) -> Range | Values:
    low, colon, rest = text.partition(":")
    if not colon or declared.type not in (int, float):
        values = tuple(_value(word, declared, v) for v in text.split(","))
        if len(set(values)) < len(values):
            raise UsageError(f"--tune has {word!r}: a value stands twice.")
        return Values(values)
    high, _, scale = rest.partition(":")
    low, high = (_value(word, declared, end) for end in (low, high))
    if scale not in ("", "linear", "log") or not low < high < math.inf:
        raise UsageError(
            f"--tune has {word!r}: expected low below high, and a scale of "
            "linear or log."
        )
    if scale == "log" and low <= 0:
        raise UsageError(f"--tune has {word!r}: a scale of log begins above 0.")
    return Range(low, high, scale == "log")


def _value(word: str, declared: Setting, text: str) -> Any:
    """Returns a value of the setting's type, checked by the setting."""
    try:
        if declared.type is bool:
            value = {"true": True, "false": False}[text.lower()]
        else:
            value = declared.type(text)
    except (KeyError, ValueError):
        raise UsageError(
            f"--tune has {word!r}: --{declared.name}={text} is impossible."
        ) from None
    return declared.check(value)
