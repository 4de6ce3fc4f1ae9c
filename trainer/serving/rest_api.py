"""TensorFlow Serving's REST API: its requests and answers as JSON.

From the bytes of a request to images, and from rows to what is answered; after
"RESTful API" of TensorFlow Serving's documentation. Imports nothing local.
"""

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

SIGNATURE = "serving_default"
_INPUT = "image_bytes"
VERSION = "1"
_EXPECTED = (
    'Expected {"instances": [{"b64": "..."}]}, the bytes of image files in '
    "base64."
)


def read_request(body: bytes) -> tuple[list[bytes], bool]:
    """Returns the images that a request holds.

    Args:
        body: JSON, in the row format ("instances") or the column format
            ("inputs").

    Returns:
        The content of each image, and whether the format was of rows.

    Raises:
        ValueError: If it is none of it; says what was expected.
    """
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body is no JSON: {error}. {_EXPECTED}") from None
    if not isinstance(request, dict):
        raise ValueError(f"the body is no JSON object. {_EXPECTED}")
    signature = request.get("signature_name") or SIGNATURE
    if signature != SIGNATURE:
        raise ValueError(
            f"there is no signature {signature!r}, only {SIGNATURE}."
        )
    by_row = "instances" in request
    values = request.get("instances", request.get("inputs"))
    if isinstance(values, dict):  # columns by name of input, or a single one
        values = values.get(_INPUT, values)
    if isinstance(values, dict):
        values = [values]
    if not isinstance(values, list) or not values:
        raise ValueError(f"the request holds no image. {_EXPECTED}")
    return [_decode(value, n) for n, value in enumerate(values)], by_row


def _decode(value: Any, number: int) -> bytes:
    if isinstance(value, dict):
        value = value.get(_INPUT, value)
    text = value.get("b64") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise ValueError(f'instance {number} has no "b64". {_EXPECTED}')
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"instance {number} is no base64: {error}.") from None


def answer(
    rows: Sequence[np.ndarray], classes: Sequence[str], by_row: bool
) -> dict[str, Any]:
    """Returns what a request is answered.

    Args:
        rows: float32 `[K]` for each image.
        classes: K names.
        by_row: Whether the request was in the row format.
    """
    shares = [[float(f"{p:.9g}") for p in row] for row in rows]
    names = [classes[int(row.argmax())] for row in rows]
    if by_row:
        pairs = zip(shares, names, strict=True)
        return {
            "predictions": [
                {"probabilities": share, "label": name} for share, name in pairs
            ]
        }
    return {"outputs": {"probabilities": shares, "label": names}}


def status() -> dict[str, Any]:
    """Returns the status of a model that answers."""
    ok = {"error_code": "OK", "error_message": ""}
    state = {"version": VERSION, "state": "AVAILABLE", "status": ok}
    return {"model_version_status": [state]}


def metadata(name: str, classes: int) -> dict[str, Any]:
    """Returns what goes in and what comes out.

    Args:
        name: Of the model.
        classes: K.
    """
    inputs = {_INPUT: _tensor("DT_STRING", f"{SIGNATURE}_{_INPUT}:0", -1)}
    outputs = {
        "label": _tensor("DT_STRING", "StatefulPartitionedCall:0", -1),
        "probabilities": _tensor(
            "DT_FLOAT", "StatefulPartitionedCall:1", -1, classes
        ),
    }
    signature = {
        "inputs": inputs,
        "outputs": outputs,
        "method_name": "tensorflow/serving/predict",
    }
    spec = {"name": name, "signature_name": "", "version": VERSION}
    signatures = {"signature_def": {SIGNATURE: signature}}
    return {"model_spec": spec, "metadata": {"signature_def": signatures}}


def _tensor(kind: str, name: str, *sizes: int) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in sizes]
    shape = {"dim": dimensions, "unknown_rank": False}
    return {"dtype": kind, "tensor_shape": shape, "name": name}
