"""Tables as they are published: other columns, ids, endings, missing files."""

import json

import numpy as np
import pytest
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

# 120 breeds, from 60 images to 1.
SIZES = [max(1, 60 // (rank + 1)) for rank in range(120)]


def write_noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def write_rows(table, rows, delimiter=","):
    text = "".join(delimiter.join(row) + "\n" for row in rows)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text(text)
    return f"csv:{table}"


def make(source, tmp_path, **options):
    config = PrepareConfig(
        source=source,
        output_dir=str(tmp_path / "data"),
        workers=1,
        **options,
    )
    return prepare(config)


def audit_of(tmp_path):
    return json.loads((tmp_path / "data" / "audit.json").read_text())


def files_of(tmp_path, kind):
    findings = audit_of(tmp_path)["findings"]
    return [f["file"] for f in findings if f["kind"] == kind]


def test_a_published_table_of_dog_breeds(run, tmp_path):
    """Columns id and breed, a folder of .jpg files, more rows than files."""
    root = tmp_path / "breeds"
    rows = []
    missing = 0
    for breed, size in enumerate(SIZES):
        for number in range(size):
            name = f"{breed * 1000 + number:032x}"
            rows.append((name, f"breed {breed:03d}", "", "x,y"[:1]))
            write_noise(root / "train" / f"{name}.jpg", (breed, number))
        if breed < 50:  # of those, more rows than files
            rows.append((f"f{breed:031x}", f"breed {breed:03d}", "", ""))
            missing += 1
    np.random.default_rng(0).shuffle(rows)
    header = ("id", "breed", "note", "source")
    source = write_rows(root / "labels.csv", [header, *rows])
    command = [
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'data'}",
        "--path_template=train/{id}",
        "--label_column=breed",
        "--workers=2",
    ]
    stopped = run(*command)
    assert stopped.returncode == 65
    assert f"{missing} findings of missing_file (is listed" in stopped.stderr
    assert "images are bad" not in stopped.stderr
    assert "--on_bad_image=skip" in stopped.stderr
    done = run(*command, "--on_bad_image=skip")
    assert done.returncode == 0, done.stderr
    assert f"missing_file{missing:>15}" in done.stdout
    found = manifest_lib.load(tmp_path / "data")
    assert found.classes == [f"breed {breed:03d}" for breed in range(120)]
    counts = np.array([s.class_counts for s in found.splits.values()])
    np.testing.assert_array_equal(counts.sum(axis=0), SIZES)
    assert counts[0].min() >= 1  # train
    large = np.array(SIZES) >= 3
    assert counts[:, large].min() >= 1
    assert found.skipped == missing == len(files_of(tmp_path, "missing_file"))
    audit = audit_of(tmp_path)
    assert audit["files"] == len(rows)
    assert audit["good"] == len(rows) - missing
    small = np.array(found.classes)[~large]
    assert set(files_of(tmp_path, "class_not_in_split")) == set(small)


def write_images(root, names=("a.jpg", "b.PNG", "c.jpeg", "d.png")):
    for seed, name in enumerate(names):
        write_noise(root / name, seed)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_delimiters_and_stems(tmp_path, delimiter):
    root = tmp_path / "root"
    write_images(root, ("x/a.jpg", "x/b.PNG", "x/c.d.jpeg", "y/d.png"))
    rows = [
        (" name ", "kind", "fold", "more"),
        ("x/a", " cat", "train", "1"),
        (" x/b", "cat ", " Valid ", ""),
        ("x/c.d", "dog", "training"),
        ("y/d.png", "dog", "val", "1"),
    ]
    source = write_rows(root / "t.csv", rows, delimiter)
    found = make(
        source,
        tmp_path,
        path_column="name",
        label_column="kind",
        split_column="fold",
    )
    assert found.classes == ["cat", "dog"]
    assert list(found.splits) == ["train", "validation"]
    assert [s.class_counts for s in found.splits.values()] == [[1, 1], [1, 1]]


def test_a_template_of_several_columns(tmp_path):
    root = tmp_path / "root"
    names = [f"{c}/part 1/{n}.jpg" for c in ("cat", "dog") for n in range(4)]
    write_images(root, names)
    rows = [("c", "part no", "n")]
    rows += [(n[:3], "1", n.rpartition("/")[2][0]) for n in names]
    source = write_rows(root / "t.csv", rows)
    found = make(
        source,
        tmp_path,
        path_template="{c}/part {part no}/{n}.jpg",
        label_column="c",
    )
    assert sum(split.count for split in found.splits.values()) == 8


def test_a_stem_of_two_files_is_named(tmp_path):
    root = tmp_path / "root"
    write_images(root, ("a.jpg", "a.png", "b.jpg", "c.jpg"))
    rows = [("path", "label"), ("a", "cat"), ("b", "dog"), ("c", "dog")]
    source = write_rows(root / "t.csv", rows)
    with pytest.raises(DataError, match="is one of several: a with .jpg, .png"):
        make(source, tmp_path)


def test_a_stem_leads_nowhere_else(tmp_path):
    root = tmp_path / "root"
    write_images(root)
    write_noise(tmp_path / "secret.jpg", 9)
    rows = [("path", "label"), ("../secret", "cat"), ("a", "cat")]
    source = write_rows(root / "t.csv", [*rows, ("b", "dog"), ("d", "dog")])
    with pytest.raises(DataError, match="../secret leads out of the source"):
        make(source, tmp_path)


def test_rows_that_repeat_and_rows_that_contradict(tmp_path):
    root = tmp_path / "root"
    write_images(root, [f"{n}.png" for n in range(8)])
    (root / "link").symlink_to(root)
    rows = [(f"{n}.png", "cat" if n % 2 else "dog") for n in range(8)]
    same = [rows[3], ("./3.png", "cat"), ("link/4.png", "dog"), ("5", "cat")]
    header = ("path", "label")
    source = write_rows(root / "t.csv", [header, *rows, *same])
    found = make(source, tmp_path)
    assert sum(split.count for split in found.splits.values()) == 8
    findings = audit_of(tmp_path)["findings"]
    assert [(f["file"], f["detail"]) for f in findings] == [
        ("3.png", "3 times"),
        ("4.png", "2 times"),
        ("5.png", "2 times"),
    ]
    assert {f["kind"] for f in findings} == {"repeated"}
    source = write_rows(root / "t.csv", [header, *rows, ("link/4.png", "cat")])
    with pytest.raises(DataError, match="4.png is listed as dog and as cat"):
        make(source, tmp_path / "again")


def test_a_file_in_two_splits_is_named(tmp_path):
    root = tmp_path / "root"
    write_images(root)
    rows = [("path", "label", "split"), ("a", "cat", "train")]
    rows += [("b", "dog", "train"), ("a", "cat", "test")]
    source = write_rows(root / "t.csv", rows)
    with pytest.raises(DataError, match="a.jpg is listed in two splits"):
        make(source, tmp_path)


def test_cells_that_are_empty(tmp_path):
    root = tmp_path / "root"
    write_images(root)
    rows = [
        ("label", "path"),
        ("cat", "a"),
        ("", "b"),
        ("dog",),
        (),
        ("dog", "d"),
    ]
    source = write_rows(root / "t.csv", rows)
    with pytest.raises(DataError, match="line 4 of .* names no path"):
        make(source, tmp_path)
    source = write_rows(root / "t.csv", [*rows[:3], *rows[4:], ("cat", "c")])
    with pytest.raises(DataError, match=r"b.PNG has no label \(line 3 of"):
        make(source, tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"path_column": "id"}, "0 columns 'id'.*by --path_column"),
        ({"label_column": "breed"}, "0 columns 'breed'.*by --label_column"),
        ({"split_column": "fold"}, "0 columns 'fold'.*by --split_column"),
        ({"path_template": "x/{id}"}, "0 columns 'id'.*--path_template"),
        ({"path_template": "x/id"}, "names no column"),
        ({"path_template": "{a}", "path_column": "b"}, "Leave one out"),
    ],
)
def test_columns_that_are_not_there(tmp_path, options, message):
    source = write_rows(tmp_path / "t.csv", [("path", "label")])
    with pytest.raises(UsageError, match=message):
        make(source, tmp_path, **options)


@pytest.mark.parametrize(
    "option", ["path_column", "path_template", "label_column", "split_column"]
)
def test_columns_are_of_tables(option):
    with pytest.raises(UsageError, match="are about tables"):
        PrepareConfig(source="photos", output_dir="x", **{option: "{x}"})
