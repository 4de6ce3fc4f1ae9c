"""Images per second into batches, beside peers, and where the time goes.

python -m benchmarks.input_pipeline --photos=FOLDER

FOLDER holds one folder of JPEG files per class. Every candidate makes uint8
batches of 64 square images from the same files, shuffled, and decodes anew in
every epoch unless its row says otherwise. Peers that are not installed
(`pip install -r benchmarks/requirements.txt`) are left out, and named.
"""

import concurrent.futures
import functools
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

import numpy as np
from absl import flags

from benchmarks import measure
from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime import command
from data_prep.runtime import startup
from data_prep.runtime.errors import UsageError

BATCH = 64
WORKERS = len(os.sched_getaffinity(0))


def consume(batches) -> int:
    """Runs through batches of images; returns the number of images."""
    return sum(len(batch) for batch in batches)


@functools.cache
def _graph_loop():
    import tensorflow as tf

    @tf.function(reduce_retracing=True)
    def loop(iterator):
        count = tf.constant(0)
        for images, *_ in iterator:
            count += tf.shape(images)[0]
        return count

    return loop


def consume_in_graph(dataset) -> int:
    """Runs through a tf.data set of tuples whose first member is images.

    Inside a tf.function, as `trainer.engine.loop` and Keras's `fit` do: handing
    every batch to Python would be a cost that no training pays.
    """
    return int(_graph_loop()(iter(dataset)))


def ours(data_dir: str, size: int, source: str, in_graph: bool = True):
    """Our pipeline; `source` is "fast", "exact" or "memory"."""
    from trainer.pipeline import cache
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    reader = Reader(data_dir, manifest_lib.load(data_dir), "train")
    images = (
        input_pipeline.decoded_exactly(reader, size)
        if source == "exact"
        else input_pipeline.decoded_fast(reader, size)
    )
    # A memory pass over 1000 images is over before it has begun.
    repeats = 100 if source == "memory" else 1
    if source == "memory":
        plan = input_pipeline.plan_evaluation(reader.count, BATCH)
        in_order = input_pipeline.create(reader, plan, images)
        pixels = cache.fill(reader, in_order, size, None)
        images = input_pipeline.cached(pixels)
    epochs = iter(range(1 << 30))

    def epoch() -> int:
        plans = [
            input_pipeline.plan_training(reader.count, BATCH, 0, next(epochs))
            for _ in range(repeats)
        ]
        plan = input_pipeline.Plan(
            np.concatenate([p.indices for p in plans]),
            np.concatenate([p.weights for p in plans]),
        )
        dataset = input_pipeline.create(reader, plan, images)
        if in_graph:
            consume_in_graph(dataset)
        else:
            consume(batch.image for batch in dataset)
        return reader.count * repeats  # without what fills the last batches

    return epoch


def keras_directory(photos: str, size: int):
    """keras.utils.image_dataset_from_directory."""
    import keras

    dataset = keras.utils.image_dataset_from_directory(
        photos, image_size=(size, size), batch_size=BATCH, verbose=False
    )
    return lambda: consume_in_graph(dataset)


def image_data_generator(photos: str, size: int):
    """The legacy ImageDataGenerator, of tf-keras."""
    from tf_keras.preprocessing.image import ImageDataGenerator

    with open(os.devnull, "w") as quiet:
        out, sys.stdout = sys.stdout, quiet
        try:
            flow = ImageDataGenerator().flow_from_directory(
                photos, target_size=(size, size), batch_size=BATCH
            )
        finally:
            sys.stdout = out
    return lambda: consume(next(flow)[0] for _ in range(len(flow)))


def tf_data(data_dir: str, size: int):
    """The usual tf.data over TFRecords: decode_jpeg, resize, batch."""
    import tensorflow as tf

    files = sorted(map(str, pathlib.Path(data_dir).glob("*-train.tfrecord-*")))

    def decode(record):
        feature = tf.io.FixedLenFeature([], tf.string)
        image = tf.io.parse_single_example(record, {"image": feature})["image"]
        image = tf.image.resize(tf.io.decode_jpeg(image, 3), (size, size))
        return (tf.cast(image, tf.uint8),)

    dataset = (
        tf.data.TFRecordDataset(files, num_parallel_reads=tf.data.AUTOTUNE)
        .shuffle(1000)
        .map(decode, tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: consume_in_graph(dataset)


def tf_cache(data_dir: str, size: int):
    """tf.data with the decoded images in its own memory cache."""
    import tensorflow as tf

    from trainer.pipeline.reader import Reader

    reader = Reader(data_dir, manifest_lib.load(data_dir), "train")
    everything = reader.pixels(np.arange(reader.count), size)
    labels = tf.data.Dataset.from_tensor_slices(reader.labels)
    dataset = tf.data.Dataset.zip(
        tf.data.Dataset.from_tensor_slices(everything), labels
    )
    dataset = dataset.cache().shuffle(reader.count).repeat(100)
    dataset = dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)
    return lambda: consume_in_graph(dataset)


def pytorch(photos: str, size: int):
    """PyTorch's DataLoader with PIL, in worker processes."""
    import torch

    paths = sorted(pathlib.Path(photos).glob("*/*"))
    loader = torch.utils.data.DataLoader(
        PilFiles(paths, size),
        batch_size=BATCH,
        shuffle=True,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    return lambda: consume(loader)


class PilFiles:
    """A map-style data set of image files, read by PIL."""

    def __init__(self, paths: list[pathlib.Path], size: int):
        self._paths = paths
        self._size = size

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return pil_image(self._paths[index].read_bytes(), self._size)


def pil_image(content: bytes, size: int) -> np.ndarray:
    """Decodes by PIL as torchvision does: full size, then bilinear."""
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB")
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR))


def webdataset(photos: str, size: int, scratch: str):
    """WebDataset: tar files, PIL, PyTorch's worker processes."""
    import torch
    import webdataset as wds

    paths = sorted(pathlib.Path(photos).glob("*/*"))
    for worker in range(WORKERS):
        with tarfile.open(f"{scratch}/{worker}.tar", "w") as tar:
            for number, path in enumerate(paths[worker::WORKERS]):
                tar.add(path, f"{number:06d}.jpg")
    decode = _Decode(size)
    dataset = wds.WebDataset(
        [f"{scratch}/{worker}.tar" for worker in range(WORKERS)],
        shardshuffle=False,
    )
    dataset = dataset.shuffle(1000).map(decode)
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )
    return lambda: consume(loader)


class _Decode:
    """Decodes a WebDataset sample; a class, so that it can be pickled."""

    def __init__(self, size: int):
        self._size = size

    def __call__(self, sample: dict) -> np.ndarray:
        return pil_image(sample["jpg"], self._size)


def grain_threads(photos: str, size: int):
    """Grain's reading threads with OpenCV."""
    import cv2
    import grain

    paths = [str(p) for p in sorted(pathlib.Path(photos).glob("*/*"))]

    def decode(path):
        return cv2.resize(cv2.imread(path), (size, size))

    dataset = grain.MapDataset.source(paths).shuffle(seed=0).map(decode)
    dataset = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=2 * WORKERS, prefetch_buffer_size=500)
    ).batch(BATCH)
    return lambda: consume(dataset)


def dali(photos: str, size: int):
    """NVIDIA DALI, CPU operators."""
    from nvidia.dali import fn
    from nvidia.dali import pipeline_def
    from nvidia.dali import types

    count = len(list(pathlib.Path(photos).glob("*/*")))

    @pipeline_def(batch_size=BATCH, num_threads=WORKERS, device_id=None)
    def pipeline():
        files, _ = fn.readers.file(file_root=photos, random_shuffle=True)
        images = fn.decoders.image(files, device="cpu", output_type=types.RGB)
        return fn.resize(images, resize_x=size, resize_y=size, antialias=False)

    pipe = pipeline()
    pipe.build()

    def epoch() -> int:
        done = 0
        while done < count:
            (images,) = pipe.run()
            done += len(images.as_array())
        return done

    return epoch


def ffcv(photos: str, size: int) -> dict[str, list[float]]:
    """FFCV, by an interpreter of its own."""
    values = flags.FLAGS
    script = pathlib.Path(__file__).with_name("ffcv_peer.py")
    runs = values.rounds * values.runs
    done = subprocess.run(
        [values.ffcv_python, str(script), photos, str(size), str(runs)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def decoding_alone(photos: str):
    """The limit for full decoding: libjpeg-turbo in threads, nothing else."""
    import simplejpeg

    contents = [p.read_bytes() for p in pathlib.Path(photos).glob("*/*")]
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)

    def decode(worker: int) -> int:
        for content in contents[worker::WORKERS]:
            simplejpeg.decode_jpeg(content)
        return len(contents[worker::WORKERS])

    return lambda: sum(pool.map(decode, range(WORKERS)))


def bottleneck(data_dir: str, size: int) -> str:
    """Times each stage of our pipeline alone, on one thread.

    Returns:
        A table of microseconds per image, and the name of the slowest stage.
    """
    import tensorflow as tf

    from trainer.pipeline import fast_decode
    from trainer.pipeline.reader import Reader
    from trainer.pipeline.shard_files import ShardFiles

    reader = Reader(data_dir, manifest_lib.load(data_dir), "train")
    rows = reader.rows(np.arange(reader.count))
    shard_files = ShardFiles(reader.shards)
    contents = [
        np.frombuffer(content, np.uint8)
        for content in shard_files.contents(rows)
    ]
    shapes = [(int(row["height"]), int(row["width"])) for row in rows]
    batch = np.empty((reader.count, size, size, 3), np.uint8)
    raw = reader.manifest.encoding == "raw"
    if raw:
        decoded = [
            c.reshape(*shape, 3)
            for c, shape in zip(contents, shapes, strict=True)
        ]
    else:
        # As large as the reduced-scale decoder leaves them.
        decoded = [
            fast_decode.decode_reduced(c, *shape, reader.manifest.resize, size)
            for c, shape in zip(contents, shapes, strict=True)
        ]
    resize = reader.manifest.resize

    def fit():
        for image, out in zip(decoded, batch, strict=True):
            fast_decode.fit_into(image, resize, out)

    def decode_all():
        for content, shape in zip(contents, shapes, strict=True):
            fast_decode.decode_reduced(content, *shape, resize, size)

    positions = np.arange(reader.count)
    pixels = tf.constant(batch)
    device = (tf.config.list_logical_devices("GPU") or [None])[0]

    def transfer():
        with tf.device(device.name):
            tf.identity(pixels).numpy()

    stages = {
        "read (pread, checksum)": lambda: [*shard_files.contents(rows)],
        **({} if raw else {"decode (reduced scale)": decode_all}),
        "resize": fit,
        "batch (gather from memory)": lambda: tf.gather(pixels, positions),
        **({"transfer": transfer} if device else {}),
    }
    times = {}
    for name, stage in stages.items():
        stage()
        samples = []
        for _ in range(5):
            start = time.perf_counter()
            stage()
            samples.append((time.perf_counter() - start) / reader.count * 1e6)
        times[name] = sorted(samples)[2]
    whole = sum(times.values())
    lines = [f"{'stage, one thread':<28}{'us/image':>9}  share"]
    for name, took in times.items():
        lines.append(f"{name:<28}{took:9.1f}  {took / whole:5.0%}")
    if not device:
        lines.append("transfer: none, there is no accelerator here")
    slowest = max(times, key=times.get)
    lines.append(f"bottleneck: {slowest}")
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    values = flags.FLAGS
    if not values.photos:
        raise UsageError("--photos is missing: a folder of class folders.")
    startup.import_tensorflow()
    size = values.image_size
    with tempfile.TemporaryDirectory() as scratch:
        places = {}
        for name, options in {
            "original": {},
            "jpeg": {"image_size": size, "encoding": "jpeg"},
            "raw": {"image_size": size, "encoding": "raw"},
        }.items():
            places[name] = f"{scratch}/{name}"
            prepare(
                PrepareConfig(
                    source=values.photos,
                    output_dir=places[name],
                    splits="train:1.0",
                    **options,
                )
            )
        part = functools.partial
        original, photos = places["original"], values.photos
        makers = {
            "ours": part(ours, original, size, "fast"),
            "ours, as served": part(ours, original, size, "exact"),
            "ours, JPEG records of that size": part(
                ours, places["jpeg"], size, "fast"
            ),
            "ours, raw records": part(ours, places["raw"], size, "fast"),
            "ours, from memory": part(ours, original, size, "memory"),
            "ours, from memory, to Python": part(
                ours, original, size, "memory", in_graph=False
            ),
            "limit: simplejpeg alone, full": part(decoding_alone, photos),
            "Keras image_dataset_from_directory": part(
                keras_directory, photos, size
            ),
            "Keras ImageDataGenerator": part(
                image_data_generator, photos, size
            ),
            "tf.data TFRecord": part(tf_data, original, size),
            "tf.data cache in memory": part(tf_cache, original, size),
            "PyTorch DataLoader, PIL": part(pytorch, photos, size),
            "WebDataset, PIL": part(webdataset, photos, size, scratch),
            "Grain threads, OpenCV": part(grain_threads, photos, size),
            "DALI, CPU": part(dali, photos, size),
        }
        figures, absent = measure.in_turns(makers, values.rounds, values.runs)
        if values.ffcv_python:
            for name, rates in ffcv(photos, size).items():
                figures[f"FFCV, {name}"] = rates
        else:
            absent.append("FFCV (--ffcv_python names no interpreter)")
        packages = ["tensorflow", "keras", "opencv-python-headless", "tf_keras"]
        packages += ["torch", "webdataset", "grain", "nvidia-dali-cuda120"]
        print(measure.machine(*packages, "simplejpeg"))
        print(measure.table(figures, "images/s", "ours"))
        if absent:
            print("left out: " + ", ".join(absent))
        for name in ("original", "raw"):
            print(f"\n{name} records:\n{bottleneck(places[name], size)}")


if __name__ == "__main__":
    flags.DEFINE_string("photos", None, "Folder of class folders of JPEGs.")
    flags.DEFINE_integer("image_size", 150, "Of the batches, in pixels.")
    flags.DEFINE_string(
        "ffcv_python", None, "Interpreter that has FFCV; see ffcv_peer.py."
    )
    flags.DEFINE_integer("rounds", 3, "Turns of each candidate.")
    flags.DEFINE_integer("runs", 4, "Passes that count, in each turn.")
    command.run(main)
