"""From the bytes of an image to the pixels that the network sees.

There are two decoders. Training uses OpenCV, which is faster and lets several
threads decode at once. Evaluation and the exported model share one TensorFlow
function, because they have to agree to the bit. Both take the same rectangles
from `geometry.fit`; a test keeps their pixels within 2 of 255, and within 0.5
on average, at every reduced scale.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that still covers the
target: less work, and no aliasing from skipped pixels.
"""

import cv2
import numpy as np
import tensorflow as tf

from data_prep.images import geometry

SCALES = (1, 2, 4, 8)

_JPEG_MAGIC = b"\xff\xd8\xff"
_OPENCV_FLAGS = {
    # Records are upright already; RGB in place of OpenCV's BGR.
    scale: reduced | cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    for scale, reduced in zip(SCALES, (0, 16, 32, 64), strict=True)
}
# cv2.resize would start threads of its own inside each of tf.data's.
cv2.setNumThreads(1)


def decode_image(content: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Decodes an image and fits it to a square, inside a TensorFlow graph.

    Args:
        content: Scalar string: the bytes of a JPEG, PNG, GIF, BMP or WebP
            file. Of an animation the first frame counts.
        image_size: Width and height of the result in pixels.
        resize: "stretch", "crop" or "pad", as `data_prep` stored it.

    Returns:
        uint8 `[image_size, image_size, 3]`, RGB in [0, 255].
    """

    def jpeg() -> tf.Tensor:
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(content))
        side = geometry.deciding_side(
            height, width, resize, tf.minimum, tf.maximum
        )
        # How many of the reduced sizes still cover the target.
        branch = tf.add_n(
            [
                tf.cast(-(-side // scale) >= image_size, tf.int32)
                for scale in SCALES[1:]
            ]
        )
        return tf.switch_case(
            branch,
            [
                # Without this method TensorFlow takes a cruder one.
                lambda scale=scale: tf.io.decode_jpeg(
                    content, 3, ratio=scale, dct_method="INTEGER_ACCURATE"
                )
                for scale in SCALES
            ],
        )

    def other() -> tf.Tensor:
        return tf.io.decode_image(content, channels=3, expand_animations=False)

    image = tf.cond(tf.io.is_jpeg(content), jpeg, other)
    image.set_shape([None, None, 3])
    return fit(image, image_size, resize)


def fit(image: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Fits a decoded image to a square, bilinearly, inside a graph.

    Args:
        image: uint8 `[H, W, 3]` in [0, 255].
        image_size: Width and height of the result in pixels.
        resize: "stretch", "crop" (the middle) or "pad" (black borders).

    Returns:
        uint8 `[image_size, image_size, 3]` in [0, 255].
    """
    if image.shape == (image_size, image_size, 3):
        return image
    # In 64 bits: a side of 10 million pixels times the target's overflows 32.
    shape = tf.shape(image, tf.int64)
    source, target = (
        [tf.cast(number, tf.int32) for number in rectangle]
        for rectangle in geometry.fit(
            shape[0], shape[1], image_size, resize, tf.minimum, tf.maximum
        )
    )
    if resize == "crop":
        image = tf.image.crop_to_bounding_box(image, *source)
    top, left, *inner = target
    image = tf.image.resize(image, inner)
    if resize == "pad":
        image = tf.image.pad_to_bounding_box(
            image, top, left, image_size, image_size
        )
    return tf.cast(tf.round(image), tf.uint8)


def decode_into(
    content: np.ndarray, height: int, width: int, resize: str, out: np.ndarray
) -> None:
    """Decodes an image and fits it to a square, by OpenCV, without the GIL.

    Args:
        content: uint8 `[n]`: the bytes of a JPEG or PNG file.
        height: The image's height in pixels.
        width: The image's width in pixels.
        resize: As in `decode_image`.
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
        resize: As in `decode_image`.
        image_size: The target's width and height in pixels.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        ValueError: If the image cannot be decoded.
    """
    scale = 1
    if content[:3].tobytes() == _JPEG_MAGIC:
        side = geometry.deciding_side(height, width, resize)
        scale = max(s for s in SCALES if s == 1 or -(-side // s) >= image_size)
    image = cv2.imdecode(content, _OPENCV_FLAGS[scale])
    if image is None:
        raise ValueError("OpenCV cannot decode the image")
    return image


def fit_into(image: np.ndarray, resize: str, out: np.ndarray) -> None:
    """Fits a decoded image to a square, bilinearly, by OpenCV.

    Args:
        image: uint8 `[H, W, 3]`.
        resize: As in `fit`.
        out: uint8 `[S, S, 3]`, where the result goes.
    """
    if image.shape == out.shape:
        out[:] = image
        return
    source, target = geometry.fit(*image.shape[:2], len(out), resize)
    if target[2:] != out.shape[:2]:
        out[:] = 0
    part = out[target.slices]
    # Not into `part` directly: OpenCV writes into whole arrays only.
    part[:] = cv2.resize(image[source.slices], (target.width, target.height))
