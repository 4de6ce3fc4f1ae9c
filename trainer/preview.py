"""Command line: shows what an augmentation does to some images.

python -m trainer.preview --data_dir=data --augment=classic

Each row shows one training image, unchanged and as several epochs augment it.
"""

import dataclasses

import numpy as np

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.settings import setting
from trainer import groups

GAP = 4  # pixels between images


@dataclasses.dataclass(frozen=True)
class Preview(settings.Group):
    """The preview."""

    data_dir: str = settings.same_as(groups.Data, "data_dir")
    output: str = setting(
        "preview.png",
        "The image file to write.",
        path=settings.Path(settings.WRITTEN),
    )
    image_size: int = settings.same_as(
        groups.Data,
        "image_size",
        default=150,
        low=1,
        help="Width and height of an image, in pixels.",
    )
    images: int = setting(6, "Number of images, one per row.", low=1)
    views: int = setting(6, "Augmented versions beside each image.", low=1)
    seed: int = settings.same_as(groups.Run, "seed")


class PreviewConfig(settings.Config):
    """The flags of `trainer.preview`."""

    preview: Preview
    augmentation: groups.Augmentation


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


def main(config: PreviewConfig) -> None:
    """Writes the grid of images to a file."""
    preview, chosen = config.preview, config.augmentation
    manifest = manifest_lib.load(preview.data_dir)
    startup.import_tensorflow()
    from PIL import Image

    from trainer.augmentation import policies
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    reader = Reader(preview.data_dir, manifest, splits.TRAIN)
    count = min(preview.images, reader.count)
    plan = input_pipeline.plan_training(reader.count, count, preview.seed, 0)
    rows = plan.indices[0]
    images = reader.pixels(rows, preview.image_size)
    policy = policies.Policy(
        chosen.augment,
        chosen.augment_strength,
        chosen.mixup,
        chosen.cutmix,
        chosen.flips,
        preview.seed,
    )
    augment = policies.create(policy, len(manifest.classes))
    columns = [images]
    batch = [images, reader.labels[rows], reader.ids[rows]]
    if policy.mixes:  # the first with the last
        batch = [np.concatenate([one[-1:], one]) for one in batch]
    for epoch in range(preview.views):
        augmented, _ = augment(*batch, epoch)
        columns.append(np.clip(np.rint(augmented), 0, 255).astype(np.uint8))
    Image.fromarray(grid(np.stack(columns, axis=1))).save(preview.output)
    print(
        f"{preview.output}: {count} images, each beside {preview.views} "
        "augmentations"
    )


def cli() -> None:
    """Runs the command line."""
    command.run(main, PreviewConfig)


if __name__ == "__main__":
    cli()
