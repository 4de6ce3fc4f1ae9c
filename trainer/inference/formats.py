"""What a model is exported as: names, files, and the packages they need.

Imports no TensorFlow, so that a wrong command fails at once.
"""

import pathlib
from typing import NamedTuple

from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError


class Format(NamedTuple):
    """A format.

    Attributes:
        file: Its file or folder in the model directory.
        extra: The extra of this package that brings what it needs; "" for
            what TensorFlow itself writes and reads.
        packages: What is imported to write and to run it.
    """

    file: str
    extra: str = ""
    packages: tuple[str, ...] = ()


FORMATS = {
    "saved_model": Format("saved_model"),
    "keras": Format("model.keras"),
    "tflite": Format("model.tflite", "tflite", ("ai_edge_litert",)),
    "tflite_int8": Format("model_int8.tflite", "tflite", ("ai_edge_litert",)),
    "onnx": Format("model.onnx", "onnx", ("onnx", "onnxruntime", "tf2onnx")),
}
# The others are converted, and held to their accuracy.
ALWAYS = ("saved_model", "keras")


def policy_of(name: str) -> str:
    """Returns the dtype policy of the model that a format is made from.

    Returns:
        "" for that of the run; converters know float32 alone.
    """
    return "" if name in ALWAYS else "float32"


def parse(text: str) -> list[str]:
    """Returns the names in a list with commas.

    Raises:
        UsageError: If one of them is no format.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise UsageError(
                f"--format={text} has an unknown format {name!r}: "
                f"{settings.did_you_mean(name, FORMATS)}expected some of "
                f"{', '.join(FORMATS)}."
            )
    return names


def choose(named: list[str], model_dir: str) -> list[str]:
    """Returns what an export writes, in the order of `FORMATS`.

    That is what `predict` and others need, what is asked for, and what an
    earlier export left, as all that is there has to agree.

    Args:
        named: Formats that are asked for.
        model_dir: The model directory.

    Raises:
        UsageError: If a package is missing.
    """
    chosen = [
        name
        for name, one in FORMATS.items()
        if name in (*ALWAYS, *named)
        or pathlib.Path(model_dir, one.file).exists()
    ]
    for name in chosen:
        one = FORMATS[name]
        startup.require(one.packages, one.extra, f"format {name}")
    return chosen
