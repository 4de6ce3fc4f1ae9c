"""Encodes images as they are stored in records."""

import io
import warnings

import numpy as np
from PIL import Image
from PIL import ImageOps

from data_prep.images import formats
from data_prep.images import geometry
from data_prep.images import memory

ENCODINGS = ("original", "jpeg", "raw")
RESIZES = geometry.RESIZES
JPEG_QUALITY = 95


def encode(
    content: bytes, image_size: int, resize: str, encoding: str
) -> tuple[bytes, int, int]:
    """Returns an image as it is stored in a record whose bytes are not kept.

    With `original` encoding that is a PNG, which loses nothing.

    Args:
        content: The file, which `inspection.inspect` found no problem with.
        image_size: Width and height to store, in pixels; 0 keeps the size.
        resize: One of `RESIZES`: how the image fits the square.
        encoding: One of `ENCODINGS`.

    Returns:
        The bytes, and the stored width and height in pixels.
    """
    with (
        warnings.catch_warnings(action="ignore"),  # of Pillow
        formats.open_image(content) as opened,
        memory.turn(memory.PIXEL * opened.width * opened.height),
    ):
        if image_size and opened.format == "JPEG":
            # Decode at 1/2, 1/4 or 1/8 where that still covers the target.
            opened.draft(None, (image_size, image_size))
        image = to_rgb(opened)
    if image_size:
        image = fit(image, image_size, resize)
    if encoding == "raw":
        return image.tobytes(), *image.size
    buffer = io.BytesIO()
    if encoding == "jpeg":
        image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    else:
        image.save(buffer, "PNG")
    return buffer.getvalue(), *image.size


def estimate_bytes(
    size: int, width: int, height: int, kept: bool, encoding: str
) -> int:
    """Estimates how large an image will be in its record, to plan shards.

    Args:
        size: Bytes of the file.
        width: Width that will be stored, in pixels.
        height: Height that will be stored, in pixels.
        kept: Whether `original` encoding stores the file's own bytes.
        encoding: One of `ENCODINGS`.
    """
    if encoding == "original" and kept:
        return size
    # JPEG at quality 95 takes 11.7 kB for 150x150 pixels, a sixth of raw; PNG
    # about half of raw for photos.
    factor = {"raw": 3, "jpeg": 0.5, "original": 1.5}[encoding]
    return int(width * height * factor)


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns the image upright, as 8-bit RGB, without alpha."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in formats.SIXTEEN_BIT_MODES:
        # Pillow's own conversion clips at 255 instead of scaling.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def fit(image: Image.Image, size: int, resize: str) -> Image.Image:
    """Returns the image as a square of `size` pixels, by Pillow.

    Args:
        image: RGB.
        size: Width and height of the result in pixels.
        resize: "stretch" ignores the aspect ratio, "crop" keeps the middle,
            "pad" adds black borders; see `geometry.fit`.
    """
    source, target = geometry.fit(image.height, image.width, size, resize)
    right, bottom = source.left + source.width, source.top + source.height
    # Cut first: `resize(box=...)` blends in pixels from beyond the box.
    part = image.crop((source.left, source.top, right, bottom))
    part = part.resize((target.width, target.height), Image.Resampling.BILINEAR)
    if part.size == (size, size):
        return part
    square = Image.new(image.mode, (size, size))
    square.paste(part, (target.left, target.top))
    return square
