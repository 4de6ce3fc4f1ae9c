"""Command line: a picture of what an augmentation does.

python -m trainer.preview --data_dir=data --augment=classic

Each row is one training image, as it is and in several epochs.
"""

import pathlib

import numpy as np
from absl import flags

from data_prep import command
from data_prep import manifest as manifest_lib
from data_prep import splits
from data_prep.errors import UsageError
from trainer import startup
from trainer.config import AUGMENTS

GAP = 4  # pixels between images


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


def main() -> None:
    """Writes the picture."""
    values = flags.FLAGS
    if not values.data_dir:
        raise UsageError("--data_dir is missing: what data_prep wrote.")
    manifest = manifest_lib.load(values.data_dir)
    startup.import_tensorflow()
    from PIL import Image

    from trainer import input_pipeline
    from trainer.augmentation import policies
    from trainer.reader import Reader

    reader = Reader(values.data_dir, manifest, splits.TRAIN)
    count = min(values.images, reader.count)
    plan = input_pipeline.plan_training(reader.count, count, values.seed, 0)
    chosen = plan.positions[0]
    images = reader.pixels(chosen, values.image_size)
    policy = policies.Policy(
        values.augment,
        values.augment_strength,
        values.mixup,
        values.cutmix,
        values.seed,
    )
    augment = policies.create(policy, len(manifest.classes))
    columns = [images]
    for epoch in range(values.views):
        augmented, _ = augment(
            images, reader.labels[chosen], reader.ids[chosen], epoch
        )
        columns.append(np.clip(np.rint(augmented), 0, 255).astype(np.uint8))
    output = pathlib.Path(values.output)
    Image.fromarray(grid(np.stack(columns, axis=1))).save(output)
    print(f"{output}: {count} images, each beside {values.views} augmentations")


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "What data_prep wrote.")
    flags.DEFINE_string("output", "preview.png", "The picture to write.")
    flags.DEFINE_enum("augment", "light", AUGMENTS, "As in trainer.task.")
    flags.DEFINE_float("augment_strength", 1.0, "As in trainer.task.", 0.0)
    flags.DEFINE_float("mixup", 0.0, "As in trainer.task.", 0.0)
    flags.DEFINE_float("cutmix", 0.0, "As in trainer.task.", 0.0)
    flags.DEFINE_integer("image_size", 150, "Of an image, in pixels.", 1)
    flags.DEFINE_integer("images", 6, "Rows.", 1)
    flags.DEFINE_integer("views", 6, "Augmentations beside each image.", 1)
    flags.DEFINE_integer("seed", 0, "As in trainer.task.", 0)
    command.run(main)
