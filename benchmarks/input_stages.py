"""What each stage of the input pipeline takes, and which is the bottleneck."""

import time
from collections.abc import Callable

import numpy as np

from benchmarks import no_decoding
from benchmarks.input_peers import BATCH
from data_prep.dataset import manifest as manifest_lib

_REPEATS = 5


def bottleneck(data_dir: str, size: int) -> str:
    """Times each stage of our pipeline alone, on one thread.

    Reading, decoding and resizing are spread over all processors; handing over
    and transfer happen once per batch, in the training process.

    Args:
        data_dir: A data set of one split, "train".
        size: Of the batches, in pixels.

    Returns:
        A table of microseconds per image, and the name of the slowest stage.
    """
    stages = _stages(data_dir, size)
    count = len(_rows(data_dir))
    times = {name: _median(stage) / count for name, stage in stages.items()}
    whole = sum(times.values())
    lines = [f"{'stage, one thread':<28}{'us/image':>9}  share"]
    for name, took in times.items():
        lines.append(f"{name:<28}{took * 1e6:9.1f}  {took / whole:5.0%}")
    lines.append("parse: none, the index says where an image lies")
    if "transfer" not in times:
        lines.append("transfer: none, there is no accelerator here")
    lines.append(f"bottleneck: {max(times, key=times.get)}")
    return "\n".join(lines)


def _median(stage: Callable[[], object]) -> float:
    """Returns the seconds of a stage, after one that does not count."""
    stage()
    samples = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        stage()
        samples.append(time.perf_counter() - start)
    return sorted(samples)[_REPEATS // 2]


def _rows(data_dir: str) -> np.ndarray:
    return manifest_lib.load_index(
        manifest_lib.load(data_dir), data_dir, "train"
    )


def _stages(data_dir: str, size: int) -> dict[str, Callable[[], object]]:
    """Returns functions that do one stage for all images of a data set."""
    import tensorflow as tf

    from trainer.pipeline import fast_decode
    from trainer.pipeline.reader import Reader
    from trainer.pipeline.shard_files import ShardFiles

    reader = Reader(data_dir, manifest_lib.load(data_dir), "train")
    rows = _rows(data_dir)
    files = ShardFiles(reader.shards)
    resize = reader.manifest.resize
    contents = [np.frombuffer(c, np.uint8) for c in files.contents(rows)]
    shapes = [(int(row["height"]), int(row["width"])) for row in rows]
    batch = np.empty((len(rows), size, size, 3), np.uint8)
    raw = reader.manifest.encoding == "raw"

    def decode(content: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        if raw:
            return content.reshape(*shape, 3)
        # As large as the reduced-scale decoder leaves it.
        return fast_decode.decode_reduced(content, *shape, resize, size)

    decoded = list(map(decode, contents, shapes))

    def fit():
        for image, out in zip(decoded, batch, strict=True):
            fast_decode.fit_into(image, resize, out)

    pool = no_decoding.pool(reader.shards, size, seconds=0)
    indices = np.array_split(np.arange(len(rows)), -(-len(rows) // BATCH))

    def hand_over():
        for part in indices:
            pool.pixels(reader.rows(part))

    stages = {
        "read (pread, checksum)": lambda: [*files.contents(rows)],
        "decode (reduced scale)": lambda: [*map(decode, contents, shapes)],
        "resize": fit,
        "hand over (by the batch)": hand_over,
    }
    if raw:
        del stages["decode (reduced scale)"]
    if gpus := tf.config.list_logical_devices("GPU"):
        pixels = tf.constant(batch)

        def transfer():
            with tf.device(gpus[0].name):
                tf.identity(pixels).numpy()

        stages["transfer"] = transfer
    return stages
