"""Where data sets go, what classes may be called, and what lies in between."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import unicodedata

import pytest
from conftest import ROOT
from conftest import write_classes
from conftest import write_image

from data_prep.config import PrepareConfig
from data_prep.dataset import labels
from data_prep.dataset import manifest as manifest_lib
from data_prep.images import unread
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from data_prep.runtime.errors import remedy
from data_prep.sources import listing


def make(source, output, **options):
    return prepare(
        PrepareConfig(
            source=str(source), output_dir=str(output), workers=1, **options
        )
    )


@pytest.fixture
def source(tmp_path):
    return write_classes(tmp_path / "photos", count=10)


# Outputs.


def check_whole(run, data):
    names = set(os.listdir(data))
    assert "manifest.json" in names
    assert "incomplete" not in names
    done = run("data_prep.verify", f"--data_dir={data}")
    assert done.returncode == 0, done.stderr


def test_an_empty_folder_stays_the_one_it_is(run, source, tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o750)
    (data / "lost+found").mkdir()
    before = data.stat()
    make(source, data)
    assert (data.stat().st_ino, data.stat().st_mode) == (
        before.st_ino,
        before.st_mode,
    )
    check_whole(run, data)


def test_the_manifest_moves_up_last(source, tmp_path, monkeypatch):
    moved = []
    replace = pathlib.Path.replace

    def record(path, target):
        if path.parent != target.parent:
            moved.append(path.name)
        return replace(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", record)
    (tmp_path / "data").mkdir()
    make(source, tmp_path / "data")
    assert len(moved) > 6
    assert moved.index("manifest.json") == len(moved) - 1


def test_a_link_to_an_empty_folder_stays_one(run, source, tmp_path):
    (tmp_path / "disk").mkdir()
    data = tmp_path / "data"
    data.symlink_to(tmp_path / "disk")
    make(source, data)
    assert data.is_symlink()
    check_whole(run, tmp_path / "disk")
    with pytest.raises(DataError, match="already exists and is not empty"):
        make(source, data)


def test_a_link_to_nothing_leads_to_a_new_folder(run, source, tmp_path):
    data = tmp_path / "data"
    data.symlink_to(tmp_path / "later")
    make(source, data)
    assert data.is_symlink()
    check_whole(run, tmp_path / "later")


def in_a_mount(place, options, script):
    """Runs a script in which a folder is a disk of its own, if that may be."""
    place.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs {options} none {place}"
    command = ["unshare", "-m", "bash", "-ec"]
    if (
        not shutil.which("unshare")
        or subprocess.run([*command, mount]).returncode
    ):
        pytest.skip("needs the right to mount")
    return subprocess.run(
        [*command, f"{mount}; {script}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_a_mount_point_is_written_inside(source, tmp_path):
    data = tmp_path / "data"
    prepare_command = (
        f"{sys.executable} -m data_prep.task --source={source} "
        f"--output_dir={data} --workers=1"
    )
    done = in_a_mount(
        data,
        "",
        f"{prepare_command}; ls {data}; "
        f"{sys.executable} -m data_prep.verify --data_dir={data}",
    )
    assert done.returncode == 0, done.stderr
    assert "manifest.json" in done.stdout
    assert "incomplete" not in done.stdout
    assert not os.listdir(data)  # it was on the other disk


def test_a_read_only_disk_is_refused_at_the_start(source, tmp_path):
    done = in_a_mount(
        tmp_path / "data",
        "-o ro",
        f"{sys.executable} -m data_prep.task --source={source} "
        f"--output_dir={tmp_path / 'data'}",
    )
    assert done.returncode == 65
    assert "cannot be made" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "audit" not in done.stderr  # no image was opened


def test_what_to_do_about_a_read_only_disk():
    error = OSError(30, "Read-only file system")
    assert remedy(error).startswith("make the disk writable")
    assert remedy(OSError(28, "No space left")).startswith("free some space")


def test_a_failed_run_leaves_the_folder_empty(source, tmp_path):
    (source / "cat" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    data = tmp_path / "data"
    data.mkdir()
    with pytest.raises(DataError, match="bad.png"):
        make(source, data)
    assert os.listdir(data) == []


def test_a_killed_run_is_swept(run, source, tmp_path):
    data = tmp_path / "data"
    left = data / "incomplete" / "scratch"
    left.mkdir(parents=True)
    (left / "catalogue.sqlite").write_text("half")
    make(source, data)
    check_whole(run, data)


def test_what_is_not_ours_is_not_swept(source, tmp_path):
    data = tmp_path / "data"
    (data / "incomplete").mkdir(parents=True)
    (data / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="already exists and is not empty"):
        make(source, data)
    assert (data / "notes.txt").read_text() == "mine"


# Names of classes.

SEPARATORS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_name_of_two_lines_is_refused(tmp_path, separator):
    source = write_classes(
        tmp_path / "photos", ("dog", f"cat{separator}s"), count=5
    )
    with pytest.raises(DataError, match="does not fit on one line"):
        make(source, tmp_path / "data")
    with pytest.raises(DataError, match="does not fit on one line"):
        labels.write(tmp_path / "labels.txt", [f"cat{separator}"])


@pytest.mark.parametrize(
    "names, message",
    [
        (("cats", "cats "), r"'cats ' has spaces around it"),
        (("cats", " "), "' ' is blank"),
        (("cats", "\u3000"), r"'\\u3000' is blank"),
        (
            ("\u00e9t\u00e9", "e\u0301te\u0301"),
            "looks as .* in other code points",
        ),
    ],
)
def test_names_that_nobody_tells_apart_are_refused(tmp_path, names, message):
    assert len(set(map(unicodedata.normalize, ["NFC"] * 2, names))) < 3
    source = write_classes(tmp_path / "photos", names, count=5)
    (source / names[0] / "bad.png").write_bytes(b"")  # it is not opened
    with pytest.raises(DataError, match=message) as caught:
        make(source, tmp_path / "data")
    assert "bad.png" not in str(caught.value)


def test_odd_names_are_read_as_they_were_written(tmp_path):
    names = ["a\tb", 'c "d"', "été", "x, y", "\\n", "#", "\ufeffmark"]
    path = tmp_path / "labels.txt"
    labels.write(path, names)
    assert labels.read(path) == names
    source = write_classes(tmp_path / "photos", names, count=5)
    make(source, tmp_path / "data")
    found = labels.read(tmp_path / "data" / "label.labels.txt")
    assert found == manifest_lib.load(tmp_path / "data").classes
    assert sorted(found) == sorted(names)


# What lies among the images.

NO_IMAGES = {
    "notes.txt": b"of 2020",
    "Thumbs.db": b"\xd0\xcf\x11\xe0" + bytes(600),
    "desktop.ini": b"\xff\xfe[\0",
    "empty.txt": b"",
    "README": "Fotos für das Modell\n".encode() * 40,
    "film.mp4": b"\0\0\0\x18ftypmp42",
}
IMAGES = {
    "cut.jpg": b"\xff\xd8\xff",
    "words.jpg": b"no image",
    "empty.png": b"",
    "scan.tif": b"II*\0....",
    "scan": b"MM\0*....",
    "phone.heic": b"\0\0\0\x18ftypheic",
    "drawing.svg": b"<svg/>",
    "0fa3": bytes(range(256)),
}


def test_files_that_are_no_images_are_counted_and_left_out(
    run, source, tmp_path
):
    for name, content in NO_IMAGES.items():
        (source / "cat" / name).write_bytes(content)
    (source / "cat" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    shutil.copy(source / "dog" / "000.png", source / "dog" / "no ending")
    write_image(source / "dog" / "no ending", 99, format="PNG")
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'data'}",
    )
    assert done.returncode == 0, done.stderr
    assert f"no_image{len(NO_IMAGES):>19}  is no image; left out" in done.stdout
    audit = json.loads((tmp_path / "data" / "audit.json").read_text())
    named = {f["file"]: f["kind"] for f in audit["findings"]}
    assert named == {
        **{f"cat/{name}": "no_image" for name in NO_IMAGES},
        "cat/.DS_Store": "ignored",
    }
    manifest = manifest_lib.load(tmp_path / "data")
    assert sum(split.count for split in manifest.splits.values()) == 21
    assert manifest.skipped == len(NO_IMAGES)


def test_damaged_images_and_other_formats_stop_the_run(source, tmp_path):
    for name, content in IMAGES.items():
        (source / "cat" / name).write_bytes(content)
    with pytest.raises(
        DataError, match=f"{len(IMAGES)} of 28 images"
    ) as caught:
        make(source, tmp_path / "data")
    for name in IMAGES:
        assert f"cat/{name} " in str(caught.value)
    for name in ("TIFF", "HEIF or AVIF", "SVG"):
        assert f"not read ({name})" in str(caught.value)


@pytest.mark.parametrize("length", [unread.START - 1, unread.START, 2000])
def test_text_is_text_where_it_is_cut(length):
    text = ("ä" * length).encode()[: unread.START]
    assert not unread.is_image("README", text)
    assert unread.is_image("README", text + b"\xff"[: 512 - len(text) or None])


# Sources that are none.


@pytest.mark.parametrize(
    "name, message",
    [
        ("photos/*", "is no folder, but a pattern. Pass the folder itself"),
        ("pets.tar", "is an archive. Unpack it"),
        ("pets.zip", "is an archive. Unpack it"),
        ("pets.csv", "pass --source=csv:.*pets.csv"),
        ("pets.jpg", "is a file. Expected a folder"),
        ("nothing", "is no folder. Expected a folder"),
    ],
)
@pytest.mark.parametrize("pattern", ["", "kaggle"])
def test_sources_that_are_no_folder(source, tmp_path, name, message, pattern):
    shutil.make_archive(str(tmp_path / "pets"), "zip", source)
    with tarfile.open(tmp_path / "pets.tar", "w") as tar:
        tar.add(source)
    (tmp_path / "pets.csv").write_text("path,label\n")
    write_image(tmp_path / "pets.jpg", 5)
    with pytest.raises(DataError, match=message):
        make(tmp_path / name, tmp_path / "data", label_pattern=pattern)


@pytest.mark.parametrize("scheme", ["https", "http", "ftp", "sftp"])
@pytest.mark.parametrize("kind", ["", "csv:"])
def test_pages_are_no_stores(tmp_path, scheme, kind):
    url = f"{scheme}://example.org/pets.csv"
    with pytest.raises(UsageError, match="is no object storage. Download"):
        make(kind + url, tmp_path / "data")


def test_one_photo_per_class(tmp_path):
    source = write_classes(tmp_path / "photos", count=1)
    with pytest.raises(DataError, match="too few for train, validation, test"):
        make(source, tmp_path / "data")


def test_a_dangling_link_of_a_class_is_not_lost(source, tmp_path):
    """The disk with the cows is not mounted."""
    (source / "cow").symlink_to(source / "unmounted")
    with pytest.raises(DataError, match="cow does not exist"):
        make(source, tmp_path / "data")
    assert listing.find_problem(str(source / "cow"), str(source))
