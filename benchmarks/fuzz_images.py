"""Damages images at random: what the audit accepts, both decoders must decode.

python -m benchmarks.fuzz_images --mutations=20000 --seed=0

Small files of every kind are damaged in one to three ways: bits, cuts, zeros,
pieces repeated or left out, chunks of a PNG and segments of a JPEG changed,
swapped, repeated and removed with checksums that are right again. What
`inspect` finds no problem with is stored as `--encoding=original` stores it, and
decoded by OpenCV as in training, and by TensorFlow as in evaluation. Each file
that one of them refuses, or that they see differently by more than 2 of 255
(what `tests/test_input_pipeline.py` allows for sound photos), is printed, and
written to `--keep`.
"""

import collections
import hashlib
import io
import pathlib
import struct
import sys
import zlib
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
from absl import app
from absl import flags
from PIL import Image
from PIL import ImageCms

from data_prep.images import encoding
from data_prep.images import inspection

SIDE = 64  # pixels of the images; a JPEG is also decoded at half of it
TOLERANCE = 2  # of 255

_Generator = np.random.Generator


def samples() -> dict[str, bytes]:
    """Returns a sound file of every kind that is read, by name."""
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (8, 8, 4), np.uint8)
    rgba = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    rgb = rgba.convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    upright = Image.Exif()
    upright[0x010F] = "maker"
    wide = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    frames = [rgb, rgb.rotate(90), rgb.rotate(180)]

    def file(image: Image.Image, kind: str, **options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    apng = {"save_all": True, "append_images": frames[1:], "duration": 100}
    return {
        "jpeg": file(rgb, "JPEG", quality=90),
        "jpeg 4:4:4": file(rgb, "JPEG", subsampling=0, exif=upright),
        "jpeg progressive": file(rgb, "JPEG", progressive=True),
        "jpeg restarts": file(rgb, "JPEG", restart_marker_blocks=2),
        "jpeg grey": file(rgb.convert("L"), "JPEG"),
        "jpeg rgb": file(rgb, "JPEG", keep_rgb=True),
        "jpeg cmyk": file(rgb.convert("CMYK"), "JPEG"),
        "jpeg turned": file(rgb, "JPEG", exif=turned),
        "mpo": file(rgb, "MPO", save_all=True, append_images=frames[1:]),
        "png": file(rgb, "PNG"),
        "png interlaced": interlaced_png(np.asarray(rgb)),
        "png alpha": file(rgba, "PNG", exif=upright),
        "png grey": file(rgb.convert("L"), "PNG"),
        "png grey alpha": file(rgba.convert("LA"), "PNG"),
        "png 1 bit": file(rgb.convert("1"), "PNG"),
        "png 16 bit": file(Image.fromarray(wide), "PNG"),
        "png 16 bit rgb": png(np.asarray(rgb).astype(">u2") * 257 + 99),
        "png palette": file(rgb.quantize(200), "PNG"),
        "png 2 bit palette": file(rgb.quantize(4), "PNG"),
        "png transparent palette": file(
            rgb.quantize(200), "PNG", transparency=bytes(range(200))
        ),
        "png transparent colour": file(rgb, "PNG", transparency=(1, 2, 3)),
        "png turned": file(rgb, "PNG", exif=turned),
        "png with all": with_all(split_png(file(rgb.quantize(200), "PNG"))),
        "apng": file(rgb, "PNG", **apng),
        "apng with a still": file(frames[1], "PNG", default_image=True, **apng),
        "gif": file(rgb.quantize(64), "GIF"),
        "gif animated": file(rgb, "GIF", **apng),
        "bmp": file(rgb, "BMP"),
        "bmp palette": file(rgb.quantize(200), "BMP"),
        "webp": file(rgb, "WEBP"),
        "webp lossless": file(rgba, "WEBP", lossless=True),
        "webp animated": file(rgb, "WEBP", **apng),
    }


def chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG file, its checksum right."""
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + crc.to_bytes(4)


def png(pixels: np.ndarray) -> bytes:
    """Returns an RGB PNG of `[H, W, 3]`, of 8 or 16 bits big endian."""
    height, width, _ = pixels.shape
    bits = 8 * pixels.itemsize
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    return join_png(
        [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )


def with_all(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Returns a palette PNG with a chunk of every kind that may be passed over."""
    profile = b"name\0\0" + zlib.compress(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    more = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", struct.pack(">8I", *range(30_000, 38_000, 1000))),
        (b"iCCP", profile),
        (b"sBIT", bytes([5, 6, 5])),
        (b"cICP", bytes([1, 13, 0, 1])),
    ]
    last = [
        (b"bKGD", bytes([3])),
        (b"hIST", struct.pack(">200H", *range(200))),
        (b"pHYs", struct.pack(">IIB", 2835, 1417, 1)),
        (b"sPLT", b"name\0\x08" + bytes(range(24))),
        (b"tIME", struct.pack(">H5B", 2020, 1, 2, 3, 4, 5)),
        (b"tEXt", b"Comment\0words"),
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"words")),
        (b"iTXt", b"Comment\0\0\0en\0\0words"),
    ]
    header, palette, *pixels, end = chunks
    return join_png([header, *more, palette, *last, *pixels, end])


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Returns a PNG by Adam7 (PNG specification, 8.2), which Pillow won't."""
    height, width, _ = pixels.shape
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4))
    passes += ((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes
        for row in pixels[top::down, left::right]
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return join_png(
        [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    )


def split_png(content: bytes) -> list[tuple[bytes, bytes]]:
    """Returns kind and content of the chunks of a sound PNG."""
    found, at = [], 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind = content[at + 4 : at + 8]
        found.append((kind, content[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def join_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Returns the PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


def split_jpeg(content: bytes) -> list[tuple[bytes, bytes]]:
    """Returns marker and content of the segments of a sound JPEG.

    What follows the start of the first scan is the content of one segment.
    """
    found, at = [], 2
    while content[at : at + 2] != b"\xff\xda":
        (length,) = struct.unpack_from(">H", content, at + 2)
        found.append((content[at : at + 2], content[at + 4 : at + 2 + length]))
        at += 2 + length
    return [*found, (b"", content[at:])]


def join_jpeg(segments: list[tuple[bytes, bytes]]) -> bytes:
    """Returns the JPEG of these segments."""
    return b"\xff\xd8" + b"".join(
        marker + struct.pack(">H", len(content) + 2) + content
        if marker
        else content
        for marker, content in segments
    )


def damage_bytes(content: bytes, generator: _Generator) -> bytes:
    """Returns bytes changed in one of nine ways."""
    data = bytearray(content)
    if not data:
        return content
    at = int(generator.integers(len(data)))
    size = int(generator.integers(1, 1 + min(40, len(data))))
    other = int(generator.integers(len(data)))
    match generator.integers(9):
        case 0:
            data[at] ^= 1 << int(generator.integers(8))
        case 1:
            data[at] = int(generator.choice([0, 1, 127, 128, 254, 255]))
        case 2:
            data[at] = int(generator.integers(256))
        case 3:
            del data[at : at + size]
        case 4:
            data[at:at] = data[other : other + size]
        case 5:
            data[at : at + size] = bytes(len(data[at : at + size]))
        case 6:
            del data[-size:]
        case 7:
            del data[at:]
        case 8:
            data += generator.bytes(size)
    return bytes(data)


def damage_parts(
    parts: list[tuple[bytes, bytes]], generator: _Generator
) -> list[tuple[bytes, bytes]]:
    """Returns chunks or segments changed in one of six ways."""
    parts = list(parts)
    at, other = (int(n) for n in generator.integers(0, len(parts), 2))
    match generator.integers(6):
        case 0 | 1:
            kind, content = parts[at]
            parts[at] = kind, damage_bytes(content, generator)
        case 2:
            del parts[at]
        case 3:
            parts.insert(other, parts[at])
        case 4:
            parts[at], parts[other] = parts[other], parts[at]
        case 5:
            kind, content = parts[at]
            cut = int(generator.integers(len(content) + 1))
            parts[at : at + 1] = [(kind, content[:cut]), (kind, content[cut:])]
    return parts


def damage(content: bytes, generator: _Generator) -> bytes:
    """Returns a file damaged in one to three ways."""
    forms = {
        b"\x89P": (split_png, join_png),
        b"\xff\xd8": (split_jpeg, join_jpeg),
    }
    form = forms.get(content[:2])
    if form and generator.random() < 0.6:
        split, join = form
        parts = split(content)
        for _ in range(int(generator.integers(1, 4))):
            parts = damage_parts(parts, generator) if parts else parts
        return join(parts)
    for _ in range(int(generator.integers(1, 4))):
        content = damage_bytes(content, generator)
    return content


class Decoders:
    """The decoders of trainer, which need TensorFlow: imported when made."""

    def __init__(self):
        import tensorflow as tf

        from trainer.pipeline import decode
        from trainer.pipeline import fast_decode

        self._into = fast_decode.decode_into
        content = tf.TensorSpec([], tf.string)
        self._in_graph = {
            side: tf.function(
                lambda content, side=side: decode.decode_image(
                    content, side, "stretch"
                ),
                input_signature=[content],
            )
            for side in (SIDE, SIDE // 2)
        }

    def difference(self, content: bytes, facts: inspection.Facts) -> str:
        """Returns how the decoders differ on a stored image; "" if they agree.

        Args:
            content: The file.
            facts: What `inspect` found of it; no problem.
        """
        width, height = facts.width, facts.height
        if not facts.kept:
            try:
                content, *size = encoding.encode(content, 0, "", "original")
            except Exception as error:
                return f"cannot be stored: {error}"
            if size != [width, height]:
                return f"is stored as {size}, is {[width, height]}"
        array = np.frombuffer(content, np.uint8)
        for side, in_graph in self._in_graph.items():
            ours = np.empty((side, side, 3), np.uint8)
            try:
                self._into(array, height, width, "stretch", ours)
            except Exception as error:
                return f"OpenCV: {error}"
            try:
                theirs = in_graph(content)
            except Exception as error:
                return f"TensorFlow: {str(error)[:200]}"
            most = np.abs(ours.astype(int) - theirs.numpy()).max()
            if most > TOLERANCE:
                return f"they differ by {most}"
        return ""


def fuzz(
    mutations: int,
    seed: int,
    difference: Callable[[bytes, inspection.Facts], str],
) -> Iterator[tuple[str, bytes, str]]:
    """Yields what became of each damaged file.

    Args:
        mutations: How many.
        seed: Of all that is drawn.
        difference: `Decoders.difference`.

    Yields:
        Name of the sample, the damaged file, and "refused", "accepted", or
        how the decoders differ.
    """
    sound = samples()
    names = sorted(sound)
    for number in range(mutations):
        generator = np.random.default_rng((seed, number))
        name = names[number % len(names)]
        content = damage(sound[name], generator)
        facts = inspection.inspect_content(content, "")
        if facts.problem:
            yield name, content, "refused"
            continue
        yield name, content, difference(content, facts) or "accepted"


def main(argv: list[str]) -> None:
    """Prints how many were accepted and refused, and what differed."""
    if len(argv) > 1:
        raise app.UsageError(f"no words are expected, received {argv[1:]}")
    decoders = Decoders()
    for name, content in samples().items():
        facts = inspection.inspect_content(content, "")
        if found := facts.problem or decoders.difference(content, facts):
            print(f"sound {name}: {found}")
    counts = collections.defaultdict(collections.Counter)
    differ = 0
    for name, content, outcome in fuzz(
        flags.FLAGS.mutations, flags.FLAGS.seed, decoders.difference
    ):
        if outcome not in ("accepted", "refused"):
            differ += 1
            file = hashlib.sha256(content).hexdigest()[:12]
            print(f"{name} {file}: {outcome}", flush=True)
            if folder := flags.FLAGS.keep:
                pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
                pathlib.Path(folder, file).write_bytes(content)
            outcome = "differ"
        counts[name][outcome] += 1
    print(f"{'file':<24}  accepted  refused  differ")
    for name, found in counts.items():
        print(
            f"{name:<24}  {found['accepted']:8}  {found['refused']:7}  "
            f"{found['differ']:6}"
        )
    sys.exit(f"{differ} files differ" if differ else 0)


if __name__ == "__main__":
    flags.DEFINE_integer("mutations", 20_000, "Damaged files to try.")
    flags.DEFINE_integer("seed", 0, "Of all that is drawn.")
    flags.DEFINE_string("keep", "", "Folder for the files that differ.")
    app.run(main)
