"""The README's table of mistakes: every row happens, and its cure cures it."""

import json
import re

import numpy as np
import pytest
from conftest import ROOT
from conftest import write_noise
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.prepare import prepare
from data_prep.runtime.errors import EXIT_DATA
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.engine import start_rule

TABLE = re.findall(
    r"^\| (?!mistake)([^|-][^|]*) \| ([^|]+) \| ([^|]+) \|$",
    (ROOT / "README.md").read_text().partition("## Mistakes")[2],
    flags=re.MULTILINE,
)
CASES = {}


def case(row):
    """Marks a function as what shows a row of the table."""

    def add(function):
        CASES[row] = function
        return function

    return add


def test_every_row_is_shown():
    assert [row for row, _, _ in TABLE] == list(CASES)


@pytest.mark.parametrize(("row", "happens", "cure"), TABLE)
def test_it_happens_and_is_cured(row, happens, cure, tmp_path, monkeypatch):
    CASES[row](happens, cure, tmp_path, monkeypatch)


def of_splits(root, *names):
    """Writes a folder of images for each split, all of them different."""
    for number, name in enumerate(names):
        write_noise(root / name, count=20, seed=(7, number))
    return str(root)


def trainable(data, **settings):
    """Asks what a training would ask first."""
    return start_rule.check(Config(str(data), f"{data}-model", **settings))


def words(text):
    """Returns the flags within a cell, by name."""
    return dict(re.findall(r"--(\w+)=([\w.-]+)", text))


@case("no validation split")
def no_validation(happens, cure, tmp_path, monkeypatch):
    source = of_splits(tmp_path / "photos", "train", "test")
    prepare(PrepareConfig(source, str(tmp_path / "without")))
    with pytest.raises(DataError, match="validation"):
        trainable(tmp_path / "without")
    assert str(EXIT_DATA) in happens
    fraction = float(words(cure)["validation_fraction"])
    made = str(tmp_path / "with")
    prepare(PrepareConfig(source, made, validation_fraction=fraction))
    trainable(made)


@case("quoting validation accuracy as the model's accuracy")
def quoting_validation(happens, cure, tmp_path, monkeypatch):
    from trainer.inference import evaluation

    source = of_splits(tmp_path / "photos", "train", "validation", "test")
    manifest = prepare(PrepareConfig(source, str(tmp_path / "data")))
    assert evaluation.files_of("test", manifest)[0] in cure
    assert evaluation.files_of("validation", manifest)[0] not in cure


@case("copies of one image in train and test")
def copies(happens, cure, tmp_path, monkeypatch):
    source = of_splits(tmp_path / "photos", "train", "validation", "test")
    twin = next((tmp_path / "photos/train/cat").iterdir())
    (tmp_path / "photos/test/cat/twin.png").write_bytes(twin.read_bytes())
    with pytest.raises(DataError) as error:
        prepare(PrepareConfig(source, str(tmp_path / "data")))
    assert "twin.png" in str(error.value) and cure.strip("`").split()[1] in str(
        error.value
    )
    prepare(PrepareConfig(source, str(tmp_path / "data"), **words(cure)))


@case("photos of a fixed camera")
def fixed_camera(happens, cure, tmp_path, monkeypatch):
    scenes = np.random.default_rng(0)
    for name in ("good", "worn"):
        scene = scenes.integers(0, 256, (8, 8, 3), np.uint8)
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            noise = scenes.integers(0, 4, (64, 64, 3), np.uint8)
            pixels = np.kron(scene // 2, np.ones((8, 8, 1), np.uint8)) + noise
            path = tmp_path / "photos" / name / f"{number:02d}.png"
            Image.fromarray(pixels).save(path)
    source = str(tmp_path / "photos")
    with pytest.raises(DataError, match="--similarity"):
        prepare(PrepareConfig(source, str(tmp_path / "data")))
    similarity = float(words(cure)["similarity"])
    prepare(
        PrepareConfig(source, str(tmp_path / "data"), similarity=similarity)
    )


@case("random weights under frozen layers")
def random_weights(happens, cure, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="--frozen_epochs=0"):
        Config("data", "model", recipe="", weights="none")
    first = "block1_conv1"
    Config(
        *("data", "model"),
        recipe="",
        weights="none",
        finetune_from=first,
        frozen_epochs=int(words(cure)["frozen_epochs"]),
    )


@case("a batch that the replicas cannot share evenly")
def uneven_batch(happens, cure, tmp_path, monkeypatch):
    from trainer.engine import setup

    with pytest.raises(UsageError, match="Use --batch_size=32"):
        setup._check_batch_size(31, replicas=8, pieces=1)
    setup._check_batch_size(32, replicas=8, pieces=1)


@case("flips where left and right matter (text, digits, maps)")
def flips(happens, cure, tmp_path, monkeypatch):
    assert Config("data", "model").augmentation.flip == "auto"
    plain = Config("data", "model", recipe="").augmentation
    assert plain.flips and plain.augment == "light"
    assert not Config("data", "model", **words(cure)).augmentation.flips


@case("changing a flag and training into the same folder")
def changed_flag(happens, cure, tmp_path, monkeypatch):
    source = of_splits(tmp_path / "photos", "train", "validation", "test")
    data = str(tmp_path / "data")
    prepare(PrepareConfig(source, data))
    config, manifest = trainable(data)
    model = tmp_path / "data-model"
    model.mkdir()
    began = start_rule.identity(config, manifest)
    (model / start_rule.CONFIG).write_text(json.dumps(began))
    trainable(data)
    with pytest.raises(UsageError, match="dropout.*another --model_dir"):
        trainable(data, dropout=0.3)


@case("a machine without network")
def no_network(happens, cure, tmp_path, monkeypatch):
    from keras.src.utils import file_utils

    from trainer.models import weights

    def refuse(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(file_utils, "get_file", refuse)
    with pytest.raises(DataError, match="--weights"):
        weights.load_base("imagenet", "vgg16")


@case("running out of a GPU's memory")
def out_of_memory(happens, cure, tmp_path, monkeypatch):
    # That it goes on, and with the same batches, is in tests/test_memory.py.
    from trainer.distribution import memory

    assert memory.more_pieces(32, 1, MemoryError()) == 2
    with pytest.raises(TrainingError, match="--image_size"):
        memory.more_pieces(32, 32, MemoryError())
