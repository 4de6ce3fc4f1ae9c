"""Photos straight from a camera: the served model turns them upright."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from PIL import ImageOps

from data_prep.images import plain

ORIENTATIONS = range(1, 9)


def photo():
    """Smooth, oblong, and no two corners alike."""
    corners = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [90] * 3]])
    image = Image.fromarray(corners.astype(np.uint8))
    return image.resize((40, 24), Image.Resampling.BICUBIC)


def jpeg(exif=b"", **options):
    file = io.BytesIO()
    photo().save(file, "JPEG", quality=95, subsampling=0, exif=exif, **options)
    return file.getvalue()


def tiff(orientation, order="<", before=0, number=0x0112):
    """The header and directory of a tag, other tags before it."""
    entries = b"".join(
        struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0)
        for tag, value in [(0x0100, 5)] * before + [(number, orientation)]
    )
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HIH", 42, 8, before + 1)
    return b"Exif\0\0" + mark + head + entries + bytes(4)


@pytest.fixture(scope="module")
def read(tf):
    from trainer.pipeline import orientation

    return tf.function(
        orientation.read, input_signature=[tf.TensorSpec([], tf.string)]
    )


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_every_orientation_is_what_pillow_makes_of_it(tf, resize):
    from trainer.pipeline import decode

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def served(content):
        return decode.decode_photo(content, 20, resize)

    for orientation in ORIENTATIONS:
        content = jpeg(tiff(orientation))
        file = io.BytesIO()
        with Image.open(io.BytesIO(content)) as image:
            ImageOps.exif_transpose(image).save(file, "PNG")
        wanted = decode.decode_image(file.getvalue(), 20, resize).numpy()
        found = served(content).numpy()
        assert np.abs(found.astype(int) - wanted).max() <= 2, orientation
        as_stored = decode.decode_image(content, 20, resize).numpy()
        differs = np.abs(found.astype(int) - as_stored).max() > 20
        assert differs == (orientation > 1)


@pytest.mark.parametrize("order", "<>")
def test_the_tag_is_found_wherever_it_stands(read, order):
    """After other segments, other tags and filling bytes; by Pillow's word."""
    for orientation in ORIENTATIONS:
        for before in (0, 3):
            content = jpeg(tiff(orientation, order, before), comment=b"a" * 300)
            # Fill bytes before the second marker.
            filled = content[:2] + b"\xff\xff" + content[2:]
            first = b"\xff\xe1" + struct.pack(">H", 8) + b"http:/"
            for file in (content, filled, content[:2] + first + content[2:]):
                assert int(read(file)) == orientation
                with Image.open(io.BytesIO(file)) as image:
                    assert image.getexif()[0x0112] == orientation


def lossless(kind, orientation):
    """A file whose pixels all decoders agree on."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    photo().save(file, kind, lossless=True, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_other_kinds_are_turned_as_predict_turns_them(tf, kind):
    """By the graph of the SavedModel, and by what all commands read with."""
    from trainer.pipeline import decode

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def served(content):
        return decode.decode_photo(content, 20, "crop")

    seen = set()
    for orientation in ORIENTATIONS:
        content = lossless(kind, orientation)
        plain_file = plain.convert(content, "x")
        wanted = decode.decode_image(plain_file, 20, "crop").numpy()
        np.testing.assert_array_equal(served(content).numpy(), wanted)
        seen.add(wanted.tobytes())
    assert len(seen) == 8


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_chunks_of_a_damaged_file_end(read, kind):
    content = lossless(kind, 6)
    assert int(read(content)) == 6
    start = content.index({"PNG": b"eXIf", "WEBP": b"EXIF"}[kind])
    for cut in (*range(8, 40), *range(start - 8, start + 30)):
        assert int(read(content[:cut])) in (1, 6)
    for place in (*range(8, 24), *range(start - 4, start + 30)):
        for value in (0, 127, 255):
            damaged = bytearray(content)
            damaged[place] = value
            assert 1 <= int(read(bytes(damaged))) <= 8


def test_a_webp_may_begin_its_exif_as_a_jpeg_does(read):
    """As cameras' software does; the chunk's length is then even longer."""
    content = lossless("WEBP", 6)
    start = content.index(b"EXIF")
    length = 6 + int.from_bytes(content[start + 4 : start + 8], "little")
    longer = (
        content[:start]
        + b"EXIF"
        + length.to_bytes(4, "little")
        + b"Exif\0\0"
        + content[start + 8 :]
    )
    assert int(read(longer)) == 6


def test_what_has_no_orientation_is_upright(read):
    png = io.BytesIO()
    photo().save(png, "PNG")
    for content in (
        *(jpeg(), png.getvalue(), b"", b"GIF89a"),
        jpeg(tiff(6, number=0x0113)),
        *(jpeg(tiff(value)) for value in (0, 9, 65535)),
    ):
        assert int(read(content)) == 1


def test_a_damaged_header_ends_nowhere_but_in_upright(read):
    """Cut anywhere, and with every byte of the header at its extremes."""
    content = jpeg(tiff(6))
    start = content.index(b"Exif")
    for cut in range(2, start + 40):
        assert int(read(content[:cut])) in (1, 6)
    for place in range(2, start + 34):
        for value in (0, 127, 255):
            damaged = bytearray(content)
            damaged[place] = value
            assert 1 <= int(read(bytes(damaged))) <= 8
