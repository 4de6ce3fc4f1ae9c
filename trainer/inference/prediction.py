"""Classifies image files with an exported model."""

import itertools
import pathlib

import numpy as np
import tensorflow as tf

from data_prep.images import encoding
from data_prep.runtime.progress import Progress

BATCH = 32  # images that are decoded and classified at once


def predict(model_dir: str, files: dict[str, bool]) -> np.ndarray:
    """Classifies image files by the exported `saved_model`.

    Args:
        model_dir: What `trainer.task` wrote.
        files: Paths of N files that `inspection.inspect` found no problem
            with, and whether each is classified as it is (`Facts.kept`).

    Returns:
        Probabilities float32 `[N, K]`, in class order.
    """
    classify = tf.saved_model.load(
        pathlib.Path(model_dir, "saved_model")
    ).signatures["serving_default"]
    result = []
    with Progress("predict", len(files)) as progress:
        rest = iter(files.items())
        while part := list(itertools.islice(rest, BATCH)):
            contents = [_read(path, kept) for path, kept in part]
            result.append(
                classify(image_bytes=tf.constant(contents))["probabilities"]
            )
            progress.update(len(part))
    return np.concatenate(result)


def _read(path: str, kept: bool) -> bytes:
    content = pathlib.Path(path).read_bytes()
    return content if kept else encoding.encode(content, 0, "", "original")[0]
