"""Files that are whole or absent."""

import csv

import pytest

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
