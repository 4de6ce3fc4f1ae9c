"""Opens every image, says what is wrong with it, and encodes it for storage."""

import dataclasses
import io
import pathlib
import warnings

from PIL import Image
from PIL import ImageOps

# Larger pictures are refused from their header, before any pixel is decoded:
# a PNG of 400 kB can ask for 432 MB. It is the size above which Pillow warns.
MAX_PIXELS = 89_478_485

ENCODINGS = ("original", "jpeg", "raw")
RESIZES = ("stretch", "crop", "pad")
JPEG_QUALITY = 95

_ORIENTATION = 0x0112  # EXIF tag
# TensorFlow's decoders give the same pixels for these as Pillow does.
_KEPT_FORMATS = ("JPEG", "MPO", "PNG")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


@dataclasses.dataclass(frozen=True)
class Facts:
    """What an image file turned out to be.

    Attributes:
        bytes: Size of the file.
        width: In pixels, as displayed; 0 where the image is bad.
        height: In pixels, as displayed; 0 where the image is bad.
        problem: Why the image cannot be used, or "" where it can.
    """

    bytes: int
    width: int = 0
    height: int = 0
    problem: str = ""


def inspect(path: str) -> Facts:
    """Decodes an image file in full and returns what it is.

    Args:
        path: A file of any kind; whatever is wrong with it is in the result's
            `problem`.
    """
    try:
        content = pathlib.Path(path).read_bytes()
    except OSError as error:
        return Facts(0, problem=f"cannot be read: {error.strerror}")
    facts = Facts(len(content))
    if not content:
        return dataclasses.replace(facts, problem="is empty")
    try:
        with _open(content) as image:
            width, height = image.size
            if _orientation(image) >= 5:  # these swap the two axes
                width, height = height, width
            image.load()
    # A damaged file can raise nearly anything in a decoder: OSError,
    # SyntaxError, struct.error, ValueError and more were seen.
    except Exception as error:
        return dataclasses.replace(facts, problem=_reason(error))
    return dataclasses.replace(facts, width=width, height=height)


def encode(
    path: str, image_size: int, resize: str, encoding: str
) -> tuple[bytes, int, int]:
    """Returns an image file as it is stored in a record.

    With `original` encoding the file's own bytes are kept wherever a decoder
    that knows nothing of EXIF, CMYK or GIF frames shows the same picture; else
    the picture is stored as PNG, which loses nothing.

    Args:
        path: A file that `inspect` found no problem with.
        image_size: Width and height to store, in pixels; 0 keeps the size.
        resize: One of `RESIZES`: how the picture fits the square.
        encoding: One of `ENCODINGS`.

    Returns:
        The bytes, and the stored width and height in pixels.
    """
    content = pathlib.Path(path).read_bytes()
    with _open(content) as image:
        if (
            encoding == "original"
            and image.format in _KEPT_FORMATS
            and image.mode != "CMYK"
            and _orientation(image) == 1
        ):
            return content, *image.size
        if image_size and image.format == "JPEG":
            # Decode at 1/2, 1/4 or 1/8 where that still covers the target.
            image.draft(None, (image_size, image_size))
        picture = to_rgb(image)
    if image_size:
        picture = fit(picture, image_size, resize)
    if encoding == "raw":
        return picture.tobytes(), *picture.size
    buffer = io.BytesIO()
    if encoding == "jpeg":
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue(), *picture.size


def stored_bytes(facts: Facts, image_size: int, encoding: str) -> int:
    """Estimates how large an image will be in its record, to plan shards."""
    if encoding == "original":
        return facts.bytes
    pixels = image_size**2 if image_size else facts.width * facts.height
    # JPEG at quality 95 takes 11.7 kB for 150x150 pixels, a sixth of raw.
    return pixels * 3 if encoding == "raw" else pixels // 2


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the picture upright, as 8-bit RGB, without alpha."""
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips at 255 instead of scaling.
        image = image.convert("I").point(lambda value: value / 256)
        image = image.convert("L")
    return image.convert("RGB")


def fit(picture: Image.Image, size: int, resize: str) -> Image.Image:
    """Returns the picture as a square of `size` pixels.

    Args:
        picture: RGB.
        size: Width and height of the result in pixels.
        resize: "stretch" ignores the aspect ratio, "crop" keeps the middle,
            "pad" adds black borders.
    """
    target = (size, size)
    if resize == "crop":
        return ImageOps.fit(picture, target, Image.Resampling.BILINEAR)
    if resize == "pad":
        return ImageOps.pad(picture, target, Image.Resampling.BILINEAR)
    return picture.resize(target, Image.Resampling.BILINEAR)


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size is checked right here
        image = Image.open(io.BytesIO(content))
    if image.width * image.height > MAX_PIXELS:
        raise ValueError(
            f"is {image.width}x{image.height} pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} million that are decoded"
        )
    return image


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(_ORIENTATION, 1)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "is no image of a known format"
    return f"cannot be decoded: {error}"
