"""What the start of a run takes on a data set of millions of records.

python -m benchmarks.many_records --records=1280000,10000000

The data sets are generated: manifest, index and fingerprints are real, and so
are the first and the last record of every shard, which the start reads; between
them the shards are holes.
"""

import pathlib
import resource
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks import machine
from benchmarks import measure
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.runtime import command
from data_prep.runtime import startup

_IMAGE = bytes(16_000)  # about a JPEG of 224 pixels
_RECORDS_PER_SHARD = 8_000  # 128 MB
_BATCH = 4096


def generate(folder: str, count: int) -> None:
    """Writes a data set of one split.

    Args:
        folder: Where.
        count: Number of records.
    """
    place = pathlib.Path(folder)
    record = records.Record(_IMAGE, 0, 0, "class/000000000.jpg", 224, 224)
    payload = records.serialize(record)
    framed = records.frame(payload)
    number = np.arange(count)
    within = number % _RECORDS_PER_SHARD
    index = np.zeros(count, records.INDEX_DTYPE)
    index["shard"] = number // _RECORDS_PER_SHARD
    index["offset"] = within * len(framed) + records.HEADER_BYTES
    index["bytes"] = len(payload)
    index["image_offset"] = payload.index(_IMAGE)
    index["image_bytes"] = len(_IMAGE)
    index["width"] = index["height"] = 224
    counts = np.bincount(index["shard"])
    shards = []
    for shard, records_in_it in enumerate(counts.tolist()):
        name = f"set-train.tfrecord-{shard:05d}-of-{len(counts):05d}"
        with open(place / name, "wb") as file:
            file.write(framed)
            file.seek((records_in_it - 1) * len(framed))
            file.write(framed)
        size = records_in_it * len(framed)
        shards.append(manifest_lib.File(name, records_in_it, size, "0" * 64))
    (place / "set-train.index").write_bytes(index.tobytes())
    (place / "set-train.sha256").write_bytes(bytes(32 * count))
    split = manifest_lib.Split(
        count=count,
        class_counts=[count, 0],
        shards=shards,
        index=manifest_lib.describe(folder, "set-train.index", count),
        fingerprints=manifest_lib.describe(folder, "set-train.sha256", count),
    )
    manifest_lib.Manifest(
        name="set",
        classes=["class", "other"],
        image_size=224,
        resize="stretch",
        encoding="jpeg",
        splits={"train": split},
        findings={},
        metadata=[],
        skipped=0,
        dropped=0,
        ignored=0,
        unassigned=0,
        flags={},
        versions={},
    ).save(folder)


def start(folder: str) -> dict[str, float]:
    """Returns what a start takes: seconds by part, and MiB of memory."""
    startup.import_tensorflow()
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    took = {}
    before = _peak()

    def timed(name, function):
        begun = time.perf_counter()
        result = function()
        took[name] = time.perf_counter() - begun
        return result

    manifest = timed("manifest", lambda: manifest_lib.load(folder))
    reader = timed("reader", lambda: Reader(folder, manifest, "train"))
    plan = timed(
        "plan of an epoch",
        lambda: input_pipeline.plan_training(reader.count, _BATCH, 0, 0),
    )

    def first_labels():
        dataset = input_pipeline.create(reader, plan, lambda indices: indices)
        next(iter(dataset))

    timed("first batch, undecoded", first_labels)
    timed("resume at the last step", lambda: plan.from_step(len(plan[0]) - 1))
    took["memory"] = _peak() - before
    return took


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measures and prints."""
    print(machine.line("tensorflow", "numpy"))
    for count in map(int, flags.FLAGS.records):
        with tempfile.TemporaryDirectory() as folder:
            generate(folder, count)
            print(f"\n{count:,} records")
            took = measure.alone(start, folder)
        memory = took.pop("memory")
        for name, seconds in took.items():
            print(f"{name:<26}{seconds:8.2f} s")
        print(f"{'memory, at most':<26}{memory:8.0f} MiB", flush=True)


if __name__ == "__main__":
    flags.DEFINE_list("records", ["1280000", "10000000"], "Sizes.")
    command.run(main)
