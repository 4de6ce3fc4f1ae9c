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

_SIGNATURE = "serving_default"
_INPUT = "image_bytes"
VERSION = "1"
# States of a model (tensorflow_serving/apis/get_model_status.proto).
LOADING, AVAILABLE, UNLOADING = "LOADING", "AVAILABLE", "UNLOADING"
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
    signature = request.get("signature_name") or _SIGNATURE
    if signature != _SIGNATURE:
        raise ValueError(
            f"signature {signature!r} is not answered here, only {_SIGNATURE}."
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


def status(state: str) -> dict[str, Any]:
    """Returns the status of the model: `LOADING`, `AVAILABLE` or `UNLOADING`."""
    ok = {"error_code": "OK", "error_message": ""}
    version = {"version": VERSION, "state": state, "status": ok}
    return {"model_version_status": [version]}


def metadata(name: str, signatures: dict[str, Any]) -> dict[str, Any]:
    """Returns what goes in and what comes out.

    Args:
        name: Of the model.
        signatures: Of the SavedModel, as `ExportedModel.signatures` gives them.
    """
    spec = {"name": name, "signature_name": "", "version": VERSION}
    found = {"signature_def": {"signature_def": signatures}}
    return {"model_spec": spec, "metadata": found}
