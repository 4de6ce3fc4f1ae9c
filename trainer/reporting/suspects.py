"""`suspects.html`: likely wrong labels and strange images, as pictures."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_prep.report import html
from data_prep.report import thumbnails
from data_prep.runtime import atomic
from trainer.feature_extraction.suspicion import Suspicion
from trainer.pipeline.reader import Reader

FILE_NAME = "suspects.html"
_WRONG, _STRANGE = 60, 24  # pictures
_SIDE = 128  # pixels of one


def write(
    output: pathlib.Path,
    classes: Sequence[str],
    readers: Sequence[Reader],
    order: np.ndarray,
    judged: Suspicion,
) -> None:
    """Writes the page.

    Args:
        output: Folder to write to.
        classes: K names.
        readers: Readers of the splits that were judged, N images in all.
        order: int `[N]`, the images in the order of the splits' records, the
            most suspect first.
        judged: What `suspicion.judge` returned.
    """
    count = int(judged.mislabelled.sum())
    strange = np.argsort(-judged.distance, kind="stable")[:_STRANGE]
    text = html.render(
        "suspects.html",
        "trainer.reporting",
        images=len(order),
        count=count,
        wrong=_examples(classes, readers, order[:count][:_WRONG], judged),
        strange=_examples(classes, readers, strange, judged),
    )
    atomic.write_text(output / FILE_NAME, text)


def _examples(
    classes: Sequence[str],
    readers: Sequence[Reader],
    rows: np.ndarray,
    judged: Suspicion,
) -> list[dict]:
    """Returns what the page says of some images."""
    ends = np.cumsum([reader.count for reader in readers])
    found = []
    for row in rows:
        split = int(np.searchsorted(ends, row, side="right"))
        reader = readers[split]
        within = np.array([row - (ends[split] - reader.count)])
        (pixels,) = reader.pixels(within, _SIDE)
        found.append(
            {
                "image": thumbnails.of_image(Image.fromarray(pixels), _SIDE),
                "file": reader.files_of(within)[0],
                "label": classes[reader.labels[within[0]]],
                "suggested": classes[judged.suggested[row]],
                "margin": float(judged.margin[row]),
                "distance": float(judged.distance[row]),
            }
        )
    return found
