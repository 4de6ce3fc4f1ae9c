"""One picture in two splits or under two labels: found, stopped, kept apart."""

import io
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from test_data_prep_audit import picture
from test_data_prep_audit import write_pictures
from test_data_prep_sources import findings_of
from test_data_prep_sources import make

from data_prep.catalogue import duplicates
from data_prep.images import fingerprint
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError


def look_alike(seed):
    """Returns a picture whose hash all seeds share, and whose detail none."""
    generator = np.random.default_rng(0)
    low = np.zeros((32, 32), np.float32)
    # 0 is the median; no other coefficient comes near it.
    signs = generator.permutation([-1] * 31 + [0] + [1] * 31)
    low[:8, :8] = np.append(32 * 128, 150 * signs).reshape(8, 8)
    # Of frequencies that the hash does not see, and the thumbnail does.
    low[9:15, 9:15] = np.random.default_rng(seed + 1).normal(0, 75, (6, 6))
    pixels = np.kron(cv2.idct(low), np.ones((4, 4)))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB")


def test_all_images_that_share_a_hash_are_compared(tmp_path):
    """120 pictures and a copy of each, all with the hash of one more."""
    source = tmp_path / "photos"
    hashes = set()
    for name in ("cat", "dog"):
        (source / name).mkdir(parents=True)
    for number in range(121):
        image = look_alike(number)
        grey = np.asarray(image.convert("L"))
        hashes.add(fingerprint.compute(grey).hash)
        folder = source / ("cat", "dog")[number % 2]
        image.save(folder / f"{number}.png")
        if number:
            image.save(folder / f"{number} copy.jpg", quality=90)
    assert len(hashes) == 1
    manifest, found = make(
        source, tmp_path, splits="train:0.4,validation:0.3,test:0.3"
    )
    assert manifest.findings["near_duplicate"] == 120
    pairs = {
        (f["file"], f["other"]) for f in findings_of(tmp_path, "near_duplicate")
    }
    for number in range(1, 121):
        name = f"{('cat', 'dog')[number % 2]}/{number}"
        one, other = f"{name}.png", f"{name} copy.jpg"
        assert (one, other) in pairs or (other, one) in pairs
        assert found[one] == found[other]
    assert len({split for _, split in found.values()}) == 3


def test_pairs_connect_all_that_a_search_of_all_pairs_connects():
    """In blocks and out of them, chains of images alike, and many copies."""
    generator = np.random.default_rng(0)
    looks = [generator.normal(128, 40, 256)]
    for _ in range(400):
        kind = generator.integers(4)
        near = looks[generator.integers(len(looks))]
        noise = (40, 5, 3, 0.2)[kind]
        looks.append((near if kind else 128) + generator.normal(0, noise, 256))
    thumbnails = [x.clip(0, 255).astype(np.uint8).tobytes() for x in looks]
    bands = sorted(generator.integers(3, size=len(looks)).tolist())
    vectors = fingerprint.normalize(thumbnails)
    alike = vectors @ vectors.T
    wanted, found = duplicates.Groups(), duplicates.Groups()
    pairs = 0
    for i in range(len(looks)):
        for j in range(i):
            if bands[i] == bands[j] and alike[i, j] >= 0.99:
                wanted.join(i, j)
                pairs += 1
    rows = zip(bands, range(len(looks)), thumbnails, strict=True)
    few = 0
    for i, j in duplicates.alike_pairs(rows, 0.99):
        assert bands[i] == bands[j] and alike[i, j] >= 0.99 - 1e-5
        found.join(i, j)
        few += 1
    assert sorted(found.members()) == sorted(wanted.members())
    assert few < len(looks) < pairs


def test_a_film_is_compared_by_a_few_of_its_frames(monkeypatch):
    """So that its frames, alike or not, take no room and no time."""
    generator = np.random.default_rng(0)
    scenes = generator.integers(0, 256, (3, 256))
    frames = [
        (scenes[n % 3] + generator.integers(-1, 2, 256)).clip(0, 255)
        for n in range(3000)
    ]
    rows = [(0, n, f.astype(np.uint8).tobytes()) for n, f in enumerate(frames)]
    sizes = []
    tril = np.tril
    monkeypatch.setattr(
        np, "tril", lambda a, k: sizes.append(a.shape[1]) or tril(a, k)
    )
    groups = duplicates.Groups()
    for one, other in duplicates.alike_pairs(rows, 0.99):
        groups.join(one, other)
    assert len({root for _, root in groups.members()}) == 3
    assert max(sizes) < 200


@pytest.fixture
def leaking(tmp_path):
    """A source with splits, two leaks, and a picture with two labels."""
    source = tmp_path / "photos"
    write_pictures(source / "Train", count=10)
    write_pictures(source / "Valid", count=4, first=30)
    write_pictures(source / "test", count=4, first=50)
    shutil.copy(source / "Train/cat/003.jpg", source / "test/cat/leak.jpg")
    image = Image.open(source / "Train/dog/004.jpg")
    image.save(source / "Valid/dog/leak.jpg", quality=60)
    shutil.copy(source / "Train/cat/007.jpg", source / "Train/dog/conflict.jpg")
    return source


def test_leaks_of_given_splits_stop_by_default(leaking, tmp_path):
    with pytest.raises(DataError) as stopped:
        make(leaking, tmp_path)
    message = str(stopped.value)
    assert "2 findings of split_leak" in message
    assert "Train/cat/003.jpg shows the picture of test/cat/leak.jpg" in message
    assert "--on_leak=drop" in message and "--similarity" in message
    assert (tmp_path / "data.audit.json").exists()
    (leaking / "test/cat/leak.jpg").unlink()
    (leaking / "Valid/dog/leak.jpg").unlink()
    with pytest.raises(DataError, match="1 findings of label_conflict"):
        make(leaking, tmp_path)
    (leaking / "Train/dog/conflict.jpg").unlink()
    manifest, found = make(leaking, tmp_path)
    assert len(found) == 36


def test_leaks_are_kept_or_dropped_as_asked(leaking, tmp_path):
    manifest, found = make(leaking, tmp_path, on_leak="keep")
    assert len(found) == 39
    assert manifest.findings["split_leak"] == 2
    assert found["test/cat/leak.jpg"][1] == "test"
    assert found["Train/cat/003.jpg"][1] == "train"
    shutil.rmtree(tmp_path / "data")
    manifest, after = make(leaking, tmp_path, on_leak="drop")
    assert manifest.dropped == 4
    assert set(found) - set(after) == {
        "Train/cat/003.jpg",
        "Train/dog/004.jpg",
        "Train/cat/007.jpg",
        "Train/dog/conflict.jpg",
    }
    shutil.rmtree(tmp_path / "data")
    # Of the same bytes the evaluated one stays, too.
    _, after = make(leaking, tmp_path, on_leak="keep", duplicates="drop")
    assert "test/cat/leak.jpg" in after and "Train/cat/003.jpg" not in after
    shutil.rmtree(tmp_path / "data")
    # Split anew there is no leak to stop for, and the labels are told.
    manifest, found = make(leaking, tmp_path, splits="train:0.5,test:0.5")
    assert found["test/cat/leak.jpg"] == found["Train/cat/003.jpg"]
    assert "split_leak" not in manifest.findings
    assert manifest.findings["label_conflict"] == 1
    with pytest.raises(DataError, match="without label_conflict in --fail_on"):
        shutil.rmtree(tmp_path / "data")
        make(
            leaking,
            tmp_path,
            splits="train:0.5,test:0.5",
            fail_on="label_conflict",
        )


def write_fixed_camera(source, count=100):
    """Writes frames of one scene, half of them with a small defect."""
    scene = np.asarray(picture(7, (320, 240))).astype(float)
    generator = np.random.default_rng(0)
    for name in ("good", "scratched"):
        (source / name).mkdir(parents=True)
        for number in range(count):
            frame = scene + generator.normal(0, 4, scene.shape)
            frame = frame.clip(0, 255).astype(np.uint8)
            if name == "scratched":
                x, y = generator.integers(20, 200, 2)
                frame[y : y + 12, x : x + 40] = generator.integers(0, 256, 3)
            Image.fromarray(frame).save(source / name / f"{number}.jpg")


def test_a_fixed_camera_is_split_when_told_so(tmp_path):
    source = tmp_path / "photos"
    write_fixed_camera(source)
    with pytest.raises(DataError) as stopped:
        make(source, tmp_path)
    assert "class 'good' has 100 images, but they look alike" in str(
        stopped.value
    )
    assert "--similarity=0" in str(stopped.value)
    manifest, _ = make(source, tmp_path, similarity=0.0)
    counts = {n: s.class_counts for n, s in manifest.splits.items()}
    assert counts == {
        "train": [80, 80],
        "validation": [10, 10],
        "test": [10, 10],
    }
    assert "near_duplicate" not in manifest.findings
    shutil.copy(source / "good/1.jpg", source / "good/copy.jpg")
    shutil.rmtree(tmp_path / "data")
    manifest, found = make(source, tmp_path, similarity=0.0)
    assert manifest.findings["duplicate"] == 1
    assert found["good/1.jpg"] == found["good/copy.jpg"]


def test_a_class_that_look_alikes_split_unevenly_is_named(tmp_path):
    source = write_pictures(tmp_path / "photos", count=40)
    for number in range(60):
        content = io.BytesIO()
        picture(5).save(content, "JPEG", quality=60 + number % 30)
        path = source / "cat" / f"burst {number}.jpg"
        path.write_bytes(content.getvalue() + bytes(number))
    manifest, found = make(
        source, tmp_path, splits="train:0.4,validation:0.3,test:0.3"
    )
    assert manifest.findings["near_duplicate"] == 60
    cats = [split for label, split in found.values() if label == "cat"]
    counts = {name: cats.count(name) for name in sorted(set(cats))}
    # The burst fits nowhere; of the other 39, test takes its 30 first.
    assert counts == {"test": 30, "train": 61, "validation": 9}
    (uneven,) = findings_of(tmp_path, "uneven_split")
    assert uneven["file"] == "cat"
    assert "has 9 images in validation instead of 30" in uneven["detail"]


def test_lower_similarity_finds_crops(tmp_path):
    source = write_pictures(tmp_path / "photos", count=20)
    for number in range(10):
        image = picture(number)
        image.crop((2, 2, 199, 149)).save(source / f"cat/crop {number}.png")
    found = []
    for similarity in (0.99, 0.9):
        make(source, tmp_path, similarity=similarity)
        pairs = findings_of(tmp_path, "near_duplicate")
        found.append({(pair["file"], pair["other"]) for pair in pairs})
        shutil.rmtree(tmp_path / "data")
    crops = {(f"cat/crop {n}.png", f"cat/{n:03d}.jpg") for n in range(10)}
    assert found[0] < found[1] <= crops
    assert len(found[1]) >= 9


@pytest.mark.parametrize("value", [0.5, -1.0, 1.5])
def test_a_similarity_that_joins_everything_is_refused(tmp_path, value):
    with pytest.raises(UsageError, match="--similarity"):
        make(tmp_path, tmp_path, similarity=value)


def test_dropping_never_empties_a_class(tmp_path):
    source = write_pictures(tmp_path / "photos", ("cat", "dog", "elk"), 5)
    for path in sorted((source / "elk").iterdir()):
        shutil.copy(path, source / "dog" / f"as {path.name}")
    with pytest.raises(DataError, match="class 'elk' has no image left"):
        make(source, tmp_path, duplicates="drop")
