"""Fixtures: small real image files, commands run as a user runs them."""

import errno
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from data_prep.runtime import startup

# Whatever runs the tests may ignore them, as nohup and a shell's `&` do: children
# inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIDE = 48


@pytest.fixture(scope="session")
def tf():
    """TensorFlow with four logical CPU devices, which stand in for GPUs."""
    startup.import_tensorflow()
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * 4
    )
    return tf


@pytest.fixture
def deterministic(tf):
    """Deterministic operations in this process, for this test alone."""
    from tensorflow.python.framework import config

    yield
    config.disable_op_determinism()


@pytest.fixture
def run():
    """Runs `python -m MODULE ARGUMENTS` and returns what became of it."""

    def run_module(module, *arguments, **options):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=options.pop("cwd", ROOT),
            **options,
        )

    return run_module


def write_image(path, value, size=(SIDE, SIDE), **options):
    """Writes an image whose every pixel is (value, 255 - value, value // 2)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixel = (value, 255 - value, value // 2)
    Image.new("RGB", size, pixel).save(path, **options)


def write_classes(root, classes=("cat", "dog"), count=20, first=0):
    """Writes class folders of PNG files; each image encodes its own index.

    The index runs over all classes, in the order of the sorted paths, from
    `first` on.
    """
    for label, name in enumerate(classes):
        for number in range(count):
            write_image(
                root / name / f"{number:03d}.png",
                first + label * count + number,
            )
    return root


def write_noise(root, classes=("cat", "dog"), count=20, seed=0):
    """Writes class folders of JPEG files that a network can tell apart."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        for number in range(count):
            pixels = generator.integers(0, 160, (SIDE, SIDE, 3), np.uint8)
            pixels[..., label % 3] += 95
            path = root / name / f"{number:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, quality=95)
    return root


def hash_tree(root):
    """Returns the content of every file below a folder, by relative path."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(pathlib.Path(root).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def photo_paths():
    """Real photos and ImageNet weights, where the environment names them."""
    names = ("SHARDTUNE_TEST_PHOTOS", "SHARDTUNE_TEST_WEIGHTS")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} in the environment")
    return tuple(os.environ[name] for name in names)


@pytest.fixture
def mounted_bucket(monkeypatch):
    """Folders cannot be renamed: what gcsfuse says of one by default."""
    rename, told = pathlib.Path.rename, []

    def refuse(path, target):
        if path.is_dir():
            told.append(path.name)
            raise OSError(errno.EMFILE, "Too many open files")
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    return told
