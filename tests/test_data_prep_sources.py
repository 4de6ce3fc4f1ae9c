"""Every source: names, tables, TFDS; and names that mean harm."""

import io
import json
import os

import numpy as np
import pytest
from conftest import write_classes
from conftest import write_image
from PIL import Image
from test_data_prep import read_records

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError


def make(source, tmp_path, **options):
    """Prepares in this process; returns manifest and {file: (label, split)}."""
    data = tmp_path / "data"
    manifest = prepare(
        PrepareConfig(
            source=str(source), output_dir=str(data), workers=1, **options
        )
    )
    assert manifest == manifest_lib.load(data)
    found = {
        record.file: (manifest.classes[record.label], split)
        for split in manifest.splits
        for record in read_records(data, manifest, split)
    }
    return manifest, found


def findings_of(tmp_path, kind):
    content = json.loads((tmp_path / "data" / "audit.json").read_text())
    return [f for f in content["findings"] if f["kind"] == kind]


def test_kaggle_file_names(tmp_path):
    source = tmp_path / "train"
    for number in range(20):
        for label, name in enumerate(("cat", "dog")):
            value = 20 * label + number
            write_image(source / f"{name}.{number}.jpg", 5 * value)
    (source / "sampleSubmission.csv").write_text("id,label\n")
    manifest, found = make(
        source, tmp_path, label_pattern="kaggle", splits="train:15,test:5"
    )
    assert manifest.classes == ["cat", "dog"]
    assert manifest.ignored == 1
    assert len(found) == 40
    assert all(
        file.startswith(f"{label}.") for file, (label, _) in found.items()
    )
    assert manifest.splits["test"].class_counts == [5, 5]


def test_food5k_file_names_in_split_folders(tmp_path):
    source = tmp_path / "Food-5K"
    for fold, count in (("training", 6), ("validation", 3), ("evaluation", 2)):
        for number in range(count):
            for label in (0, 1):
                path = source / fold / f"{label}_{number}.jpg"
                write_image(path, 120 * label + 10 * number + count)
    manifest, found = make(source, tmp_path, label_pattern="food5k")
    assert manifest.classes == ["0", "1"]
    assert manifest.name == "food_5k"
    assert found["evaluation/1_1.jpg"] == ("1", "test")
    assert {n: s.class_counts for n, s in manifest.splits.items()} == {
        "train": [6, 6],
        "validation": [3, 3],
        "test": [2, 2],
    }


def test_a_pattern_of_ones_own(tmp_path):
    source = tmp_path / "photos"
    for number in range(4):
        write_image(source / "a" / f"IMG-tabby cat-{number}.png", number)
        write_image(source / "b" / f"IMG-dog-{number}.png", 50 + number)
    manifest, found = make(
        source,
        tmp_path,
        layout="file_names",
        label_pattern="IMG-(?P<label>[a-z ]+)-",
        splits="train:3",
    )
    assert manifest.classes == ["dog", "tabby cat"]
    assert manifest.unassigned == 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_pattern": "("}, "is no regular expression"),
        ({"label_pattern": "[a-z]+"}, "has no group named label"),
        ({"layout": "file_names"}, "needs --label_pattern"),
        (
            {"layout": "class_folders", "label_pattern": "kaggle"},
            "has no meaning",
        ),
        ({"source": "csv:x", "layout": "class_folders"}, "is about folders"),
        ({"source": "csv:x", "label_pattern": "kaggle"}, "has no meaning"),
        ({"fail_on": "duplicate,typo"}, "unknown finding 'typo'"),
        ({"beam_options": "--x"}, "Pass --runner=beam"),
    ],
)
def test_flags_that_do_not_fit(options, message):
    with pytest.raises(UsageError, match=message):
        PrepareConfig(**{"source": "photos", "output_dir": "data", **options})


@pytest.mark.parametrize("delimiter, ending", [(",", "csv"), ("\t", "tsv")])
def test_tables(tmp_path, delimiter, ending):
    root = tmp_path / "Any Place"
    rows = [("label", "path", "note", "split")]
    for number in range(6):
        for label in ("cat", "dog"):
            file = f"images/{label} {number}é.png"
            write_image(root / file, 10 * number + len(rows))
            fold = "Val" if number == 5 else "training"
            path = root / file if number == 4 else file  # absolute, inside
            rows.append((label, str(path), "x", fold))
    table = root / f"labels.{ending}"
    lines = (delimiter.join(row) for row in rows)
    table.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8-sig")
    manifest, found = make(f"csv:{table}", tmp_path)
    assert manifest.name == "labels"
    assert len(found) == 12
    assert found["images/cat 5é.png"] == ("cat", "validation")
    assert found["images/dog 4é.png"] == ("dog", "train")


def test_a_table_that_means_harm(tmp_path):
    """Nothing outside of its folder is read, whatever the rows say."""
    root = tmp_path / "root"
    write_classes(root, count=5)
    write_image(tmp_path / "secret.png", 200)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "pipe.png")
    good = [
        f"{c}/{n:03d}.png,{c},train" for c in ("cat", "dog") for n in range(5)
    ]
    bad = {
        "../secret.png": "leads out of the source",
        str(tmp_path / "secret.png"): "leads out of the source",
        "link.png": "leads out of the source",
        "/etc/passwd": "leads out of the source",
        "cat": "is a folder",
        "pipe.png": "is no regular file",
        "gone.png": "does not exist",
    }
    rows = [f"{path},cat,train" for path in bad]
    table = root / "labels.csv"
    table.write_text("\n".join(["path,label,split", *good, *rows[1:]]) + "\n")
    with pytest.raises(
        DataError,
        match="5 of 16 images are bad(.|\n)*1 findings of missing_file",
    ):
        make(f"csv:{table}", tmp_path)
    extra = ["cat/000.png,cat,holdout", "dog/000.png,,train"]
    text = "\n".join(["path,label,split", *good[1:5], *good[6:], *rows[1:]])
    table.write_text(f"{text}\n{extra[0]}\n{extra[1]}\n")
    manifest, found = make(f"csv:{table}", tmp_path, on_bad_image="skip")
    assert len(found) == 8
    problems = {
        os.path.normpath(root / f["file"]): f["detail"]
        for f in findings_of(tmp_path, "bad_image")
    }
    (missing,) = findings_of(tmp_path, "missing_file")
    problems["gone.png"] = missing["detail"]
    problems[str(root / "gone.png")] = missing["detail"]
    for path, problem in list(bad.items())[1:]:
        assert problems[os.path.normpath(root / path)] == problem
    assert "unknown split 'holdout'" in problems[str(root / "cat/000.png")]
    assert "has no label" in problems[str(root / "dog/000.png")]


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,class\n", r"0 columns 'label'; its first line is \['file', 'cl"),
        ("", r"its first line is \[\]"),
        ("path,label,path\n", "has 2 columns 'path'"),
        ("path,label\n,cat\n", "line 2 of .* names no path"),
        (
            "path,label\na.png,cat\n./x/../a.png,dog\nb.png,dog\n",
            "a.png is listed as cat and as dog",
        ),
        ("path,label\na.png,cat\n\xff", "cannot be read"),
        ("path,label\n", "holds no image of a class"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, message):
    write_image(tmp_path / "a.png", 1)
    table = tmp_path / "labels.csv"
    table.write_bytes(text.encode("latin-1"))
    with pytest.raises((DataError, UsageError), match=message):
        make(f"csv:{table}", tmp_path)


def test_names_that_mean_harm(run, tmp_path):
    """Line breaks, unicode, bytes that are no UTF-8, 255 bytes, links out."""
    source = tmp_path / "photos"
    write_classes(source, count=4)
    names = [
        "line\nbreak.png",
        "\x1b[31mred.png",
        "smile \N{GRINNING FACE}.png",
        os.fsdecode(b"latin \xe9.png"),
        "x" * 251 + ".png",
        "-rf.png",
        "%s{0}.png",
    ]
    for number, name in enumerate(names):
        write_image(source / "cat" / name, 100 + number)
    outside = tmp_path / "outside"
    write_image(outside / "secret.png", 250)
    (source / "dog" / "out.png").symlink_to(outside / "secret.png")
    (source / "dog" / "more").symlink_to(outside)
    (source / "elk").symlink_to(outside)
    (source / "dog" / "loop").symlink_to(source)
    (source / "dog" / "inside.png").symlink_to(source / "dog" / "000.png")
    arguments = (f"--source={source}", f"--output_dir={tmp_path / 'data'}")
    failed = run("data_prep.task", *arguments)
    assert failed.returncode == 65
    assert "4 of 20 images are bad" in failed.stderr
    assert "dog/out.png leads out of the source" in failed.stderr
    assert "elk leads out of the source" in failed.stderr
    assert "dog/loop is a link to a folder" in failed.stderr
    (source / "elk").unlink()
    manifest, found = make(
        source, tmp_path, on_bad_image="skip", splits="train:1.0"
    )
    assert manifest.skipped == 3
    assert {f"cat/{name}" for name in names} <= set(found)
    assert found["dog/inside.png"] == ("dog", "train")
    assert not any("secret" in file or "out.png" in file for file in found)
    shown = run("data_prep.verify", f"--data_dir={tmp_path / 'data'}")
    assert shown.returncode == 0
    # What is printed stays on its line and cannot steer the terminal.
    (source / "cat" / "bad\n\x1b[31m.png").write_text("no image")
    arguments = (f"--source={source}", f"--output_dir={tmp_path / 'other'}")
    failed = run("data_prep.task", *arguments)
    assert r"cat/bad\n\x1b[31m.png is no image" in failed.stderr


@pytest.fixture(scope="module")
def tfds_dir(tf, tmp_path_factory):
    """A data set that TFDS itself generated, prepared and versioned."""
    import tensorflow_datasets as tfds

    class TinyPets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("4.0.1")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(encoding_format="png"),
                        "image/filename": tfds.features.Text(),
                        "label": tfds.features.ClassLabel(
                            names=["dog", "cat"]  # not sorted
                        ),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, _):
            return {"train": self._some(0, 12), "test": self._some(12, 20)}

        def _generate_examples(self):
            raise NotImplementedError

        def _some(self, start, end):
            for number in range(start, end):
                yield (
                    number,
                    {
                        "image": np.full((20, 30, 3), 10 * number, np.uint8),
                        "image/filename": f"{number}.png",
                        "label": number % 2,
                    },
                )

    place = tmp_path_factory.mktemp("tfds")
    TinyPets(data_dir=str(place)).download_and_prepare()
    return place


@pytest.mark.slow
def test_tfds_by_name(run, tfds_dir, tmp_path):
    data = tmp_path / "data"
    done = run(
        "data_prep.task",
        "--source=tfds:tiny_pets:4.*.*",
        f"--output_dir={data}",
        env={**os.environ, "TFDS_DATA_DIR": str(tfds_dir)},
    )
    assert done.returncode == 0, done.stderr
    manifest = manifest_lib.load(data)
    assert manifest.classes == ["cat", "dog"]
    counts = {n: s.class_counts for n, s in manifest.splits.items()}
    assert counts == {"train": [6, 6], "test": [4, 4]}
    for split in manifest.splits:
        for record in read_records(data, manifest, split):
            assert record.file.startswith(f"{split}/tiny_pets-{split}.tfrecord")
            assert (record.width, record.height) == (30, 20)
            value = np.asarray(Image.open(io.BytesIO(record.image)))[0, 0, 0]
            number = value // 10  # the class names are not sorted in TFDS
            assert manifest.classes[record.label] == ("dog", "cat")[number % 2]
    assert sorted(os.listdir(tmp_path)) == ["data"]
    assert not list(data.glob("scratch*"))


def test_a_tfds_directory_split_anew(tfds_dir, tmp_path):
    manifest, found = make(
        f"tfds:{tfds_dir}/tiny_pets/4.0.1",
        tmp_path,
        splits="train:7,validation:3",
    )
    assert manifest.name == "tiny_pets"
    assert manifest.splits["train"].class_counts == [7, 7]
    assert manifest.splits["validation"].class_counts == [3, 3]


def test_tfds_that_is_not_there(tf, tmp_path):
    with pytest.raises(DataError, match="cannot be had"):
        make("tfds:no_such_set", tmp_path)
    assert not os.listdir(tmp_path)
