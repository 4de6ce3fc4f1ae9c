"""Features: what is stored, what is trained on them, what goes wrong."""

import csv
import dataclasses
import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from conftest import hash_tree
from conftest import write_classes
from conftest import write_noise

from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.feature_extraction import layout as feature_layout
from trainer.feature_extraction import store as feature_store
from trainer.feature_extraction import views
from trainer.feature_extraction import writer as feature_writer
from trainer.feature_extraction.layout import Layout
from trainer.feature_extraction.views import PLAIN
from trainer.feature_extraction.views import View
from trainer.groups import Augmentation
from trainer.groups import Features

SIZE = 62  # the small network gives maps of 2 x 2 x 128
SMALL = (
    "--recipe=",
    "--base=scratch",
    "--weights=none",
    "--freeze_random_weights",
    f"--image_size={SIZE}",
    "--batch_size=8",
    "--precision=float32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from data_prep.config import PrepareConfig
    from data_prep.prepare import prepare

    root = tmp_path_factory.mktemp("features")
    source = write_noise(root / "photos", count=18)
    prepare(
        PrepareConfig(
            str(source), str(root / "data"), splits="train:11,validation:7"
        )
    )
    return root / "data"


@pytest.fixture(autouse=True)
def float32(tf):
    import keras

    keras.config.set_dtype_policy("float32")


def config(data, tmp_path, **options):
    defaults = dict(
        recipe="",
        base="scratch",
        weights="none",
        freeze_random_weights=True,
        image_size=SIZE,
        batch_size=8,
        precision="float32",
        strategy="one_device",
        finetune_epochs=0,
        cache_mb=0,
    )
    return Config(str(data), str(tmp_path / "model"), **{**defaults, **options})


def parts(wanted):
    """What an extraction works with, made as `run` makes it."""
    from trainer.engine import setup

    manifest = manifest_lib.load(wanted.data.data_dir)
    strategy, model = setup.make_model(wanted, manifest)
    return manifest, model, extractor_of(wanted, manifest, strategy, model)


def extractor_of(wanted, manifest, strategy, model):
    from trainer.distribution.worker_group import WorkerGroup
    from trainer.feature_extraction import extractor

    workers = WorkerGroup(strategy, None)
    return extractor.create(wanted, manifest, strategy, model, workers)


def epoch_view(wanted, epoch):
    """The view of the training split that an epoch takes."""
    return View.augmented(wanted.augmentation, wanted.run.seed, epoch)


def split_of(wanted, manifest, split):
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    reader = Reader(wanted.data.data_dir, manifest, split)
    decode = (
        input_pipeline.decoded_fast
        if split == "train"
        else input_pipeline.decoded_exactly
    )
    return reader, decode(reader, wanted.data.image_size)


@pytest.mark.slow
def test_extraction_from_the_command_line(data, run, tmp_path):
    """Read back by NumPy and JSON alone, in line with ids, files, labels."""
    out = tmp_path / "out"
    command = (
        "trainer.features",
        f"--data_dir={data}",
        f"--output_dir={out}",
        *SMALL,
        "--csv",
    )
    done = run(*command)
    assert done.returncode == 0, done.stderr
    manifest = manifest_lib.load(str(data))
    index = manifest_lib.load_index(manifest, str(data), "train")
    (folder,) = out.glob("train-*")
    about = json.loads((folder / "features.json").read_text())
    assert about["identity"]["data_fingerprint"] == manifest.fingerprint
    assert about["classes"] == ["cat", "dog"]
    names = [f["name"] for f in about["files"] if "features" in f["name"]]
    values = np.concatenate([np.load(folder / n, mmap_mode="r") for n in names])
    assert (values.shape, values.dtype) == ((22, 128), np.float16)
    np.testing.assert_array_equal(np.load(folder / "ids.npy"), index["id"])
    np.testing.assert_array_equal(
        np.load(folder / "labels.npy"), index["label"]
    )
    lines = (folder / "features.csv").read_text().splitlines()
    assert len(lines) == 23
    image_id, file, label, first, *_ = lines[5].split(",")
    assert int(image_id) == index["id"][4]
    assert int(label) == index["label"][4] == (file.split("/")[0] == "dog")
    assert float(first) == pytest.approx(float(values[4, 0]), rel=1e-4)

    before = hash_tree(out)
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert hash_tree(out) == before


def test_features_are_those_of_their_image(tf, tmp_path):
    """Images that encode their index, each alone through the base."""
    from data_prep.config import PrepareConfig
    from data_prep.prepare import prepare
    from trainer.models.classifier import base_of

    source = write_classes(tmp_path / "photos", count=9)
    prepare(
        PrepareConfig(
            str(source),
            str(tmp_path / "data"),
            splits="train:6,validation:3",
            encoding="raw",
            image_size=SIZE,
        )
    )
    wanted = config(
        tmp_path / "data", tmp_path, strategy="mirrored", virtual_devices=0
    )
    manifest, model, extractor = parts(wanted)
    reader, images = split_of(wanted, manifest, "train")
    features = extractor.extract(reader, images, PLAIN)
    pixels = reader.pixels(np.arange(reader.count), SIZE)
    base = base_of(model)
    alone = np.concatenate([base(pixels[n : n + 1]) for n in range(12)])
    spread = np.abs(alone[:, None] - alone[None]).max(axis=2)
    assert spread[~np.eye(12, dtype=bool)].min() > 1e-4  # no two are alike
    np.testing.assert_allclose(
        features.take(np.arange(12)), alone, rtol=2e-3, atol=1e-5
    )
    order = np.array([7, 0, 11, 7])
    np.testing.assert_array_equal(
        features.take(order), features.take(np.arange(12))[order]
    )


@pytest.mark.parametrize("head", ["gap", "flatten"])
@pytest.mark.parametrize("strategy", ["one_device", "mirrored"])
def test_replicas_change_nothing(data, tf, tmp_path, head, strategy):
    from trainer.distribution import devices
    from trainer.models.classifier import base_of
    from trainer.models.classifier import build_classifier

    wanted = config(data, tmp_path, head=head, augment="classic")
    manifest = manifest_lib.load(str(data))
    if strategy == "mirrored":
        strategy = devices.mirrored(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.get_strategy()
    tf.keras.utils.set_random_seed(0)
    with strategy.scope():
        model = build_classifier(2, SIZE, wanted.model)
    extractor = extractor_of(wanted, manifest, strategy, model)
    reader, images = split_of(wanted, manifest, "train")
    view = epoch_view(wanted, 1)
    found = extractor.extract(reader, images, view).take(np.arange(22))

    from trainer.augmentation import policies

    policy = policies.Policy("classic", seed=wanted.run.seed)
    views, _ = policies.create(policy, 2)(
        reader.pixels(np.arange(22), SIZE), reader.labels, reader.ids, 1
    )
    np.testing.assert_allclose(
        found, base_of(model)(views), rtol=2e-3, atol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"augment": "classic"},
        {"augment": "none", "head": "flatten", "head_units": 8, "dropout": 0.5},
        {"augment": "light", "flip_average": True},
    ],
)
def test_the_head_is_that_of_the_end_to_end_phase(data, tf, tmp_path, options):
    """One view per epoch and the same seed: equal but for float16."""
    from trainer.run import run

    results = {}
    for name, cached in (("features", True), ("pictures", False)):
        wanted = config(
            data,
            tmp_path / name,
            feature_cache=cached,
            frozen_epochs=3,
            optimizer="sgd",
            frozen_learning_rate=0.05,
            **options,
        )
        done = run(wanted)
        model = tf.keras.models.load_model(
            tmp_path / name / "model" / "model.keras"
        )
        arrays = [w for w in model.get_weights() if w.shape[-1] in (2, 8)]
        rows = (tmp_path / name / "model" / "metrics.jsonl").read_text()
        results[name] = arrays, [json.loads(r) for r in rows.splitlines()], done
    cached, whole = results["features"], results["pictures"]
    assert any(np.abs(a).max() > 1e-3 for a in whole[0])  # it learnt something
    for a, b in zip(cached[0], whole[0], strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=2e-4)
    for a, b in zip(cached[1], whole[1], strict=True):
        for figure in ("loss", "val_loss"):
            assert a[figure] == pytest.approx(b[figure], abs=1e-4)
    assert cached[2]["evaluation"]["loss"] == pytest.approx(
        whole[2]["evaluation"]["loss"], abs=1e-4
    )


def test_views_are_taken_in_turn(data, tmp_path):
    from trainer.run import run

    wanted = config(
        data,
        tmp_path,
        feature_cache=True,
        feature_views=2,
        frozen_epochs=5,
        augment="classic",
    )
    run(wanted)
    kept = sorted(p.name[:14] for p in (tmp_path / "model/features").iterdir())
    assert [name[:13] for name in kept[:2]] == [
        "train-view000",
        "train-view001",
    ]
    assert [name.split("-")[0] for name in kept[2:]] == ["validation"]


@pytest.mark.slow
def test_a_key_is_of_all_that_features_depend_on(data, tmp_path):
    names = set()
    for number, options in enumerate(
        (
            {},
            {"preprocessing": "tf"},
            {"head": "flatten"},
            {"image_size": 64},
            {"augment": "classic"},
            {"augment": "classic", "augment_strength": 0.5},
            {"augment": "classic", "seed": 1},
            {"base": "vgg16"},
            {"precision": "mixed_bfloat16"},
        )
    ):
        wanted = config(
            data,
            tmp_path,
            feature_dir=str(tmp_path / "kept"),
            **{"augment": "none", **options},
        )
        manifest, _, extractor = parts(wanted)
        reader, images = split_of(wanted, manifest, "train")
        view = epoch_view(wanted, 0)
        names.add(extractor.extract(reader, images, view).folder.name)
        assert len(names) == number + 1, options
        # The same once more is found, not made.
        found = extractor.extract(reader, None, view)
        assert found.folder.name in names


def test_features_of_other_data_are_others(data, tmp_path, tf):
    wanted = config(data, tmp_path, feature_dir=str(tmp_path / "kept"))
    manifest, model, extractor = parts(wanted)
    reader, images = split_of(wanted, manifest, "train")
    first = extractor.extract(reader, images, View()).folder
    other = dataclasses.replace(manifest, classes=["cat", "wolf"])
    strategy = tf.distribute.get_strategy()
    again = extractor_of(wanted, other, strategy, model)
    assert again.extract(reader, images, View()).folder != first


def test_folders_of_earlier_versions_are_found_again():
    """A key that changed would have users extract everything again."""
    base = {
        "format": 1,
        "data_fingerprint": "0f" * 32,
        "base": "vgg16",
        "weights": "ab" * 32,
        "image_size": 150,
        "preprocessing": "caffe",
        "pooled": True,
        "precision": "float32",
        "split": "train",
    }
    augmentation = Augmentation("classic", augment_strength=0.5)
    names = [
        feature_store.folder_of(pathlib.Path(), {**base, **view.identity}).name
        for view in (
            views.PLAIN,
            views.MIRRORED,
            View.augmented(augmentation, 7, 3),
        )
    ]
    assert names == [
        "train-da2e8739eb963b2f",
        "train-31170072f01c4e38",
        "train-view003-c8c4b3afd6baf8a7",
    ]


def test_views_of_all_that_asks_for_them():
    none, flip = Augmentation("none"), Augmentation("flip")
    kept, fitted = Features(), Features(head_init="linear_svm")
    three = Features(feature_views=3)
    both = Features(feature_views=3, head_init="linear_svm")
    epochs = [View.augmented(flip, 5, n) for n in range(4)]
    assert views.for_inference(False) == [PLAIN]
    assert views.for_inference(True) == [PLAIN, views.MIRRORED]
    for chosen, epoch_count, trained, extracted in (
        ((none, kept), 4, [PLAIN], [PLAIN]),
        ((none, fitted), 4, [PLAIN], [PLAIN]),
        ((flip, kept), 4, epochs, epochs),
        ((flip, fitted), 2, epochs[:2], [PLAIN, *epochs[:2]]),
        ((flip, three), 2, epochs[:2], epochs[:3]),
        ((flip, three), 4, epochs[:3], epochs[:3]),
        ((flip, both), 4, epochs[:3], [PLAIN, *epochs[:3]]),
        ((flip, kept), 0, [], [PLAIN]),
    ):
        assert views.for_training(*chosen, 5, epoch_count) == trained
        assert views.for_extraction(*chosen, 5, epoch_count) == extracted
    assert views.for_head_fit(flip, both, 5) == [PLAIN, *epochs[:3]]
    assert views.for_head_fit(flip, fitted, 5) == [PLAIN]


def test_other_weights_make_another_key(data, tmp_path):
    wanted = config(data, tmp_path, augment="none")
    manifest, model, extractor = parts(wanted)
    reader, images = split_of(wanted, manifest, "train")
    first = extractor.extract(reader, images, PLAIN).folder
    layer = model.get_layer("conv3")
    kernel, bias = layer.get_weights()
    kernel[0, 0, 0, 0] += 1e-3
    layer.set_weights([kernel, bias])
    other = extractor_of(wanted, manifest, extractor._strategy, model)
    assert other.extract(reader, images, PLAIN).folder != first


def store(root, count=10, stop_after=None, workers=1, only=None, **identity):
    """Saves rows that hold their own number, in shards of 4."""
    wanted = {"split": "train", "view": None, "augment": "none", **identity}
    asked = []

    def batches(numbers):
        asked.extend(numbers)
        for start in (2 * number for number in numbers):
            if stop_after is not None and start >= stop_after:
                raise KeyboardInterrupt
            rows = np.arange(start, min(start + 2, count), dtype=np.float16)
            yield np.repeat(rows[:, None], 3, axis=1)

    writer = feature_writer.FeatureSetWriter(
        root, wanted, (3,), Layout.of(count, (3,), batch_size=2)
    )
    for worker in range(workers) if only is None else only:
        writer.write_share(batches, worker, workers)
    writer.finish(
        ids=np.arange(count) * 7,
        labels=np.zeros(count, np.int32),
        classes=["a"],
    )
    return wanted, asked


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_layout, "FILE_BYTES", 4 * 3 * 2)
    monkeypatch.setattr(feature_layout, "LEAST_FILES", 1)


def test_shards_are_read_as_one(tmp_path, small_shards):
    wanted, _ = store(tmp_path)
    found = feature_store.load(tmp_path, wanted, np.arange(10) * 7)
    assert len(list(found.folder.glob("features-*.npy"))) == 3
    order = np.array([9, 0, 4, 3, 9])
    np.testing.assert_array_equal(found.take(order)[:, 1], order)


def test_a_killed_extraction_goes_on(tmp_path, small_shards):
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path, stop_after=6)
    wanted = {"split": "train", "view": None, "augment": "none"}
    ids = np.arange(10) * 7
    assert feature_store.load(tmp_path, wanted, ids) is None  # not by halves
    _, asked = store(tmp_path)
    assert asked == [2, 3, 4]  # two batches, one shard, were there
    found = feature_store.load(tmp_path, wanted, ids)
    np.testing.assert_array_equal(found.take(np.arange(10))[:, 0], range(10))
    assert [p.name for p in tmp_path.iterdir()] == [found.folder.name]


def test_a_set_on_a_mounted_bucket(tmp_path, small_shards, mounted_bucket):
    """Killed while its files are moved, it is made by the next run."""
    whole, _ = store(tmp_path / "one")
    assert len(mounted_bucket) == 1
    root, ids = tmp_path / "killed", np.arange(10) * 7
    replace = pathlib.Path.replace

    def killed(path, place):
        # The marker is moved last.
        if path.name == feature_store.JSON and place.parent.name[:5] == "train":
            raise KeyboardInterrupt
        return replace(path, place)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pathlib.Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            store(root)
    assert feature_store.load(root, whole, ids) is None
    store(root)
    assert hash_tree(root) == hash_tree(tmp_path / "one")


def test_workers_write_the_same_set_as_one(tmp_path, small_shards):
    alone, _ = store(tmp_path / "one")
    shared, _ = store(tmp_path / "three", workers=3)
    assert hash_tree(tmp_path / "three") == hash_tree(tmp_path / "one")
    # Another number of them goes on, and a share that lacks is named.
    root = tmp_path / "lost"
    with pytest.raises(DataError, match="lacks features-00001.npy and 0 other"):
        store(root, workers=3, only=[0, 2])
    assert feature_store.load(root, shared, np.arange(10) * 7) is None
    with pytest.raises(
        DataError, match="not seen by this one.*all workers see alike"
    ):
        feature_store.wait_for(root, shared, np.arange(10) * 7, 0.0)
    _, asked = store(root, workers=2)
    assert asked == [2, 3]
    assert hash_tree(root) == hash_tree(tmp_path / "one")


def test_two_runs_at_once_make_one_set(tmp_path, small_shards):
    """The slower one takes what the faster one has finished meanwhile."""
    wanted = {"split": "train", "view": None, "augment": "none"}
    slower = feature_writer.FeatureSetWriter(
        tmp_path, wanted, (3,), Layout.of(10, (3,), batch_size=2)
    )

    def batches(numbers):
        for number in numbers:
            if number == 2:
                store(tmp_path)
            yield np.full((2, 3), number, np.float16)

    slower.write_share(batches)
    slower.finish(ids=np.arange(10), labels=np.zeros(10, np.int32), classes=[])
    (folder,) = tmp_path.iterdir()
    found = feature_store.load(tmp_path, wanted, np.arange(10) * 7)
    assert found.folder == folder


def test_files_of_another_batch_size_are_not_taken(
    tmp_path, small_shards, monkeypatch
):
    """The third file holds two images in either layout, but not the same."""
    with pytest.raises(DataError, match="lacks"):
        store(tmp_path, workers=3, only=[2])
    monkeypatch.setattr(feature_layout, "FILE_BYTES", 2 * 3 * 2)
    wanted, asked = store(tmp_path)
    assert asked == [0, 1, 2, 3, 4]
    found = feature_store.load(tmp_path, wanted, np.arange(10) * 7)
    np.testing.assert_array_equal(found.take(np.arange(10))[:, 0], range(10))
    assert [p.name for p in tmp_path.iterdir()] == [found.folder.name]


@pytest.mark.parametrize(
    "count, batch_size, shape, files, rows",
    [
        (5000, 32, (512,), 32, 160),  # averages: little is lost by a kill
        (22, 8, (512,), 3, 8),  # never less than a batch
        (200_000, 32, (7, 7, 512), 153, 1312),  # 64 MiB, in whole batches
    ],
)
def test_files_are_small_in_small_sets(count, batch_size, shape, files, rows):
    """And together they hold every image and every batch once."""
    layout = Layout.of(count, shape, batch_size)
    assert (len(layout.files), layout.rows_per_file) == (files, rows)
    assert sum(map(layout.rows, layout.files)) == count
    batches = [n for file in layout.files for n in layout.batches(file)]
    assert batches == [*range(-(-count // batch_size))]


def damage_json(folder):
    (folder / "features.json").write_text("{")


def flip_a_bit(folder):
    path = folder / "features-00001.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(folder):
    path = folder / "features-00002.npy"
    path.write_bytes(path.read_bytes()[:-2])


def lose(folder):
    (folder / "features-00000.npy").unlink()


def shuffle_ids(folder):
    ids = np.load(folder / "ids.npy")
    np.save(folder / "ids.npy", ids[::-1])


@pytest.mark.parametrize(
    "harm, message",
    [
        (damage_json, "features.json is damaged"),
        (flip_a_bit, "features-00001.npy is damaged: its checksum"),
        (cut, "features-00002.npy has .* bytes, expected"),
        (lose, "features-00000.npy has no bytes, expected"),
        (shuffle_ids, "ids.npy is damaged"),
    ],
)
def test_damage_is_named(tmp_path, small_shards, harm, message):
    wanted, _ = store(tmp_path)
    ids = np.arange(10) * 7
    folder = feature_store.load(tmp_path, wanted, ids).folder
    harm(folder)
    with pytest.raises(DataError, match=message) as raised:
        feature_store.load(tmp_path, wanted, ids)
    assert f"Remove {folder}" in str(raised.value)


def test_features_of_another_data_set_are_refused(tmp_path):
    """A folder that was given a name which is not its own."""
    wanted, _ = store(tmp_path, data_fingerprint="one")
    other = {**wanted, "data_fingerprint": "two"}
    shutil.move(
        feature_store.folder_of(tmp_path, wanted),
        feature_store.folder_of(tmp_path, other),
    )
    ids = np.arange(10) * 7
    with pytest.raises(
        DataError, match="data_fingerprint 'one', expected 'two'"
    ):
        feature_store.load(tmp_path, other, ids)
    wanted, _ = store(tmp_path, data_fingerprint="three")
    with pytest.raises(DataError, match="are not those of the data set"):
        feature_store.load(tmp_path, wanted, ids + 1)


def test_a_full_disk_loses_nothing(tmp_path, small_shards, monkeypatch):
    real = feature_writer._write
    calls = []

    def write(path, array):
        calls.append(array.shape)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        real(path, array)

    monkeypatch.setattr(feature_writer, "_write", write)
    with pytest.raises(DataError, match="No space left.*is kept: free some"):
        store(tmp_path)
    (left,) = tmp_path.iterdir()
    assert sorted(p.name for p in left.iterdir()) == [
        "features-00000.npy",
        "features-00001.npy",
    ]
    monkeypatch.setattr(feature_writer, "_write", real)
    _, asked = store(tmp_path)
    assert asked == [4]

    usage = shutil._ntuple_diskusage(100, 100, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="0 MiB left.*--feature_dir"):
        store(tmp_path, data_fingerprint="other")


def blobs(classes, per_class, size, seed, spread=0.6):
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, size))
    labels = np.repeat(np.arange(classes), per_class)
    noise = generator.normal(
        scale=spread * np.sqrt(size), size=(len(labels), size)
    )
    return 5 + 3 * (centres[labels] + noise), labels


@pytest.mark.parametrize("classifier", ["logistic_regression", "linear_svm"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("size", [12, 150])
def test_classical_head_is_scikit_learns(classifier, classes, size):
    """Folding, and the rotation of more values than images, change nothing."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    from trainer.feature_extraction import linear_head

    train, labels = blobs(classes, 30, size, 0)
    valid, valid_labels = blobs(classes, 40, size, 1)
    head = linear_head.fit(
        classifier, train, labels, valid[:, None], valid_labels
    )
    chosen = head.chosen
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    if chosen["scaling"] == "common":
        deviation = np.sqrt((deviation**2).mean())
    kind = {
        "logistic_regression": LogisticRegression(
            C=chosen["C"], max_iter=10000, tol=1e-8
        ),
        "linear_svm": LinearSVC(C=chosen["C"], dual=False, tol=1e-8),
    }[classifier]
    kind.fit((train - mean) / deviation, labels)
    scaled = (valid - mean) / deviation
    logits = valid @ head.kernel + head.bias
    assert (logits.argmax(1) == kind.predict(scaled)).mean() > 0.98
    if classifier == "logistic_regression":
        exp = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(
            exp / exp.sum(axis=1, keepdims=True),
            kind.predict_proba(scaled),
            atol=0.01,
        )
    losses = [c["val_loss"] for c in head.candidates]
    assert chosen["val_loss"] == min(losses)
    assert len(head.candidates) >= 6


@pytest.mark.parametrize("classifier", ["logistic_regression", "linear_svm"])
def test_class_weights_are_in_the_fit(classifier):
    """Nine of ten images are of one class; balanced, the other is heard."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    from trainer.feature_extraction import linear_head

    train, labels = blobs(2, 90, 8, 0, spread=1.5)
    few = np.r_[0:90, 90:100]
    train, labels = train[few], labels[few]
    valid, valid_labels = blobs(2, 60, 8, 1, spread=1.5)
    recall = {}
    for weights in ("none", "balanced"):
        head = linear_head.fit(
            classifier,
            train,
            labels,
            valid[:, None],
            valid_labels,
            class_weights=weights,
        )
        chosen = head.chosen
        deviation = train.std(axis=0)
        if chosen["scaling"] == "common":
            deviation = np.sqrt((deviation**2).mean())
        options = {
            "C": chosen["C"],
            "class_weight": None if weights == "none" else weights,
        }
        kind = (
            LogisticRegression(max_iter=10000, tol=1e-8, **options)
            if classifier == "logistic_regression"
            else LinearSVC(dual=False, tol=1e-8, **options)
        )
        kind.fit((train - train.mean(axis=0)) / deviation, labels)
        theirs = kind.predict((valid - train.mean(axis=0)) / deviation)
        ours = (valid @ head.kernel + head.bias).argmax(1)
        assert (ours == theirs).mean() > 0.98
        recall[weights] = (ours == 1)[valid_labels == 1].mean()
    assert recall["balanced"] > recall["none"] + 0.1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"feature_views": 3, "augment": "none"}, "augments nothing"),
        (
            {"feature_cache": True, "frozen_epochs": 0, "finetune_epochs": 1},
            "leaves that phase out",
        ),
        ({"feature_cache": True, "mixup": 0.2}, "mixes two"),
        ({"head_init": "linear_svm", "head_units": 4}, "a hidden layer"),
    ],
)
def test_flags_that_cannot_go_together(data, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        config(data, tmp_path, **options)


@pytest.mark.slow
def test_a_fitted_head_is_what_fine_tuning_starts_from(data, tmp_path):
    """With averages, the mirror and class weights: a rate of 0 keeps it."""
    from trainer.run import run

    for number, options in enumerate(
        (
            {"finetune_epochs": 2, "frozen_epochs": 0},
            {"finetune_epochs": 0, "frozen_epochs": 2, "feature_cache": True},
        )
    ):
        place = tmp_path / str(number)
        wanted = config(
            data,
            place,
            head_init="logistic_regression",
            class_weights="balanced",
            average_decay=0.9,
            flip_average=True,
            dropout=0.3,
            label_smoothing=0.1,
            frozen_learning_rate=0.0,
            finetune_learning_rate=1e-30,  # 0 leaves it to the images
            **options,
        )
        done = run(wanted)
        model = place / "model"
        head = json.loads((model / "head_init.json").read_text())["chosen"]
        rows = (model / "metrics.jsonl").read_text().splitlines()
        assert len(rows) == 2
        for row in map(json.loads, rows):
            assert row["val_loss"] == pytest.approx(head["val_loss"], abs=1e-3)
            assert row["val_accuracy"] == head["val_accuracy"]
        assert done["evaluation"]["loss"] == pytest.approx(
            head["val_loss"], abs=1e-3
        )


def test_each_class_keeps_its_share():
    from trainer.feature_extraction.head_init import proportional

    labels = np.repeat([0, 1, 2], [9000, 990, 10])
    np.random.default_rng(1).shuffle(labels)
    chosen = proportional(labels, 1000, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [900, 99, 1]
    assert (np.diff(chosen) > 0).all()
    assert (chosen != proportional(labels, 1000, seed=1)).any()
    # Of each class some from all over, not its first ones.
    assert chosen[labels[chosen] == 0].max() > 9900
    np.testing.assert_array_equal(
        proportional(labels, 10_000, 0), range(10_000)
    )


def test_a_large_set_is_fitted_in_part(data, tmp_path, tf, monkeypatch, capsys):
    from trainer.feature_extraction import head_init
    from trainer.run import run

    monkeypatch.setattr(head_init, "_AFFORDABLE", 1)
    monkeypatch.setattr(head_init, "_OF_A_CLASS", 5)
    run(
        config(
            data,
            tmp_path,
            head_init="logistic_regression",
            frozen_epochs=0,
            finetune_epochs=0,
        )
    )
    fitted = json.loads((tmp_path / "model/head_init.json").read_text())
    assert fitted["images"] == 10
    assert "the head is fitted on 10 of" in capsys.readouterr().out
    monkeypatch.setattr(head_init.cache, "memory_for_cache", lambda *_: 0)
    with pytest.raises(DataError, match="10 images of .* MiB"):
        run(
            config(
                data,
                tmp_path / "less",
                head_init="logistic_regression",
                frozen_epochs=0,
                finetune_epochs=0,
            )
        )


def test_the_command_extracts_what_the_run_takes(data, tmp_path):
    """Then the run finds all of it, and extracts nothing."""
    from trainer import extraction
    from trainer.run import run

    kept = tmp_path / "kept"
    wanted = config(
        data,
        tmp_path,
        feature_dir=str(kept),
        feature_cache=True,
        feature_views=3,
        frozen_epochs=2,
        head_init="logistic_regression",
        flip_average=True,
        augment="flip",
    )
    made = [found.folder.name for found, _ in extraction.extract(wanted, [])]
    assert [name.rpartition("-")[0] for name in made] == [
        "train",
        *(f"train-view{n:03d}" for n in range(3)),
        "validation",
        "validation",
    ]
    before = {p: p.stat().st_mtime_ns for p in kept.rglob("*")}
    run(wanted)
    assert {p: p.stat().st_mtime_ns for p in kept.rglob("*")} == before


def test_temperature_makes_an_svm_honest():
    from trainer.feature_extraction import linear_head
    from trainer.models import temperature as temperature_lib

    train, labels = blobs(2, 100, 10, 0)
    valid, valid_labels = blobs(2, 500, 10, 1)
    head = linear_head.fit(
        "linear_svm", train, labels, valid[:, None], valid_labels
    )
    logits = valid @ head.kernel + head.bias
    best = temperature_lib.loss(logits, valid_labels)
    for factor in (0.8, 1.25):
        assert temperature_lib.loss(logits * factor, valid_labels) > best


@pytest.mark.slow
def test_a_classical_head_is_served(data, run, tmp_path, tf, monkeypatch):
    """Features -> regression -> model.keras -> evaluate -> predict, as files.

    The base does not run again over the images whose features are kept.
    """
    from trainer.inference import finished
    from trainer.pipeline import input_pipeline

    model = tmp_path / "model"
    done = run(
        "trainer.task",
        f"--data_dir={data}",
        f"--model_dir={model}",
        *SMALL,
        "--head_init=logistic_regression",
        "--frozen_epochs=0",
        "--finetune_epochs=0",
        "--flip_average",
    )
    assert done.returncode == 0, done.stderr
    assert "logistic_regression: C=" in done.stdout
    chosen = json.loads((model / "head_init.json").read_text())["chosen"]
    result = json.loads((model / "evaluation.json").read_text())
    assert result["accuracy"] == chosen["val_accuracy"]
    assert result["loss"] == pytest.approx(chosen["val_loss"], abs=1e-3)
    photos = data.parent / "photos"
    out = tmp_path / "new.csv"
    done = run(
        "trainer.predict", f"--model_dir={model}", f"--output={out}", photos
    )
    assert done.returncode == 0, done.stderr

    def read(path, prefix=""):
        with open(path, newline="") as file:
            return {
                row["file"].removeprefix(prefix): np.float64(
                    [row[n] for n in row if n.startswith("probability_")]
                )
                for row in csv.DictReader(file)
            }

    served, evaluated = read(out, f"{photos}/"), read(model / "predictions.csv")
    assert len(served) == 36 and len(evaluated) == 14
    # Of features in float16.
    for file, probabilities in evaluated.items():
        np.testing.assert_allclose(served[file], probabilities, atol=1e-3)

    def refuse(*_):
        raise AssertionError("images are decoded")

    with monkeypatch.context() as patch:
        patch.setattr(input_pipeline, "decoded_exactly", refuse)
        again = finished.evaluate(str(model), "")
        assert again["accuracy"] == result["accuracy"]
        assert again["loss"] == pytest.approx(result["loss"], abs=1e-6)
        for folder in (model / "features").glob("validation-*"):
            shutil.rmtree(folder)
            break  # of one view alone the features are of no use
        with pytest.raises(AssertionError, match="images are decoded"):
            finished.evaluate(str(model), "")
    by_images = finished.evaluate(str(model), "")
    assert by_images["loss"] == pytest.approx(result["loss"], abs=1e-3)
    for file, probabilities in read(model / "predictions.csv").items():
        np.testing.assert_allclose(served[file], probabilities, atol=1e-5)


def test_the_exported_model_averages_over_the_mirror(tf, tmp_path):
    import keras

    from trainer.groups import Model
    from trainer.inference.description import Description
    from trainer.inference.exporting import export
    from trainer.inference.exporting import with_temperature
    from trainer.inference.formats import ALWAYS
    from trainer.models.classifier import build_classifier
    from trainer.models.classifier import flip_averaged

    keras.utils.set_random_seed(0)
    model = build_classifier(
        3,
        SIZE,
        Model(
            base="scratch",
            preprocessing="rescale",
            head="flatten",
            head_units=4,
        ),
    )
    last = model.get_layer("logits")
    shape = last.get_weights()[0].shape
    kernel = np.random.default_rng(0).normal(size=shape)
    last.set_weights([kernel, np.zeros(3)])
    classifier = with_temperature(flip_averaged(model), 1.0)
    export(
        lambda policy: classifier,
        Description(["a", "b", "c"], SIZE, "stretch", 1.0),
        *(ALWAYS, str(tmp_path), list, lambda folder: {}),
    )
    saved = keras.models.load_model(tmp_path / "model.keras")
    image = np.random.default_rng(1).uniform(0, 255, (2, SIZE, SIZE, 3))
    logits = (model(image).numpy() + model(image[:, :, ::-1]).numpy()) / 2
    np.testing.assert_allclose(saved(image), tf.nn.softmax(logits), atol=1e-5)
    np.testing.assert_allclose(
        saved(image), saved(image[:, :, ::-1]), atol=1e-6
    )
    assert np.abs(model(image) - logits).max() > 1e-4  # a mirror does differ


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["step:2", "save:1"])
def test_a_run_on_features_goes_on_exactly(tmp_path, moment):
    """Killed in the frozen phase on features, or after a classical head."""
    import training

    data = training.prepare(tmp_path)
    last = 3 * training.STEPS
    flags = (
        "--recipe=",
        "--base=scratch",
        f"--image_size={SIZE}",
        "--deterministic",
        "--checkpoint_steps=1",
        "--augment=classic",
        "--feature_cache",
        "--feature_views=1",
        "--flip_average",
        "--head_init=logistic_regression",
        "--frozen_learning_rate=0.05",
    )
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = training.train(data, whole, *flags)
    assert done.returncode == 0, done.stderr
    killed = training.train(data, cut, *flags, fault=f"{moment}:SIGKILL")
    assert killed.returncode == -9, killed.stderr
    done = training.train(data, cut, *flags)
    assert done.returncode == 0, done.stderr
    training.assert_same(training.saved(cut, last), training.saved(whole, last))
    assert training.curve(cut) == training.curve(whole)
    first, second = (
        json.loads((model / "DONE.json").read_text()) for model in (cut, whole)
    )
    assert first["evaluation"] == second["evaluation"]


def test_another_phase_is_measured_by_its_own_base(
    data, tmp_path, tf, monkeypatch
):
    """Features that are kept are of the frozen base, and answer for no other."""
    from training import train_here

    from trainer.distribution.worker_group import WorkerGroup
    from trainer.engine import model_directory
    from trainer.engine import start_rule
    from trainer.inference import calibration
    from trainer.inference import finished
    from trainer.inference import split_prediction
    from trainer.models.classifier import build_classifier
    from trainer.pipeline.reader import Reader

    folder = tmp_path / "model"
    options = dict(feature_cache=True, image_size=SIZE, augment="none")
    train_here(
        data,
        folder,
        **options,
        finetune_epochs=1,
        finetune_from="conv1",
        finetune_learning_rate=0.5,
    )
    config, manifest = start_rule.load(str(folder))
    rows = {row["phase"]: row for row in model_directory.bests(folder)}
    strategy = tf.distribute.get_strategy()
    model = build_classifier(2, SIZE, config.model)
    workers = WorkerGroup(strategy, None)
    reader = Reader(str(data), manifest, "validation")

    def predictor_of(phase, settings):
        model_directory.restore(model, folder, rows[phase], workers)
        return split_prediction.create(
            settings, manifest, strategy, model, workers
        )

    seen = []
    predict = split_prediction.SplitPredictor.predict

    def watched(self, of):
        seen.append(np.concatenate([*predict(self, of)]))
        yield from seen[-1][:, np.newaxis]

    monkeypatch.setattr(split_prediction.SplitPredictor, "predict", watched)
    exported = predictor_of("frozen", config)
    assert exported.extractor.kept(reader, [PLAIN])
    chosen = calibration.Calibration(1.0, False, None)
    finished.measure(
        exported, config, manifest, "validation", chosen, [rows["finetune"]]
    )
    apart = config.replace(feature_dir=str(tmp_path / "none"))
    by_images = [
        np.concatenate([*predict(predictor_of(phase, apart), reader)])
        for phase in ("frozen", "finetune")
    ]
    assert np.abs(by_images[0] - by_images[1]).max() > 0.05
    assert len(seen) == 2
    for found, wanted in zip(seen, by_images, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-3)


@pytest.mark.parametrize("flip_average", [False, True])
def test_a_split_is_predicted_by_what_may_stand_for_it(
    data, tmp_path, tf, flip_average
):
    """Kept features of validation do; those of training are of other pixels."""
    from trainer.distribution.worker_group import WorkerGroup
    from trainer.inference import split_prediction
    from trainer.models.classifier import build_classifier
    from trainer.pipeline.reader import Reader

    settings = config(data, tmp_path)
    manifest = manifest_lib.load(data)
    model = build_classifier(2, SIZE, settings.model)
    reader = Reader(str(data), manifest, "train")
    pixels = reader.pixels(np.arange(reader.count), SIZE).astype(np.float32)
    # Features speak for the second class twice as much as the bias against it.
    last = model.get_layer("logits")
    kernel = np.ones(last.get_weights()[0].shape) * [-1, 1]
    last.set_weights([kernel, np.zeros(2)])
    kernel *= 4 / np.diff(model(pixels).numpy()).mean()
    last.set_weights([kernel, np.array([0.5, -1.5])])
    asked = []

    def kept(reader, views):
        """Returns features of which only the bias is left."""
        asked.append((reader.split, len(views)))
        zeros = np.zeros((reader.count, len(kernel)), np.float16)
        features = types.SimpleNamespace(
            take=zeros.__getitem__, shape=(len(kernel),)
        )
        return [features] * len(views)

    strategy = tf.distribute.get_strategy()
    predictor = split_prediction.SplitPredictor(
        strategy,
        model,
        flip_average,
        WorkerGroup(strategy, None),
        8,
        types.SimpleNamespace(kept=kept),
    )
    found = {}
    for split in ("train", "validation"):
        reader = Reader(str(data), manifest, split)
        found[split] = np.concatenate([*predictor.predict(reader)])
        assert found[split].shape == (reader.count, 2)
    assert asked == [("validation", 1 + flip_average)]
    share = 1 / (1 + np.exp(-2))
    np.testing.assert_allclose(found["validation"][:, 0], share, rtol=1e-5)
    logits = model(pixels).numpy()
    if flip_average:
        logits = (logits + model(pixels[:, :, ::-1]).numpy()) / 2
    wanted = tf.nn.softmax(logits).numpy()
    # They are decoded by another decoder.
    np.testing.assert_allclose(found["train"], wanted, atol=0.02)
    assert wanted[:, 0].max() < share / 2
