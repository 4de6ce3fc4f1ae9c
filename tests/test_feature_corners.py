"""Features where something is odd: names, classes, disks, signals."""

import csv
import json
import os
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import hash_tree
from conftest import write_noise
from training import FAULTS
from training import environment

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from trainer.config import Config

SIZE = 62  # the small network gives 128 averages
SMALL = (
    "--recipe=",
    "--base=scratch",
    "--weights=none",
    "--freeze_random_weights",
    f"--image_size={SIZE}",
    "--batch_size=4",
    "--precision=float32",
)


def made(source, root, **options):
    prepare(PrepareConfig(str(source), str(root / "data"), **options))
    return root / "data"


ODD = (
    "comma, quote\" and 'apostrophe'.jpg",
    "new\nline.jpg",
    "=SUM(A1).jpg",
    "größe 東京.jpg",
    os.fsdecode(b"no utf-8 \xff.jpg"),
    " spaces at the ends .jpg",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("corners")
    source = write_noise(root / "photos", classes=("a, b", 'c "d"'), count=11)
    for number, name in enumerate(ODD):
        (source / "a, b" / f"{number:03d}.jpg").rename(source / "a, b" / name)
    return made(source, root, splits="train:8,validation:3")


def run(module, *words, fault=None, file_bytes=None):
    """Runs a command; no file may grow beyond `file_bytes`."""
    program = (str(FAULTS), f"{fault}:{module}") if fault else ()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    return subprocess.run(
        [sys.executable, *(program or ("-m", f"trainer.{module}")), *words],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        preexec_fn=limit if file_bytes else None,
    )


def extract(data, out, *words, **options):
    flags = (f"--data_dir={data}", f"--output_dir={out}", *SMALL, *words)
    return run("features", *flags, **options)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What an undisturbed command writes."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = extract(data, out, "--csv")
    assert done.returncode == 0, done.stderr
    return out


def test_a_csv_of_odd_names(data, whole):
    found = {}
    for folder in whole.iterdir():
        with open(
            folder / "features.csv", newline="", errors="surrogateescape"
        ) as file:
            rows = list(csv.DictReader(file))
        values = np.concatenate(
            [np.load(p) for p in sorted(folder.glob("features-*.npy"))]
        )
        ids = np.load(folder / "ids.npy")
        for row, vector, image_id in zip(rows, values, ids, strict=True):
            assert int(row["id"]) == image_id
            assert float(row["feature_5"]) == pytest.approx(
                float(vector[5]), rel=1e-4
            )
            found[row["file"]] = int(row["label"])
    source = data.parent / "photos"
    wanted = {str(p.relative_to(source)) for p in source.rglob("*.jpg")}
    assert set(found) == wanted
    assert all(label == name.startswith("c") for name, label in found.items())


@pytest.mark.slow
def test_a_signal_ends_with_75_and_the_rest_follows(data, whole, tmp_path):
    out = tmp_path / "out"
    stopped = extract(data, out, "--csv", fault="shard:3:SIGUSR1")
    assert stopped.returncode == 75, stopped.stderr
    assert "stopped by SIGUSR1. What is finished is kept" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    (folder,) = out.iterdir()
    assert folder.name.startswith("incomplete.")
    # Of 4: the third was written, as a signal is answered between batches.
    kept = {p.name: p.stat().st_mtime_ns for p in folder.glob("*.npy")}
    assert len(kept) == 3
    done = extract(data, out, "--csv")
    assert done.returncode == 0, done.stderr
    (folder,) = out.glob("train-*")
    for name, time in kept.items():
        assert (folder / name).stat().st_mtime_ns == time
    assert hash_tree(out) == hash_tree(whole)


@pytest.mark.slow
def test_a_file_that_cannot_be_written(data, whole, tmp_path):
    """The operating system's refusal, first of features, then of the CSV.

    Of the validation split: to the system what decoding processes share is a
    file as well.
    """
    out = tmp_path / "out"
    (train,) = whole.glob("train-*")
    shutil.copytree(
        train, out / train.name, ignore=shutil.ignore_patterns("*.csv")
    )
    done = extract(data, out, file_bytes=1000)
    assert done.returncode == 65, done.stderr
    assert "File too large. What is finished is kept" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("*validation*/*"))  # nothing torn is left
    done = extract(data, out, "--csv", file_bytes=10_000)
    assert done.returncode == 65, done.stderr
    assert "features.csv could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(out.glob("*/*features.csv"))
    done = extract(data, out, "--csv")
    assert done.returncode == 0, done.stderr
    assert hash_tree(out) == hash_tree(whole)


def test_decoding_processes_that_get_no_memory(data, tmp_path):
    done = extract(data, tmp_path / "out", file_bytes=1000)
    assert done.returncode == 1, done.stderr
    assert "share 46128 bytes with processes that decode" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr


def lacking(tmp_path, split):
    """A data set of three classes, one of which lacks in a split."""
    source = tmp_path / "photos"
    for name, count in (("train", 8), ("validation", 4)):
        classes = ("cat", "dog", "fox")[: 2 if name == split else 3]
        write_noise(source / name, classes, count, seed=count)
    return made(source, tmp_path)


def test_a_class_without_training_images(tmp_path):
    with pytest.raises(DataError, match="'fox' has no image in the train"):
        lacking(tmp_path, "train")


@pytest.fixture
def float32(tf):
    import keras

    keras.config.set_dtype_policy("float32")


def config_of(data, tmp_path, **options):
    return Config(
        str(data),
        str(tmp_path / "model"),
        recipe="",
        base="scratch",
        weights="none",
        freeze_random_weights=True,
        image_size=SIZE,
        batch_size=4,
        precision="float32",
        strategy="one_device",
        **options,
    )


@pytest.mark.parametrize("classifier", ["logistic_regression", "linear_svm"])
def test_a_class_without_validation_images(
    tmp_path, float32, classifier, capsys
):
    from trainer.run import run

    config = config_of(
        lacking(tmp_path, "validation"),
        tmp_path,
        head_init=classifier,
        frozen_epochs=0,
        finetune_epochs=0,
    )
    run(config)
    result = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    figures = result["classes"]["fox"]
    unknown = ("precision", "recall", "f1", "roc_auc", "average_precision")
    assert figures == dict.fromkeys(unknown) | {"images": 0}
    assert len(result["confusion_matrix"]) == 3
    printed = capsys.readouterr().out
    assert "1 class has no image in validation" in printed


def test_a_split_that_is_not_there(data, tmp_path):
    from trainer import extraction

    with pytest.raises(DataError, match="no test split, only train, valid"):
        list(extraction.extract(config_of(data, tmp_path), ["test"]))


def test_another_data_set_has_features_of_its_own(data, tmp_path, float32):
    """In one folder, beside those of the first."""
    from trainer import extraction

    kept = tmp_path / "kept"
    source = data.parent / "photos"
    other = made(source, tmp_path, splits="train:8,validation:2")
    counts = []
    for one in (data, other, data):
        config = config_of(one, tmp_path, feature_dir=str(kept))
        ((found, _),) = extraction.extract(config, ["validation"])
        counts.append(found.count)
    assert counts == [6, 4, 6]
    assert len(list(kept.iterdir())) == 2


def test_epochs_take_views_in_turn(data, tmp_path, float32):
    """Each image's features are those of the view, whatever the order."""
    from trainer.distribution.worker_group import WorkerGroup
    from trainer.engine import setup
    from trainer.engine import trained_part
    from trainer.feature_extraction import extractor as extractor_lib
    from trainer.feature_extraction.views import View
    from trainer.feature_extraction.views import for_training

    config = config_of(
        data,
        tmp_path,
        augment="classic",
        feature_cache=True,
        feature_views=2,
        frozen_epochs=5,
    )
    manifest = manifest_lib.load(config.data.data_dir)
    strategy, model = setup.make_model(config, manifest)
    workers = WorkerGroup(strategy, None)
    loader = setup.make_loader(config, manifest, workers)
    extractor = extractor_lib.create(config, manifest, strategy, model, workers)
    of_epochs = for_training(
        config.augmentation, config.features, config.run.seed, epochs=5
    )
    part = trained_part.head_on_features(
        model, loader, extractor, of_epochs, flip_average=False
    )

    def epoch_of(number):
        batches = list(loader.training(part.train_source(number), number))
        ids = np.concatenate([batch.id for batch in batches])
        rows = np.concatenate([batch.image for batch in batches])
        return rows[np.argsort(ids)]

    train = loader.readers["train"]
    order = np.argsort(train.ids)
    views = [
        extractor.extract(
            train,
            loader.images["train"],
            View.augmented(config.augmentation, config.run.seed, epoch),
        ).take(order)
        for epoch in range(2)
    ]
    assert np.abs(views[0] - views[1]).max() > 1e-3
    for number in range(5):
        np.testing.assert_array_equal(epoch_of(number), views[number % 2])
