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
# TensorFlow's decoders give the same pixels for these as Pillow does.
_KEPT_FORMATS = ("JPEG", "PNG", "MPO")
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


def is_rotated(content: bytes) -> bool:
    """Tells whether a JPEG asks to be turned: by EXIF, or by XMP."""
    header = content[: _header_bytes(content)]
    if b"Exif\0\0" not in header and b"tiff:Orientation" not in header:
        return False  # without parsing it
    with open_image(content) as image:
        return read_orientation(image) != 1


def keeps_bytes(image: Image.Image) -> bool:
    """Tells whether a decoder without EXIF and CMYK shows the same image."""
    return (
        image.format in _KEPT_FORMATS
        and image.mode != "CMYK"
        and read_orientation(image) == 1
    )


def _header_bytes(content: bytes) -> int:
    """Returns where the coefficients of a JPEG begin, or its end.

    ITU-T T.81, annex B.1.1: segments of a marker, a length and content, up to
    the start of scan.
    """
    offset = 2
    while content[offset : offset + 1] == b"\xff":
        marker = content[offset : offset + 2]
        if marker == b"\xff\xda":
            return offset
        if marker == b"\xff\xff":  # a fill byte
            offset += 1
            continue
        length = int.from_bytes(content[offset + 2 : offset + 4], "big")
        offset += 2 + length
    return len(content)  # not as the standard has it: let all be searched
