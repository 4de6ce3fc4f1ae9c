"""`report.html`: what it says, and how a real browser shows it."""

import base64
import io
import json
import pathlib
import re
import shutil

import browser
import numpy as np
import pytest
from conftest import hash_tree
from conftest import write_noise
from PIL import Image
from training import train_here

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from trainer import report
from trainer.inference import calibration
from trainer.inference import figures
from trainer.inference import tables
from trainer.reporting import augmented
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


@pytest.mark.slow
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
        model / "predictions.csv", sorted(CLASSES), worst=100, best=2
    )
    assert len(summary.right) == 16
    assert summary.worst, "the test needs mistakes: an untrained network's"
    text = text_of(model)
    found = re.findall(
        r'<img src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', text
    )
    # Each beside what spoke for it; mistakes with three training images.
    assert len(summary.worst) == (~summary.right).sum()
    assert len(found) == 5 * len(summary.worst) + 2 * summary.right.sum()
    train = {file for _, file in found if file.startswith("training image")}
    assert len(train) > 1
    found = found[: 5 * len(summary.worst) : 5]
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


def test_pictures_lie_beside_it(made):
    model, _, _ = made
    for name in ("curves.png", "confusion_matrix.png"):
        with Image.open(model / name) as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels[2, 2] == 255 and pixels.min() < 60  # dark on white
    assert len(text_of(model)) < 5_000_000


def test_heat_is_what_speaks_for_a_class(tf):
    """Of a pooled linear head it is the weighted sum of the feature maps.

    Worked out by hand: the gradient of the class's logit by each cell of map c
    is its weight over the number of cells, so the mean of it is too.
    """
    import keras

    from trainer.inference import grad_cam

    image = keras.Input((4, 6, 3))
    # Two maps: red and the negative of green, of every second pixel.
    maps = keras.layers.Conv2D(2, 1, strides=2, use_bias=False, name="conv")
    pool = keras.layers.GlobalAveragePooling2D(name="pool")
    logits = keras.layers.Dense(2, use_bias=False, name="logits")
    model = keras.Model(image, logits(pool(maps(image))))
    maps.set_weights([np.array([[[[1, 0], [0, -1], [0, 0]]]], np.float32)])
    logits.set_weights([np.array([[2, -1], [3, 1]], np.float32)])
    pixels = np.zeros((1, 4, 6, 3), np.uint8)
    red = np.array([[10, 20, 30], [40, 50, 60]])
    green = np.array([[0, 10, 30], [0, 20, 40]])
    pixels[0, ::2, ::2, 0], pixels[0, ::2, ::2, 1] = red, green
    for k, wanted in ((0, 2 * red - 3 * green), (1, -red - green)):
        wanted = np.maximum(wanted, 0)
        wanted = wanted / max(1, wanted.max())
        found = grad_cam.heat(model, pixels, np.array([k]))
        np.testing.assert_allclose(found[0], wanted, atol=1e-6)
    both = np.concatenate([pixels, pixels[:, ::-1]])
    one, other = grad_cam.heat(model, both, np.array([0, 0]))
    assert not np.allclose(one, other)
    # Each image by its own greatest; nothing where nothing speaks for it.
    three = np.concatenate([pixels, pixels // 2, np.zeros_like(pixels)])
    found = grad_cam.heat(model, three, np.array([0, 0, 0]))
    assert found.max(axis=(1, 2)).tolist() == [1, 1, 0]


def test_heat_goes_through_a_head_that_is_not_linear(tf):
    """Against the definition, by differences of the logit."""
    import keras

    from trainer.groups import Model
    from trainer.inference import grad_cam
    from trainer.models.classifier import build_classifier

    keras.utils.set_random_seed(3)
    settings = Model(base="scratch", head="flatten", head_units=4, dropout=0.0)
    model = build_classifier(3, 46, settings)
    kernel = model.get_layer("logits")
    kernel.set_weights(
        [
            np.random.default_rng(0).normal(size=w.shape)
            for w in kernel.get_weights()
        ]
    )
    images = np.random.default_rng(1).integers(0, 255, (1, 46, 46, 3), np.uint8)
    found = grad_cam.heat(model, images, np.array([2]))[0]
    to_maps = keras.Model(model.input, model.get_layer("pool").input)
    maps = to_maps(images.astype(np.float32)).numpy()
    start = keras.Input(maps.shape[1:])
    x = start
    for layer in model.layers[model.layers.index(model.get_layer("pool")) :]:
        x = layer(x)
    head = keras.Model(start, x)
    gradient = np.zeros_like(maps)
    for cell in np.ndindex(maps.shape):
        step = np.zeros_like(maps)
        step[cell] = 1e-2
        up, down = head(maps + step), head(maps - step)
        gradient[cell] = (up - down)[0, 2] / 2e-2
    wanted = np.maximum((gradient.mean(axis=(1, 2)) * maps[0]).sum(axis=-1), 0)
    wanted = wanted / max(wanted.max(), 1e-12)
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_the_nearest_are_found_part_by_part():
    from trainer.inference import cosine

    generator = np.random.default_rng(0)
    rows = generator.normal(size=(50, 8)).astype(np.float32)
    queries = 3 * rows[[7, 41]] + generator.normal(scale=0.01, size=(2, 8))
    numbers, cosines = cosine.nearest(queries, np.array_split(rows, 6), 3)
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for query, found, near in zip(queries, numbers, cosines, strict=True):
        every = units @ query / np.linalg.norm(query)
        assert found.tolist() == np.argsort(-every)[:3].tolist()
        np.testing.assert_allclose(near, every[found], rtol=1e-5)
    assert numbers[:, 0].tolist() == [7, 41]
    assert cosine.nearest(queries, [rows[:2]], 3)[0].shape == (2, 2)


@pytest.mark.slow
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


@pytest.mark.slow
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


def cut(path):
    """As a disk that failed leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_at_a_line(path):
    """So that what is left looks whole."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:-1]))


def other_class(path):
    path.write_text(path.read_text().replace("été", "dog"))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("made", ["original"], indirect=True)
@pytest.mark.parametrize(
    "name, damage, says",
    [
        ("config.json", cut, "is no config of a run"),
        ("config.json", pathlib.Path.unlink, "is no model directory"),
        ("DONE.json", cut, "DONE.json is damaged"),
        ("DONE.json", pathlib.Path.unlink, "is not finished"),
        ("evaluation.json", cut, "shardtune evaluate"),
        ("evaluation.json", empty, "shardtune evaluate"),
        ("evaluation.json", pathlib.Path.unlink, "is missing: `shardtune"),
        ("predictions.csv", pathlib.Path.unlink, "is missing: `shardtune"),
        ("predictions.csv", empty, "is damaged, or of other classes"),
        ("predictions.csv", cut, "is damaged, or of other classes"),
        ("predictions.csv", cut_at_a_line, "it has 15 images, evaluation"),
        ("predictions.csv", other_class, "is damaged, or of other classes"),
        ("metrics.jsonl", cut, "metrics.jsonl is damaged or missing"),
        ("environment.json", cut, "environment.json is damaged or missing"),
        ("checkpoints", shutil.rmtree, "holds no finished epoch yet"),
    ],
)
def test_what_is_damaged_is_named_and_nothing_written(
    made, tmp_path, name, damage, says
):
    model, _, _ = made
    copy = shutil.copytree(model, tmp_path / "model")
    damage(copy / name)
    before = hash_tree(copy)
    with pytest.raises(DataError, match=re.escape(says)) as raised:
        report.main(report.ReportConfig(str(copy)))
    assert str(copy) in str(raised.value)
    assert hash_tree(copy) == before


def test_mistakes_are_kept_by_how_sure_they_were(tmp_path):
    path = tmp_path / "predictions.csv"
    shares = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    tables.write_predictions(
        path,
        ["a", "b"],
        zip(
            ["w.jpg", "x.jpg", "y.jpg", "z.jpg"],
            [1, 1, 1, 0],
            shares.astype(np.float32),
            strict=True,
        ),
    )
    found = predictions.read(path, ["a", "b"], worst=2, best=1)
    assert [one.file for one in found.worst] == ["w.jpg", "z.jpg"]
    assert found.worst[0].of_label == pytest.approx(0.1)
    assert found.right.tolist() == [False, False, True, False]
    np.testing.assert_allclose(found.score, [0.1, 0.4, 0.7, 0.8], rtol=1e-6)
    assert [one.file for one in found.best] == ["y.jpg"]
    assert found.second.tolist() == [True, True, True, False]
    assert predictions.read(path, ["a", "b"], worst=0, best=0).worst == []


def test_the_audit_is_that_of_the_data(tmp_path):
    assert page._audit(tmp_path) == []
    content = {"files": 9, "good": 7, "counts": {"near_duplicate": 2}}
    (tmp_path / "audit.json").write_text(json.dumps(content))
    wanted = [("images", 9), ("usable", 7), ("near duplicate", 2)]
    assert page._audit(tmp_path) == wanted


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
    result["confusion_matrix"][3][3] = 5000  # no confusion
    confusions = page._confusions(result)
    counts = [one["images"] for one in confusions]
    assert counts == sorted(counts, reverse=True) and len(counts) == 20
    matrix = np.array(result["confusion_matrix"])
    np.fill_diagonal(matrix, 0)
    assert counts[0] == matrix.max()
    for one in confusions:
        place = names.index(one["label"]), names.index(one["predicted"])
        assert matrix[place] == one["images"]


@pytest.mark.parametrize("exported", [0, 1])
def test_one_epoch_is_numbered_whole(exported):
    names = ("loss", "val_loss", "accuracy", "val_accuracy")
    row = {"phase": "finetune", "epoch": 1, **dict.fromkeys(names, 0.5)}
    for axes in charts.curves([row], exported).axes:
        low, high = axes.get_xlim()
        seen = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert seen == list(range(exported, 2))


def test_drawings_show_their_figures():
    (axes,) = charts.matrix(np.array([[3, 1], [0, 8]]), ["a", "b"]).axes
    shown = axes.images[0].get_array()
    np.testing.assert_allclose(shown, [[0.75, 0.25], [0, 1]])
    texts = {one.get_position(): one.get_text() for one in axes.texts}
    assert texts == {(0, 0): "3", (1, 0): "1", (0, 1): "0", (1, 1): "8"}
    right = np.array([True, False, True, True])
    sure = np.array([0.61, 0.62, 0.95, 1], np.float32)
    (axes,) = charts.reliability(right, sure).axes
    bars = {bar.get_x(): bar.get_height() for bar in axes.patches}
    np.testing.assert_allclose(
        [*bars.items()], [[9 / 15, 0.5], [14 / 15, 1]], atol=1e-6
    )
    score = np.array([0.1, 0.4, 0.5, 0.9], np.float32)
    second = np.array([False, True, False, True])
    (axes,) = charts.receiver(second, score).axes
    corners = [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    np.testing.assert_allclose(axes.lines[-1].get_xydata(), corners)


def test_curves_mark_phases_and_the_exported_epoch():
    names = ("loss", "val_loss", "accuracy", "val_accuracy")
    epochs = [
        {"epoch": n, "phase": phase, **dict(zip(names, values, strict=True))}
        for n, phase, *values in (
            (1, "frozen", 4, 3, 0.1, 0.2),
            (2, "frozen", 3, 2, 0.3, 0.4),
            (3, "finetune", 2, 1, 0.5, 0.6),
        )
    ]
    for axes, name in zip(
        charts.curves(epochs, 2).axes, ("loss", "accuracy"), strict=True
    ):
        drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
        for label, key in (("training", name), ("validation", f"val_{name}")):
            wanted = [(one["epoch"], one[key]) for one in epochs]
            np.testing.assert_allclose(drawn.pop(label), wanted)
        upright = [line[:, 0].tolist() for line in drawn.values()]
        assert upright == [[2.5, 2.5], [2, 2]]
        assert axes.get_ylabel() == name


def test_a_grid_has_each_image_in_its_place():
    images = np.zeros((2, 3, 5, 5, 3), np.uint8)
    images += np.arange(6, dtype=np.uint8).reshape(2, 3, 1, 1, 1)
    found = augmented.grid(images)
    assert found.shape == (2 * 9 + 4, 3 * 9 + 4, 3)
    for row, column in np.ndindex(2, 3):
        top, left = 4 + 9 * row, 4 + 9 * column
        part = found[top : top + 5, left : left + 5]
        assert (part == 3 * row + column).all()
    assert (found == 255).all(axis=-1).sum() == 22 * 31 - 6 * 25


def test_drawings_stay_small():
    generator = np.random.default_rng(0)
    names = ("loss", "val_loss", "accuracy", "val_accuracy")
    epochs = [
        {"phase": "finetune", "epoch": n, **dict.fromkeys(names, share)}
        for n, share in enumerate(generator.random(3000), start=1)
    ]
    assert len(charts.svg(charts.curves(epochs, 4))) < 300_000
    second = generator.random(100_000) < 0.5
    score = (0.3 * second + generator.random(len(second))).astype(np.float32)
    assert len(charts.svg(charts.receiver(second, score))) < 100_000


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
    drawing = charts.svg(charts.curves(epochs, 4))
    assert drawing == charts.svg(
        charts.curves(epochs, 4)
    )  # the same data, the same file
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
