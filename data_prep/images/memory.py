"""Large images are held by one process of a machine at a time.

A process decodes what `formats.MAX_PIXELS` allows in up to 750 MiB. A hundred
of them at once would be more than their machine has.
"""

import contextlib

PIXEL = 8  # bytes of one, where an image is decoded in full and converted
# A photo of 50 megapixels: nothing of ordinary size waits.
LARGE = 50_000_000 * PIXEL  # bytes

_lock: contextlib.AbstractContextManager = contextlib.nullcontext()


def share(lock: contextlib.AbstractContextManager) -> None:
    """Makes this process wait for others that were given the same lock.

    Args:
        lock: Can be taken again by who holds it.
    """
    global _lock
    _lock = lock


def turn(size: int) -> contextlib.AbstractContextManager:
    """Returns what to hold while so much of an image is in memory.

    Args:
        size: In bytes, of a file or of decoded pixels.
    """
    return _lock if size > LARGE else contextlib.nullcontext()
