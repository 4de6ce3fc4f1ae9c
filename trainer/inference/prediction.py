"""Classifies image files with an exported model."""

import pathlib

import numpy as np
import tensorflow as tf

from data_prep.images import encoding
from data_prep.runtime.progress import Progress

BATCH = 32  # images that are decoded and classified at once


def predict(model_dir: str, paths: list[str]) -> np.ndarray:
    """Classifies image files by the exported `saved_model`.

    Args:
        model_dir: What `trainer.task` wrote.
        paths: N files that `inspection.inspect` found no problem with.

    Returns:
        Probabilities float32 `[N, K]`, in class order.
    """
    classify = tf.saved_model.load(
        pathlib.Path(model_dir, "saved_model")
    ).signatures["serving_default"]
    result = []
    with Progress("predict", len(paths)) as progress:
        for start in range(0, len(paths), BATCH):
            part = paths[start : start + BATCH]
            contents = [encoding.encode(p, 0, "", "original")[0] for p in part]
            result.append(
                classify(image_bytes=tf.constant(contents))["probabilities"]
            )
            progress.update(len(part))
    return np.concatenate(result)
