"""`shardtune.Classifier`: images of every kind, and what is like them."""

import io
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import write_noise
from PIL import Image
from test_docs import blocks
from training import environment
from training import train_fitted

import shardtune


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tf):
    """A model that tells the two classes apart, and new photos of them."""
    root = tmp_path_factory.mktemp("classifier")
    train_fitted(root)
    write_noise(root / "noise", count=1, seed=9)
    (root / "new").mkdir()
    for name in ("cat", "dog"):
        (root / "noise" / name / "000.jpg").rename(root / f"new/{name}.jpg")
    (root / "new" / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def classifier(folder):
    return shardtune.Classifier.load(folder / "model")


@pytest.mark.slow
def test_what_the_document_shows(folder):
    """Its code, in a process of its own; digits of the numbers may differ."""
    found = list(blocks(ROOT / "docs" / "python.md"))
    (place,) = [n for n, (_, text) in enumerate(found) if "explain(" in text]
    (_, code), (_, shown) = found[place : place + 2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH=str(ROOT)),
    )
    assert done.stderr == ""  # nothing of TensorFlow either

    def masked(text):
        return re.sub(r"\d+", "0", text)

    assert masked(done.stdout) == masked(shown)
    assert (folder / "model" / "neighbours.npz").exists()


def test_all_kinds_of_images_give_the_same(folder, classifier):
    path = folder / "new" / "dog.jpg"
    # Lossless, as an array of pixels cannot be decoded at another scale.
    png = folder / "dog.png"
    Image.open(path).save(png)
    array = np.asarray(Image.open(path))
    kinds = [png, str(png), png.read_bytes(), array, Image.open(png)]
    found = classifier.predict(kinds)
    assert found == [found[0]] * 5
    assert found[0].label == "dog"
    assert list(found[0].probabilities) == classifier.classes == ["cat", "dog"]
    assert sum(found[0].probabilities.values()) == pytest.approx(1)
    for one in (str(png), png, png.read_bytes(), array, array[None]):
        assert classifier.predict(one) == found[:1]
    assert classifier.predict([]) == []
    grey, rgba = array[..., 0], Image.open(png).convert("RGBA")
    assert len(classifier.predict([grey, rgba])) == 2


def test_more_images_than_a_batch_keep_their_order(folder, classifier):
    paths = [folder / "new" / f"{name}.jpg" for name in ("cat", "dog", "dog")]
    found = classifier.predict(paths * 12)
    assert [one.label for one in found] == ["cat", "dog", "dog"] * 12


@pytest.mark.parametrize(
    "image, says",
    [
        ("absent.jpg", "^absent.jpg does not exist$"),
        (b"no image", "^image 1 is no image of a known format$"),
        (b"", "^image 1 is empty$"),
        (np.zeros((2, 2, 3)), r"^image 1 is an array of float64 \[2, 2, 3\]"),
        (np.zeros((2, 2, 4), np.uint8), r"array of uint8 \[2, 2, 4\]"),
        (np.zeros((0, 2, 3), np.uint8), r"array of uint8 \[0, 2, 3\]"),
        (np.uint8(3) + np.zeros((), np.uint8), "^image 1 is a"),
        (7, "^image 1 is a int. Expected a path"),
    ],
)
def test_a_bad_image_is_named(folder, classifier, image, says):
    with pytest.raises(shardtune.BadImage, match=says):
        classifier.predict([folder / "new" / "cat.jpg", image])


def test_a_training_image_is_nearest_to_itself(folder, classifier):
    photo = folder / "photos" / "train" / "dog" / "004.jpg"
    first, second = classifier.explain(photo, 2)
    assert first.file == "train/dog/004.jpg"
    assert first.label == second.label == "dog"
    assert first.similarity == pytest.approx(1, abs=1e-3)
    assert first.similarity > second.similarity
    with Image.open(io.BytesIO(first.picture)) as picture:
        assert picture.size == (96, 96)
        wanted = np.asarray(Image.open(photo)).mean(axis=(0, 1))
        seen = np.asarray(picture).mean(axis=(0, 1))
        np.testing.assert_allclose(seen, wanted, atol=3)


def test_what_is_kept_outlives_the_data_but_not_the_model(folder, tf):
    """Another export is not explained by features of the former one."""
    copy = folder / "copy"
    shutil.copytree(folder / "model", copy)
    photo = folder / "photos" / "train" / "cat" / "001.jpg"
    shardtune.Classifier.load(copy).explain(photo)
    kept = (copy / "neighbours.npz").read_bytes()
    (folder / "data").rename(folder / "elsewhere")
    try:
        again = shardtune.Classifier.load(copy)
        assert again.explain(photo, 1)[0].file == "train/cat/001.jpg"
        assert (copy / "neighbours.npz").read_bytes() == kept
        with open(copy / "model.keras", "ab") as file:
            file.write(b"\0")  # a zip file may end in a comment
        (copy / "SHA256SUMS").unlink()
        with pytest.raises(Exception, match="manifest"):
            shardtune.Classifier.load(copy).explain(photo)
    finally:
        (folder / "elsewhere").rename(folder / "data")
