"""Small pictures that stand in a page as text."""

import base64
import io
import pathlib
import warnings

from PIL import Image

from data_prep.images import encoding
from data_prep.images import formats
from data_prep.images import memory
from data_prep.runtime import storage

SIDE = 160  # pixels at most, of width and of height
_QUALITY = 70


def make(path: str) -> str:
    """Returns an image as a data address; "" where it cannot be read any more.

    Args:
        path: An image file, on this machine or in object storage.
    """
    try:
        (content,) = storage.contents([path])
        if isinstance(content, OSError):
            return ""
        return _encode(content)
    # A page is no reason to stop: whatever was wrong is in the findings.
    except Exception:
        return ""


def _encode(content: bytes) -> str:
    with (
        warnings.catch_warnings(action="ignore"),  # of Pillow
        formats.open_image(content) as opened,
        memory.turn(memory.PIXEL * opened.width * opened.height),
    ):
        opened.draft(None, (SIDE, SIDE))  # a JPEG at 1/2, 1/4 or 1/8
        return of_image(encoding.to_rgb(opened))


def of_file(path: pathlib.Path) -> str:
    """Returns a PNG file as a data address, as it is."""
    text = base64.b64encode(path.read_bytes()).decode()
    return f"data:image/png;base64,{text}"


def of_image(image: Image.Image, side: int = SIDE) -> str:
    """Returns an image as a data address.

    Args:
        image: In mode RGB; it is made smaller where it stands.
        side: Pixels at most, of width and of height.
    """
    image.thumbnail((side, side), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    text = base64.b64encode(out.getvalue()).decode()
    return f"data:image/jpeg;base64,{text}"
