"""Turns a photo upright as its EXIF says, inside a TensorFlow graph.

Records hold images that are upright already; what a served model is sent may
come straight from a camera. TensorFlow's decoders ignore the orientation.
"""

from collections.abc import Callable

import tensorflow as tf

_TAG = 0x0112  # Orientation (Exif 2.32, 4.6.4)
_APP1, _START_OF_SCAN, _FILL = 0xE1, 0xDA, 0xFF
_EXIF = b"Exif\0\0"
_PNG = b"\x89PNG\r\n\x1a\n"
_ENTRY = 12  # bytes of a tag: number, type, count, value


def read(content: tf.Tensor) -> tf.Tensor:
    """Returns the orientation of a JPEG, PNG or WebP file, by its EXIF's tag.

    Args:
        content: Scalar string: the bytes of an image file.

    Returns:
        int32 scalar, 1 to 8; 1 is upright, and what any other kind of file, a
        file without the tag and a damaged one have.
    """
    data = tf.cast(tf.io.decode_raw(content, tf.uint8), tf.int32)

    def holds(what: bytes, at: int) -> tf.Tensor:
        at = tf.minimum(at, tf.size(data))  # beyond is an error
        return tf.strings.substr(content, at, len(what)) == what

    start = tf.case(
        [
            (tf.io.is_jpeg(content), lambda: _in_jpeg(content, data)),
            (holds(_PNG, 0), lambda: _in_png(content, data)),
            (
                holds(b"RIFF", 0) & holds(b"WEBP", 8),
                lambda: _in_webp(content, data),
            ),
        ],
        default=lambda: tf.size(data),
    )
    return _of_exif(data[start:])


def upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns an image as it is meant to be seen.

    Args:
        image: `[H, W, C]`.
        orientation: int32 scalar, 1 to 8. Rows and columns are swapped from 5
            on; then 2, 3, 6 and 7 are mirrored left to right, and 3, 4, 7 and
            8 upside down.
    """

    def holds(*orientations: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(orientations))

    image = tf.cond(
        holds(5, 6, 7, 8),
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: image,
    )
    image = tf.cond(holds(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
    return tf.cond(holds(3, 4, 7, 8), lambda: image[::-1], lambda: image)


def _in_png(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """Does what `_in_jpeg` does, in the chunks of a PNG (third edition, 5.3)."""
    places = tf.constant([1 << 24, 1 << 16, 1 << 8, 1])
    return _in_chunks(
        content,
        data,
        len(_PNG),
        b"eXIf",
        lambda at: (at + 4, tf.reduce_sum(data[at : at + 4] * places)),
        4,  # the checksum
    )


def _in_webp(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """Does what `_in_jpeg` does, in the chunks of a WebP (RFC 9649, 2.3)."""
    places = tf.constant([1, 1 << 8, 1 << 16, 1 << 24])

    def head(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        length = tf.reduce_sum(data[at + 4 : at + 8] * places)
        return at, length + length % 2

    start = _in_chunks(content, data, 12, b"EXIF", head, 0)
    # Some writers begin it as in a JPEG.
    mark = tf.strings.substr(content, start, len(_EXIF)) == _EXIF
    return tf.where(mark, start + len(_EXIF), start)


def _in_chunks(
    content: tf.Tensor,
    data: tf.Tensor,
    first: int,
    name: bytes,
    head: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    behind: int,
) -> tf.Tensor:
    """Returns where the content of a chunk begins; the end if there is none.

    Args:
        content: Scalar string: the file.
        data: int32 `[n]`, its bytes.
        first: Where the chunks begin.
        name: Of the chunk, four bytes.
        head: From where a chunk begins, eight bytes of name and length, to
            where its name stands and the length of its content.
        behind: Bytes after the content of each.
    """
    size = tf.size(data)

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            at + 8 <= size,
            lambda: tf.strings.substr(content, head(at)[0], 4) != name,
            lambda: False,
        )

    def step(at: tf.Tensor) -> tuple[tf.Tensor]:
        length = head(at)[1]
        # Of a damaged file it may be anything, past 31 bits negative.
        whole = (length >= 0) & (length <= size)
        return (tf.where(whole, at + 8 + length + behind, size),)

    (at,) = tf.while_loop(goes_on, step, (tf.constant(first),))
    return tf.minimum(at + 8, size)


def _in_jpeg(content: tf.Tensor, data: tf.Tensor) -> tf.Tensor:
    """Returns where the TIFF header of EXIF begins; the end if there is none.

    A JPEG is a list of segments before its pixels: 255, a marker, the length
    of what follows in two bytes, and that.

    Args:
        content: Scalar string: the file.
        data: int32 `[n]`, its bytes.
    """
    size = tf.size(data)

    def is_exif(at: tf.Tensor) -> tf.Tensor:
        head = tf.strings.substr(content, at + 4, len(_EXIF))
        return (data[at + 1] == _APP1) & (head == _EXIF)

    def goes_on(at: tf.Tensor) -> tf.Tensor:
        return tf.cond(
            at + 4 <= size,
            lambda: (
                (data[at] == _FILL)
                & (data[at + 1] != _START_OF_SCAN)
                & ~is_exif(at)
            ),
            lambda: False,
        )

    def step(at: tf.Tensor) -> tuple[tf.Tensor]:
        length = data[at + 2] * 256 + data[at + 3]
        # Before a marker there may be any number of 255.
        return (at + tf.where(data[at + 1] == _FILL, 1, 2 + length),)

    (at,) = tf.while_loop(goes_on, step, (tf.constant(2),))
    found = tf.cond(
        at + 4 <= size,
        lambda: (data[at] == _FILL) & is_exif(at),
        lambda: False,
    )
    return tf.where(found, at + 4 + len(_EXIF), size)


def _of_exif(tiff: tf.Tensor) -> tf.Tensor:
    """Returns the orientation that a TIFF header's first directory names."""
    size = tf.size(tiff)
    is_little = tiff[:1] == ord("I")

    def number(data: tf.Tensor) -> tf.Tensor:
        """Returns unsigned numbers `[...]` of their bytes `[..., n]`."""
        data = tf.where(is_little, data[..., ::-1], data)
        result = tf.zeros(tf.shape(data)[:-1], tf.int32)
        for byte in tf.unstack(data, axis=-1):
            result = result * 256 + byte
        return result

    def of_directory() -> tf.Tensor:
        start = number(tf.reshape(tiff[4:8], [4]))
        # Where a damaged file points beyond its end, nothing is left.
        start = tf.where((start < 8) | (start > size - 2), size, start)
        entries = tiff[start + 2 :]
        count = tf.size(entries) // _ENTRY
        count = tf.cond(
            count > 0,
            lambda: tf.minimum(
                count, number(tf.reshape(tiff[start : start + 2], [2]))
            ),
            lambda: 0,
        )
        table = tf.reshape(entries[: count * _ENTRY], [count, _ENTRY])
        values = tf.boolean_mask(
            number(table[:, 8:10]), number(table[:, :2]) == _TAG
        )
        value = tf.concat([values, [1]], 0)[0]
        return tf.where((value >= 1) & (value <= 8), value, 1)

    return tf.cond(size >= 8, of_directory, lambda: 1)
