"""Stretch, crop and pad: one arithmetic, and three decoders that keep to it."""

import fractions
import math

import numpy as np
import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from data_prep.images import encoding
from data_prep.images import geometry

RESIZES = st.sampled_from(geometry.RESIZES)
THIN = st.tuples(st.integers(1, 3), st.integers(100, 3001))
SIDES = st.one_of(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    THIN,
    THIN.map(lambda sides: sides[::-1]),
)


def by_pillow(image, size, resize):
    return np.asarray(encoding.fit(Image.fromarray(image), size, resize))


def by_opencv(image, size, resize):
    from trainer.pipeline import fast_decode

    out = np.full((size, size, 3), 77, np.uint8)  # what was there before
    fast_decode.fit_into(image, resize, out)
    return out


def by_tensorflow(image, size, resize):
    """In a graph that knows no size of the image, as the exported model's."""
    import tensorflow as tf

    from trainer.pipeline import decode

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def graph(image):
        return decode.fit(image, size, resize)

    return graph(image).numpy()


DECODERS = (by_pillow, by_opencv, by_tensorflow)


@given(
    st.integers(1, 100_000),
    st.integers(1, 100_000),
    st.integers(1, 3000),
    RESIZES,
)
@example(1, 100_000, 150, "pad")
@settings(deadline=None)
def test_rectangles_are_those_of_the_definition(height, width, size, resize):
    source, target = geometry.fit(height, width, size, resize)
    whole, square = (0, 0, height, width), (0, 0, size, size)
    if resize == "stretch":
        assert (source, target) == (whole, square)
    elif resize == "crop":
        side = min(height, width)
        assert target == square
        assert source == ((height - side) // 2, (width - side) // 2, side, side)
    else:
        share = fractions.Fraction(size, max(height, width))
        rows = max(1, math.floor(height * share))
        columns = max(1, math.floor(width * share))
        assert source == whole
        assert target == (
            *((size - rows) // 2, (size - columns) // 2),
            *(rows, columns),
        )
        assert size in (rows, columns)


@given(st.integers(1, 100_000), st.integers(1, 3000))
def test_a_side_is_reduced_as_long_as_it_covers(side, size):
    """Never so far that what follows would have to magnify."""
    factor = geometry.reduction(side, size)
    assert factor == 1 or math.ceil(side / factor) >= size
    assert 2 * factor > side or math.ceil(side / (2 * factor)) < size


@given(
    st.integers(1, 20_000_000),
    st.integers(1, 20_000_000),
    st.integers(1, 3000),
    RESIZES,
)
@example(1, 20_000_000, 3000, "pad")  # more than 32 bits
@settings(deadline=None, max_examples=30)
def test_tensors_and_integers_give_the_same(tf, height, width, size, resize):
    """Inside a graph, which converts fewer types than eager execution."""
    functions = tf.minimum, tf.maximum

    @tf.function
    def graph(height, width):
        return (
            *geometry.fit(height, width, size, resize, *functions),
            geometry.deciding_side(height, width, resize, *functions),
        )

    sides = tf.constant([height, width], tf.int64)
    source, target, side = graph(sides[0], sides[1])
    found = [tuple(map(int, rectangle)) for rectangle in (source, target)]
    assert found == [*geometry.fit(height, width, size, resize)]
    assert side == geometry.deciding_side(height, width, resize)


@given(SIDES, st.integers(1, 70), RESIZES)
@example((1, 3001), 33, "pad")
@example((3001, 2), 70, "crop")
@example((37, 64), 64, "pad")
@settings(deadline=None, max_examples=25)
def test_decoders_fill_the_same_rectangle(tf, sides, size, resize):
    """Nothing from outside the source is seen, nothing else is filled.

    But where an image is reduced before it is cut: areas that are averaged may
    reach over the edge.
    """
    source, target = geometry.fit(*sides, size, resize)
    image = np.full((*sides, 3), 255, np.uint8)
    image[source.slices] = 100
    wanted = np.zeros((size, size, 3), np.uint8)
    wanted[target.slices] = 100
    inner = slice(None)
    if resize == "crop" and geometry.reduction(source.height, size) > 1:
        inner = slice(1, size - 1)
    for decoder in DECODERS:
        np.testing.assert_array_equal(
            decoder(image, size, resize)[inner, inner], wanted[inner, inner]
        )


@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 40), RESIZES)
@example(5, 8, 3, "crop")  # half a pixel too many
@example(3, 7, 1, "pad")
@settings(deadline=None, max_examples=25)
def test_decoders_magnify_the_same_rectangle(tf, height, width, more, resize):
    """Pixels of noise: equal at the corners, else to within 1 of 255."""
    size = 2 * max(height, width) + more
    source, target = geometry.fit(height, width, size, resize)
    noise = np.random.default_rng(height * width)
    image = noise.integers(0, 256, (height, width, 3), np.uint8)
    seen = image[source.slices]
    results = [decoder(image, size, resize) for decoder in DECODERS]
    for found in results:
        part = found[target.slices]
        for row in (0, -1):
            for column in (0, -1):
                # Doubled at least, so that a corner blends no other pixel.
                np.testing.assert_array_equal(
                    part[row, column], seen[row, column]
                )
        assert np.abs(found - results[-1].astype(int)).max() <= 1


@pytest.mark.parametrize("resize", geometry.RESIZES)
def test_a_line_of_one_pixel_is_stored(resize):
    """Pillow's own `pad` leaves none of its rows and fails."""
    image = Image.new("RGB", (4000, 1), "white")
    found = np.asarray(encoding.fit(image, 150, resize))
    assert found.shape == (150, 150, 3)
    assert found.max() == 255
