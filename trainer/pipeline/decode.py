"""From the bytes of an image to the pixels that the network sees.

The same picture by two routes, equal to within 1 of 255 (a test holds them to
it): a TensorFlow graph for evaluation and the exported model, which have to
agree to the bit, and OpenCV for training, which is faster and lets several
threads decode at once.

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that still covers the
target: less work, and no aliasing from skipped pixels.
"""

import cv2
import numpy as np
import tensorflow as tf

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
        side = _deciding_side(tf.minimum, tf.maximum, height, width, resize)
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
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    if resize == "crop":
        side = tf.minimum(height, width)
        image = tf.image.crop_to_bounding_box(
            image, (height - side) // 2, (width - side) // 2, side, side
        )
    inner = (image_size, image_size)
    if resize == "pad":
        side = tf.maximum(height, width)
        inner = (
            tf.maximum(1, height * image_size // side),
            tf.maximum(1, width * image_size // side),
        )
    image = tf.image.resize(image, inner)
    if resize == "pad":
        image = tf.image.pad_to_bounding_box(
            image,
            (image_size - inner[0]) // 2,
            (image_size - inner[1]) // 2,
            image_size,
            image_size,
        )
    return tf.cast(tf.round(image), tf.uint8)


def decode_into(
    content: np.ndarray, height: int, width: int, resize: str, out: np.ndarray
) -> None:
    """Decodes an image and fits it to a square, by OpenCV, without the GIL.

    Args:
        content: uint8 `[n]`: the bytes of a JPEG or PNG file.
        height: Of the image, in pixels.
        width: Of the image, in pixels.
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
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        resize: As in `decode_image`.
        image_size: The target's width and height in pixels.

    Returns:
        uint8 `[H, W, 3]`, RGB.

    Raises:
        ValueError: If the image cannot be decoded.
    """
    scale = 1
    if content[:3].tobytes() == _JPEG_MAGIC:
        side = _deciding_side(min, max, height, width, resize)
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
    height, width = image.shape[:2]
    if resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        image = image[top : top + side, left : left + side]
    elif resize == "pad":
        size, side = len(out), max(height, width)
        new_height = max(1, height * size // side)
        new_width = max(1, width * size // side)
        top, left = (size - new_height) // 2, (size - new_width) // 2
        out[:] = 0
        out = out[top : top + new_height, left : left + new_width]
        # OpenCV writes into whole arrays only.
        out[:] = cv2.resize(image, (new_width, new_height))
        return
    cv2.resize(image, out.shape[1::-1], dst=out)


def _deciding_side(minimum, maximum, height, width, resize: str):
    """Returns the side that must not fall below the target."""
    return (maximum if resize == "pad" else minimum)(height, width)
