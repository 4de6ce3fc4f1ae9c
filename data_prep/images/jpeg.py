"""What a JPEG file is made of, read from its markers without decoding it."""

import dataclasses

from data_prep.images import formats

# Every scan of a progressive JPEG goes through all of the image: a file of
# 1 MB can ask for half an hour. libjpeg writes ten scans of a colour image.
MAX_SCANNED = 10 * formats.MAX_PIXELS
# Start of frame: baseline, extended, progressive, by Huffman codes. Others
# (arithmetic codes, lossless) are beyond some decoders.
_USUAL_FRAMES = (0xC0, 0xC1, 0xC2)
_BASELINE = 0xC0
# C0 to CF but for DHT, JPG and DAC (ITU-T T.81, table B.1).
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """What the markers of a JPEG file say.

    Attributes:
        header: All before the first scan; all of a file without one.
        usual: Whether every decoder reads frames of its kind.
        scans: How many times the image is gone through; of a baseline file
            whose first scan holds all colours, decoders read that one.
    """

    header: bytes
    usual: bool
    scans: int


def read(content: bytes) -> Structure:
    """Returns what the markers of a JPEG file say.

    ITU-T T.81, annex B.1.1: segments of a marker, a length and content, up to
    the start of scan.

    Args:
        content: The file, which begins as a JPEG does.
    """
    frames = []  # kind, and number of colour components
    together = 0  # components in the first scan
    offset = 2
    while content[offset : offset + 1] == b"\xff":
        marker = content[offset + 1 : offset + 2]
        if marker == b"\xff":  # a fill byte
            offset += 1
            continue
        if marker == b"\xda":
            together = int.from_bytes(content[offset + 4 : offset + 5])
            break
        if marker and marker[0] in _FRAMES:
            components = int.from_bytes(content[offset + 9 : offset + 10])
            frames.append((marker[0], components))
        length = int.from_bytes(content[offset + 2 : offset + 4], "big")
        offset += 2 + length
    usual = len(frames) == 1 and frames[0][0] in _USUAL_FRAMES
    scans = 1
    if not usual or frames[0] != (_BASELINE, together):
        # Within a scan no FF is followed by DA.
        scans = content.count(b"\xff\xda", offset)
    return Structure(content[:offset], usual, scans)


def check_scans(scans: int, width: int, height: int) -> None:
    """Raises TooLarge if decoding would go through too many pixels.

    Args:
        scans: How many times the image is gone through.
        width: In pixels.
        height: In pixels.
    """
    if scans * width * height > MAX_SCANNED:
        raise formats.TooLarge(
            f"has {scans} scans of {width}x{height} pixels, more than the "
            f"{MAX_SCANNED / 1e6:.0f} million pixels that are gone through"
        )
