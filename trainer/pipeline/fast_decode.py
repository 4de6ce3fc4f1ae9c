"""From the bytes of an image to pixels, by OpenCV: the decoder of training.

It is faster than TensorFlow's, and needs no TensorFlow. A JPEG is decoded at
1/2, 1/4 or 1/8 of its size where that still covers the target: less work, and
averages where pixels would be skipped.
"""

import cv2
import numpy as np

from data_prep.images import geometry

SCALES = (1, 2, 4, 8)
VERSION = cv2.__version__

_JPEG_MAGIC = b"\xff\xd8\xff"
_OPENCV_FLAGS = {
    # Records are upright already; RGB in place of OpenCV's BGR.
    scale: reduced | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    for scale, reduced in zip(SCALES, (0, 16, 32, 64), strict=True)
}
# cv2.resize would start threads of its own in every thread and process.
cv2.setNumThreads(1)


def decode_into(
    content: np.ndarray, height: int, width: int, resize: str, out: np.ndarray
) -> None:
    """Decodes an image and fits it to a square.

    Args:
        content: uint8 `[n]`: the bytes of a JPEG or PNG file.
        height: The image's height in pixels.
        width: The image's width in pixels.
        resize: "stretch", "crop" or "pad", as `data_prep` stored it.
        out: uint8 `[S, S, 3]`, where the result goes.

    Raises:
        ValueError: If the image cannot be decoded.
    """
    image = decode_reduced(content, height, width, resize, len(out))
    fit_into(image, resize, out)


def decode_reduced(
    content: np.ndarray, height: int, width: int, resize: str, image_size: int
) -> np.ndarray:
    """Decodes an image, a JPEG at the least scale that covers the target.

    Args:
        content: uint8 `[n]`: the bytes of a JPEG or PNG file.
        height: The image's height in pixels.
        width: The image's width in pixels.
        resize: "stretch", "crop" or "pad", as `data_prep` stored it.
        image_size: The target's width and height in pixels.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        ValueError: If the image cannot be decoded.
    """
    scale = 1
    if content[:3].tobytes() == _JPEG_MAGIC:
        side = geometry.deciding_side(height, width, resize)
        while scale < SCALES[-1] and geometry.covers(
            side, 2 * scale, image_size
        ):
            scale *= 2
    image = cv2.imdecode(content, _OPENCV_FLAGS[scale])
    if image is None:
        raise ValueError("OpenCV cannot decode the image")
    return image


def fit_into(image: np.ndarray, resize: str, out: np.ndarray) -> None:
    """Fits a decoded image to a square.

    A side at least twice as long as the target's is averaged first.

    Args:
        image: uint8 `[H, W, 3]`.
        resize: "stretch", "crop" (the middle) or "pad" (black borders).
        out: uint8 `[S, S, 3]`, where the result goes.
    """
    if image.shape == out.shape:
        out[:] = image
        return
    source, target = geometry.fit(*image.shape[:2], len(out), resize)
    image = _reduce(
        image,
        geometry.reduction(source.height, target.height),
        geometry.reduction(source.width, target.width),
    )
    source, _ = geometry.fit(*image.shape[:2], len(out), resize)
    part, size = image[source.slices], (target.width, target.height)
    if target[2:] == out.shape[:2]:
        cv2.resize(part, size, dst=out)
        return
    out[:] = 0
    # Not into a part of `out` directly: OpenCV writes into whole arrays only.
    out[target.slices] = cv2.resize(part, size)


def _reduce(image: np.ndarray, down: int, across: int) -> np.ndarray:
    """Returns the averages of areas of `down` times `across` pixels.

    They are counted from the top left, and what is missing of the last ones is
    mirrored: as a JPEG's blocks are, so that every format gives the same.
    """
    if down == across == 1:
        return image
    rows, columns, _ = image.shape
    missing = -rows % down, -columns % across
    if any(missing):
        image = cv2.copyMakeBorder(
            image, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT
        )
    smaller = (image.shape[1] // across, image.shape[0] // down)
    return cv2.resize(image, smaller, interpolation=cv2.INTER_AREA)
