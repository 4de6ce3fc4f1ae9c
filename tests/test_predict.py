"""`trainer.predict`: which files, and what is said of them."""

import csv
import errno
import io
import json
import os
import shutil

import numpy as np
import object_stores
import pytest
from conftest import hash_tree
from conftest import write_image
from PIL import Image
from training import prepare
from training import train_here

from data_prep.images import plain
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from trainer.inference import answers
from trainer.inference import class_folders
from trainer.inference import image_paths
from trainer.inference import prediction
from trainer.inference.exported import ExportedModel
from trainer.inference.prediction import Answer


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("new/a.jpg", "new/below/b.jpg", "new/c.png", "new/.hidden"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    "paths, found",
    [
        (["new"], ["new/a.jpg", "new/below/b.jpg", "new/c.png"]),
        (["new/c.png", "new/a.jpg"], ["new/a.jpg", "new/c.png"]),
        (["new/*.jpg"], ["new/a.jpg"]),
        (["new/**/*.jpg"], ["new/a.jpg", "new/below/b.jpg"]),
        (["new/a.jpg", "new/[a-c].*"], ["new/a.jpg", "new/c.png"]),
        (["@list.txt"], ["new/a.jpg", "new/below/b.jpg"]),
        (["-"], ["new/c.png"]),
    ],
)
def test_files_that_paths_name(folder, paths, found, monkeypatch):
    (folder / "list.txt").write_text("new/a.jpg\n\nnew/below\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("new/c.png\n"))
    assert image_paths.list_files(paths) == found


@pytest.mark.parametrize("name", ["odd[1].jpg", "@odd.jpg", "-.jpg"])
def test_a_name_that_looks_like_a_pattern_is_a_file(folder, name):
    (folder / name).touch()
    assert image_paths.list_files([name]) == [name]


@pytest.mark.parametrize(
    "path, says",
    [
        ("new/*.gif", r"no file matches new/\*\.gif"),
        ("@absent.txt", "@absent.txt cannot be read"),
        ("empty", "there is no file in empty"),
    ],
)
def test_words_that_name_no_file_are_refused(folder, path, says):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=says):
        image_paths.list_files([path])


@pytest.mark.parametrize(
    "path, problem",
    [
        ("absent.jpg", "does not exist"),
        ("pipe", "cannot be read: it is no regular file"),
        ("/dev/zero", "cannot be read: it is no regular file"),
        ("new/a.jpg", "is empty"),
        ("a\0b", "cannot be read: embedded null byte"),
        ("long.jpg", "is no image of a known format"),
        ("huge.png", "is 10000x9000 pixels, more than the 89 million"),
    ],
)
def test_what_cannot_be_read_is_said(folder, path, problem):
    """Reading a pipe would wait, and a device would never end."""
    os.mkfifo(folder / "pipe")
    with open(folder / "long.jpg", "wb") as file:
        file.truncate(1 << 40)  # no image: it is not read on
    Image.new("1", (10000, 9000)).save(folder / "huge.png")
    assert image_paths.list_files([path]) == [path]
    with pytest.raises(plain.BadImage) as caught:
        plain.load(path)
    assert caught.value.problem.startswith(problem)
    assert str(caught.value).startswith(f"{path} {problem}")


def test_what_decoders_show_differently_is_encoded_again(tmp_path):
    """EXIF turns an image: the bytes that the model sees are upright."""
    image = Image.new("RGB", (8, 6), (200, 0, 0))
    image.putpixel((0, 0), (0, 0, 200))
    image.save(tmp_path / "plain.png")
    kept = (tmp_path / "plain.png").read_bytes()
    assert plain.load(str(tmp_path / "plain.png")) == kept
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter of a turn
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(
        io.BytesIO(plain.load(str(tmp_path / "turned.png")))
    ) as seen:
        assert seen.size == (6, 8)
        assert seen.getpixel((5, 0)) == (0, 0, 200)


def test_a_pipe_in_a_folder_is_left_out(folder):
    os.mkfifo(folder / "new" / "pipe")
    assert "new/pipe" not in image_paths.list_files(["new"])


CLASSES = ["cat", "dog", "fox"]
PROBABILITIES = np.array([[0.2, 0.7, 0.1], [0.4, 0.35, 0.25]], np.float32)


def answers_of(below):
    """Returns what `prediction.predict` would say, and of a bad file."""
    found = [
        Answer(file, "", CLASSES[row.argmax()] * int(row.max() >= below), row)
        for file, row in zip(("a.jpg", "=b.jpg"), PROBABILITIES, strict=True)
    ]
    return [*found, Answer("@c", "is empty")]


def test_the_table_shows_the_likeliest_classes():
    one, two, _ = answers_of(0.5)
    assert answers.table_line(one, CLASSES, 7, 1) == "a.jpg    dog 0.7000"
    assert answers.table_line(two, CLASSES, 7, 2) == (
        "=b.jpg   unsure (cat 0.4000  dog 0.3500)"
    )
    assert answers.table_line(one, CLASSES, 0, 9).endswith("fox 0.1000")
    odd = one._replace(file="\x1b[2J\udcff")
    assert answers.table_line(odd, CLASSES, 0, 1).startswith(r"\x1b[2J\udcff  ")


def test_a_spreadsheet_finds_no_formula(tmp_path):
    with answers.open_csv(tmp_path / "out", CLASSES) as write:
        for answer in answers_of(0.5):
            write(answer)
    assert (tmp_path / "out").read_text().splitlines() == [
        "file,label,predicted,probability_cat,probability_dog,"
        "probability_fox,problem",
        "a.jpg,,dog,0.200000003,0.699999988,0.100000001,",
        "'=b.jpg,,,0.400000006,0.349999994,0.25,",
        "'@c,,,,,,is empty",
    ]


def test_a_class_is_no_formula_either(tmp_path):
    with answers.open_csv(tmp_path / "out", CLASSES) as write:
        write(Answer("a.jpg", "", "=cat", PROBABILITIES[0]))
        write(Answer("b.jpg", "@is no image"))
    _, *rows = csv.reader((tmp_path / "out").read_text().splitlines())
    assert [row[2] for row in rows] == ["'=cat", ""]
    assert rows[1][-1] == "'@is no image"


def test_json_lines_name_what_was_not_classified(tmp_path):
    with answers.open_json_lines(tmp_path / "out", CLASSES) as write:
        for answer in answers_of(0.5):
            write(answer)
    one, two, bad = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert one["predicted"] == "dog"
    assert two["predicted"] == ""
    assert list(two["probabilities"]) == CLASSES
    assert bad == {"file": "@c", "problem": "is empty"}


def test_sorting_overwrites_nothing(tmp_path):
    place = class_folders.place
    for name, content in (("a/x.jpg", "1"), ("b/x.jpg", "2"), ("c/x.jpg", "1")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
        # Size and time say nothing: photos of a burst share them.
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / "link.jpg").symlink_to("b/x.jpg")
    root = str(tmp_path / "sorted")

    def put(name, label="cat"):
        found = place(str(tmp_path / name), root, label)
        return found.relative_to(root).as_posix()

    assert put("a/x.jpg") == "cat/x.jpg"
    assert put("b/x.jpg") == "cat/x-1.jpg"
    assert put("b/x.jpg") == "cat/x-1.jpg"  # again
    assert put("c/x.jpg") == "cat/x.jpg"  # the same content
    assert put("link.jpg") == "cat/link.jpg"
    assert put("a/x.jpg", "..") == "%2E%2E/x.jpg"
    assert put("a/x.jpg", "a/b%") == "a%2Fb%25/x.jpg"
    contents = hash_tree(root)
    assert contents["cat/x.jpg"] == b"1"
    assert contents["cat/x-1.jpg"] == contents["cat/link.jpg"] == b"2"
    assert (tmp_path / "b/x.jpg").samefile(f"{root}/cat/link.jpg")
    assert not os.path.islink(f"{root}/cat/link.jpg")


def test_sorting_copies_where_links_cannot_be(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "x.jpg").write_text("1")
    for _ in range(2):
        found = class_folders.place(str(tmp_path / "x.jpg"), tmp_path, "cat")
        assert found == tmp_path / "cat" / "x.jpg"
    (tmp_path / "x.jpg").write_text("2")
    found = class_folders.place(str(tmp_path / "x.jpg"), tmp_path, "cat")
    assert found.name == "x-1.jpg"
    assert hash_tree(tmp_path / "cat") == {"x.jpg": b"1", "x-1.jpg": b"2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tf):
    """A tiny run on oblong photos of two classes."""
    root = tmp_path_factory.mktemp("predict")
    data = prepare(root)
    train_here(data, root / "model", finetune_epochs=0)
    return root / "model"


def test_answers_come_in_the_order_of_the_files(model, tmp_path, monkeypatch):
    """Whatever is bad among them, over several batches."""
    monkeypatch.setattr(prediction, "BATCH", 4)
    files = [tmp_path / f"{n:02d}.png" for n in range(11)]
    for number, file in enumerate(files):
        write_image(file, 20 * number, size=(60, 30))
    for number in (0, 4, 5, 6, 7, 9):
        files[number].write_text("no image")
    exported = ExportedModel(model)
    found = list(prediction.predict(exported, list(map(str, files))))
    assert [answer.file for answer in found] == list(map(str, files))
    bad = [n for n, answer in enumerate(found) if answer.problem]
    assert bad == [0, 4, 5, 6, 7, 9]
    for number in (1, 10):
        alone = exported.classify([files[number].read_bytes()])[0]
        np.testing.assert_allclose(
            found[number].probabilities, alone, atol=1e-6
        )
        assert found[number].predicted == exported.classes[alone.argmax()]
    assert not np.allclose(found[1].probabilities, found[10].probabilities)


def test_unsure_is_judged_by_calibrated_probabilities(model, tmp_path):
    """What a temperature makes less sure is left out, though it looks sure."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    content = json.loads((copy / "calibration.json").read_text())
    image = tmp_path / "one.png"
    write_image(image, 250, size=(60, 30))

    def ask(below, **changes):
        (copy / "calibration.json").write_text(
            json.dumps({**content, **changes})
        )
        (found,) = prediction.predict(ExportedModel(copy), [str(image)], below)
        return found

    plain_one = ask(0.0, temperature=100.0, applied=False)
    sure = float(plain_one.probabilities.max())
    assert ask(sure - 1e-4, temperature=1.0, applied=False).predicted
    unsure = ask(sure - 1e-4, temperature=100.0, applied=False)
    assert unsure.predicted == ""
    np.testing.assert_allclose(unsure.probabilities, 0.5, atol=0.1)
    assert ask(sure - 1e-4, temperature=100.0, applied=True).predicted


def test_the_command_prints_a_table_and_sorts(model, tmp_path, run):
    write_image(tmp_path / "new" / "one.png", 5)
    (tmp_path / "new" / "bad.png").write_text("no image")
    done = run(
        "trainer.predict",
        f"--model_dir={model}",
        "--top_k=2",
        f"--sort_into={tmp_path / 'sorted'}",
        tmp_path / "new" / "*.png",
    )
    assert done.returncode == 65  # one file could not be read
    assert "bad.png is no image" in done.stderr
    line, summary = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/new/one.png  ")
    first, second = line.split("  ")[1:]
    shares = [float(part.split()[1]) for part in (first, second)]
    assert sum(shares) == pytest.approx(1, abs=2e-4)
    assert shares[0] >= shares[1]
    assert (
        summary == f"{tmp_path}/sorted: 1 images, 1 unsure or bad ones left out"
    )
    assert list(hash_tree(tmp_path / "sorted")) == [
        f"{first.split()[0]}/one.png"
    ]


@pytest.mark.parametrize(
    "store", [object_stores.s3_bucket, object_stores.gs_bucket]
)
def test_objects_of_a_store_are_classified(store, model, tmp_path, monkeypatch):
    """A folder, an object and a missing one, as in a list of a million."""
    for bucket in store(monkeypatch):
        for name, value in (("new/a.png", 5), ("new/[1].png", 200)):
            write_image(tmp_path / name, value)
            storage.upload(tmp_path / name, f"{bucket}/{name}")
        storage.write(f"{bucket}/new/.hidden", b"")
        listed = image_paths.list_files([f"{bucket}/new", f"{bucket}/gone"])
        names = [f"{bucket}/{n}" for n in ("gone", "new/[1].png", "new/a.png")]
        assert listed == names
        exported = ExportedModel(model)
        gone, one, two = prediction.predict(exported, listed)
        assert gone.problem == "does not exist"
        for found, name in ((one, "new/[1].png"), (two, "new/a.png")):
            (alone,) = prediction.predict(exported, [str(tmp_path / name)])
            np.testing.assert_array_equal(
                found.probabilities, alone.probabilities
            )
        sorted_to = class_folders.place(two.file, tmp_path, "cat")
        assert sorted_to.read_bytes() == (tmp_path / "new/a.png").read_bytes()
        assert class_folders.place(two.file, tmp_path, "cat") == sorted_to
