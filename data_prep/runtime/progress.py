"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts images done and shows the rate and the time left on stderr.

    On a terminal this is a bar that disappears when closed. In a log file it
    is one line every `SECONDS_BETWEEN_LINES`, so short work prints none.

    Args:
        what: Name of the work, such as "audit".
        total: Number of images in all.
        first: What happens before the first image, such as "compiling"; a bar
            says so.
    """

    def __init__(self, what: str, total: int, first: str = ""):
        self._what = what
        self._total = total
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                desc=f"{what} ({first})" if first else what,
                unit="img",
                leave=False,
                smoothing=0.1,
            )

    def update(self, images: int) -> None:
        """Adds `images` to what is done."""
        self._done += images
        if self._bar is not None:
            self._bar.set_description(self._what, refresh=False)
            self._bar.update(images)
            return
        now = time.monotonic()
        if now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self._done / (now - self._start)
            left = (self._total - self._done) / rate if rate else float("inf")
            print(
                f"{self._what}: {self._done}/{self._total} images, "
                f"{rate:.1f} images/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
