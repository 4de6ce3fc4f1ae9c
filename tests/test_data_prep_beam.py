"""The same bytes from Apache Beam as from local processes."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from conftest import hash_tree
from test_data_prep_audit import write_copies
from test_data_prep_audit import write_pictures

from data_prep.beam import Beam
from data_prep.errors import DataError

pytest.importorskip("apache_beam", reason="needs the extra beam")


def test_beam_makes_the_same_bytes(run, tmp_path):
    source = write_pictures(tmp_path / "photos", count=30)
    write_copies(source)
    (source / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    common = (f"--source={source}", "--on_bad_image=skip", "--image_size=64")
    for name, *more in (
        ("local",),
        ("direct", "--runner=beam"),
        (
            "processes",
            "--runner=beam",
            "--beam_options=--runner=DirectRunner "
            "--direct_running_mode=multi_processing --direct_num_workers=2",
        ),
    ):
        data = tmp_path / name / "data"
        done = run("data_prep.task", *common, f"--output_dir={data}", *more)
        assert done.returncode == 0, (name, done.stderr)
        assert os.listdir(data.parent) == ["data"]
    local = hash_tree(tmp_path / "local" / "data")
    assert hash_tree(tmp_path / "direct" / "data") == local
    assert hash_tree(tmp_path / "processes" / "data") == local


def test_an_error_of_the_data_comes_back(tmp_path):
    runner = Beam("", str(tmp_path))
    results = runner.map(fail_at_three, range(5))
    with pytest.raises(DataError, match="^three$"):
        list(results)


def fail_at_three(number):
    if number == 3:
        raise DataError("three")
    return number


def test_bad_images_are_named_by_beam_too(run, tmp_path):
    source = write_pictures(tmp_path / "photos", count=6)
    (source / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'data'}",
        "--runner=beam",
    )
    assert done.returncode == 65, done.stderr
    assert "cat/bad.jpg is no image" in done.stderr
    assert not (tmp_path / "data").exists()


def test_without_beam_it_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['apache_beam'] = None; "
        "sys.modules['apache_beam.options.pipeline_options'] = None; "
        "import runpy; sys.argv[0] = 'data_prep.task'; "
        "runpy.run_module('data_prep.task', run_name='__main__')"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            f"--source={tmp_path / 'photos'}",
            f"--output_dir={tmp_path / 'other' / 'data'}",
            "--runner=beam",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64, done.stderr
    assert "pip install 'shardtune[beam]'" in done.stderr
