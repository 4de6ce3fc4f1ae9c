"""What a file is that is no image of a format that is read.

A damaged image stops a run, and so does an image of another format; a text or a
system's own file that lies among the images is left out.
"""

import codecs
import os

from data_prep.images import formats

START = 512  # bytes of a file that are looked at

# Formats that are not read, by their first bytes (at an offset), and by their
# usual endings.
_MAGIC = (
    ("TIFF", 0, b"II*\0"),
    ("TIFF", 0, b"MM\0*"),
    ("HEIF or AVIF", 4, b"ftypheic"),
    ("HEIF or AVIF", 4, b"ftypheix"),
    ("HEIF or AVIF", 4, b"ftypmif1"),
    ("HEIF or AVIF", 4, b"ftypavif"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("JPEG XL", 0, b"\0\0\0\x0cJXL "),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  "),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("Photoshop", 0, b"8BPS"),
    ("DICOM", 128, b"DICM"),
)
_ENDINGS = {
    **dict.fromkeys(("tif", "tiff"), "TIFF"),
    **dict.fromkeys(("heic", "heif", "avif"), "HEIF or AVIF"),
    **dict.fromkeys(("jxl",), "JPEG XL"),
    **dict.fromkeys(("jp2", "j2k", "jpx"), "JPEG 2000"),
    **dict.fromkeys(("psd",), "Photoshop"),
    **dict.fromkeys(("dcm",), "DICOM"),
    **dict.fromkeys(("svg", "svgz"), "SVG"),
    **dict.fromkeys(("ppm", "pgm", "pbm", "pnm"), "Netpbm"),
    **dict.fromkeys(("ico", "cur"), "icon"),
    **dict.fromkeys(("tga",), "Targa"),
    **dict.fromkeys(("exr", "hdr"), "high dynamic range"),
    **dict.fromkeys(
        ("cr2", "cr3", "nef", "arw", "dng", "orf", "raf", "rw2"), "camera raw"
    ),
}
_READ = {ending for endings in formats.ENDINGS.values() for ending in endings}


def is_image(path: str, start: bytes) -> bool:
    """Tells a damaged or unread image from a file that is no image.

    A file without an ending is one, unless it holds text.

    Args:
        path: The file's name.
        start: Its first `START` bytes.
    """
    ending = os.path.splitext(path)[1][1:].lower()
    if ending in _READ or _name_format(ending, start):
        return True
    return not ending and not _is_text(start)


def describe(path: str, start: bytes) -> str:
    """Returns why a file that no decoder here takes cannot be used.

    Args:
        path: The file's name.
        start: Its first `START` bytes.
    """
    ending = os.path.splitext(path)[1][1:].lower()
    if name := _name_format(ending, start):
        return (
            f"is an image of a format that is not read ({name}): convert it "
            "to PNG or JPEG"
        )
    if not start:
        return "is empty"
    return "is no image of a known format"


def _name_format(ending: str, start: bytes) -> str:
    for name, offset, magic in _MAGIC:
        if start.startswith(magic, offset):
            return name
    return _ENDINGS.get(ending, "")


def _is_text(start: bytes) -> bool:
    try:
        # A character may be torn by the cut.
        text = codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c.isspace() for c in text)
