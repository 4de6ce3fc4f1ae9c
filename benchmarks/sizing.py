"""What a data set of some size asks for, from constants that were measured.

python -m benchmarks.sizing --images=100000000 --gpus=64 --gpu_rate=2500

Prints the tables of docs/sizing.md, for other numbers if asked. Each constant
quotes the line of benchmarks/RESULTS.md that it comes from; a test compares page,
constants and results.
"""

import dataclasses
import math

from absl import flags

from data_prep.dataset import records
from data_prep.runtime import command

MIB = 1 << 20
_HOUR = 3600
DEVICES = 8  # GPUs of a host
SHARD_MIB = 1024  # as --shard_mb=1024


@dataclasses.dataclass(frozen=True)
class Constant:
    """A figure that was measured.

    Attributes:
        value: In units without prefix: seconds, bytes.
        meaning: What it is, for people.
        quote: Text of benchmarks/RESULTS.md that says so.
    """

    value: float
    meaning: str
    quote: str


PHOTO = Constant(
    2 / 2978,
    "processor time to audit and write a photo of 500x374 (two processors)",
    "| **ours: audit, splits, shards, page** | 2,978 |",
)
NAMES = {
    100_000: Constant(
        56e-6,
        "processor time in one process to list, group, split and plan an image, "
        "of 100,000",
        "56 us and 86 MiB at 100,000",
    ),
    1_000_000: Constant(
        66e-6, "the same, of 1,000,000", "66 us and 96 MiB at 1,000,000"
    ),
}
STORED = {
    "original": Constant(
        23_000, "bytes of a photo of 500x374", "take 23 MB as they are"
    ),
    "jpeg": Constant(
        20_900, "bytes of its JPEG of 224 px", "images are 209 GB"
    ),
}
DECODED = {
    "original": Constant(
        500e-6, "processor time to read and decode it", "source size: 500 us"
    ),
    "jpeg": Constant(180e-6, "of a JPEG of 150 px", "JPEG at 150 px: 180 us"),
    "raw": Constant(46e-6, "of raw pixels of 150 px", "raw: 46 us"),
}
CATALOGUE = Constant(
    491, "bytes of an image in the working folder", "491 bytes an image"
)
START = {
    1_280_000: Constant(
        172 * MIB, "memory that a start takes, of 1,280,000", "| 172 MiB |"
    ),
    1_000_000: Constant(
        144 * MIB, "the same, of 1,000,000 (not used below)", "| 144 MiB |"
    ),
    10_000_000: Constant(886 * MIB, "the same, of 10,000,000", "| 886 MiB |"),
}
GROWTH = {
    100_000: Constant(
        351e-6,
        "processor time of a tiny PNG, of 100,000",
        "| 100,000 | 351 us |",
    ),
    1_000_000: Constant(
        388e-6, "the same, of 1,000,000", "| 1,000,000 | 388 us |"
    ),
}
COPY = Constant(1e9, "bytes per second of a copy", "one copy at 1 GB/s")
WANTED = Constant(
    20_000,
    "images/s that a host of eight GPUs wants, at the least",
    "want 20,000 to 50,000 images/s",
)
ALL = (
    *(PHOTO, *NAMES.values(), *STORED.values(), *DECODED.values()),
    *(CATALOGUE, *START.values(), *GROWTH.values(), COPY, WANTED),
)


def names_seconds(images: float) -> float:
    """Returns the processor seconds per image of what one process does alone.

    Sorting: as many microseconds more for each ten times as many images as
    from 100,000 to 1,000,000.
    """
    step = NAMES[1_000_000].value - NAMES[100_000].value
    return NAMES[1_000_000].value + step * (math.log10(images) - 6)


def stored_bytes(images: float, encoding: str, size: int) -> float:
    """Returns the bytes of a data set, records with their rows of the index."""
    image = size * size * 3
    if encoding in STORED:
        image = STORED[encoding].value
        if encoding == "jpeg":
            image *= (size / 224) ** 2
    return images * (image + records.INDEX_DTYPE.itemsize + 32)


def decoding_seconds(encoding: str, size: int) -> float:
    """Returns the processor seconds of an image in training."""
    whole = encoding == "original"  # decoding it is most of the time
    return DECODED[encoding].value * (1 if whole else (size / 150) ** 2)


def start_bytes(images: float) -> float:
    """Returns the memory that the start of a training process takes."""
    few, many = 1_280_000, 10_000_000
    low, high = START[few].value, START[many].value
    return high + (high - low) / (many - few) * (images - many)


def data_rows(counts: list[int], processors: int) -> list[list[str]]:
    """Returns the table of data sets, a row for each number of images.

    Args:
        counts: Numbers of images.
        processors: Of all Beam workers together.
    """
    rows = []
    for images in counts:
        size = stored_bytes(images, "jpeg", 224)
        work = images * PHOTO.value
        alone = images * names_seconds(images)
        rows.append(
            [
                f"{images:,}",
                f"{size / 1e9:,.0f}",
                f"{stored_bytes(images, 'original', 0) / 1e9:,.0f}",
                f"{stored_bytes(images, 'raw', 224) / 1e9:,.0f}",
                f"{max(1, round(size / (SHARD_MIB * MIB))):,}",
                f"{images * CATALOGUE.value / 1e9:,.1f}",
                hour(work / _HOUR),
                f"{hour(work / processors / _HOUR)} + {hour(alone / _HOUR)}",
                f"{size / COPY.value / 60:,.1f}",
                f"{start_bytes(images) / 2**30:,.1f}",
            ]
        )
    return rows


def training_rows(
    gpus: list[int],
    rate: float,
    images: list[int],
    epochs: int,
    price: float,
) -> list[list[str]]:
    """Returns the table of training, a row for each number of GPUs.

    Args:
        gpus: Their numbers, in hosts of eight.
        rate: Images/s of one GPU.
        images: Numbers of images.
        epochs: Of a training.
        price: Of a GPU's hour, its share of the host included.
    """
    rows = []
    for count in gpus:
        on_host = min(count, DEVICES) * rate
        cores = on_host * decoding_seconds("jpeg", 224)
        hours = [n / (count * rate) * epochs / _HOUR for n in images]
        rows.append(
            [
                f"{count}",
                f"{max(1, count // DEVICES)}",
                f"{count * rate:,.0f}",
                f"{cores:,.0f}",
                *(f"{hour(h)} h, ${h * count * price:,.0f}" for h in hours),
            ]
        )
    return rows


def check_rows() -> list[list[str]]:
    """Returns what the constants of fewer images say of 1,000,000, and found."""
    other = GROWTH[100_000].value - NAMES[100_000].value
    expected = other + NAMES[1_000_000].value
    found = GROWTH[1_000_000].value
    start, starts = start_bytes(1_000_000), START[1_000_000].value
    return [
        [
            "processor time of data_prep, tiny PNG files",
            f"{expected * 1e6:.0f} us",
            f"{found * 1e6:.0f} us",
            f"{found / expected:.2f}",
        ],
        [
            "memory of a start",
            f"{start / MIB:.0f} MiB",
            f"{starts / MIB:.0f} MiB",
            f"{starts / start:.2f}",
        ],
    ]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Returns a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def tables(
    counts: list[int],
    processors: int,
    gpus: list[int],
    rate: float,
    epochs: int,
    price: float,
) -> list[str]:
    """Returns the tables of the page; for the arguments see the two above."""
    return [
        table(
            ["measured", "value"],
            [[one.meaning, shown(one.value)] for one in ALL],
        ),
        table(
            [
                *("images", "GB, JPEG of 224 px", "GB as they are"),
                *("GB raw, 224 px", "shards of 1 GiB"),
                *("GB of working folder", "processor hours"),
                f"hours on {processors} processors + in one process",
                *("minutes to copy to a host", "GiB of a start"),
            ],
            data_rows(counts, processors),
        ),
        table(
            [
                *("GPUs", "hosts", "images/s", "processors per host"),
                *(f"{count:,} images" for count in counts),
            ],
            training_rows(gpus, rate, counts, epochs, price),
        ),
        table(
            ["1,000,000 images", "expected", "measured", "ratio"], check_rows()
        ),
    ]


def hour(hours: float) -> str:
    """Returns hours with two significant digits, for people."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def shown(value: float) -> str:
    """Returns a constant as the page has it: microseconds below a second."""
    if value < 1:
        return f"{value * 1e6:,.0f} us"
    if value >= 100 * MIB and value % MIB == 0:
        return f"{value / MIB:,.0f} MiB"
    return f"{value:,.0f}"


def main() -> None:
    """Prints the tables."""
    values = flags.FLAGS
    for one in tables(
        [int(count) for count in values.images],
        values.processors,
        [int(count) for count in values.gpus],
        values.gpu_rate,
        values.epochs,
        values.gpu_price,
    ):
        print(f"{one}\n")


if __name__ == "__main__":
    flags.DEFINE_list("images", ["1000000", "10000000", "100000000"], "Sizes.")
    flags.DEFINE_integer("processors", 64, "Of all Beam workers together.", 1)
    flags.DEFINE_list("gpus", ["1", "8", "16", "64"], "How many.")
    flags.DEFINE_float("gpu_rate", 2500, "Images/s of a GPU.", 1)
    flags.DEFINE_integer("epochs", 10, "Of a training.", 1)
    flags.DEFINE_float("gpu_price", 3, "Of a GPU's hour, with its host.", 0)
    command.run(main)
