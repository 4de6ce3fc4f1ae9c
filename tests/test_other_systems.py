"""macOS and Windows, as far as Linux can stand in for them.

`other_systems/NAME` on PYTHONPATH takes from every process, those that decode
included, what that system lacks. Nothing of it is in the product.
"""

import csv

import numpy as np
import pytest
import training
from conftest import ROOT
from conftest import hash_tree
from conftest import write_noise

from shardtune.commands import COMMANDS


def lacking(system):
    """Returns the environment of a machine of another system."""
    place = ROOT / "tests" / "other_systems" / system
    return training.environment(PYTHONPATH=f"{place}:{ROOT}")


def rows(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_what_macos_lacks_is_taken(run, tmp_path):
    """The stand-in is one: a command that asks for more would fail in it."""
    (tmp_path / "ask.py").write_text("import os; os.sched_getaffinity(0)")
    done = run("ask", env=lacking("macos"), cwd=tmp_path)
    assert "sched_getaffinity" in done.stderr


@pytest.mark.slow
def test_macos_gives_the_same_from_photos_to_predictions(run, tmp_path):
    source = tmp_path / "photos"
    for number, split in enumerate(("train", "validation", "test")):
        write_noise(source / split, count=5, seed=number)
    files = sorted((source / "test").rglob("*.jpg"))
    for place, env in (
        (tmp_path / "linux", None),
        (tmp_path / "macos", lacking("macos")),
    ):
        data, model = place / "data", place / "model"
        for module, *words in (
            ("data_prep.task", f"--source={source}", f"--output_dir={data}"),
            (
                "trainer.task",
                *(f"--data_dir={data}", f"--model_dir={model}"),
                *training.TINY,
                *("--deterministic", "--precision=float32"),
                f"--cache_dir={place / 'cache'}",
            ),
            (
                "trainer.predict",
                *(f"--model_dir={model}", f"--output={place / 'new.csv'}"),
                *files,
            ),
        ):
            done = run(module, *words, env=env or training.environment())
            assert done.returncode == 0, done.stderr
    here, there = tmp_path / "linux", tmp_path / "macos"
    assert hash_tree(there / "data") == hash_tree(here / "data")
    assert training.curve(there / "model") == training.curve(here / "model")
    assert rows(there / "new.csv") == rows(here / "new.csv")
    assert hash_tree(there / "cache").keys() == hash_tree(here / "cache").keys()
    for one, other in zip(
        sorted((there / "cache").iterdir()),
        sorted((here / "cache").iterdir()),
        strict=True,
    ):
        np.testing.assert_array_equal(
            np.fromfile(one, np.uint8), np.fromfile(other, np.uint8)
        )


@pytest.mark.parametrize("name", ["prepare", "train", "submit", "predict"])
def test_windows_is_refused_in_a_line(run, name):
    words = {
        "prepare": ["--source=photos", "--output_dir=data"],
        "train": ["--data_dir=data", "--model_dir=model"],
        "submit": ["--", "--data_dir=data", "--model_dir=model"],
        "predict": ["--model_dir=model", "a.jpg"],
    }[name]
    for module, *rest in (
        ("shardtune", name, *words),
        (COMMANDS[name].module, *words),
    ):
        done = run(module, *rest, env=lacking("windows"))
        assert done.returncode == 64, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: shardtune runs on Linux and macOS")


def test_windows_is_told_what_there_is(run):
    done = run("shardtune", "prepare", "--help", env=lacking("windows"))
    assert done.returncode == 0, done.stderr
    assert "--source" in done.stdout
