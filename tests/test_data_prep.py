"""`python -m data_prep.task` and `verify`, run as a user runs them."""

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import hash_tree
from conftest import write_classes
from conftest import write_image
from PIL import Image

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.dataset import verification
from data_prep.images import encoding as encoding_lib
from data_prep.images import inspection
from data_prep.runtime.errors import DataError


def read_records(data_dir, manifest, split):
    """Yields the records of a split, found through its index alone."""
    for row in manifest_lib.load_index(manifest, data_dir, split):
        shard = data_dir / manifest.splits[split].shards[row["shard"]].name
        with open(shard, "rb") as file:
            file.seek(row["offset"])
            payload = file.read(row["bytes"])
            records.check_payload(payload, file.read(records.FOOTER_BYTES))
        record = records.deserialize(payload)
        assert (record.id, record.label) == (row["id"], row["label"])
        yield record


def test_class_folders(run, tmp_path):
    """Odd class names, a nested folder, hidden and loose files."""
    source = tmp_path / "My Photos!"
    classes = ("a b", "dog", "dog-house", "été")
    write_classes(source, classes, count=10)
    write_image(source / "dog" / "deeper" / "x.png", 200)
    write_image(source / ".hidden" / "y.png", 1)
    (source / "notes.txt").write_text("loose")
    (source / "dog" / ".DS_Store").write_text("junk")
    data = tmp_path / "data"
    done = run("data_prep.task", f"--source={source}", f"--output_dir={data}")
    assert done.returncode == 0, done.stderr
    assert "ignored 3 files" in done.stdout
    manifest = manifest_lib.load(data)
    assert manifest.classes == sorted(classes)
    assert manifest.name == "my_photos"
    assert manifest.encoding == "original"
    assert list(manifest.splits) == ["train", "validation", "test"]
    seen = {}
    for split in manifest.splits:
        counts = [0] * len(classes)
        for record in read_records(data, manifest, split):
            assert record.file not in seen
            seen[record.file] = split
            counts[record.label] += 1
            assert manifest.classes[record.label] == record.file.split("/")[0]
            assert record.image == (source / record.file).read_bytes()
            assert record.id == records.image_id(record.file)
        assert counts == manifest.splits[split].class_counts
        assert min(counts) > 0
        prints = manifest_lib.load_fingerprints(manifest, data, split)
        assert [bytes(p) for p in prints] == [
            hashlib.sha256(record.image).digest()
            for record in read_records(data, manifest, split)
        ]
    assert len(seen) == 41
    verified = run("data_prep.verify", f"--data_dir={data}")
    assert verified.returncode == 0, verified.stderr


def test_split_folders_are_kept(run, tmp_path):
    source = tmp_path / "photos"
    for split, count in (("Training", 6), ("val", 3), ("evaluation", 2)):
        write_classes(source / split, count=count, first=20 * count)
    data = tmp_path / "data"
    done = run("data_prep.task", f"--source={source}", f"--output_dir={data}")
    assert done.returncode == 0, done.stderr
    manifest = manifest_lib.load(data)
    assert {n: s.class_counts for n, s in manifest.splits.items()} == {
        "train": [6, 6],
        "validation": [3, 3],
        "test": [2, 2],
    }
    for record in read_records(data, manifest, "test"):
        assert record.file.startswith("evaluation/")


def test_bytes_do_not_depend_on_the_workers(run, tmp_path):
    source = write_classes(tmp_path / "photos", count=15)
    for workers in (1, 2, 3):
        done = run(
            "data_prep.task",
            f"--source={source}",
            f"--output_dir={tmp_path / str(workers) / 'data'}",
            f"--workers={workers}",
            "--image_size=32",
        )
        assert done.returncode == 0, done.stderr
    one = hash_tree(tmp_path / "1" / "data")
    assert "manifest.json" in one
    for workers in (2, 3):
        assert hash_tree(tmp_path / str(workers) / "data") == one


@pytest.mark.parametrize("encoding", ["jpeg", "raw"])
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_resized_encodings(run, tmp_path, encoding, resize):
    source = tmp_path / "photos"
    for label, name in enumerate(("cat", "dog")):
        for number in range(3):
            path = source / name / f"{number}.png"
            write_image(path, 60 + 60 * label + number, size=(80, 40))
    data = tmp_path / "data"
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={data}",
        "--image_size=32",
        f"--encoding={encoding}",
        f"--resize={resize}",
        "--splits=train:2,validation:1",
    )
    assert done.returncode == 0, done.stderr
    manifest = manifest_lib.load(data)
    assert (manifest.resize, manifest.encoding) == (resize, encoding)
    for record in read_records(data, manifest, "train"):
        assert (record.width, record.height) == (32, 32)
        if encoding == "raw":
            pixels = np.frombuffer(record.image, np.uint8).reshape(32, 32, 3)
        else:
            pixels = np.asarray(Image.open(io.BytesIO(record.image)))
        number = int(record.file[-5])
        value = 60 + 60 * record.label + number
        assert (
            abs(
                pixels[16, 16].astype(int) - [value, 255 - value, value // 2]
            ).max()
            <= 3
        )
        if resize == "pad":
            assert pixels[0].max() <= 6  # the border


def shade(path, mode, value, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (40, 20), value).save(path, **options)


def test_odd_images_become_what_a_plain_decoder_shows(tf, tmp_path):
    """EXIF rotation, CMYK, palette, alpha, grey, 16 bit, GIF, BMP, WebP."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees to display
    shade(tmp_path / "exif.jpg", "RGB", (10, 100, 200), exif=exif)
    shade(tmp_path / "cmyk.jpg", "CMYK", (0, 0, 0, 155))
    shade(tmp_path / "palette.png", "P", 3)
    shade(tmp_path / "alpha.png", "RGBA", (10, 100, 200, 128))
    shade(tmp_path / "grey.jpg", "L", 100)
    shade(tmp_path / "sixteen.png", "I;16", 100 * 256)
    shade(tmp_path / "gif.jpg", "P", 3, format="GIF")  # the name lies
    shade(tmp_path / "bmp.bmp", "RGB", (10, 100, 200))
    shade(tmp_path / "webp.webp", "RGB", (10, 100, 200), lossless=True)
    sizes = {"exif.jpg": (20, 40)}
    colours = {
        "cmyk.jpg": (100, 100, 100),
        "palette.png": (3, 3, 3),
        "grey.jpg": (100, 100, 100),
        "sixteen.png": (100, 100, 100),
        "gif.jpg": (3, 3, 3),
    }
    for path in sorted(tmp_path.iterdir()):
        facts = inspection.inspect(str(path))
        assert not facts.problem, (path.name, facts)
        content = path.read_bytes()
        width, height = facts.width, facts.height
        if not facts.kept:
            content, width, height = encoding_lib.encode(
                content, 0, "", "original"
            )
        size = sizes.get(path.name, (40, 20))
        assert (facts.width, facts.height) == (width, height) == size
        pixels = tf.io.decode_image(
            content, channels=3, expand_animations=False
        ).numpy()
        assert pixels.shape == (height, width, 3), path.name
        colour = np.array(colours.get(path.name, (10, 100, 200)))
        assert abs(pixels.astype(int) - colour).max() <= 3, path.name


def write_bad(source):
    """Adds one file of each kind of damage; returns their names."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    jpeg = buffer.getvalue()
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")
    huge = bytearray(png.getvalue())
    huge[16:24] = (100_000).to_bytes(4, "big") * 2  # header says 10 gigapixels
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "cut.jpg": jpeg[: len(jpeg) * 6 // 10],
        "cut.png": png.getvalue()[: len(png.getvalue()) * 6 // 10],
        "huge.png": bytes(huge),
    }
    for name, content in bad.items():
        (source / "cat" / name).write_bytes(content)
    (source / "cat" / "gone.jpg").symlink_to("nowhere")
    return [*bad, "gone.jpg"]


def test_bad_images_are_named_and_counted(run, tmp_path):
    source = write_classes(tmp_path / "photos", count=10)
    bad = write_bad(source)
    data = tmp_path / "data"
    arguments = (f"--source={source}", f"--output_dir={data}")
    failed = run("data_prep.task", *arguments)
    assert failed.returncode == 65
    assert "6 of 26 images are bad" in failed.stderr
    assert all(f"cat/{name} " in failed.stderr for name in bad)
    assert "--on_bad_image=skip" in failed.stderr
    assert "Traceback" not in failed.stderr
    left = ["data.audit.html", "data.audit.json", "photos"]
    assert sorted(os.listdir(tmp_path)) == left
    left = json.loads((tmp_path / "data.audit.json").read_text())
    assert left["counts"]["bad_image"] == 6
    skipped = run("data_prep.task", *arguments, "--on_bad_image=skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "skipped 6 files that are no good images" in skipped.stdout
    assert sorted(os.listdir(tmp_path)) == ["data", "photos"]
    manifest = manifest_lib.load(data)
    assert manifest.skipped == 6
    found = json.loads((data / "audit.json").read_text())
    assert found["files"] == 26 and found["good"] == 20
    named = {
        finding["file"]
        for finding in found["findings"]
        if finding["kind"] == "bad_image"
    }
    assert named == {f"cat/{n}" for n in bad}
    assert sum(split.count for split in manifest.splits.values()) == 20


def one_class(source):
    write_classes(source, ["cat"])


def empty_folder(source):
    source.mkdir()


def empty_classes(source):
    (source / "cat").mkdir(parents=True)
    (source / "dog").mkdir()


def empty_class(source):
    write_classes(source)
    (source / "elk").mkdir()


def no_training_image(source):
    write_classes(source / "train")
    write_classes(source / "test", ["cat", "dog", "elk"], first=100)


def odd_split(source):
    write_classes(source / "train")
    write_classes(source / "holdout")


@pytest.mark.parametrize(
    "make, arguments, code, message",
    [
        (empty_folder, [], 65, "holds no class folder"),
        (empty_classes, [], 65, "its 2 classes are empty"),
        (one_class, [], 65, r"holds one class only: \['cat'\]"),
        (empty_class, [], 65, "no good image of class 'elk'"),
        (no_training_image, [], 65, "'elk' has no image in the train split"),
        (
            odd_split,
            ["--layout=split_folders"],
            65,
            "folder 'holdout' .* names no split",
        ),
        (write_classes, ["--splits=train:30"], 65, "'cat' \\(20 images\\)"),
        (write_classes, ["--splits=train:x"], 64, "cannot be read"),
        (
            write_classes,
            ["--image_size=32", "--encoding=original"],
            64,
            "Use --encoding=jpeg or raw",
        ),
        (write_classes, ["--encoding=raw"], 64, "Set --image_size"),
        (write_classes, ["--image_size=-1"], 64, "image_size"),
        (write_classes, ["--imagesize=32"], 64, "Did you mean"),
        (write_classes, ["--layout=flat"], 64, "class_folders"),
        (write_classes, ["stray"], 64, r"Received: \['stray'\]"),
        (lambda source: None, [], 65, "is no folder"),
    ],
)
def test_mistakes(run, tmp_path, make, arguments, code, message):
    source = tmp_path / "photos"
    make(source)
    before = sorted(os.listdir(tmp_path))
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'data'}",
        *arguments,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(message, done.stderr), done.stderr
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("place", ["incomplete.data", "data/incomplete"])
def test_output_is_never_overwritten_or_shared(run, tmp_path, place):
    source = write_classes(tmp_path / "photos", count=10)
    data = tmp_path / "data"
    arguments = (f"--source={source}", f"--output_dir={data}")
    working = tmp_path / place
    working.mkdir(parents=True)
    (working / "left by a killed run").write_text("x")
    holder = os.open(working, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    second = run("data_prep.task", *arguments)
    assert second.returncode == 65
    assert "another run is writing" in second.stderr
    os.close(holder)
    first = run("data_prep.task", *arguments)
    assert first.returncode == 0, first.stderr
    assert not working.exists()
    assert "left by a killed run" not in os.listdir(data)
    again = run("data_prep.task", *arguments)
    assert again.returncode == 65
    assert "already exists and is not empty" in again.stderr


def test_output_in_the_source_is_refused(run, tmp_path):
    source = write_classes(tmp_path / "photos")
    for output in (source, source / "data", source / "cat" / "data"):
        done = run(
            "data_prep.task", f"--source={source}", f"--output_dir={output}"
        )
        assert done.returncode == 64
        assert "lies in --source" in done.stderr
    assert sorted(os.listdir(source)) == ["cat", "dog"]


def test_verify_names_the_damaged_file(run, tmp_path):
    source = write_classes(tmp_path / "photos", count=10)
    data = tmp_path / "data"
    done = run("data_prep.task", f"--source={source}", f"--output_dir={data}")
    assert done.returncode == 0, done.stderr
    for file in sorted(data.iterdir()):
        whole = file.read_bytes()
        for damage in ("flip", "cut", "gone"):
            if damage == "gone":
                file.unlink()
            elif damage == "cut":
                file.write_bytes(whole[:-7])
            else:
                middle = len(whole) // 2
                flipped = whole[middle] ^ 1
                file.write_bytes(
                    whole[:middle] + bytes([flipped]) + whole[middle + 1 :]
                )
            with pytest.raises(DataError, match=re.escape(file.name)):
                verification.verify(data)
        file.write_bytes(whole)
    assert verification.verify(data) == len(list(data.iterdir())) - 1
    (data / "label.labels.txt").write_text("lies")
    found = run("data_prep.verify", f"--data_dir={data}")
    assert found.returncode == 65
    assert "label.labels.txt is 4 bytes long" in found.stderr


def test_manifest_says_how_it_was_made(run, tmp_path):
    source = write_classes(tmp_path / "photos", count=10)
    data = tmp_path / "data"
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={data}",
        "--seed=5",
        "--splits=train:5,validation:3",
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((data / "manifest.json").read_text())
    assert content["flags"]["seed"] == 5
    assert content["unassigned"] == 4
    assert content["versions"]["shardtune"]
    assert "left 4 images" in done.stdout
    how = {"output_dir", "workers", "runner", "beam_options"}
    assert (
        set(content["flags"])
        == {one.name for one in PrepareConfig.settings()} - how
    )


# What `shardtune[train]` brings and preparing a data set does without.
TRAINING = (
    "keras keras_cv matplotlib scipy sklearn tensorboard tensorflow "
    "tensorflow_datasets"
)


def run_without(libraries, module, *arguments):
    """Runs a command where some libraries are not installed."""
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys("
        f"{libraries.split()})); sys.argv[0] = {module!r}; "
        f"runpy.run_module({module!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_no_library_of_the_training_is_needed(tmp_path):
    source = write_classes(tmp_path / "photos", count=10)
    data = tmp_path / "data"
    words = (f"--source={source}", f"--output_dir={data}", "--workers=1")
    job = (f"--output_dir={tmp_path / 'job'}", "--target=slurm", "--dry_run")
    for command in (
        ("data_prep.task", *words),
        ("data_prep.verify", f"--data_dir={data}"),
        ("launch.submit", *job, "--", "--data_dir=/d", "--model_dir=/m"),
    ):
        done = run_without(TRAINING, *command)
        assert done.returncode == 0, done.stderr
    # The control: what needs them says so.
    for command in (
        ("data_prep.task", "--source=tfds:mnist", *words[1:]),
        ("trainer.task", f"--data_dir={data}", f"--model_dir={tmp_path}/m"),
    ):
        shutil.rmtree(data, ignore_errors=True)
        done = run_without(TRAINING, *command)
        assert done.returncode == 64, done.stderr
        assert "pip install 'shardtune[train]'" in done.stderr
        assert "Traceback" not in done.stderr
