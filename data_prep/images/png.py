"""Whether a PNG file is whole: its chunks, their checksums, and its pixels.

Pillow passes over checksums and a missing end, and the decoders of training do
not: TensorFlow refuses such a file, and OpenCV 5.0 can end the whole process on
one. So the file is held to the standard (PNG, third edition, W3C 2025).
"""

import dataclasses
import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Samples per pixel, and the bits that each may have, by colour type (11.2.1).
_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_COLOURS = {
    _GREY: (1, (1, 2, 4, 8, 16)),
    _RGB: (3, (8, 16)),
    _PALETTE: (1, (1, 2, 4, 8)),
    _GREY_ALPHA: (2, (8, 16)),
    _RGB_ALPHA: (4, (8, 16)),
}
# Bytes of a background colour (11.3.4.1).
_BACKGROUNDS = {_GREY: 2, _RGB: 6, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 6}
# First row and column, and steps, of the passes of Adam7 (8.2).
_ADAM7 = (
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
)
_FILTERS = bytes(range(5))  # types of filter that there are (9.2)
_PIECE = 1 << 20  # bytes of pixels that are held at once

_Chunks = list[tuple[bytes, memoryview]]


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """What a whole PNG file is made of.

    Attributes:
        bits: Bits per sample: 1, 2, 4, 8 or 16.
        plain: Whether it is the standard's still image and nothing else: no
            animation, whose first picture decoders do not agree on, and
            nothing after the end.
    """

    bits: int
    plain: bool


def check(content: bytes) -> Structure:
    """Returns what a PNG file is made of.

    Args:
        content: The file, which begins as a PNG does.

    Raises:
        ValueError: If it is damaged or against the standard.
    """
    chunks, end = _read_chunks(content)
    kinds = [kind for kind, _ in chunks]
    _check_order(kinds)
    header = chunks[0][1]
    if len(header) != 13:
        raise ValueError("its header is damaged")
    width, height, bits, colours, *methods = struct.unpack(">IIBBBBB", header)
    samples, allowed = _COLOURS.get(colours, (0, ()))
    if not (width and height and bits in allowed and methods[:2] == [0, 0]):
        raise ValueError("its header is damaged")
    if methods[2] > 1:
        raise ValueError("its header is damaged")
    _check_palette(dict(chunks), colours, bits)
    data = [part for kind, part in chunks if kind == b"IDAT"]
    rows = _rows(width, height, bits * samples, interlaced=methods[2] == 1)
    used_up = _check_pixels(data, rows)
    still = b"acTL" not in kinds and b"fcTL" not in kinds
    # OpenCV 5.0 refuses a file for this chunk, which may be passed over.
    sound = all(
        len(part) == _BACKGROUNDS[colours]
        for kind, part in chunks
        if kind == b"bKGD"
    )
    ended = used_up and end == len(content)
    return Structure(bits, still and sound and ended)


def _read_chunks(content: bytes) -> tuple[_Chunks, int]:
    """Returns kind and content of each chunk, and where the last one ends."""
    view = memoryview(content)
    chunks: _Chunks = []
    at = len(_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        if at + 12 > len(view):
            raise ValueError("it is cut off")
        (length,) = struct.unpack_from(">I", view, at)
        end = at + 12 + length
        if end > len(view):
            raise ValueError("it is cut off, or the length of a chunk is wrong")
        (checksum,) = struct.unpack_from(">I", view, end - 4)
        kind = bytes(view[at + 4 : at + 8])
        if zlib.crc32(view[at + 4 : end - 4]) != checksum:
            raise ValueError(f"the checksum of its chunk {kind!r} is wrong")
        chunks.append((kind, view[at + 8 : end - 4]))
        at = end
    return chunks, at


def _check_order(kinds: list[bytes]) -> None:
    """Raises ValueError unless the chunks stand as the standard wants (5.6)."""
    first = kinds.index(b"IDAT") if b"IDAT" in kinds else len(kinds)
    last = first + kinds.count(b"IDAT")
    before, after = kinds[:first], kinds[last:]
    # A capital begins the kind of a chunk that no decoder may pass over.
    critical = [kind for kind in before if kind[:1].isupper()]
    if (
        kinds[0] != b"IHDR"
        or first == last
        or critical not in ([b"IHDR"], [b"IHDR", b"PLTE"])
        or [kind for kind in after if kind[:1].isupper()] != [b"IEND"]
        or b"tRNS" in after
        or before.count(b"tRNS") > 1
        or (b"PLTE" in before and b"tRNS" in before[: before.index(b"PLTE")])
    ):
        raise ValueError("its chunks are damaged")


def _check_palette(
    parts: dict[bytes, memoryview], colours: int, bits: int
) -> None:
    """Raises ValueError unless palette and transparency fit the colour type."""
    palette, remainder = divmod(len(parts.get(b"PLTE", b"")), 3)
    wanted = {_GREY: 2, _RGB: 6}.get(colours)
    clear = len(parts[b"tRNS"]) if b"tRNS" in parts else None
    if (
        remainder
        or (b"PLTE" in parts and not 0 < palette <= 256)
        or (colours == _PALETTE and not 0 < palette <= 1 << bits)
        or (b"PLTE" in parts and colours in (_GREY, _GREY_ALPHA))
        or (clear is not None and colours in (_GREY_ALPHA, _RGB_ALPHA))
        or (clear is not None and colours == _PALETTE and clear > palette)
        or (clear is not None and wanted and clear != wanted)
    ):
        raise ValueError("its palette is damaged")


def _rows(
    width: int, height: int, bits: int, *, interlaced: bool
) -> Iterator[tuple[int, int]]:
    """Yields number and bytes of the rows of each pass, filter included."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    for top, left, down, right in passes:
        rows = -(-(height - top) // down)
        columns = -(-(width - left) // right)
        if rows > 0 and columns > 0:
            yield rows, 1 + (columns * bits + 7) // 8


def _check_pixels(
    data: list[memoryview], rows: Iterator[tuple[int, int]]
) -> bool:
    """Inflates all pixels and looks at the filter that each row begins with.

    Args:
        data: The contents of the chunks of pixels.
        rows: What `_rows` yields.

    Returns:
        Whether the data ends where the pixels do.

    Raises:
        ValueError: If they are damaged.
    """
    stream = _inflate(data)
    held = b""
    for count, size in rows:
        while count:
            take = min(count, max(1, _PIECE // size))
            while len(held) < take * size:
                piece = next(stream, b"")
                if not piece:
                    raise ValueError("pixels are missing")
                held += piece
            if held[: take * size : size].strip(_FILTERS):
                raise ValueError("its pixels are damaged")
            held = held[take * size :]
            count -= take
    return not held and not next(stream, b"")


def _inflate(data: list[memoryview]) -> Iterator[bytes]:
    """Yields the inflated content in pieces; checks its own checksum, too."""
    inflating = zlib.decompressobj()
    try:
        for part in data:
            piece = inflating.decompress(part, _PIECE)
            while piece:
                yield piece
                piece = inflating.decompress(inflating.unconsumed_tail, _PIECE)
    except zlib.error as error:
        raise ValueError(f"its pixels are damaged: {error}") from None
    if not inflating.eof:
        raise ValueError("its pixels are cut off")
    if inflating.unused_data:
        raise ValueError("its pixels are damaged")
