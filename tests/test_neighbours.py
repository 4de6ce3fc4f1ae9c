"""What `shardtune serve` shows of training: the images nearest to one."""

import shutil

import cv2
import numpy as np
import pytest
from training import train_fitted

from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime.errors import DataError
from trainer.inference import neighbours
from trainer.pipeline.reader import Reader


@pytest.fixture(scope="module")
def made(tmp_path_factory, tf):
    """A model directory, and the folder of its photos and data set."""
    root = tmp_path_factory.mktemp("neighbours")
    return train_fitted(root), root


def test_a_training_image_is_nearest_to_itself(made):
    model, root = made
    found = neighbours.load(str(model))
    for file in ("cat/003.jpg", "dog/010.jpg"):
        content = (root / "photos/train" / file).read_bytes()
        first, *others = found.nearest(content, 5)
        assert first.file == f"train/{file}"
        assert first.label == file[:3]
        assert first.similarity == pytest.approx(1, abs=2e-3)
        cosines = [near.similarity for near in (first, *others)]
        assert cosines == sorted(cosines, reverse=True) and len(cosines) == 5
        # Each has its own picture, with its colours in their order.
        for near in (first, *others):
            photo = cv2.imread(str(root / "photos" / near.file))
            shown = cv2.imdecode(
                np.frombuffer(near.picture, np.uint8), cv2.IMREAD_COLOR
            )
            assert shown.shape == (96, 96, 3)
            gap = cv2.resize(shown, photo.shape[1::-1]).astype(int) - photo
            assert np.abs(gap).mean() < 20, near.file


def test_of_many_images_some_are_kept_evenly(made, monkeypatch):
    model, root = made
    monkeypatch.setattr(neighbours, "_MOST", 5)
    base = neighbours._base_of_exported(model / "model.keras")
    content = neighbours._compute(str(model), base)
    manifest = manifest_lib.load(root / "data")
    reader = Reader(root / "data", manifest, "train")
    rows = [0, 5, 10, 15, 21]
    assert content["files"].tolist() == reader.files_of(np.array(rows))
    names = [manifest.classes[reader.labels[row]] for row in rows]
    assert content["labels"].tolist() == names and len(set(names)) == 2
    assert len(content["features"]) == len(content["lengths"]) == 5


def test_what_is_kept_outlives_the_data_but_not_the_model(
    made, tmp_path, monkeypatch
):
    model, root = made
    neighbours.load(str(model))
    copy = shutil.copytree(model, tmp_path / "model")
    content = (root / "photos/train/dog/004.jpg").read_bytes()
    hidden = root / "hidden"
    (root / "data").rename(hidden)
    try:
        found = neighbours.load(str(copy))
        (near,) = found.nearest(content, 1)
        assert near.file == "train/dog/004.jpg"
        # Another export: what is kept is not of it.
        with open(copy / "model.keras", "ab") as file:
            file.write(b"\0")
        with pytest.raises(DataError, match="is not what was exported"):
            neighbours.load(str(copy))
        (copy / "SHA256SUMS").unlink()
        monkeypatch.setattr(
            neighbours, "_base_of_exported", lambda _: found._base
        )
        with pytest.raises(DataError, match=str(root / "data")):
            neighbours.load(str(copy))
    finally:
        hidden.rename(root / "data")
