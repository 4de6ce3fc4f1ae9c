"""The image formats that are read, and how a file is opened safely."""

import io
import warnings

from PIL import Image

# Larger images are refused from their header, before any pixel is decoded: a
# PNG of 400 kB can ask for 432 MB. It is the size above which Pillow warns.
MAX_PIXELS = 89_478_485
# Modes of Pillow that hold 16 bits per channel.
SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")

# The formats by their first bytes, and their usual endings.
_MAGIC = (
    ("JPEG", b"\xff\xd8\xff", ("jpg", "jpeg", "jpe", "jfif")),
    ("PNG", b"\x89PNG\r\n\x1a\n", ("png", "apng")),
    ("GIF", b"GIF8", ("gif",)),
    ("BMP", b"BM", ("bmp", "dib")),
    ("WEBP", b"RIFF", ("webp",)),
)
ENDINGS = {name: endings for name, _, endings in _MAGIC}
_ORIENTATION = 0x0112  # EXIF tag


class TooLarge(ValueError):
    """The header asks for more pixels than are decoded."""


def detect(start: bytes) -> str:
    """Returns the format of a file, "" where it is none that is read.

    Args:
        start: Its first bytes, at least 12 of a file that has them.
    """
    for name, magic, _ in _MAGIC:
        if start.startswith(magic):
            return name if name != "WEBP" or start[8:12] == b"WEBP" else ""
    return ""


def open_image(content: bytes) -> Image.Image:
    """Returns an image of which only the header was decoded.

    Raises:
        TooLarge: If it has more pixels than are decoded.
        Exception: Nearly any, if the file is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size is checked right here
        image = Image.open(io.BytesIO(content), formats=tuple(ENDINGS))
    check_size(*image.size)
    return image


def check_size(width: int, height: int) -> None:
    """Raises TooLarge if there are more pixels than are decoded."""
    if width * height > MAX_PIXELS:
        raise TooLarge(
            f"is {width}x{height} pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} million that are decoded"
        )


def read_orientation(image: Image.Image) -> int:
    """Returns the orientation of EXIF, 1 to 8; 1 is upright."""
    return image.getexif().get(_ORIENTATION, 1)
