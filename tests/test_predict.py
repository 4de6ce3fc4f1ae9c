"""`trainer.predict`: which files, and what is said of them."""

import io
import os

import numpy as np
import pytest
from conftest import write_image
from training import prepare
from training import train_here

from data_prep.runtime.errors import DataError
from trainer import predict
from trainer.inference import evaluation


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
    assert predict.list_files(paths) == found


@pytest.mark.parametrize("name", ["odd[1].jpg", "@odd.jpg", "-.jpg"])
def test_a_name_that_looks_like_a_pattern_is_a_file(folder, name):
    (folder / name).touch()
    assert predict.list_files([name]) == [name]


@pytest.mark.parametrize(
    "path, says",
    [
        ("absent.jpg", "absent.jpg does not exist"),
        ("new/*.gif", r"no file matches new/\*\.gif"),
        ("@absent.txt", "@absent.txt cannot be read"),
        ("pipe", "pipe is neither a file nor a folder"),
        ("/dev/zero", "/dev/zero is neither a file nor a folder"),
    ],
)
def test_what_is_no_file_is_refused(folder, path, says):
    """Reading a pipe would wait, and a device would never end."""
    os.mkfifo(folder / "pipe")
    with pytest.raises(DataError, match=says):
        predict.list_files([path])


def test_a_pipe_in_a_folder_is_left_out(folder):
    os.mkfifo(folder / "new" / "pipe")
    assert "new/pipe" not in predict.list_files(["new"])


PROBABILITIES = np.array([[0.2, 0.7, 0.1], [0.4, 0.35, 0.25]], np.float32)


def test_the_table_shows_the_likeliest_classes():
    classes, files = ["cat", "dog", "fox"], ["a.jpg", "longer.jpg"]
    assert predict.table(classes, files, PROBABILITIES, 1, 0.0) == (
        "a.jpg       dog 0.7000\nlonger.jpg  cat 0.4000"
    )
    assert predict.table(classes, files, PROBABILITIES, 2, 0.5) == (
        "a.jpg       dog 0.7000  cat 0.2000\n"
        "longer.jpg  unsure (cat 0.4000  dog 0.3500)"
    )
    last = predict.table(classes, files, PROBABILITIES, 9, 0.0)
    assert last.splitlines()[0].endswith("fox 0.1000")


@pytest.mark.parametrize(
    "write", [evaluation.write_predictions, evaluation.write_json_lines]
)
def test_nothing_is_predicted_where_no_class_is_likely(tmp_path, write):
    path = tmp_path / "out"
    for below, expected in ((0.0, ("dog", "cat")), (0.5, ("dog", ""))):
        write(
            path,
            ["cat", "dog", "fox"],
            ["a.jpg", "b.jpg"],
            ["", ""],
            PROBABILITIES,
            below,
        )
        said = path.read_text().splitlines()[-2:]
        for line, predicted in zip(said, expected, strict=True):
            quoted = f'"predicted": "{predicted}"' in line
            assert quoted or f".jpg,,{predicted},0" in line


def test_the_command_prints_a_table(tmp_path, tf, run):
    data = prepare(tmp_path)
    model = tmp_path / "model"
    train_here(data, model, finetune_epochs=0)
    write_image(tmp_path / "new" / "one.png", 5)
    (tmp_path / "new" / "bad.png").write_text("no image")
    done = run(
        "trainer.predict",
        f"--model_dir={model}",
        "--top_k=2",
        tmp_path / "new" / "*.png",
    )
    assert done.returncode == 65  # one file could not be read
    assert "bad.png is no image" in done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path}/new/one.png  ")
    first, second = line.split("  ")[1:]
    shares = [float(part.split()[1]) for part in (first, second)]
    assert sum(shares) == pytest.approx(1, abs=2e-4)
    assert shares[0] >= shares[1]
