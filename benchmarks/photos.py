"""Photos for whoever names no folder of them: cuts of scikit-learn's two."""

import io
import pathlib

import numpy as np

WIDTH, HEIGHT = 500, 374  # pixels, as photos of ImageNet and of cats and dogs
_SHARES = (0.6, 0.9)  # of a photo's width and height that a cut holds
_QUALITY = 90


def write(folder: pathlib.Path, count: int) -> None:
    """Writes JPEG files of 500x374 pixels, in a folder for each photo.

    They are cut, mirrored and scaled at random, so no two are copies.

    Args:
        folder: For the folders of the classes.
        count: How many in each.
    """
    from PIL import Image
    from PIL import ImageOps
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    generator = np.random.default_rng(0)
    for name, pixels in zip(found.filenames, found.images, strict=True):
        photo = Image.fromarray(pixels)
        place = folder / pathlib.Path(name).stem
        place.mkdir(parents=True)
        for number in range(count):
            share = generator.uniform(*_SHARES)
            width, height = (int(share * side) for side in photo.size)
            left = int(generator.integers(photo.width - width))
            top = int(generator.integers(photo.height - height))
            cut = photo.crop((left, top, left + width, top + height))
            if generator.integers(2):
                cut = ImageOps.mirror(cut)
            out = io.BytesIO()
            cut.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(
                out, "JPEG", quality=_QUALITY
            )
            (place / f"{number:04d}.jpg").write_bytes(out.getvalue())
