"""Wrong labels: found by `trainer.inspect`, mended by `--corrections`."""

import base64
import csv
import io
import re
import types

import numpy as np
import pytest
from conftest import write_image
from conftest import write_noise
from PIL import Image
from training import flags

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime.errors import DataError
from trainer import inspect
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


def test_an_image_is_compared_with_others_only():
    features = np.array([[1, 0], [2, 0], [0, 1]], np.float32)
    found = suspicion.strangeness(features)
    np.testing.assert_allclose(found, [0.5, 0.5, 1], atol=1e-6)


def test_where_nothing_is_surer_than_usual_no_label_is_wrong():
    """Half and half is no verdict, though the other class comes first."""
    shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    labels = np.array([0, 1, 1])
    _, _, wrong = suspicion.confident(shares, labels)
    assert not wrong.any()


@pytest.fixture
def judged(tmp_path, tf, monkeypatch):
    """What `inspect` writes of two splits, of verdicts that are given.

    The images are grey, each of its own; no network runs.
    """
    from trainer import extraction
    from trainer.pipeline.reader import Reader

    for label, name in enumerate(("cat", "dog")):
        for number in range(16):
            grey = 8 * (16 * label + number)
            write_image(tmp_path / "photos" / name / f"{grey}.png", grey)
    data, out = tmp_path / "data", tmp_path / "out"
    manifest = prepare(
        PrepareConfig(
            str(tmp_path / "photos"),
            str(data),
            splits="train:0.5,validation:0.5",
            workers=1,
        )
    )
    readers = [Reader(data, manifest, split) for split in manifest.splits]
    asked = []

    def extract(config, wanted):
        asked.append((config, wanted))
        for reader in readers:
            rows = np.zeros((reader.count, 2, 3), np.float16)
            yield types.SimpleNamespace(count=len(rows), take=rows.take), reader

    labels = np.concatenate([reader.labels for reader in readers])
    generator = np.random.default_rng(0)
    first = readers[0].count  # of the second split
    wrong = np.isin(np.arange(32), [0, first - 1, first, 31])
    # Some that are not wrong have the least margins.
    margin = generator.permutation(np.linspace(-1, 1, 32))
    margin[wrong] = [0.5, -0.1, 0.25, 0]
    verdict = suspicion.Suspicion(
        1 - labels, margin, wrong, generator.permutation(32) / 32
    )
    monkeypatch.setattr(extraction, "extract", extract)
    monkeypatch.setattr(suspicion, "judge", lambda *_: verdict)
    inspect.main(
        inspect.InspectConfig(
            data_dir=str(data),
            output_dir=str(out),
            split=("train",),
            augment="light",
            feature_views=2,
            flip_average=True,
        )
    )
    files = [file for reader in readers for file in reader.files()]
    return out, files, verdict, asked


def test_images_are_judged_as_they_are(judged):
    _, _, _, ((config, wanted),) = judged
    assert wanted == ("train",)
    values = config.values()
    assert values["augment"] == "none" and not values["flip_average"]
    assert values["feature_views"] == 0


def test_the_lists_have_the_likely_wrong_first(judged):
    out, files, verdict, _ = judged
    margin, wrong = verdict.margin, verdict.mislabelled
    order = sorted(range(32), key=lambda n: (not wrong[n], margin[n]))
    with open(out / "suspects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [files[n] for n in order]
    assert [row["mislabelled"] for row in rows] == ["1"] * 4 + ["0"] * 28
    with open(out / "corrections.csv", newline="") as file:
        kept = [*csv.DictReader(file)]
    assert kept == [{"file": files[n], "label": ""} for n in order[:4]]
    for row, number in zip(rows, order, strict=True):
        assert float(row["margin"]) == pytest.approx(margin[number], abs=1e-6)
        assert row["label"] == row["file"].partition("/")[0]
        assert row["suggested"] != row["label"]


def test_pictures_are_those_of_their_files(judged):
    """In both splits, at their ends too; the strangest come first."""
    out, files, verdict, _ = judged
    found = re.findall(
        r'base64,([^"]+)" alt="([^"]+)".*?<bdi>(\w+)</bdi>',
        (out / "suspects.html").read_text(),
    )
    margin, wrong = verdict.margin, verdict.mislabelled
    suspects = sorted(np.flatnonzero(wrong), key=lambda n: margin[n])
    strange = np.argsort(-verdict.distance)[:24]
    assert [file for _, file, _ in found] == [
        files[n] for n in (*suspects, *strange)
    ]
    for content, file, label in found:
        picture = Image.open(io.BytesIO(base64.b64decode(content)))
        folder, _, name = file.partition("/")
        assert label == folder
        red = np.asarray(picture)[..., 0].mean()
        assert red == pytest.approx(int(name.removesuffix(".png")), abs=3)


def test_too_few_images_of_a_class_are_refused():
    manifest = types.SimpleNamespace(classes=["cat", "dog", "fox"])
    with pytest.raises(DataError, match="too few images of dog: expected 5"):
        inspect._check_counts(np.array([5, 4, 9]), manifest)


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
