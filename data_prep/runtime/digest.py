"""The SHA-256 of a file."""

import hashlib
import os


def file_sha256(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file's content, as 64 hexadecimal digits.

    It is read in pieces: it may be larger than the memory.

    Args:
        path: The file.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
