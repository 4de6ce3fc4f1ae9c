"""`report.html`: what it says, and how a real browser shows it."""

import base64
import io
import json
import re
import shutil

import browser
import numpy as np
import pytest
from conftest import write_noise
from PIL import Image
from training import train_here

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from trainer.inference import calibration
from trainer.inference import figures
from trainer.inference import tables
from trainer.reporting import charts
from trainer.reporting import page
from trainer.reporting import predictions

CLASSES = ("<b>cat & 'dog'", "été")


@pytest.fixture(scope="module", params=["original", "raw"])
def made(request, tmp_path_factory, tf):
    """A run, its data set, and its photos; the encoding is a parameter."""
    root = tmp_path_factory.mktemp("report")
    photos = write_noise(root / "photos", classes=CLASSES, count=20)
    raw = {"encoding": "raw", "image_size": 40}
    prepare(
        PrepareConfig(
            str(photos),
            str(root / "data"),
            splits="train:8,validation:4,test:8",
            **(raw if request.param == "raw" else {}),
        )
    )
    model = root / "model"
    train_here(root / "data", model, frozen_epochs=2, finetune_epochs=1)
    return model, root / "data", photos


def text_of(model):
    return (model / "report.html").read_text()


def test_figures_are_those_of_the_files(made):
    model, data, _ = made
    text = text_of(model)
    result = json.loads((model / "evaluation.json").read_text())
    assert f"<b>{100 * result['accuracy']:.2f}%</b>accuracy on the test" in text
    low, high = result["interval"]
    assert f"<b>{100 * low:.2f}% to {100 * high:.2f}%</b>95% interval" in text
    for row in result["confusion_matrix"]:
        for count in row:
            assert f'%)">{count}</td>' in text
    # Names of classes are text.
    assert "<b>cat" not in text
    assert "&lt;b&gt;cat &amp; &#39;dog&#39;" in text
    fingerprint = manifest_lib.load(data).fingerprint
    assert fingerprint[:12] in text
    assert "--frozen_epochs=2" in text
    assert "--dropout" not in text  # at its default


def test_mistakes_are_shown_with_their_own_pictures(made):
    model, data, photos = made
    summary = predictions.read(
        model / "predictions.csv", sorted(CLASSES), worst=100
    )
    assert len(summary.right) == 16
    assert summary.worst, "the test needs mistakes: an untrained network's"
    text = text_of(model)
    found = re.findall(
        r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', text
    )
    assert len(found) == len(summary.worst) == (~summary.right).sum()
    encoding = manifest_lib.load(data).encoding
    for (content, name), one in zip(found, summary.worst, strict=True):
        assert one.label != one.predicted
        assert one.file.rpartition("/")[2] in name
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        with Image.open(photos / one.file) as photo:
            wanted = photo.convert("RGB")
            if encoding == "raw":
                wanted = wanted.resize((40, 40))
            # Noise: the mean of every other photo's pixels is as near, so
            # the pixels themselves are compared.
            gap = np.abs(
                np.asarray(picture, float) - np.asarray(wanted, float)
            ).mean()
        assert gap < 25, name


def test_it_is_written_again(made, run, tmp_path):
    model, _, _ = made
    before = text_of(model)
    (model / "report.html").unlink()
    done = run("trainer.report", f"--model_dir={model}")
    assert done.returncode == 0, done.stderr
    assert text_of(model) == before
    copy = tmp_path / "unfinished"
    shutil.copytree(model, copy)
    (copy / "DONE.json").unlink()
    done = run("trainer.report", f"--model_dir={copy}")
    assert done.returncode == 65
    assert "is not finished" in done.stderr


@pytest.mark.parametrize("made", ["original"], indirect=True)
def test_what_lacks_is_named(made, run, tmp_path):
    model, _, _ = made
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    figures = json.loads((copy / "evaluation.json").read_text())
    del figures["calibration_error"]
    (copy / "evaluation.json").write_text(json.dumps(figures))
    before = text_of(copy)
    for says in ("is of an earlier version", "predictions.csv is missing"):
        done = run("trainer.report", f"--model_dir={copy}")
        assert done.returncode == 65
        assert says in done.stderr and "shardtune evaluate" in done.stderr
        assert "Traceback" not in done.stderr
        (copy / "predictions.csv").unlink(missing_ok=True)
    assert text_of(copy) == before


def test_mistakes_are_kept_by_how_sure_they_were(tmp_path):
    path = tmp_path / "predictions.csv"
    shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    tables.write_predictions(
        path,
        ["a", "b"],
        zip(
            ["w.jpg", "x.jpg", "y.jpg", "z.jpg"],
            ["b", "b", "b", "a"],
            shares.astype(np.float32),
            strict=True,
        ),
    )
    found = predictions.read(path, ["a", "b"], worst=2)
    assert [one.file for one in found.worst] == ["w.jpg", "z.jpg"]
    assert found.worst[0].of_label == pytest.approx(0.1)
    assert found.right.tolist() == [False, False, True, False]
    np.testing.assert_allclose(found.score, [0.1, 0.4, 0.7, 0.8], rtol=1e-6)
    assert found.second.tolist() == [True, True, True, False]
    assert predictions.read(path, ["a", "b"], worst=0).worst == []


def test_many_classes_stay_a_small_page():
    count = 200
    generator = np.random.default_rng(0)
    labels = generator.integers(0, count, 5000).astype(np.int32)
    shares = generator.dirichlet(np.full(count, 0.1), 5000).astype(np.float32)
    names = [f"class {n:03d}" for n in range(count)]
    chosen = calibration.Calibration(1.0, False, None)
    result = figures.measure(
        figures.gather(labels, [shares], count, chosen), names
    )
    assert page._matrix(result) == []
    classes = page._classes(result)
    assert len(classes["rows"]) + classes["hidden"] == len(set(labels))
    scores = [row["f1"] for row in classes["rows"]]
    assert scores == sorted(scores) and len(scores) == 40
    confusions = page._confusions(result)
    counts = [one["images"] for one in confusions]
    assert counts == sorted(counts, reverse=True) and len(counts) == 20
    matrix = np.array(result["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    assert counts[0] == matrix.max()


def test_drawings_take_the_page_s_colour():
    epochs = [
        {
            "epoch": n,
            "phase": "frozen" if n < 3 else "finetune",
            "loss": 1 / n,
            "accuracy": 1 - 1 / n,
            "val_loss": 1.1 / n,
            "val_accuracy": 0.9 - 1 / n,
        }
        for n in range(1, 5)
    ]
    drawing = charts.curves(epochs, 4)
    assert drawing == charts.curves(epochs, 4)  # the same data, the same file
    assert "currentColor" in drawing and "#010203" not in drawing
    assert ">validation</text>" in drawing
    assert "#000000" not in drawing  # unreadable in the dark


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    return browser.opener(tmp_path_factory)


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(browse, made, tmp_path, width, scheme):
    model, _, _ = made
    browser.check(browse, model / "report.html", tmp_path, width, scheme)
