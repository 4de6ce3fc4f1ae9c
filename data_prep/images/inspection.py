"""Opens an image in full and says what is wrong, or odd, about it.

Of a JPEG every coefficient is read, and few pixels are made: libjpeg-turbo at
a reduced scale, in grey, strict. Any warning is a finding, a cut file is
refused, and it takes half the time of a full decode. A warning that Pillow
can live with leaves the image usable (`decoder_warning`), but not its bytes:
what is kept as it is, all decoders must read alike. `benchmarks.fuzz_images`
looks for what they do not.
"""

import dataclasses
import hashlib
import os
import warnings

import numpy as np
import simplejpeg
from PIL import Image

from data_prep.images import encoding
from data_prep.images import fingerprint
from data_prep.images import formats
from data_prep.images import jpeg
from data_prep.images import memory
from data_prep.images import png
from data_prep.images import unread
from data_prep.images.fingerprint import Fingerprint
from data_prep.runtime import storage

BAD, MISSING, NO_IMAGE = "bad_image", "missing_file", "no_image"

_THUMBNAIL_SIDE = 32  # pixels; a JPEG is decoded at a scale that covers them
_REDUCED_SIDE = 256  # pixels at least, of what a thumbnail is made of
_ORIENTED = (b"Exif\0\0", b"tiff:Orientation")  # of EXIF, and of XMP


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What an image file turned out to be.

    Attributes:
        bytes: Size of the file.
        width: In pixels, as displayed; 0 where the image is bad.
        height: In pixels, as displayed; 0 where the image is bad.
        problem: Why the image cannot be used, or "" where it can.
        sha256: Digest of the file, 32 bytes; b"" where it could not be read.
        kept: Whether `original` encoding stores the file's own bytes: where
            a decoder that knows nothing of EXIF, CMYK or animations shows the
            same image.
        findings: Name and detail of what is odd but can be used.
        fingerprint: What the image looks like; None where it has no contrast.
        kind: The finding that a problem is: `BAD`, `MISSING` or `NO_IMAGE`.
    """

    bytes: int
    width: int = 0
    height: int = 0
    problem: str = ""
    sha256: bytes = b""
    kept: bool = False
    findings: tuple[tuple[str, str], ...] = ()
    fingerprint: Fingerprint | None = None
    kind: str = BAD


def inspect(path: str) -> Facts:
    """Decodes an image file in full and returns what it is.

    Args:
        path: A file of any kind; whatever is wrong with it is in the result's
            `problem`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(unread.START)
            size = os.fstat(file.fileno()).st_size
            if not formats.detect(content):
                # It is not read on, however large.
                return _refuse(content, path, size)
            if size > storage.MAX_BYTES:
                limit = storage.MAX_BYTES >> 20
                return Facts(size, problem=f"is larger than {limit} MiB")
            with memory.turn(size):
                return inspect_content(content + file.read(), path)
    except OSError as error:
        return inspect_content(error, path)


def inspect_content(content: bytes | OSError, path: str) -> Facts:
    """Does what `inspect` does, for a file that was read.

    Args:
        content: The file's content, or why it cannot be read.
        path: Its name, whose ending is compared with the content.
    """
    if isinstance(content, FileNotFoundError):
        return Facts(0, problem="does not exist", kind=MISSING)
    if isinstance(content, OSError):
        return Facts(0, problem=f"cannot be read: {content.strerror}")
    size = len(content)
    kind = formats.detect(content)
    if not kind:
        return _refuse(content[: unread.START], path, size)
    digest = hashlib.sha256(content).digest()
    findings = []
    ending = os.path.splitext(path)[1][1:].lower()
    if ending and ending not in formats.ENDINGS[kind]:
        findings.append(("wrong_ending", f"is {kind}, not {ending}"))
    decode = _decode_jpeg if kind == "JPEG" else _decode
    try:
        width, height, kept, grey = decode(content, findings)
    # A damaged file can raise nearly anything in a decoder: OSError,
    # SyntaxError, struct.error, ValueError and more were seen.
    except Exception as error:
        return Facts(size, problem=_describe(error), sha256=digest)
    print_ = fingerprint.compute(grey)
    found = tuple(findings)
    return Facts(size, width, height, "", digest, kept, found, print_)


def _refuse(start: bytes, path: str, size: int) -> Facts:
    """Returns the facts of a file that no decoder here takes."""
    kind = BAD if unread.is_image(path, start) else NO_IMAGE
    return Facts(size, problem=unread.describe(path, start), kind=kind)


def _decode_jpeg(
    content: bytes, findings: list[tuple[str, str]]
) -> tuple[int, int, bool, np.ndarray]:
    """Does what `_decode` does, the way of most photos: Pillow decodes none."""
    structure = jpeg.read(content)
    if structure.usual and not _is_rotated(content, structure.header):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
            if colours in ("YCbCr", "Gray", "RGB"):
                formats.check_size(width, height)
                jpeg.check_scans(structure.scans, width, height)
                # Of one scan, a few rows are held; else all coefficients.
                size = (structure.scans > 1) * memory.PIXEL * width * height
                with memory.turn(size):
                    return width, height, True, _read_all(content)
        except formats.TooLarge:
            raise
        except ValueError as error:
            # Only if Pillow can read it all the same is it usable.
            findings.append(("decoder_warning", str(error).strip()))
    return _decode(content, findings, structure.scans)


def _read_all(content: bytes) -> np.ndarray:
    """Returns a JPEG in grey, reduced, having read all of its coefficients."""
    # Strict: a warning of the library, such as an early end, is an error.
    side = _THUMBNAIL_SIDE
    grey = simplejpeg.decode_jpeg(
        content, "GRAY", min_height=side, min_width=side, strict=True
    )
    return grey[..., 0]


def _is_rotated(content: bytes, header: bytes) -> bool:
    """Tells whether a JPEG asks to be turned."""
    if not any(mark in header for mark in _ORIENTED):
        return False  # without parsing it
    with formats.open_image(content) as image:
        return formats.read_orientation(image) != 1


def _decode(
    content: bytes, findings: list[tuple[str, str]], scans: int = 1
) -> tuple[int, int, bool, np.ndarray]:
    """Returns width and height as displayed, `Facts.kept`, and the pixels.

    The pixels are uint8 `[h, w]`, grey and perhaps reduced.

    Args:
        content: A file.
        findings: Names and details of what is odd are added.
        scans: How many times the image is gone through.
    """
    with (
        warnings.catch_warnings(action="ignore"),  # of Pillow
        formats.open_image(content) as opened,
    ):
        jpeg.check_scans(scans, *opened.size)
        whole = png.check(content) if opened.format == "PNG" else None
        with memory.turn(memory.PIXEL * opened.width * opened.height):
            # First, as EXIF may stand behind the pixels of a PNG.
            opened.load()
            upright = formats.read_orientation(opened) == 1
            findings += _find_oddities(opened, whole)
            image = encoding.to_rgb(opened)  # decodes all of it
            least = [max(1, side // _REDUCED_SIDE) for side in image.size]
            grey = image.reduce(tuple(least)).convert("L")
    kept = whole is not None and whole.plain and upright
    return *image.size, kept, np.asarray(grey)


def _find_oddities(
    image: Image.Image, whole: png.Structure | None
) -> list[tuple[str, str]]:
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
    if whole and whole.bits == 16:
        found.append(("sixteen_bit", ""))
    if image.format != "MPO" and getattr(image, "is_animated", False):
        found.append(("animated", "the first frame is used"))
    return found


def _describe(error: Exception) -> str:
    """Returns the problem that a decoder's exception stands for."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "cannot be decoded: its header is damaged"
    if isinstance(error, formats.TooLarge):
        return str(error)
    return f"cannot be decoded: {error}"
