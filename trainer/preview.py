"""Command line: shows what an augmentation does to some images.

python -m trainer.preview --data_dir=data --augment=classic

Each row shows one training image, unchanged and as several epochs augment it.
"""

import dataclasses

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import splits
from data_prep.runtime import command
from data_prep.runtime import settings
from data_prep.runtime import startup
from data_prep.runtime.settings import setting
from trainer import groups


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


def main(config: PreviewConfig) -> None:
    """Writes the grid of images to a file."""
    preview, chosen = config.preview, config.augmentation
    manifest = manifest_lib.load(preview.data_dir)
    startup.import_tensorflow()
    from PIL import Image

    from trainer.pipeline.reader import Reader
    from trainer.reporting import augmented

    reader = Reader(preview.data_dir, manifest, splits.TRAIN)
    picture = augmented.picture(
        reader,
        chosen,
        preview.image_size,
        preview.seed,
        preview.images,
        preview.views,
    )
    Image.fromarray(picture).save(preview.output)
    print(
        f"{preview.output}: {min(preview.images, reader.count)} images, each "
        f"beside {preview.views} augmentations"
    )


def cli() -> None:
    """Runs the command line."""
    command.run(main, PreviewConfig)


if __name__ == "__main__":
    cli()
