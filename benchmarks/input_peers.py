"""The peers of `benchmarks.input_pipeline`, each as its users write it.

Every function returns a pass: what makes uint8 batches of 64 square images of
all files, shuffled, and returns the number of images.
"""

import concurrent.futures
import functools
import io
import os
import pathlib
import sys
import tarfile

import numpy as np

from data_prep.dataset import manifest as manifest_lib

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

    def decode(record):
        feature = tf.io.FixedLenFeature([], tf.string)
        image = tf.io.parse_single_example(record, {"image": feature})["image"]
        image = tf.image.resize(tf.io.decode_jpeg(image, 3), (size, size))
        return (tf.cast(image, tf.uint8),)

    dataset = (
        _records(data_dir)
        .map(decode, tf.data.AUTOTUNE)
        .batch(BATCH)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: consume_in_graph(dataset)


def tf_data_batched(data_dir: str, size: int):
    """The tf.data of an expert: records parsed by the batch, JPEGs reduced.

    The scale is the least that covers the target for the data set's median
    image; raw pixels are decoded and shaped by the batch.
    """
    import tensorflow as tf

    manifest = manifest_lib.load(data_dir)
    index = manifest_lib.load_index(manifest, data_dir, "train")
    side = np.median(np.minimum(index["width"], index["height"]))
    ratio = max(r for r in (1, 2, 4, 8) if r == 1 or side >= r * size)
    raw = manifest.encoding == "raw"

    def decode_jpeg(content):
        image = tf.io.decode_jpeg(content, 3, ratio=ratio)
        if manifest.image_size != size:
            image = tf.image.resize(image, (size, size))
        return tf.cast(image, tf.uint8)

    def decode(records):
        feature = tf.io.FixedLenFeature([], tf.string)
        contents = tf.io.parse_example(records, {"image": feature})["image"]
        if raw:
            pixels = tf.io.decode_raw(contents, tf.uint8)
            return (tf.reshape(pixels, (-1, size, size, 3)),)
        shape = tf.TensorSpec((size, size, 3), tf.uint8)
        return (tf.map_fn(decode_jpeg, contents, fn_output_signature=shape),)

    dataset = (
        _records(data_dir)
        .batch(BATCH)
        .map(decode, tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return lambda: consume_in_graph(dataset)


def _records(data_dir: str):
    import tensorflow as tf

    files = sorted(map(str, pathlib.Path(data_dir).glob("*-train.tfrecord-*")))
    dataset = tf.data.TFRecordDataset(
        files, num_parallel_reads=tf.data.AUTOTUNE
    )
    return dataset.shuffle(1000)


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
