"""Which split images get: small sets, small classes, a validation carved out."""

import collections
import re
import shutil

import numpy as np
import pytest
from conftest import write_classes
from conftest import write_image
from test_data_prep_audit import picture
from test_data_prep_audit import write_pictures
from test_data_prep_sources import findings_of
from test_data_prep_sources import make

from data_prep.catalogue import splitting
from data_prep.catalogue.database import Catalogue
from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError


def class_counts(manifest):
    return {
        name: dict(zip(manifest.classes, split.class_counts, strict=True))
        for name, split in manifest.splits.items()
    }


def write_numbered(source, label, count, first=0):
    """Writes flat PNG files, each with another colour than all others."""
    for number in range(first, first + count):
        size = (20 + number // 250, 16 + sum(label.encode()) % 97)
        write_image(source / label / f"{number}.png", number % 250, size=size)


@pytest.mark.parametrize("seed", range(5))
def test_a_small_set_is_stratified(tmp_path, seed):
    source = write_classes(tmp_path / "photos", count=60)
    manifest, _ = make(source, tmp_path, seed=seed)
    assert class_counts(manifest) == {
        "train": {"cat": 48, "dog": 48},
        "validation": {"cat": 6, "dog": 6},
        "test": {"cat": 6, "dog": 6},
    }


def test_groups_leave_no_split_without_a_class(tmp_path):
    """Twelve images that are three groups: 4, 4 and 4."""
    source = write_pictures(tmp_path / "photos", ("cat",), count=12)
    for number in range(3):
        for copy in range(4):
            path = source / "dog" / f"{number} {copy}.jpg"
            path.parent.mkdir(exist_ok=True)
            picture(500 + number).save(path, quality=60 + 10 * copy)
    for seed in range(4):
        manifest, found = make(source, tmp_path, seed=seed)
        counts = class_counts(manifest)
        assert [counts[s]["dog"] for s in counts] == [4, 4, 4]
        assert [counts[s]["cat"] for s in counts] == [10, 1, 1]
        assert "class_not_in_split" not in manifest.findings
        shutil.rmtree(tmp_path / "data")


def ranks_by_split(found, catalogue_ranks):
    splits = collections.defaultdict(list)
    for file, (label, split) in found.items():
        splits[label, split].append(catalogue_ranks[file])
    return splits


@pytest.mark.parametrize("options", [{}, {"splits": "train:0.6,test:0.4"}])
def test_adding_images_moves_no_other_of_a_large_class(
    tmp_path, monkeypatch, options
):
    monkeypatch.setattr(splitting, "CUT_BY_NUMBER", 20)
    source = write_classes(tmp_path / "photos", count=40)
    _, before = make(source, tmp_path, **options)
    shutil.rmtree(tmp_path / "data")
    for number in range(60):
        for label, name in enumerate(("cat", "dog", "elk")):
            path = source / name / f"added {number}.png"
            write_image(path, 80 * label + number, size=(50, 40))
    shutil.copy(source / "dog/003.png", source / "dog/0 a copy.png")
    (source / "cat/007.png").rename(source / "cat/another name.png")
    before["cat/another name.png"] = before.pop("cat/007.png")
    _, after = make(source, tmp_path, **options)
    assert len(after) == 80 + 180 + 1
    assert {file: after[file] for file in before} == before
    assert {split for _, split in after.values()} == {
        split for _, split in before.values()
    }


def test_adding_images_to_a_small_class_moves_few(tmp_path):
    """A tenth more images: of 100 none but those next to a boundary move."""
    source = write_classes(tmp_path / "photos", count=100)
    _, before = make(source, tmp_path)
    shutil.rmtree(tmp_path / "data")
    for name in ("cat", "dog"):
        write_numbered(source, name, 10, first=1000)
    _, after = make(source, tmp_path)
    moved = [f for f in before if after[f] != before[f]]
    assert len(moved) <= 6
    assert not any(
        {before[f][1], after[f][1]} == {"train", "test"} for f in moved
    )


@pytest.fixture
def long_tail(tmp_path):
    source = tmp_path / "photos"
    for label, count in (("many", 50), ("some", 3), ("two", 2), ("one", 1)):
        write_numbered(source, label, count)
    return source


def test_small_classes_stay_in_train_and_it_is_said(long_tail, tmp_path, run):
    done = run(
        "data_prep.task",
        f"--source={long_tail}",
        f"--output_dir={tmp_path / 'data'}",
    )
    assert done.returncode == 0, done.stderr
    assert re.search("class_not_in_split +2 ", done.stdout)
    told = {
        f["file"]: f["detail"]
        for f in findings_of(tmp_path, "class_not_in_split")
    }
    assert told == {
        "one": "has no image in validation and test",
        "two": "has no image in validation and test",
    }


@pytest.mark.parametrize(
    "policy, train, validation",
    [
        ("", [50 - 10, 1, 1, 2], [5, 0, 1, 0]),
        ("train", [50 - 10, 1, 1, 2], [5, 0, 1, 0]),
        ("drop", [50 - 10, 1], [5, 1]),
    ],
)
def test_small_classes(long_tail, tmp_path, policy, train, validation):
    manifest, found = make(long_tail, tmp_path, small_classes=policy)
    assert manifest.splits["train"].class_counts == train
    assert manifest.splits["validation"].class_counts == validation
    if policy == "drop":
        assert manifest.classes == ["many", "some"]
        assert manifest.dropped == 3
        assert not any(f.startswith(("one", "two")) for f in found)
    else:
        assert manifest.classes == ["many", "one", "some", "two"]


def test_small_classes_can_stop_the_run(long_tail, tmp_path):
    with pytest.raises(DataError) as stopped:
        make(long_tail, tmp_path, small_classes="fail")
    assert "2 classes have too few images" in str(stopped.value)
    assert "'one' (1 images), 'two' (2 images)" in str(stopped.value)
    options = {"splits": "train:2,test:1"}
    with pytest.raises(DataError, match="too few images for train:2, test:1"):
        make(long_tail, tmp_path, **options)
    manifest, _ = make(long_tail, tmp_path, small_classes="train", **options)
    assert manifest.splits["train"].class_counts == [2, 1, 2, 2]
    assert manifest.splits["test"].class_counts == [1, 0, 1, 0]
    shutil.rmtree(long_tail / "some")
    with pytest.raises(DataError, match="drop leaves 1 classes"):
        make(long_tail, tmp_path / "x", small_classes="drop")


def test_one_image_per_class_is_told(tmp_path):
    source = write_classes(tmp_path / "photos", count=1)
    with pytest.raises(DataError) as stopped:
        make(source, tmp_path)
    assert "no image is left for validation" in str(stopped.value)
    assert "fewer than 3 different images" in str(stopped.value)
    manifest, _ = make(source, tmp_path, splits="train:1.0")
    assert manifest.splits["train"].class_counts == [1, 1]


@pytest.fixture
def without_validation(tmp_path):
    source = tmp_path / "photos"
    write_classes(source / "train", count=30)
    write_numbered(source / "train", "elk", 1)
    write_classes(source / "test", count=5, first=100)
    return source


def test_a_validation_split_is_carved_out_of_train(
    without_validation, tmp_path
):
    manifest, found = make(
        without_validation, tmp_path, validation_fraction=0.1
    )
    assert class_counts(manifest) == {
        "train": {"cat": 27, "dog": 27, "elk": 1},
        "validation": {"cat": 3, "dog": 3, "elk": 0},
        "test": {"cat": 5, "dog": 5, "elk": 0},
    }
    for file, (_, split) in found.items():
        assert (split == "test") == file.startswith("test/")
    shutil.rmtree(tmp_path / "data")
    manifest, _ = make(without_validation, tmp_path)
    assert set(manifest.splits) == {"train", "test"}


def test_carving_leaves_kept_leaks_where_they_are(without_validation, tmp_path):
    source = without_validation
    for number in range(8):
        shutil.copy(
            source / f"train/cat/{number:03d}.png",
            source / f"test/cat/leak {number}.png",
        )
    _, found = make(source, tmp_path, validation_fraction=0.5, on_leak="keep")
    for number in range(8):
        assert found[f"train/cat/{number:03d}.png"][1] == "train"
        assert found[f"test/cat/leak {number}.png"][1] == "test"
    carved = [f for f, (_, split) in found.items() if split == "validation"]
    assert len([f for f in carved if "/cat/" in f]) == 11
    assert len([f for f in carved if "/dog/" in f]) == 15


def test_carving_where_it_cannot_be_meant(without_validation, tmp_path):
    source = without_validation
    with pytest.raises(UsageError, match="is split by --splits"):
        make(
            source,
            tmp_path,
            validation_fraction=0.1,
            splits="train:0.5,test:0.5",
        )
    with pytest.raises(UsageError, match="is split by --splits"):
        make(source / "train", tmp_path, validation_fraction=0.1)
    write_classes(source / "val", count=3, first=200)
    with pytest.raises(UsageError, match="gives one, of 6 images"):
        make(source, tmp_path, validation_fraction=0.1)


def test_new_images_fill_up_the_splits_of_a_former_set(tmp_path):
    """By fractions of all images, pinned ones included."""
    source = write_classes(tmp_path / "photos", count=20)
    _, before = make(source, tmp_path)
    (tmp_path / "data").rename(tmp_path / "former")
    for name in ("cat", "dog"):
        write_numbered(source, name, 20, first=1000)
    manifest, after = make(
        source, tmp_path, splits_from=str(tmp_path / "former")
    )
    assert {f: after[f] for f in before} == before
    assert class_counts(manifest) == {
        "train": {"cat": 32, "dog": 32},
        "validation": {"cat": 4, "dog": 4},
        "test": {"cat": 4, "dog": 4},
    }


def test_splitting_runs_the_same_statements_however_many_classes(
    tmp_path, monkeypatch
):
    """Ten times as many classes make no more scans of the whole table."""
    ran = collections.Counter()
    execute = Catalogue.execute

    def count(self, sql, values=()):
        ran[classes] += 1
        return execute(self, sql, values)

    for classes in (12, 120):
        source = tmp_path / f"{classes} classes"
        for number in range(classes):
            write_numbered(source, f"{number:03d}", 3, first=3 * number)
        with monkeypatch.context() as patch:
            patch.setattr(Catalogue, "execute", count)
            make(source, tmp_path / str(classes))
    assert ran[12] == ran[120]


def test_records_are_mixed_by_the_seed(tmp_path):
    """A reader that streams meets no class at a stretch, nor files in order."""
    source = write_classes(tmp_path / "photos", count=50)
    orders = []
    for seed in (0, 0, 1):
        manifest, _ = make(source, tmp_path, seed=seed)
        index = manifest_lib.load_index(manifest, tmp_path / "data", "train")
        labels = index["label"]
        # 39.5 of 80 independent labels on average, +-4.4.
        assert 25 < np.count_nonzero(labels[1:] != labels[:-1]) < 55
        orders.append(index["id"].tolist())
        shutil.rmtree(tmp_path / "data")
    assert orders[0] == orders[1] != orders[2]
