"""Opens an image in full and says what is wrong, or odd, about it.

Of a JPEG every coefficient is read, and few pixels are made: libjpeg-turbo at
a reduced scale, in grey, strict. Any warning is a finding, a cut file is
refused, and it takes half the time of a full decode. A warning that Pillow
can live with leaves the image usable (`decoder_warning`).
"""

import dataclasses
import hashlib
import os

import numpy as np
import simplejpeg
from PIL import Image

from data_prep.images import encoding
from data_prep.images import fingerprint
from data_prep.images import formats
from data_prep.images.fingerprint import Fingerprint

_UNKNOWN = "is no image of a known format"
_THUMBNAIL_SIDE = 32  # pixels; a JPEG is decoded at a scale that covers them


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What an image file turned out to be.

    Attributes:
        bytes: Size of the file.
        width: In pixels, as displayed; 0 where the image is bad.
        height: In pixels, as displayed; 0 where the image is bad.
        problem: Why the image cannot be used, or "" where it can.
        sha256: Digest of the file, 32 bytes; b"" where it could not be read.
        kept: Whether `original` encoding stores the file's own bytes.
        findings: Name and detail of what is odd but can be used.
        fingerprint: What the image looks like; None where it has no contrast.
    """

    bytes: int
    width: int = 0
    height: int = 0
    problem: str = ""
    sha256: bytes = b""
    kept: bool = False
    findings: tuple[tuple[str, str], ...] = ()
    fingerprint: Fingerprint | None = None


def inspect(path: str) -> Facts:
    """Decodes an image file in full and returns what it is.

    Args:
        path: A file of any kind; whatever is wrong with it is in the result's
            `problem`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(16)
            if content and not formats.detect(content):
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
        content: The file's content, or why it cannot be read.
        path: Its name, whose ending is compared with the content.
    """
    if isinstance(content, OSError):
        return Facts(0, problem=f"cannot be read: {content.strerror}")
    size = len(content)
    if not content:
        return Facts(0, problem="is empty")
    kind = formats.detect(content)
    if not kind:
        return Facts(size, problem=_UNKNOWN)
    digest = hashlib.sha256(content).digest()
    findings = []
    ending = os.path.splitext(path)[1][1:].lower()
    if ending and ending not in formats.ENDINGS[kind]:
        findings.append(("wrong_ending", f"is {kind}, not {ending}"))
    try:
        width, height, kept, grey = _decode(content, kind, findings)
    # A damaged file can raise nearly anything in a decoder: OSError,
    # SyntaxError, struct.error, ValueError and more were seen.
    except Exception as error:
        return Facts(size, problem=_describe(error), sha256=digest)
    print_ = fingerprint.compute(grey)
    found = tuple(findings)
    return Facts(size, width, height, "", digest, kept, found, print_)


def _decode(
    content: bytes, kind: str, findings: list[tuple[str, str]]
) -> tuple[int, int, bool, np.ndarray]:
    """Returns width and height as displayed, `Facts.kept`, and the pixels.

    The pixels are uint8 `[h, w]`, grey and perhaps reduced.
    """
    if kind == "JPEG" and not formats.is_rotated(content):
        # The way of most photos: Pillow does not decode them.
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            formats.check_size(width, height)
            if colours in ("YCbCr", "Gray", "RGB"):
                return width, height, True, _decode_jpeg(content)
        except formats.TooLarge:
            raise
        except ValueError as error:
            # Only if Pillow can read it all the same is it usable.
            findings.append(("decoder_warning", str(error).strip()))
    with formats.open_image(content) as opened:
        findings += _find_oddities(opened)
        kept = formats.keeps_bytes(opened)
        image = encoding.to_rgb(opened)  # decodes all of it
    return *image.size, kept, np.asarray(image.convert("L"))


def _decode_jpeg(content: bytes) -> np.ndarray:
    # Strict: a warning of the library, such as an early end, is an error.
    side = _THUMBNAIL_SIDE
    grey = simplejpeg.decode_jpeg(
        content, "GRAY", min_height=side, min_width=side, strict=True
    )
    return grey[..., 0]


def _find_oddities(image: Image.Image) -> list[tuple[str, str]]:
    """Returns name and detail of what is odd about an image's storage."""
    found = []
    orientation = formats.read_orientation(image)
    if orientation != 1:
        found.append(("exif_rotated", f"by EXIF {orientation}"))
    if image.mode == "CMYK":
        found.append(("cmyk", ""))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        found.append(("alpha", ""))
    if image.mode in ("P", "PA"):
        found.append(("palette", ""))
    if image.mode in formats.SIXTEEN_BIT_MODES:
        found.append(("sixteen_bit", ""))
    if image.format != "MPO" and getattr(image, "is_animated", False):
        found.append(("animated", "the first frame is used"))
    return found


def _describe(error: Exception) -> str:
    """Returns the problem that a decoder's exception stands for."""
    if isinstance(error, Image.UnidentifiedImageError):
        return _UNKNOWN
    if isinstance(error, formats.TooLarge):
        return str(error)
    return f"cannot be decoded: {error}"
