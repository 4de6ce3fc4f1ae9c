"""What `--similarity` finds: recall on altered photos, and false pairs.

python -m benchmarks.similarity --photos=FOLDER --images=300

Every photo is altered (re-encoded, brightened, cropped, turned), and counted is
how often data_prep takes photo and copy for alike. The fixed camera is made of
the same photos: each is the scene of two shots of another time, which differ in
light, in noise, and by an object of a share of the area; to take those for
alike is what `--similarity=1` or 0 is for. False pairs are those among all
photos of the folder and among scikit-learn's 1797 digits, where no image is a
copy of another.
"""

import io
import pathlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

import cv2
import numpy as np
from absl import app
from absl import flags
from PIL import Image
from PIL import ImageEnhance

from benchmarks import machine
from data_prep.catalogue import duplicates
from data_prep.images import inspection
from data_prep.images.fingerprint import Fingerprint

SIMILARITIES = (0.995, 0.99, 0.98, 0.97, 0.95)
_AREAS = (0.001, 0.005, 0.02, 0.05)  # of the object before the fixed camera

_Alteration = Callable[[Image.Image, np.random.Generator], Image.Image]


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """Returns the bytes of an image, as JPEG of that quality."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def fingerprint(content: bytes) -> Fingerprint | None:
    """Returns what the audit keeps of an image file."""
    return inspection.inspect_content(content, "").fingerprint


def crop(share: float) -> _Alteration:
    """Returns a cut that leaves out a share of each side, at a drawn place."""

    def cut(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        width, height = image.size
        lost = int(width * share), int(height * share)
        x, y = (int(generator.integers(0, side + 1)) for side in lost)
        return image.crop((x, y, x + width - lost[0], y + height - lost[1]))

    return cut


def shot(area: float) -> _Alteration:
    """Returns another shot of a scene, with an object of a share of the area."""

    def take(image: Image.Image, generator: np.random.Generator) -> Image.Image:
        pixels = np.array(image)
        height, width = pixels.shape[:2]
        # An ellipse whose axes are as 3 to 2.
        half = np.sqrt(area * height * width / np.pi * 1.5)
        axes = int(round(half)), int(round(half / 1.5))
        middle = [
            int(generator.integers(axes[0], max(side - axes[0], axes[0] + 1)))
            for side in (width, height)
        ]
        colour = [int(value) for value in generator.integers(0, 256, 3)]
        turn = float(generator.integers(0, 180))
        cv2.ellipse(pixels, middle, axes, turn, 0, 360, colour, -1)
        light = generator.uniform(0.97, 1.03)
        noisy = pixels * light + generator.normal(0, 3, pixels.shape)
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

    return take


def brightness(factor: float) -> _Alteration:
    """Returns a change of brightness by a factor."""
    return lambda image, _: ImageEnhance.Brightness(image).enhance(factor)


ALTERATIONS: dict[str, _Alteration] = {
    "half the size": lambda image, _: image.resize(
        (image.width // 2, image.height // 2)
    ),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "brightness 0.8": brightness(0.8),
    "brightness 1.2": brightness(1.2),
    "brightness 1.4": brightness(1.4),
    "contrast 1.2": lambda image, _: ImageEnhance.Contrast(image).enhance(1.2),
    "cropped by 2%": crop(0.02),
    "cropped by 5%": crop(0.05),
    "cropped by 10%": crop(0.1),
    "turned by 1 degree": lambda image, _: image.rotate(
        1, resample=Image.Resampling.BICUBIC
    ),
    "mirrored": lambda image, _: image.transpose(
        Image.Transpose.FLIP_LEFT_RIGHT
    ),
    **{f"fixed camera, object {area:.1%}": shot(area) for area in _AREAS},
}


def copies(photos: list[pathlib.Path]) -> Iterator[tuple[str, list[bytes]]]:
    """Yields the name of each alteration, and a JPEG of every altered photo."""
    opened = [Image.open(path).convert("RGB") for path in photos]
    yield "JPEG quality 20", [jpeg(image, 20) for image in opened]
    for name, alter in ALTERATIONS.items():
        generator = np.random.default_rng(0)
        yield name, [jpeg(alter(image, generator)) for image in opened]


def groups(
    fingerprints: Iterable[Fingerprint | None], similarity: float
) -> duplicates.Groups:
    """Returns the groups of images that are alike, by their numbers."""
    joined = duplicates.Groups()
    known = [(n, f) for n, f in enumerate(fingerprints) if f]
    for low, mask in duplicates.bands():
        rows = sorted((f.hash >> low & mask, n, f.thumbnail) for n, f in known)
        for one, other in duplicates.alike_pairs(rows, similarity):
            joined.join(one, other)
    return joined


def recall(photos: list[pathlib.Path]) -> None:
    """Prints the share of photos that are grouped with their altered copy."""
    shown = "  ".join(f"{similarity:>5}" for similarity in SIMILARITIES)
    print(f"{'alike, of ' + str(len(photos)) + ' photos':<28}  {shown}")
    originals = [fingerprint(path.read_bytes()) for path in photos]
    for name, altered in copies(photos):
        prints = originals + [fingerprint(content) for content in altered]
        shares = []
        for similarity in SIMILARITIES:
            found = groups(prints, similarity)
            count = len(photos)
            alike = [
                found.find(n) == found.find(count + n) for n in range(count)
            ]
            shares.append(f"{np.mean(alike):5.2f}")
        print(f"{name:<28}  {'  '.join(shares)}", flush=True)


def false_pairs(name: str, contents: Iterable[bytes]) -> None:
    """Prints how many images are joined to another, though none is a copy."""
    prints = [fingerprint(content) for content in contents]
    joined = [
        f"{len(dict(groups(prints, similarity).members())):5}"
        for similarity in SIMILARITIES
    ]
    print(f"{name + ', ' + str(len(prints)):<28}  {'  '.join(joined)}")


def digits() -> Iterator[bytes]:
    """Yields scikit-learn's 8x8 digits as PNG files of 64x64 pixels."""
    from sklearn import datasets

    for pixels in datasets.load_digits().images:
        grey = (pixels * 255 / 16).astype(np.uint8)
        large = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_NEAREST)
        out = io.BytesIO()
        Image.fromarray(large).save(out, "PNG")
        yield out.getvalue()


def main(argv: list[str]) -> None:
    """Prints both tables."""
    if len(argv) > 1:
        raise app.UsageError(f"no words are expected, received {argv[1:]}")
    paths = sorted(pathlib.Path(flags.FLAGS.photos).rglob("*.jpg"))
    few = paths[:: max(1, len(paths) // flags.FLAGS.images)]
    print(machine.line("opencv-python-headless", "pillow", "simplejpeg"))
    recall(few[: flags.FLAGS.images])
    print("joined to another, though no copies:")
    false_pairs("photos", (path.read_bytes() for path in paths))
    false_pairs("digits", digits())


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of JPEG files, all different.")
    flags.DEFINE_integer("images", 300, "Photos that are altered.")
    flags.mark_flag_as_required("photos")
    app.run(main)
