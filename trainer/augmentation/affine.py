"""One fused affine augmentation: rotation, shifts, shear, zoom and flips.

All are composed into one matrix per image and applied by one bilinear
resampling; a chain of layers would resample (and blur) once per layer. The
parameters, their units and their composition are those of Keras's
`ImageDataGenerator.apply_transform` (rotation, shift, shear, zoom about the
image's centre, then the flips), with two differences: that takes shifts in
pixels, and turns oblong images about a point that is not their centre. Its
`height_shift_range` moves images sideways; ours moves them up and down.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from trainer.augmentation import random_bits


@dataclasses.dataclass(frozen=True)
class AffineRanges:
    """The range of each parameter, which is drawn uniformly from it.

    Attributes:
        rotation_range: Greatest rotation in degrees, in either direction.
        width_shift_range: Greatest shift to the left or right, as a fraction
            of the width.
        height_shift_range: Greatest shift up or down, as a fraction of the
            height.
        shear_range: Greatest shear in degrees, in either direction.
        zoom_range: Each axis is zoomed by 1 - range to 1 + range.
        horizontal_flip: Whether half of the images are flipped left to right.
        vertical_flip: Whether half of the images are flipped upside down.
        fill_mode: What fills pixels outside the image: "nearest", "reflect",
            "constant" (black) or "wrap" (of period n; SciPy's "grid-wrap",
            but not interpolated across the seam).
    """

    rotation_range: float = 0.0
    width_shift_range: float = 0.0
    height_shift_range: float = 0.0
    shear_range: float = 0.0
    zoom_range: float = 0.0
    horizontal_flip: bool = False
    vertical_flip: bool = False
    fill_mode: str = "nearest"

    def scaled(self, strength: float) -> "AffineRanges":
        """Returns the ranges times `strength`, flips unchanged."""
        return dataclasses.replace(
            self,
            rotation_range=self.rotation_range * strength,
            width_shift_range=self.width_shift_range * strength,
            height_shift_range=self.height_shift_range * strength,
            shear_range=self.shear_range * strength,
            zoom_range=min(self.zoom_range * strength, 0.9),
        )


@dataclasses.dataclass(frozen=True)
class AffineParameters:
    """The parameters drawn for each of B images; all are float32 `[B]`.

    Attributes:
        theta: Rotation in degrees, counterclockwise.
        tx: Shift to the left, as a fraction of the width.
        ty: Shift up, as a fraction of the height.
        shear: Shear in degrees: columns stay straight, rows slant.
        zx: Zoom along the width; 1 is none, 2 shows twice the width.
        zy: Zoom along the height.
        flip_horizontal: 1 flips left to right, 0 does not.
        flip_vertical: 1 flips upside down, 0 does not.
    """

    theta: tf.Tensor
    tx: tf.Tensor
    ty: tf.Tensor
    shear: tf.Tensor
    zx: tf.Tensor
    zy: tf.Tensor
    flip_horizontal: tf.Tensor
    flip_vertical: tf.Tensor


class RandomAffine(keras.layers.Layer):
    """Applies a random affine map to each image; identity at inference.

    Args:
        ranges: The parameters' ranges.
        seed: The run's seed. An image's map depends on it, on the epoch and on
            the image's id, and on nothing else.
    """

    def __init__(self, ranges: AffineRanges, seed: int, **kwargs):
        super().__init__(**kwargs)
        # ImageProjectiveTransformV3 has no XLA kernel.
        self.supports_jit = False
        self._ranges = ranges
        self._seed = seed

    def call(self, images, ids, epoch, training=True):
        """Returns the augmented images.

        Args:
            images: float `[B, H, W, C]`.
            ids: int64 `[B]`.
            epoch: Integer scalar, counted from 0.
            training: Without it the images are returned as they are.

        Returns:
            Images of the shape, type and range of `images`.
        """
        if not training:
            return images
        parameters = sample(self._ranges, self._seed, epoch, ids)
        if self._ranges.scaled(0.0) == self._ranges:
            return flip(images, parameters)  # no resampling: five times as fast
        return apply(images, parameters, self._ranges.fill_mode)


def sample(ranges: AffineRanges, seed: int, epoch, ids) -> AffineParameters:
    """Draws the parameters of every image.

    Args:
        ranges: The parameters' ranges.
        seed: The run's seed.
        epoch: Integer scalar, counted from 0.
        ids: int64 `[B]`.
    """
    unit = random_bits.uniform(seed, epoch, ids, 8)
    either_way = 2.0 * unit - 1.0
    return AffineParameters(
        theta=either_way[:, 0] * ranges.rotation_range,
        tx=either_way[:, 1] * ranges.width_shift_range,
        ty=either_way[:, 2] * ranges.height_shift_range,
        shear=either_way[:, 3] * ranges.shear_range,
        zx=1.0 + either_way[:, 4] * ranges.zoom_range,
        zy=1.0 + either_way[:, 5] * ranges.zoom_range,
        flip_horizontal=_coin(unit[:, 6], ranges.horizontal_flip),
        flip_vertical=_coin(unit[:, 7], ranges.vertical_flip),
    )


def apply(images, parameters: AffineParameters, fill_mode: str) -> tf.Tensor:
    """Resamples every image once, bilinearly, by its parameters.

    Args:
        images: float `[B, H, W, C]`.
        parameters: The parameters of each image.
        fill_mode: As in `AffineRanges`.

    Returns:
        Images of the shape, type and range of `images`.
    """
    height, width = images.shape[1], images.shape[2]
    return resample(images, matrices(parameters, height, width), fill_mode)


def flip(images, parameters: AffineParameters) -> tf.Tensor:
    """Flips images by their parameters, without resampling.

    Args:
        images: `[B, H, W, C]`.
        parameters: The parameters of each image; only the flips are used.

    Returns:
        Images of the shape and type of `images`.
    """
    for coin, axis in (
        (parameters.flip_vertical, 1),
        (parameters.flip_horizontal, 2),
    ):
        chosen = tf.reshape(tf.cast(coin, tf.bool), [-1, 1, 1, 1])
        images = tf.where(chosen, tf.reverse(images, [axis]), images)
    return images


def resample(images, transforms: tf.Tensor, fill_mode: str) -> tf.Tensor:
    """Resamples every image once, bilinearly.

    Args:
        images: float `[B, H, W, C]`.
        transforms: float32 `[B, 8]`, as `matrices` returns them.
        fill_mode: As in `AffineRanges`.

    Returns:
        Images of the shape, type and range of `images`.
    """
    height, width = images.shape[1], images.shape[2]
    outside_is_black = fill_mode == "constant"
    resampled = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.constant([height, width]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST" if outside_is_black else fill_mode.upper(),
    )
    if not outside_is_black:
        return resampled
    # TensorFlow's own "CONSTANT" shades the border; SciPy's, and so
    # ImageDataGenerator's, ends at the last pixel's centre.
    row = tf.range(height, dtype=tf.float32)[:, tf.newaxis]
    column = tf.range(width, dtype=tf.float32)[tf.newaxis, :]
    a = transforms[:, :, tf.newaxis, tf.newaxis]
    x = a[:, 0] * column + a[:, 1] * row + a[:, 2]
    y = a[:, 3] * column + a[:, 4] * row + a[:, 5]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return resampled * tf.cast(inside, resampled.dtype)[..., tf.newaxis]


def matrices(
    parameters: AffineParameters, height: int, width: int
) -> tf.Tensor:
    """Composes the map from output to input pixels of every image.

    In coordinates (x, y) about the centre, x to the right and y down, the map
    is rotation * shift * shear * zoom * flip, as in `ImageDataGenerator`.

    Args:
        parameters: The parameters of each image.
        height: The images' height in pixels.
        width: The images' width in pixels.

    Returns:
        float32 `[B, 8]`, as ImageProjectiveTransformV3 takes it: a0 a1 a2 b0
        b1 b2 0 0 with input x = a0 x + a1 y + a2, input y = b0 x + b1 y + b2.
    """
    theta = parameters.theta * (np.pi / 180)
    shear = parameters.shear * (np.pi / 180)
    cos, sin = tf.cos(theta), tf.sin(theta)
    # Rotation * shear, then each column scaled by its zoom and flip.
    scale_x = parameters.zx * (1.0 - 2.0 * parameters.flip_horizontal)
    scale_y = parameters.zy * (1.0 - 2.0 * parameters.flip_vertical)
    x_of_x = cos * scale_x
    x_of_y = -tf.sin(theta + shear) * scale_y
    y_of_x = sin * scale_x
    y_of_y = tf.cos(theta + shear) * scale_y
    shift_x = parameters.tx * width
    shift_y = parameters.ty * height
    # The centre of pixels 0 .. n-1, onto which the map's origin is moved.
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    offset_x = (
        middle_x
        + cos * shift_x
        - sin * shift_y
        - x_of_x * middle_x
        - x_of_y * middle_y
    )
    offset_y = (
        middle_y
        + sin * shift_x
        + cos * shift_y
        - y_of_x * middle_x
        - y_of_y * middle_y
    )
    zero = tf.zeros_like(theta)
    return tf.stack(
        [x_of_x, x_of_y, offset_x, y_of_x, y_of_y, offset_y, zero, zero],
        axis=1,
    )


def _coin(unit: tf.Tensor, wanted: bool) -> tf.Tensor:
    return tf.cast(unit < 0.5, tf.float32) if wanted else tf.zeros_like(unit)
