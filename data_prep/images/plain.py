"""Image files as a decoder takes them that knows nothing of their oddities.

What a trained model is asked about comes from anywhere: it is inspected as what
it was trained on was, and where EXIF, CMYK or an animation would have a plain
decoder show something else, it is encoded again, as `data_prep` does.
"""

import errno
import os
import stat

from data_prep.images import encoding
from data_prep.images import formats
from data_prep.images import inspection
from data_prep.images import unread
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError


class BadImage(DataError):
    """An image that cannot be used.

    Attributes:
        name: Of the file, or what stands for it.
        problem: Why, as "is empty".
    """

    def __init__(self, name: str, problem: str):
        super().__init__(f"{name} {problem}")
        self.name = name
        self.problem = problem


def load(path: str) -> bytes:
    """Reads an image file; see `convert`.

    Args:
        path: Local, or an address in object storage.

    Raises:
        BadImage: If it cannot be read, is no regular file, or is no usable
            image.
    """
    content: bytes | OSError
    try:
        content = storage.read(path) if storage.is_url(path) else _read(path)
    except OSError as error:
        content = error
    except ValueError as error:  # a name with a byte of 0
        raise BadImage(path, f"cannot be read: {error}") from None
    return convert(content, path)


def convert(content: bytes | OSError, name: str) -> bytes:
    """Returns an image's bytes, as they are or encoded again.

    Args:
        content: Of an image file, or why it cannot be read.
        name: What errors call it.

    Raises:
        BadImage: If it is no usable image, or a larger one than is decoded.
    """
    if isinstance(content, bytes) and len(content) > storage.MAX_BYTES:
        limit = storage.MAX_BYTES >> 20
        raise BadImage(name, f"is larger than {limit} MiB")
    facts = inspection.inspect_content(content, name)
    if facts.problem or isinstance(content, OSError):
        raise BadImage(name, facts.problem)
    if facts.kept:
        return content
    return encoding.encode(content, 0, "", "original")[0]


def _read(path: str) -> bytes:
    # A pipe would wait for who writes to it, and a device may never end.
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        content = file.read(unread.START)
        # What is no image is not read on, however large.
        if formats.detect(content):
            content += file.read(storage.MAX_BYTES)
    return content


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
