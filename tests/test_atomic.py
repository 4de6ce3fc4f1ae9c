"""Files that are whole or absent."""

import csv
import errno
import pathlib

import pytest
from conftest import write_classes

from data_prep.config import PrepareConfig
from data_prep.dataset import verification
from data_prep.prepare import prepare
from data_prep.runtime import atomic


def test_a_failed_writer_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "new" / "file.txt"
    atomic.write_text(path, "old")
    with pytest.raises(OSError), atomic.replacing(path) as incomplete:
        incomplete.write_text("half")
        assert path.read_text() == "old"
        raise OSError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "file.txt"
    with atomic.replacing(path) as first, atomic.replacing(path) as second:
        first.write_text("first")
        second.write_text("second, and longer")
    assert path.read_text() == "first"  # the one that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_sweep_removes_what_killed_writers_left(tmp_path):
    kept = tmp_path / "file.txt"
    atomic.write_text(kept, "")
    (tmp_path / "incomplete.0123.file.txt").write_text("half")
    (tmp_path / "incomplete.folder").mkdir()
    atomic.sweep(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "file.txt",
        "incomplete.folder",
    }


def test_a_csv_keeps_names_that_are_no_utf_8(tmp_path):
    path = tmp_path / "file.csv"
    names = ["no utf-8 \udcff", 'quote", comma', "two\nlines"]
    with atomic.open_csv(path) as writer:
        writer.writerow(names)
    with open(path, newline="", errors="surrogateescape") as file:
        assert list(csv.reader(file)) == [names]
    assert b"no utf-8 \xff" in path.read_bytes()


@pytest.mark.parametrize("leftover", [False, True])
def test_a_folder_is_moved_file_by_file(tmp_path, mounted_bucket, leftover):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    for name in ("a", "below/z", "last"):
        (source / name).write_text(name)
    if leftover:  # a try that was killed
        target.mkdir()
        (target / "a").write_text("old")
    order = []
    replace = pathlib.Path.replace

    def noted(path, place):
        order.append(path.name)
        return replace(path, place)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pathlib.Path, "replace", noted)
        atomic.move_folder(source, target, "last")
    assert mounted_bucket == ["source"]
    assert order == ["a", "z", "last"]
    assert (target / "a").read_text() == "a"
    assert (target / "below" / "z").read_text() == "below/z"
    assert not source.exists()


def test_a_full_disk_is_no_bucket(tmp_path, monkeypatch):
    (tmp_path / "source").mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        atomic.move_folder(tmp_path / "source", tmp_path / "target", "last")
    assert not (tmp_path / "target").exists()


def test_a_data_set_is_made_on_a_mounted_bucket(tmp_path, mounted_bucket):
    source = write_classes(tmp_path / "photos", count=10)
    data = tmp_path / "data"
    prepare(PrepareConfig(str(source), str(data), workers=1))
    assert mounted_bucket
    verification.verify(str(data))
