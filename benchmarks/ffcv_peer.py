"""FFCV's rates, by an interpreter that has it (it needs a compiler, OpenCV's
and libturbojpeg's headers, and a NumPy that Numba takes).

PYTHON benchmarks/ffcv_peer.py FOLDER IMAGE_SIZE RUNS

Prints a JSON object: images/s of each run, from JPEG at source size and from
raw pixels of IMAGE_SIZE. Imports nothing of this project.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
from ffcv.fields import IntField
from ffcv.fields import RGBImageField
from ffcv.fields.decoders import CenterCropRGBImageDecoder
from ffcv.fields.decoders import IntDecoder
from ffcv.fields.decoders import SimpleRGBImageDecoder
from ffcv.loader import Loader
from ffcv.loader import OrderOption
from ffcv.writer import DatasetWriter
from PIL import Image

WORKERS = len(os.sched_getaffinity(0))


class Files:
    """Image files as FFCV's writer takes them."""

    def __init__(self, paths, size):
        self._paths = paths
        self._size = size

    def __len__(self):
        return len(self._paths)

    def __getitem__(self, index):
        image = Image.open(self._paths[index]).convert("RGB")
        if self._size:
            image = image.resize((self._size, self._size))
        return np.asarray(image), 0


def rates(path, decoder, runs, repeats):
    """Returns images per second of each pass, after a warm-up."""
    loader = Loader(
        path,
        batch_size=64,
        num_workers=WORKERS,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=False,
        pipelines={"image": [decoder], "label": [IntDecoder()]},
    )
    result = []
    for run in range(runs + 1):
        images = 0
        start = time.perf_counter()
        for _ in range(repeats):
            images += sum(len(batch[0]) for batch in loader)
        if run:
            result.append(images / (time.perf_counter() - start))
    return result


def main():
    """Writes the data sets, measures, and prints."""
    folder, size, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    paths = sorted(pathlib.Path(folder).glob("*/*"))
    with tempfile.TemporaryDirectory() as scratch:
        figures = {}
        for name, stored, mode, decoder, repeats in (
            ("JPEG", 0, "jpg", CenterCropRGBImageDecoder((size, size), 1.0), 1),
            ("raw", size, "raw", SimpleRGBImageDecoder(), 100),
        ):
            path = f"{scratch}/{name}.beton"
            fields = {
                "image": RGBImageField(write_mode=mode),
                "label": IntField(),
            }
            writer = DatasetWriter(path, fields, num_workers=WORKERS)
            writer.from_indexed_dataset(Files(paths, stored))
            figures[name] = rates(path, decoder, runs, repeats)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
