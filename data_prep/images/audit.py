"""Opens every image, says what is wrong with it, and encodes it for storage."""

import dataclasses
import hashlib
import io
import os
import pathlib
import warnings

import numpy as np
import simplejpeg
from PIL import Image
from PIL import ImageOps

from data_prep.images import fingerprint
from data_prep.images import geometry
from data_prep.images.fingerprint import Fingerprint

# Larger pictures are refused from their header, before any pixel is decoded:
# a PNG of 400 kB can ask for 432 MB. It is the size above which Pillow warns.
MAX_PIXELS = 89_478_485

ENCODINGS = ("original", "jpeg", "raw")
RESIZES = geometry.RESIZES
JPEG_QUALITY = 95

# The formats that are read, by their first bytes, and their usual endings.
_MAGIC = (
    ("JPEG", b"\xff\xd8\xff", ("jpg", "jpeg", "jpe", "jfif")),
    ("PNG", b"\x89PNG\r\n\x1a\n", ("png", "apng")),
    ("GIF", b"GIF8", ("gif",)),
    ("BMP", b"BM", ("bmp", "dib")),
    ("WEBP", b"RIFF", ("webp",)),
)
_ENDINGS = {name: endings for name, _, endings in _MAGIC}
# TensorFlow's decoders give the same pixels for these as Pillow does.
_KEPT_FORMATS = ("JPEG", "PNG")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_UNKNOWN = "is no image of a known format"
_ORIENTATION = 0x0112  # EXIF tag
_THUMBNAIL_SIDE = 32  # pixels; a JPEG is decoded at a scale that covers them


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What an image file turned out to be.

    Attributes:
        bytes: Size of the file.
        width: In pixels, as displayed; 0 where the image is bad.
        height: In pixels, as displayed; 0 where the image is bad.
        problem: Why the image cannot be used, or "" where it can.
        sha256: Of the file, 32 bytes; b"" where it could not be read.
        kept: Whether `original` encoding stores the file's own bytes.
        findings: Name and detail of what is odd but can be used.
        fingerprint: Of the picture; None where it has no contrast.
    """

    bytes: int
    width: int = 0
    height: int = 0
    problem: str = ""
    sha256: bytes = b""
    kept: bool = False
    findings: tuple[tuple[str, str], ...] = ()
    fingerprint: Fingerprint | None = None


class _TooLarge(ValueError):
    """The header asks for more pixels than are decoded."""


def inspect(path: str) -> Facts:
    """Decodes an image file in full and returns what it is.

    Of a JPEG every coefficient is read, but pixels are made at the reduced
    scale that the fingerprint needs: so it takes half the time.

    Args:
        path: A file of any kind; whatever is wrong with it is in the result's
            `problem`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(16)
            if content and not _format(content):
                # It is not read on, however large.
                size = os.fstat(file.fileno()).st_size
                return Facts(size, problem=_UNKNOWN)
            content += file.read()
    except OSError as error:
        return inspect_content(error, path)
    return inspect_content(content, path)


def inspect_content(content: bytes | OSError, path: str) -> Facts:
    """Does what `inspect` does, for a file that was read.

    Args:
        content: Of the file, or why it cannot be read.
        path: Its name, whose ending is compared with the content.
    """
    if isinstance(content, OSError):
        return Facts(0, problem=f"cannot be read: {content.strerror}")
    size = len(content)
    if not content:
        return Facts(0, problem="is empty")
    kind = _format(content)
    if not kind:
        return Facts(size, problem=_UNKNOWN)
    digest = hashlib.sha256(content).digest()
    findings = []
    ending = os.path.splitext(path)[1][1:].lower()
    if ending and ending not in _ENDINGS[kind]:
        findings.append(("wrong_ending", f"is {kind}, not {ending}"))
    try:
        width, height, kept, grey = _decode(content, kind, findings)
    # A damaged file can raise nearly anything in a decoder: OSError,
    # SyntaxError, struct.error, ValueError and more were seen.
    except Exception as error:
        return Facts(size, problem=_reason(error), sha256=digest)
    print_ = fingerprint.of(grey)
    found = tuple(findings)
    return Facts(size, width, height, "", digest, kept, found, print_)


def encode(
    path: str, image_size: int, resize: str, encoding: str
) -> tuple[bytes, int, int]:
    """Returns an image file as it is stored in a record; see `encode_content`.

    Args:
        path: A file that `inspect` found no problem with.
        image_size: See there.
        resize: See there.
        encoding: See there.
    """
    content = pathlib.Path(path).read_bytes()
    return encode_content(content, image_size, resize, encoding)


def encode_content(
    content: bytes, image_size: int, resize: str, encoding: str
) -> tuple[bytes, int, int]:
    """Returns an image file as it is stored in a record.

    With `original` encoding the file's own bytes are kept wherever a decoder
    that knows nothing of EXIF, CMYK or GIF frames shows the same picture; else
    the picture is stored as PNG, which loses nothing.

    Args:
        content: Of a file that `inspect` found no problem with.
        image_size: Width and height to store, in pixels; 0 keeps the size.
        resize: One of `RESIZES`: how the picture fits the square.
        encoding: One of `ENCODINGS`.

    Returns:
        The bytes, and the stored width and height in pixels.
    """
    with _open(content) as image:
        if encoding == "original" and _is_kept(image):
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


def stored_bytes(
    size: int, width: int, height: int, kept: bool, encoding: str
) -> int:
    """Estimates how large an image will be in its record, to plan shards.

    Args:
        size: Bytes of the file.
        width: That will be stored, in pixels.
        height: That will be stored, in pixels.
        kept: As in `Facts`.
        encoding: One of `ENCODINGS`.
    """
    if encoding == "original" and kept:
        return size
    # JPEG at quality 95 takes 11.7 kB for 150x150 pixels, a sixth of raw; PNG
    # about half of raw for photos.
    factor = {"raw": 3, "jpeg": 0.5, "original": 1.5}[encoding]
    return int(width * height * factor)


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the picture upright, as 8-bit RGB, without alpha."""
    image = ImageOps.exif_transpose(image)
    if image.mode in _SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips at 255 instead of scaling.
        image = image.convert("I").point(lambda value: value / 256)
        image = image.convert("L")
    return image.convert("RGB")


def fit(picture: Image.Image, size: int, resize: str) -> Image.Image:
    """Returns the picture as a square of `size` pixels, by Pillow.

    Args:
        picture: RGB.
        size: Width and height of the result in pixels.
        resize: "stretch" ignores the aspect ratio, "crop" keeps the middle,
            "pad" adds black borders; see `geometry.fit`.
    """
    source, target = geometry.fit(picture.height, picture.width, size, resize)
    right, bottom = source.left + source.width, source.top + source.height
    # Cut first: `resize(box=...)` blends in pixels from beyond the box.
    part = picture.crop((source.left, source.top, right, bottom))
    part = part.resize((target.width, target.height), Image.Resampling.BILINEAR)
    if part.size == (size, size):
        return part
    square = Image.new(picture.mode, (size, size))
    square.paste(part, (target.left, target.top))
    return square


def _format(start: bytes) -> str:
    for name, magic, _ in _MAGIC:
        if start.startswith(magic):
            return name if name != "WEBP" or start[8:12] == b"WEBP" else ""
    return ""


def _decode(
    content: bytes, kind: str, findings: list[tuple[str, str]]
) -> tuple[int, int, bool, np.ndarray]:
    """Returns width and height as displayed, `Facts.kept`, and the picture.

    The picture is uint8 `[h, w]`, grey and perhaps reduced.
    """
    if kind == "JPEG" and not _is_turned(content):
        # The way of most photos: Pillow does not decode them.
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            _check_size(width, height)
            if colours in ("YCbCr", "Gray", "RGB"):
                return width, height, True, _decode_jpeg(content)
        except _TooLarge:
            raise
        except ValueError as error:
            # Only if Pillow can read it all the same is it usable.
            findings.append(("decoder_warning", str(error).strip()))
    with _open(content) as image:
        findings += _oddities(image)
        kept = _is_kept(image)
        picture = to_rgb(image)  # decodes all of it
    return *picture.size, kept, np.asarray(picture.convert("L"))


def _decode_jpeg(content: bytes) -> np.ndarray:
    # Strict: a warning of the library, such as an early end, is an error.
    side = _THUMBNAIL_SIDE
    grey = simplejpeg.decode_jpeg(
        content, "GRAY", min_height=side, min_width=side, strict=True
    )
    return grey[..., 0]


def _oddities(image: Image.Image) -> list[tuple[str, str]]:
    found = []
    if _orientation(image) != 1:
        found.append(("exif_rotated", f"by EXIF {_orientation(image)}"))
    if image.mode == "CMYK":
        found.append(("cmyk", ""))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        found.append(("alpha", ""))
    if image.mode in ("P", "PA"):
        found.append(("palette", ""))
    if image.mode in _SIXTEEN_BIT_MODES:
        found.append(("sixteen_bit", ""))
    if image.format != "MPO" and getattr(image, "is_animated", False):
        found.append(("animated", "the first frame is used"))
    return found


def _open(content: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the size is checked right here
        image = Image.open(io.BytesIO(content), formats=tuple(_ENDINGS))
    _check_size(*image.size)
    return image


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _TooLarge(
            f"is {width}x{height} pixels, more than the "
            f"{MAX_PIXELS / 1e6:.0f} million that are decoded"
        )


def _is_turned(content: bytes) -> bool:
    """Tells whether a JPEG asks to be turned: by EXIF, or by XMP."""
    header = content[: _header_bytes(content)]
    if b"Exif\0\0" not in header and b"tiff:Orientation" not in header:
        return False  # without parsing it
    with _open(content) as image:
        return _orientation(image) != 1


def _header_bytes(content: bytes) -> int:
    """Returns where the coefficients of a JPEG begin, or its end.

    ITU-T T.81, annex B.1.1: segments of a marker, a length and content, up to
    the start of scan.
    """
    position = 2
    while content[position : position + 1] == b"\xff":
        marker = content[position : position + 2]
        if marker == b"\xff\xda":
            return position
        if marker == b"\xff\xff":  # a fill byte
            position += 1
            continue
        length = int.from_bytes(content[position + 2 : position + 4], "big")
        position += 2 + length
    return len(content)  # not as the standard has it: let all be searched


def _orientation(image: Image.Image) -> int:
    return image.getexif().get(_ORIENTATION, 1)


def _is_kept(image: Image.Image) -> bool:
    return (
        image.format in (*_KEPT_FORMATS, "MPO")
        and image.mode != "CMYK"
        and _orientation(image) == 1
    )


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return _UNKNOWN
    if isinstance(error, _TooLarge):
        return str(error)
    return f"cannot be decoded: {error}"
