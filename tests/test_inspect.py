"""Wrong labels: found by `trainer.inspect`, mended by `--corrections`."""

import base64
import csv
import io

import numpy as np
import pytest
from conftest import write_noise
from PIL import Image
from training import flags

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from trainer.feature_extraction import suspicion


def test_a_verdict_by_hand():
    """Images of class 0 are usually 0.7 sure, those of class 1 0.6."""
    shares = np.array(
        [[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.55, 0.45]]
    )
    labels = np.array([0, 0, 0, 1, 1])
    suggested, margin, wrong = suspicion.confident(shares, labels)
    assert wrong.tolist() == [False, False, True, False, False]
    assert suggested.tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_allclose(margin, [0.8, 0.8, -0.4, 0.6, -0.1])


def test_planted_labels_and_a_stranger_are_found():
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 60)
    features = generator.normal(size=(180, 20)) + 4 * np.eye(20)[labels]
    features[100] = -6 * np.eye(20)[7]
    given = labels.copy()
    planted = [3, 70, 150]
    given[planted] = (labels[planted] + 1) % 3
    judged = suspicion.judge(features.astype(np.float32), given)
    assert set(np.argsort(judged.margin)[:3]) == set(planted)
    assert set(np.flatnonzero(judged.mislabelled)) <= set(planted)
    assert judged.mislabelled.any()
    assert (judged.suggested[planted] == labels[planted]).all()
    assert judged.distance.argmax() == 100


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """Photos of which one has the other class's label."""
    root = tmp_path_factory.mktemp("swapped")
    photos = write_noise(root / "photos", count=20)
    (photos / "cat/007.jpg").rename(photos / "dog/wrong.jpg")
    (photos / "notes.jpg").write_bytes(b"of no class")
    prepare(
        PrepareConfig(
            str(photos), str(root / "data"), splits="train:0.8,validation:0.2"
        )
    )
    return root


def test_the_loop_is_closed(swapped, run):
    out = swapped / "suspects"
    words = flags(
        data_dir=swapped / "data",
        output_dir=out,
        base="scratch",
        weights="none",
        freeze_random_weights=True,
        image_size=46,
        precision="float32",
    )
    done = run("trainer.inspect", *words)
    assert done.returncode == 0, done.stderr
    with open(out / "suspects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    assert rows[0]["file"] == "dog/wrong.jpg"
    assert (rows[0]["label"], rows[0]["suggested"]) == ("dog", "cat")
    page = (out / "suspects.html").read_text()
    wrong, strange = page.split("<h2>Strange images")
    first = wrong[wrong.index("<li>") : wrong.index("</li>")]
    assert "dog/wrong.jpg" in first and "dog</bdi></b>, or <b><bdi>cat" in first
    assert strange.count("<img") == 24 and 'src="http' not in page
    # The picture is that of the file: a mean grey apart from its neighbours'.
    text = first.partition("base64,")[2].partition('"')[0]
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
    there = Image.open(swapped / "photos/dog/wrong.jpg").resize((128, 128))
    assert np.abs(shown.astype(int) - np.array(there)).mean() < 12
    corrections = out / "corrections.csv"
    assert "dog/wrong.jpg,\n" in corrections.read_text().replace("\r", "")
    corrections.write_text(
        "file,label\ndog/wrong.jpg,cat\ncat/000.jpg,\nnotes.jpg,\n"
    )
    made = prepare(
        PrepareConfig(
            str(swapped / "photos"),
            str(swapped / "mended"),
            corrections=str(corrections),
        )
    )
    totals = [
        sum(s.class_counts[k] for s in made.splits.values()) for k in (0, 1)
    ]
    assert totals == [19, 20]
    assert made.ignored == 2
    assert manifest_lib.load(swapped / "mended").fingerprint


@pytest.mark.parametrize(
    "text, says",
    [
        ("file,label\nabsent.jpg,\n", "absent.jpg, which the source"),
        (
            "file,label\nnotes.jpg,cat\n",
            "makes notes.jpg a cat, which is of no",
        ),
        ("name,class\nx,y\n", "has the columns"),
        ("file,label\nx,\nx,cat\n", "names x twice"),
    ],
)
def test_corrections_that_do_not_fit(swapped, tmp_path, text, says):
    path = tmp_path / "corrections.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        prepare(
            PrepareConfig(
                str(swapped / "photos"),
                str(tmp_path / "data"),
                corrections=str(path),
            )
        )
    assert not (tmp_path / "data").exists()
