"""From the bytes of an image to the pixels that the network sees.

Training, evaluation and the exported model all use this one function.
"""

import tensorflow as tf


def decode_image(content: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Decodes an image and fits it to a square.

    Args:
        content: Scalar string: the bytes of a JPEG, PNG, GIF, BMP or WebP
            file. Of an animation the first frame counts.
        image_size: Width and height of the result in pixels.
        resize: "stretch", "crop" or "pad", as `data_prep` stored it.

    Returns:
        uint8 `[image_size, image_size, 3]`, RGB in [0, 255].
    """
    image = tf.io.decode_image(content, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    return fit(image, image_size, resize)


def fit(image: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Fits a decoded image to a square, bilinearly.

    Args:
        image: uint8 `[H, W, 3]` in [0, 255].
        image_size: Width and height of the result in pixels.
        resize: "stretch", "crop" (the middle) or "pad" (black borders).

    Returns:
        uint8 `[image_size, image_size, 3]` in [0, 255].
    """
    if image.shape == (image_size, image_size, 3):
        return image
    if resize == "crop":
        height, width = tf.shape(image)[0], tf.shape(image)[1]
        side = tf.minimum(height, width)
        image = tf.image.crop_to_bounding_box(
            image, (height - side) // 2, (width - side) // 2, side, side
        )
    if resize == "pad":
        image = tf.image.resize_with_pad(image, image_size, image_size)
    else:
        image = tf.image.resize(image, (image_size, image_size))
    return tf.cast(tf.round(image), tf.uint8)
