"""What the audit finds, what is grouped, and which splits come of it."""

import io
import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import write_classes
from conftest import write_image
from PIL import Image
from PIL import ImageDraw
from test_data_prep_sources import findings_of
from test_data_prep_sources import make

from data_prep.catalogue import duplicates
from data_prep.images import fingerprint
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError

BANDS = duplicates.bands()


def picture(seed, size=(200, 150)):
    """Returns a picture of ellipses, which no other seed's looks like."""
    generator = random.Random(seed)
    image = Image.new("RGB", size, tuple(generator.choices(range(256), k=3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = generator.randrange(size[0]), generator.randrange(size[1])
        w, h = generator.randrange(20, 90), generator.randrange(20, 90)
        colour = tuple(generator.choices(range(256), k=3))
        draw.ellipse((x - w, y - h, x + w, y + h), colour)
    return image


def write_pictures(root, classes=("cat", "dog"), count=20, first=0):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            image = picture(1000 * label + number)
            image.save(root / name / f"{number:03d}.jpg", quality=92)
    return root


def files_of(found):
    return [(f["kind"], f["file"]) for f in found]


def test_every_oddity_is_found(tmp_path):
    source = write_pictures(tmp_path / "photos", count=6)
    cat = source / "cat"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(50).save(cat / "exif_rotated.jpg", exif=exif)
    exif[0x0112] = 1
    picture(51).save(cat / "upright.jpg", exif=exif)
    picture(52).save(cat / "wrong_ending.jpg", "PNG")
    picture(53).convert("CMYK").save(cat / "cmyk.jpg")
    picture(54).convert("RGBA").save(cat / "alpha.png")
    picture(55).quantize(16).save(cat / "palette.png")
    sixteen = np.asarray(picture(56).convert("L")).astype(np.uint16) * 256
    Image.fromarray(sixteen).save(cat / "sixteen_bit.png")
    frames = [picture(57), picture(58)]
    frames[0].save(
        cat / "animated.webp", save_all=True, append_images=frames[1:]
    )
    picture(59, (20, 10)).save(cat / "size_outlier.png")
    content = io.BytesIO()
    picture(60).save(content, "JPEG", progressive=True)
    (cat / "progressive.jpg").write_bytes(content.getvalue())
    # Bytes that belong to no marker: the decoder warns and goes on.
    jpeg = (source / "cat" / "000.jpg").read_bytes()
    start = jpeg.index(b"\xff\xda")
    (cat / "decoder_warning.jpg").write_bytes(
        jpeg[:start] + b"\x00\x01\x02" + jpeg[start:]
    )
    (source / "loose.txt").write_text("no class")
    manifest, found = make(source, tmp_path, splits="train:0.8,test:0.2")
    kinds = (
        "exif_rotated",
        "wrong_ending",
        "cmyk",
        "alpha",
        "palette",
        "sixteen_bit",
        "animated",
        "size_outlier",
        "decoder_warning",
    )
    for kind in kinds:
        named = [f["file"] for f in findings_of(tmp_path, kind)]
        assert [n.split("/")[1].split(".")[0] for n in named] == [kind], kind
    assert [f["file"] for f in findings_of(tmp_path, "ignored")] == [
        "loose.txt"
    ]
    assert set(manifest.findings) == {*kinds, "ignored", "near_duplicate"}
    assert len(found) == 23


def test_class_imbalance(tmp_path):
    source = write_pictures(tmp_path / "photos", ("cat",), count=45)
    write_pictures(source, ("dog",), count=4, first=100)
    make(source, tmp_path)
    (found,) = findings_of(tmp_path, "class_imbalance")
    assert found["file"] == "dog"
    assert found["detail"] == "has 4 images, cat has 45"


def write_copies(source):
    """Adds copies of dog/000 to /005: same bytes, smaller, re-encoded."""
    dog = source / "dog"
    shutil.copy(dog / "000.jpg", dog / "copy of 000.jpg")
    shutil.copy(dog / "001.jpg", source / "cat" / "conflict 001.jpg")
    image = Image.open(dog / "002.jpg")
    image.resize((100, 75)).save(dog / "small 002.png")
    Image.open(dog / "003.jpg").save(dog / "again 003.jpg", quality=40)
    Image.open(dog / "004.jpg").save(source / "cat" / "conflict 004.webp")
    grey = Image.open(dog / "005.jpg").convert("L")
    grey.point(lambda v: 20 + v * 0.8).save(dog / "grey 005.png")


def straddling(found):
    """Returns the numbers of `write_copies` that are in several splits."""
    splits = {}
    for file, (_, split) in found.items():
        number = re.search(r"00[0-5](?=\.)", file)
        if number and not file.startswith("cat/0"):
            splits.setdefault(number[0], set()).add(split)
    assert len(splits) == 6
    return {number for number, of in splits.items() if len(of) > 1}


@pytest.mark.parametrize("grouped", [True, False])
def test_copies_stay_in_one_split(tmp_path, monkeypatch, grouped):
    """And, as the control, they part where near-duplicates are not joined."""
    source = write_pictures(tmp_path / "photos", count=40)
    write_copies(source)
    if not grouped:
        monkeypatch.setattr(
            duplicates, "join_near_duplicates", lambda catalogue, limit: ()
        )
    parted = set()
    for seed in range(6):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        _, found = make(
            source,
            tmp_path,
            splits="train:0.4,validation:0.3,test:0.3",
            seed=seed,
        )
        assert len(found) == 86
        parted |= straddling(found)
    assert parted == (set() if grouped else {"002", "003", "004", "005"})


def test_copies_are_named(tmp_path):
    source = write_pictures(tmp_path / "photos", count=40)
    write_copies(source)
    make(source, tmp_path)
    assert files_of(findings_of(tmp_path, "duplicate")) == [
        ("duplicate", "dog/001.jpg"),
        ("duplicate", "dog/copy of 000.jpg"),
    ]
    near = {
        f["file"]: f["detail"] for f in findings_of(tmp_path, "near_duplicate")
    }
    assert near == {
        "dog/small 002.png": "looks like dog/002.jpg",
        "dog/again 003.jpg": "looks like dog/003.jpg",
        "dog/004.jpg": "looks like cat/conflict 004.webp",
        "dog/grey 005.png": "looks like dog/005.jpg",
    }
    assert {
        f["file"]: f["detail"] for f in findings_of(tmp_path, "label_conflict")
    } == {
        "dog/001.jpg": "shows the picture of cat/conflict 001.jpg, of class cat",
        "dog/004.jpg": "shows the picture of cat/conflict 004.webp, of class cat",
    }


def test_duplicates_drop_and_fail(tmp_path):
    source = write_pictures(tmp_path / "photos", count=20)
    write_copies(source)
    with pytest.raises(DataError, match="2 findings of duplicate"):
        make(source, tmp_path, duplicates="fail")
    manifest, found = make(source, tmp_path, duplicates="drop")
    assert manifest.dropped == 3
    assert "dog/copy of 000.jpg" not in found and "dog/000.jpg" in found
    # Two labels for one picture: nobody knows which is right.
    assert "dog/001.jpg" not in found
    assert "cat/conflict 001.jpg" not in found
    assert "dog/small 002.png" in found  # near-duplicates are kept


def test_splits_from_pins_counts_and_near_duplicates(tmp_path):
    source = write_pictures(tmp_path / "photos", count=30)
    options = {"splits": "train:15,validation:5,test:5"}
    _, before = make(source, tmp_path, **options)
    (tmp_path / "data").rename(tmp_path / "former")
    write_pictures(source, count=30, first=200)
    for number in range(30):  # of which some rank first in their group
        image = Image.open(source / f"dog/{number:03d}.jpg")
        image.save(source / f"dog/near {number:03d}.jpg", quality=70)
    options = {"splits": "train:0.6,validation:0.2,test:0.2"}
    _, loose = make(source, tmp_path, **options)
    assert {f: loose[f] for f in before} != before  # the control
    shutil.rmtree(tmp_path / "data")
    options["splits_from"] = str(tmp_path / "former")
    manifest, after = make(source, tmp_path, **options)
    assert {f: after[f] for f in before} == before
    for file, (_, split) in before.items():
        near = file.replace("dog/", "dog/near ")
        if near in after:
            assert after[near][1] == split
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(DataError, match="holds no manifest.json"):
        make(source, tmp_path, splits_from=str(source))
    with pytest.raises(UsageError, match="gives splits of its own"):
        write_pictures(tmp_path / "split" / "train", count=5)
        write_pictures(tmp_path / "split" / "test", count=5, first=10)
        make(tmp_path / "split", tmp_path, splits_from=str(tmp_path / "former"))


def test_a_picture_that_joins_two_splits_is_left_out(tmp_path, monkeypatch):
    """What looks like images of two pinned splits may join neither."""
    source = write_pictures(tmp_path / "photos", count=20)
    _, before = make(source, tmp_path)
    (tmp_path / "data").rename(tmp_path / "former")
    files = [f for f in before if f.startswith("cat")]
    one = next(f for f in files if before[f][1] == "train")
    other = next(f for f in files if before[f][1] == "test")
    picture(999).save(source / "cat" / "bridge.jpg")
    ranks = {}

    def join_near(catalogue, similarity):
        for file in (one, other, "cat/bridge.jpg"):
            ranks[file] = catalogue.value(
                "SELECT rank FROM images WHERE file = ?", (os.fsencode(file),)
            )
        root = min(ranks.values())
        catalogue.insert("joined", [(rank, root) for rank in ranks.values()])
        return iter(())

    monkeypatch.setattr(duplicates, "join_near_duplicates", join_near)
    manifest, after = make(
        source, tmp_path, splits_from=str(tmp_path / "former")
    )
    assert {f: after[f] for f in before} == before
    assert "cat/bridge.jpg" not in after
    assert manifest.dropped == 1
    (leak,) = findings_of(tmp_path, "split_leak")
    assert leak["file"] == "cat/bridge.jpg"


def test_fingerprints_tell_copies_from_others():
    def grey(image):
        return np.asarray(image.convert("L"))

    prints = [fingerprint.compute(grey(picture(n))) for n in range(60)]
    looks = fingerprint.normalize([print_.thumbnail for print_ in prints])
    alike = np.tril(looks @ looks.T, -1)
    assert alike.max() < 0.8
    for number, of_picture in enumerate(prints):
        small = fingerprint.compute(grey(picture(number).resize((90, 80))))
        (look,) = fingerprint.normalize([small.thumbnail])
        assert look @ looks[number] > 0.99
        common = ~(small.hash ^ of_picture.hash)
        assert any(common >> low & mask == mask for low, mask in BANDS)
    assert fingerprint.compute(np.full((40, 40), 7, np.uint8)) is None


def test_the_directory_is_a_tfds_data_set(tf, tmp_path):
    import tensorflow_datasets as tfds

    source = write_classes(tmp_path / "2 Pets", ("dog house", "été"), count=8)
    write_image(source / "été" / "wide.jpg", 90, size=(64, 32))
    for encoding, size in (("original", 0), ("jpeg", 32), ("raw", 32)):
        data = tmp_path / "data"
        shutil.rmtree(data, ignore_errors=True)
        manifest, found = make(
            source, tmp_path, encoding=encoding, image_size=size
        )
        builder = tfds.builder_from_directory(str(data))
        assert builder.info.features["label"].names == ["dog house", "été"]
        counts = {n: s.num_examples for n, s in builder.info.splits.items()}
        assert counts == {n: s.count for n, s in manifest.splits.items()}
        images = builder.as_dataset(split="train", as_supervised=True)
        labels = [0, 0]
        for image, label in images.as_numpy_iterator():
            assert image.dtype == np.uint8 and image.shape[2] == 3
            labels[label] += 1
        assert labels == manifest.splits["train"].class_counts
        for example in builder.as_dataset(split="test").as_numpy_iterator():
            file = example["file"].decode()
            assert found[file] == (manifest.classes[example["label"]], "test")
            if file.endswith(".png"):
                value = 8 * example["label"] + int(file[-7:-4])
                pixel = [value, 255 - value, value // 2]
                assert abs(example["image"] - np.array(pixel)).max() <= 3


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    """A PNG of 12000x12000 pixels in 400 kB, in a process with little room."""
    source = write_classes(tmp_path / "photos", count=5)
    bomb = source / "cat" / "bomb.png"
    Image.new("L", (12_000, 12_000)).save(bomb)
    assert bomb.stat().st_size < 500_000
    code = (
        "import sys; from data_prep.images import inspection; "
        "print(inspection.inspect(sys.argv[1]).problem, "
        # Not ru_maxrss, which begins at what the parent takes.
        "open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )

    def peak(path, more=""):
        done = subprocess.run(
            [sys.executable, "-c", more + code, path],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        *problem, kilobytes = done.stdout.split()
        return " ".join(problem), int(kilobytes)

    _, usual = peak(source / "cat" / "000.png")
    problem, refused = peak(bomb)
    assert "12000x12000 pixels" in problem
    assert refused < usual + 20_000
    # The control: without the limit it takes the memory of all its pixels.
    lift = "from data_prep.images import formats; formats.MAX_PIXELS = 1e12; "
    problem, decoded = peak(bomb, lift)
    assert not problem
    assert decoded > usual + 140_000
    manifest, found = make(source, tmp_path, on_bad_image="skip")
    assert manifest.skipped == 1 and len(found) == 10


def test_audit_json_names_everything(tmp_path):
    source = write_pictures(tmp_path / "photos", count=8)
    write_copies(source)
    manifest, _ = make(source, tmp_path)
    content = json.loads((tmp_path / "data" / "audit.json").read_text())
    assert content["files"] == content["good"] == 22
    assert content["classes"] == {"cat": 10, "dog": 12}
    assert content["counts"] == manifest.findings
    assert len(content["findings"]) == sum(manifest.findings.values())
