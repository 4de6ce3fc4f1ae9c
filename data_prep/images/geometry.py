"""How an image fits a square: which part of it, and where that part lies.

The one place for the arithmetic of --resize. Pillow (data_prep), OpenCV
(training) and TensorFlow (evaluation and the exported model) each resample by
their own code, but between the same two rectangles. A test compares them.

Imports nothing, and works on integers and on integer tensors alike: a caller
with tensors passes its own `minimum` and `maximum`.
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

MAX_SIDE = 8192  # pixels of a square that is stored, or trained on
# Raised when the same image gives other pixels: 2 averages areas.
VERSION = 2
RESIZES = ("stretch", "crop", "pad")
# By which an image may be reduced before it is resampled bilinearly.
FACTORS = tuple(1 << power for power in range(1, 25))

Integer = Any  # an int, or a scalar integer tensor


class Rectangle(NamedTuple):
    """Whole pixels of an image.

    Attributes:
        top: First row, counted from 0.
        left: First column, counted from 0.
        height: Number of rows, at least 1.
        width: Number of columns, at least 1.
    """

    top: Integer
    left: Integer
    height: Integer
    width: Integer

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array `[H, W, ...]`."""
        return (
            slice(self.top, self.top + self.height),
            slice(self.left, self.left + self.width),
        )


def fit(
    height: Integer,
    width: Integer,
    size: int,
    resize: str,
    minimum: Callable = min,
    maximum: Callable = max,
) -> tuple[Rectangle, Rectangle]:
    """Returns which part of an image fills which part of a square.

    Args:
        height: The image's height in pixels, at least 1.
        width: The image's width in pixels, at least 1.
        size: Width and height of the square in pixels, at least 1.
        resize: "stretch" fills the square with the whole image and ignores
            its aspect ratio; "crop" fills it with the largest square in the
            middle of the image; "pad" places the whole image in the middle of
            the square, its longer side as long as the square's. Halves of a
            pixel are rounded down.
        minimum: The lesser of two numbers of the kind of `height`.
        maximum: The greater of two.

    Returns:
        The part of the image that is seen, and the part of the square that it
        is resampled to; what is left of the square is black.
    """
    source = Rectangle(0, 0, height, width)
    target = Rectangle(0, 0, size, size)
    if resize == "crop":
        side = minimum(height, width)
        source = Rectangle(
            (height - side) // 2, (width - side) // 2, side, side
        )
    elif resize == "pad":
        side = maximum(height, width)
        # Of an image of 1 x 1000 pixels one row has to be left.
        rows = maximum(height * size // side, 1)
        columns = maximum(width * size // side, 1)
        target = Rectangle(
            (size - rows) // 2, (size - columns) // 2, rows, columns
        )
    return source, target


def deciding_side(
    height: Integer,
    width: Integer,
    resize: str,
    minimum: Callable = min,
    maximum: Callable = max,
) -> Integer:
    """Returns the side that a reduced image must keep as long as the square's.

    With a shorter one, `fit` would have to magnify what was reduced before.

    Args:
        height: The image's height in pixels.
        width: The image's width in pixels.
        resize: As in `fit`.
        minimum: As in `fit`.
        maximum: As in `fit`.
    """
    return (maximum if resize == "pad" else minimum)(height, width)


def covers(side: Integer, factor: Integer, size: Integer) -> Any:
    """Returns whether a side that is reduced still has a target's length.

    An image is reduced by the greatest of `FACTORS` for which it has: averages
    of whole areas, where two pixels of many would alias. A bilinear resampling
    by less than 2 follows.

    Args:
        side: Length in pixels before it is reduced; or many, or a tensor.
        factor: By which it is reduced, rounded up to whole pixels.
        size: The target's length in pixels.
    """
    return (-(-side // factor) >= size) & (factor <= side)


def reduction(side: int, size: int) -> int:
    """Returns the factor that a side is reduced by.

    Args:
        side: Length of the source in pixels.
        size: Length of the target in pixels.
    """
    factor = 1
    while factor < FACTORS[-1] and covers(side, 2 * factor, size):
        factor *= 2
    return factor
