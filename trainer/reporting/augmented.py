"""A picture of training images beside what their augmentation makes of them."""

import numpy as np

from trainer import groups
from trainer.engine import trained_part
from trainer.pipeline import input_pipeline
from trainer.pipeline.reader import Reader

GAP = 4  # pixels between images


def picture(
    reader: Reader,
    settings: groups.Augmentation,
    image_size: int,
    seed: int,
    images: int,
    views: int,
) -> np.ndarray:
    """Returns rows of an image each: unchanged, and as several epochs see it.

    Args:
        reader: Reader of the training split.
        settings: How images are augmented.
        image_size: S, in pixels.
        seed: Of the run.
        images: Number of rows; fewer where there are fewer images.
        views: Number of augmented versions.

    Returns:
        uint8 `[height, width, 3]`.
    """
    count = min(images, reader.count)
    plan = input_pipeline.plan_training(reader.count, count, seed, 0)
    rows = plan.indices[0]
    pixels = reader.pixels(rows, image_size)
    augment = trained_part.make_augment(
        settings, seed, len(reader.manifest.classes)
    )
    columns = [pixels]
    batch = [pixels, reader.labels[rows], reader.ids[rows]]
    if settings.mixes:  # the first with the last
        batch = [np.concatenate([one[-1:], one]) for one in batch]
    for epoch in range(views):
        augmented, _ = augment(*batch, epoch)
        columns.append(np.clip(np.rint(augmented), 0, 255).astype(np.uint8))
    return grid(np.stack(columns, axis=1))


def grid(images: np.ndarray) -> np.ndarray:
    """Lays images out in rows and columns.

    Args:
        images: uint8 `[rows, columns, S, S, 3]`.

    Returns:
        uint8 `[rows * (S + GAP) + GAP, columns * (S + GAP) + GAP, 3]`, white
        where there is no image.
    """
    rows, columns, size = images.shape[:3]
    step = size + GAP
    result = np.full(
        (rows * step + GAP, columns * step + GAP, 3), 255, np.uint8
    )
    for row in range(rows):
        for column in range(columns):
            top, left = row * step + GAP, column * step + GAP
            result[top : top + size, left : left + size] = images[row, column]
    return result
