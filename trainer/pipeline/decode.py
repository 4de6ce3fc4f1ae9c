"""From the bytes of an image to the pixels that the network sees.

Evaluation and the exported model share these TensorFlow functions, because they
have to agree to the bit. Training uses `fast_decode`, by OpenCV. Both take the
same rectangles from `geometry.fit` and reduce by the same factors; a test keeps
their pixels within 2 of 255, and within 0.5 on average.
"""

from collections.abc import Iterator

import tensorflow as tf

from data_prep.images import geometry
from trainer.pipeline import orientation
from trainer.pipeline.fast_decode import SCALES


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
    return fit(_decode(content, image_size, resize), image_size, resize)


def decode_photo(content: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Does what `decode_image` does, and turns the image as EXIF says.

    Records hold images that are upright, for which the two agree to the bit.

    Args:
        content: As in `decode_image`.
        image_size: As in `decode_image`.
        resize: As in `decode_image`.

    Returns:
        uint8 `[image_size, image_size, 3]`, RGB in [0, 255].
    """
    image = _decode(content, image_size, resize)
    image = orientation.upright(image, orientation.read(content))
    image.set_shape([None, None, 3])
    return fit(image, image_size, resize)


def _decode(content: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Returns uint8 `[H, W, 3]`, a JPEG at the least scale that covers."""

    def jpeg() -> tf.Tensor:
        height, width, _ = tf.unstack(tf.io.extract_jpeg_shape(content))
        side = geometry.deciding_side(
            height, width, resize, tf.minimum, tf.maximum
        )
        # How many of the reduced sizes still cover the target.
        branch = tf.add_n(
            [
                tf.cast(geometry.covers(side, scale, image_size), tf.int32)
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
    return image


def fit(image: tf.Tensor, image_size: int, resize: str) -> tf.Tensor:
    """Fits a decoded image to a square, inside a graph.

    A side at least twice as long as the target's is averaged first, so that a
    PNG gives what a JPEG gives that was decoded at a reduced scale.

    Args:
        image: uint8 `[H, W, 3]` in [0, 255].
        image_size: Width and height of the result in pixels.
        resize: "stretch", "crop" (the middle) or "pad" (black borders).

    Returns:
        uint8 `[image_size, image_size, 3]` in [0, 255].
    """
    if image.shape == (image_size, image_size, 3):
        return image
    source, target = _fit(image, image_size, resize)
    image = _reduce(image, source[2:], target[2:])
    if resize == "crop":
        source, _ = _fit(image, image_size, resize)
        image = tf.image.crop_to_bounding_box(image, *source)
    top, left, *inner = target
    image = tf.image.resize(image, inner)
    if resize == "pad":
        image = tf.image.pad_to_bounding_box(
            image, top, left, image_size, image_size
        )
    return tf.cast(tf.round(image), tf.uint8)


def _fit(
    image: tf.Tensor, image_size: int, resize: str
) -> Iterator[list[tf.Tensor]]:
    # In 64 bits: a side of 10 million pixels times the target's overflows 32.
    height, width, _ = tf.unstack(tf.shape(image, tf.int64))
    rectangles = geometry.fit(
        height, width, image_size, resize, tf.minimum, tf.maximum
    )
    for rectangle in rectangles:
        yield [tf.cast(number, tf.int32) for number in rectangle]


def _reduce(
    image: tf.Tensor, sides: list[tf.Tensor], target: list[tf.Tensor]
) -> tf.Tensor:
    """Does what `fast_decode` does.

    Args:
        image: uint8 `[H, W, 3]`.
        sides: Height and width of the part of it that is seen.
        target: Height and width that these are resampled to.

    Returns:
        float32 `[H, W, 3]`, the sides less than twice the target's.
    """
    pairs = list(zip(sides, target, strict=True))

    def average() -> tf.Tensor:
        powers = [
            tf.math.count_nonzero(
                geometry.covers(side, tf.constant(geometry.FACTORS), size),
                dtype=tf.int32,
            )
            for side, size in pairs
        ]
        factors = tf.bitwise.left_shift(1, tf.stack(powers))
        shape = tf.shape(image)[:2]
        smaller = -(-shape // factors)
        missing = smaller * factors - shape
        padded = tf.pad(
            image, [[0, missing[0]], [0, missing[1]], [0, 0]], "SYMMETRIC"
        )
        return tf.image.resize(padded, smaller, method="area")

    down, across = [geometry.covers(side, 2, size) for side, size in pairs]
    return tf.cond(down | across, average, lambda: tf.cast(image, tf.float32))
