"""The CRC-32C of what a file holds. Imports nothing local."""

from typing import BinaryIO

import google_crc32c

_BLOCK = 1 << 24  # bytes that are read at once


def of_start(file: BinaryIO, size: int) -> bytes:
    """Returns the CRC-32C of the start of a file, 4 bytes, and stops behind it.

    Args:
        file: An open file.
        size: Of the start, in bytes.
    """
    file.seek(0)
    crc = google_crc32c.Checksum()
    for begin in range(0, size, _BLOCK):
        crc.update(file.read(min(_BLOCK, size - begin)))
    return crc.digest()
