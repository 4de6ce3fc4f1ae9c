"""Faults: real kills, full disks, damaged shards; each with a control."""

import errno
import gzip
import io
import itertools
import os
import pathlib
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from conftest import ROOT
from conftest import hash_tree
from conftest import write_classes
from conftest import write_noise
from PIL import Image
from test_data_prep_sources import make

from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.dataset import verification
from data_prep.runtime import operating_system
from data_prep.runtime.errors import DataError
from data_prep.sources import folder
from data_prep.sources import listing
from data_prep.writers import output
from trainer.pipeline import reader


def start(source, data, *arguments, code=""):
    """Starts data_prep; `code` runs first in its process."""
    command = [sys.executable, "-m", "data_prep.task"]
    if code:
        code += "\nimport runpy, sys; sys.argv[0] = 'data_prep.task'; "
        code += "runpy.run_module('data_prep.task', run_name='__main__')"
        command = [sys.executable, "-c", code]
    return subprocess.Popen(
        [*command, f"--source={source}", f"--output_dir={data}", *arguments],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for(pattern, folder, process, seconds=60):
    """Returns when a file of that name exists, or the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if any(folder.glob(pattern)):
            return
        time.sleep(0.001)


def held(marker):
    """Returns code that waits within the work, while such a file is there.

    Args:
        marker: Appears when the work has begun; who removes it lets the rest
            of the work be done.
    """
    return f"""
import itertools, pathlib, time
from data_prep.runtime.progress import Progress
marker, calls = pathlib.Path({str(marker)!r}), itertools.count()
def update(self, images):
    if next(calls) == 0:
        marker.touch()
    while marker.exists():
        time.sleep(0.01)
Progress.update = update
"""


# 1. Killed at any time.


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """600 images, so that there is time to kill."""
    return write_noise(tmp_path_factory.mktemp("many") / "photos", count=300)


@pytest.mark.slow
def test_killed_at_any_time(many, tmp_path):
    began = time.monotonic()
    undisturbed = start(many, tmp_path / "whole" / "data", "--image_size=64")
    assert undisturbed.wait() == 0, undisturbed.stderr.read()
    usual = time.monotonic() - began
    whole = hash_tree(tmp_path / "whole" / "data")
    data = tmp_path / "data"
    working = tmp_path / "incomplete.data"
    generator = random.Random(0)
    moments = [generator.uniform(0, usual) for _ in range(7)]
    moments += ["scratch", "*.tfrecord-*", "*.index"]
    caught = set()
    for moment in moments:
        process = start(many, data, "--image_size=64")
        if isinstance(moment, str):
            wait_for(moment, working, process)
        else:
            time.sleep(moment)
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        # Nobody goes on writing what the next run sweeps.
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        if data.exists():
            assert hash_tree(data) == whole
            shutil.rmtree(data)
        elif working.exists():
            caught |= {path.suffix for path in working.rglob("*")}
            # The control: what is left is no data set, and is not taken
            # for one.
            if not (working / "manifest.json").exists():
                with pytest.raises(DataError, match="no finished data set"):
                    manifest_lib.load(working)
    assert ".sqlite" in caught  # some kills fell into the work
    again = start(many, data, "--image_size=64")
    assert again.wait() == 0, again.stderr.read()
    assert hash_tree(data) == whole
    assert sorted(os.listdir(tmp_path)) == ["data", "whole"]


def test_stopped_while_its_processes_start(many, tmp_path):
    """One that has just begun would find its parent gone, and say so."""
    slow = tmp_path / "slow" / "sitecustomize.py"
    slow.parent.mkdir()
    slow.write_text(
        "import sys, time\n"
        "if '--multiprocessing-fork' in sys.orig_argv: time.sleep(2)"
    )
    code = f"""
import itertools, os, signal
from multiprocessing import popen_spawn_posix
os.environ["PYTHONPATH"] = {str(slow.parent)!r}
launch, calls = popen_spawn_posix.Popen._launch, itertools.count(1)
def stopped(self, process):
    launch(self, process)
    if next(calls) == 2:
        os.kill(os.getpid(), signal.SIGTERM)
popen_spawn_posix.Popen._launch = stopped
"""
    process = start(many, tmp_path / "data", "--workers=3", code=code)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 75, said
    assert said.count("\n") == 1 and "stopped by a signal" in said
    assert os.listdir(tmp_path) == ["slow"]


# 2. Two runs into one place.


@pytest.mark.parametrize("locked", [True, False])
def test_two_runs_into_one_place(many, tmp_path, locked):
    data, marker = tmp_path / "data", tmp_path / "at work"
    code = "" if locked else "import fcntl; fcntl.flock = lambda *_: None"
    first = start(many, data, code=code + held(marker))
    wait_for(marker.name, tmp_path, first)
    second = start(many, data, code=code)
    codes = [second.wait()]
    marker.unlink()
    codes.insert(0, first.wait())
    said = second.stderr.read()
    assert "Traceback" not in said
    assert ("another run is writing" in said) == locked
    # The control: without the lock the second does not know of the first.
    assert codes[1] == (65 if locked else 0)
    if locked:
        assert codes[0] == 0
        assert verification.verify(data)


@pytest.fixture(params=["absent", "an empty folder"])
def place(request, tmp_path):
    """Where two runs are to write."""
    place = tmp_path / "data"
    if request.param != "absent":
        place.mkdir()
    return place


def begin(place):
    """Begins to write a data set, as a run does; returns what ends it."""
    claimed = output.claim(str(place), "manifest.json")
    folder = pathlib.Path(claimed.__enter__().folder)
    (folder / "manifest.json").write_text("the first")
    return claimed


def refuse_second(place, message="another run is writing"):
    with pytest.raises(DataError, match=message):
        with output.claim(str(place), "manifest.json"):
            raise AssertionError("two runs are in it")


def test_the_second_leaves_the_first_alone(place):
    first = begin(place)
    refuse_second(place)
    first.__exit__(None, None, None)
    refuse_second(place, "already exists and is not empty")
    assert hash_tree(place.parent) == {"data/manifest.json": b"the first"}


@pytest.mark.parametrize("end", ["well", "failed", "failed, another began"])
@pytest.mark.parametrize("checked", [True, False])
def test_the_first_ends_as_the_second_comes(place, monkeypatch, end, checked):
    """Between the opening and the locking of what may be gone by then."""
    runs = [begin(place)]
    lock = operating_system.lock

    def late(file):
        if len(runs) == 1:
            first = runs[0]
            if end == "well":
                first.__exit__(None, None, None)
            else:
                stop = KeyboardInterrupt()
                assert not first.__exit__(type(stop), stop, None)
            runs.append(None)
            if end == "failed, another began":
                runs[1] = begin(place)
        lock(file)

    monkeypatch.setattr(operating_system, "lock", late)
    if not checked:  # the control
        monkeypatch.setattr(os.path, "samestat", lambda *_: True)
        if end == "failed, another began":
            with pytest.raises(AssertionError, match="two runs are in it"):
                refuse_second(place)
        return
    refuse_second(place)
    if runs[1]:
        runs[1].__exit__(None, None, None)
    wanted = {} if end == "failed" else {"data/manifest.json": b"the first"}
    assert hash_tree(place.parent) == wanted


@pytest.mark.slow
def test_two_runs_at_the_same_moment(many, tmp_path):
    for attempt in range(3):
        data = tmp_path / str(attempt)
        both = [start(many, data) for _ in range(2)]
        assert sorted(process.wait() for process in both) == [0, 65]
        assert verification.verify(data)


# 3. No room.


def test_a_disk_that_is_full(many, tmp_path):
    """On a tmpfs of 1 MB; the control has 100."""
    for size, code in (("1m", 65), ("100m", 0)):
        place = tmp_path / size
        place.mkdir()
        script = (
            f"mount -t tmpfs -o size={size} tmpfs {place} || exit 99; "
            f"{sys.executable} -m data_prep.task --source={many} "
            f"--output_dir={place}/data; code=$?; ls {place}; exit $code"
        )
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if done.returncode in (1, 99, 127) and "Traceback" not in done.stderr:
            pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        left = done.stdout.strip().split("\n")[-1]
        assert left == ("" if code else "data")
        if code:
            assert "could not be made" in done.stderr


def test_a_write_that_fails(many, tmp_path):
    """The kernel refuses to let a file grow: an OSError in any process."""
    limit = (1 << 20, 1 << 20)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "data_prep.task",
            f"--source={many}",
            f"--output_dir={tmp_path / 'data'}",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert process.returncode == 65, process.stderr
    assert "could not be made" in process.stderr
    assert "Traceback" not in process.stderr
    assert not os.listdir(tmp_path)


def failing(monkeypatch, number, code):
    """Lets the NUMBERth call that changes the disk fail; 0 lets none.

    Returns:
        The names of all calls so far.
    """
    calls = []

    def fail(name, real, changes=lambda *_: True):
        def called(*arguments, **options):
            if changes(*arguments, *options.values()):
                calls.append(name)
                if len(calls) == number:
                    raise OSError(code, os.strerror(code))
            return real(*arguments, **options)

        return called

    def writes(_, mode="r", *__):
        return set(str(mode)) & set("wax+")

    opened = fail("open", open, writes)
    monkeypatch.setattr("io.open", opened)
    monkeypatch.setattr("builtins.open", opened)
    for name in ("mkdir", "rename", "replace", "fsync"):
        monkeypatch.setattr(os, name, fail(name, getattr(os, name)))
    monkeypatch.setattr(sqlite3, "connect", fail("database", sqlite3.connect))
    return calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_call_that_fails_leaves_nothing(tmp_path, code):
    source = write_noise(tmp_path / "photos", count=10)
    data = tmp_path / "data"

    def prepared(number):
        with pytest.MonkeyPatch.context() as patch:
            calls = failing(patch, number, code)
            try:
                make(source, tmp_path)
            except DataError as error:
                assert "not be made: " in str(error)
                assert os.strerror(code) in str(error)
                assert not data.exists(), calls
            else:  # the control; or files were moved one by one instead
                assert not number or (calls[number - 1], code) == (
                    "rename",
                    errno.EIO,
                )
                assert verification.verify(data)
                shutil.rmtree(data)
        assert os.listdir(tmp_path) == ["photos"], calls
        return calls

    calls = prepared(0)
    assert {"open", "mkdir", "rename", "database"} <= set(calls), calls
    for number in range(1, len(calls) + 1):
        prepared(number)


# 4. Damaged images; the many kinds are in test_data_prep*.py.


def test_a_cut_jpeg_that_a_check_of_headers_passes(tmp_path):
    source = write_noise(tmp_path / "photos", count=10)
    whole = (source / "cat" / "000.jpg").read_bytes()
    cut = whole[: len(whole) * 6 // 10]
    (source / "cat" / "cut.jpg").write_bytes(cut)
    Image.open(io.BytesIO(cut)).verify()  # the control: this sees nothing
    with pytest.raises(DataError, match="cat/cut.jpg cannot be decoded"):
        make(source, tmp_path)
    manifest, found = make(source, tmp_path, on_bad_image="skip")
    assert len(found) + manifest.skipped == 21


def test_a_file_that_changes_after_the_audit(many, tmp_path, monkeypatch):
    source = write_noise(tmp_path / "photos", count=10)
    victim = source / "cat" / "003.jpg"
    from data_prep.catalogue import comparison

    compare_images = comparison.compare_images

    def compare_and_change(*arguments, **options):
        compare_images(*arguments, **options)
        shutil.copy(source / "cat" / "004.jpg", victim)

    monkeypatch.setattr(comparison, "compare_images", compare_and_change)
    with pytest.raises(DataError, match="003.jpg was changed after it was"):
        make(source, tmp_path)
    assert not (tmp_path / "data").exists()


# 6. Names that lead out; see also test_data_prep_sources.py.


def test_links_out_would_be_followed_without_the_check(tmp_path, monkeypatch):
    source = write_classes(tmp_path / "photos", count=10)
    outside = tmp_path / "secret.png"
    Image.new("RGB", (40, 40), (3, 99, 5)).save(outside)
    (source / "cat" / "out.png").symlink_to(outside)
    with pytest.raises(DataError, match="leads out of the source"):
        make(source, tmp_path)
    monkeypatch.setattr(listing, "find_problem", lambda path, root: "")
    assert folder.walk is listing.walk
    _, found = make(source, tmp_path)
    assert "cat/out.png" in found


# 7 to 9. Damaged data sets.


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A data set of equal records in two shards, which sizes cannot tell."""
    place = tmp_path_factory.mktemp("raw")
    source = write_noise(place / "photos", count=60)
    manifest, _ = make(
        source,
        place,
        image_size=64,
        encoding="raw",
        splits="train:45,validation:15",
        shard_mb=1,
    )
    one, two = manifest.splits["train"].shards
    assert one.bytes == two.bytes
    return place / "data"


@pytest.fixture
def data(raw, tmp_path):
    return shutil.copytree(raw, tmp_path / "data")


def shard_of(data, number=0):
    manifest = manifest_lib.read(data)
    index = manifest_lib.load_index(manifest, data, "train")
    rows = index[index["shard"] == number]
    return data / manifest.splits["train"].shards[number].name, rows


def refused(data, *expected):
    with pytest.raises(DataError) as error:
        verification.verify(data)
    for text in expected:
        assert text in str(error.value)


@pytest.mark.parametrize("record", [0, 7, -1])
@pytest.mark.parametrize(
    "region, message",
    [
        (0, "its length says"),
        (9, "the checksum of its length is wrong"),
        (500, "checksum does not fit"),
        (-1, "checksum does not fit"),
    ],
)
def test_a_flipped_bit(raw, data, record, region, message):
    assert verification.verify(data)  # the control
    shard, rows = shard_of(data)
    row = rows[record]
    start = int(row["offset"]) - records.HEADER_BYTES
    if region < 0:
        place = int(row["offset"] + row["bytes"]) + records.FOOTER_BYTES - 1
    else:
        place = start + region
    content = bytearray(shard.read_bytes())
    content[place] ^= 4
    shard.write_bytes(content)
    refused(data, f"{shard} is damaged at byte {start}: ", message)
    # The trainer looks at the ends when it starts, and at the content of each
    # record when it reads it; where that begins it knows from the index.
    manifest = manifest_lib.load(data)
    if record == 7:
        images = reader.Reader(data, manifest, "train")
        if 0 <= region < records.HEADER_BYTES:
            whole = reader.Reader(raw, manifest, "train")
            every = np.arange(90)
            assert images.count == 90
            assert list(images.contents(every)) == list(whole.contents(every))
            return
        with pytest.raises(DataError, match=f"{shard.name} is damaged at byte"):
            images.contents(np.arange(images.count))
    else:
        with pytest.raises(DataError, match=f"{shard.name} is damaged at byte"):
            reader.Reader(data, manifest, "train")


def test_every_bit_of_a_record_is_watched():
    """In all four of its parts, each named."""
    record = records.Record(b"an image", 1, 2, "cat/1.jpg", 4, 5)
    payload = records.serialize(record)
    framed = records.frame(payload)
    assert records.check_frame(framed, len(payload)) == payload
    for place, bit in itertools.product(range(len(framed)), range(8)):
        content = bytearray(framed)
        content[place] ^= 1 << bit
        message = "its length says|of its length" if place < 12 else "not fit"
        with pytest.raises(ValueError, match=message):
            records.check_frame(bytes(content), len(payload))


def damage_of(content, rows, kind):
    second = int(rows[1]["offset"]) - records.HEADER_BYTES
    return {
        "at a record's end": content[:second],
        "5 bytes later": content[: second + 5],
        "in a record": content[: second + 700],
        "empty": b"",
        "7 bytes more": content + b"trailin",
        "gzip, less 8 bytes": gzip.compress(content)[:-8],
    }[kind]


TRUNCATIONS = (
    "at a record's end",
    "5 bytes later",
    "in a record",
    "empty",
    "7 bytes more",
    "gzip, less 8 bytes",
)


@pytest.mark.parametrize("kind", TRUNCATIONS)
def test_a_cut_shard(data, kind):
    shard, rows = shard_of(data)
    shard.write_bytes(damage_of(shard.read_bytes(), rows, kind))
    size = shard.stat().st_size
    refused(data, f"{shard} is {size} bytes long; the manifest says")
    if kind in TRUNCATIONS[1:3]:
        start = int(rows[1]["offset"]) - records.HEADER_BYTES
        refused(data, f"at byte {start}: the file ends within the record")
    with pytest.raises(DataError, match=f"{shard.name} is {size} bytes long"):
        manifest_lib.load(data)  # how the trainer begins


def test_what_tensorflow_says_of_cut_shards(tf, data):
    """The control: TFRecord itself takes most of these for whole files."""
    shard, rows = shard_of(data)
    whole = shard.read_bytes()
    silent = []
    for kind in TRUNCATIONS:
        shard.write_bytes(damage_of(whole, rows, kind))
        compression = "GZIP" if kind.startswith("gzip") else ""
        images = tf.data.TFRecordDataset(str(shard), compression)
        try:
            assert len(list(images)) <= len(rows)
            silent.append(kind)
        except tf.errors.DataLossError:
            pass
    assert len(silent) >= 4, silent


def test_a_shard_that_is_missing_or_too_many(data):
    shard, _ = shard_of(data)
    extra = shard.with_name("photos-train.tfrecord-00002-of-00003")
    shutil.copy(shard, extra)
    refused(data, f"{extra} is no shard of this data set")
    with pytest.raises(DataError, match="is no shard of this data set"):
        manifest_lib.load(data)
    extra.unlink()
    assert verification.verify(data)
    shard.unlink()
    refused(data, f"{shard} is missing; the manifest says")
    with pytest.raises(DataError, match="is missing"):
        manifest_lib.load(data)


def swap(one, other):
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def test_swapped_shards_of_one_size(data):
    swap(shard_of(data, 0)[0], shard_of(data, 1)[0])
    manifest = manifest_lib.load(data)  # the control: sizes say nothing
    refused(data, "at byte 0: it holds another record")
    with pytest.raises(DataError, match="it holds another record"):
        reader.Reader(data, manifest, "train")


def test_the_manifest_of_another_data_set(data, tmp_path):
    (tmp_path / "other").mkdir()
    source = write_classes(tmp_path / "other" / "photos", count=20)
    make(source, tmp_path / "other")
    other = tmp_path / "other" / "data" / "manifest.json"
    shutil.copy(other, data / "manifest.json")
    refused(data, "is no shard of this data set", "is missing")
    with pytest.raises(DataError, match="is no shard of this data set"):
        manifest_lib.load(data)


def test_a_changed_manifest(data):
    path = data / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"skipped": 0', '"skipped": 1'))
    assert path.read_text() != text
    refused(data, "was changed")


@pytest.mark.slow
def test_the_trainer_refuses_at_start(run, data, tmp_path):
    swap(shard_of(data, 0)[0], shard_of(data, 1)[0])
    done = run(
        "trainer.task",
        f"--data_dir={data}",
        f"--model_dir={tmp_path / 'model'}",
        "--weights=none",
        "--freeze_random_weights",
        "--image_size=32",
    )
    assert done.returncode == 65, done.stderr
    assert "it holds another record" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_nothing(many, tmp_path):
    (tmp_path / "place").mkdir()
    marker = tmp_path / "at work"
    data = tmp_path / "place" / "data"
    process = start(many, data, code=held(marker))
    wait_for(marker.name, tmp_path, process)
    assert os.listdir(tmp_path / "place")  # the control
    process.send_signal(signal.SIGINT)
    assert process.wait() == 75
    said = process.stderr.read()
    assert "Traceback" not in said
    assert "stopped by a signal" in said
    assert not os.listdir(tmp_path / "place")


@pytest.mark.parametrize("limit, code", [(1000, 65), (100_000, 0)])
def test_any_command_names_a_full_disk(tmp_path, limit, code):
    script = (
        "import pathlib, resource; from data_prep.runtime import command; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        f"path = pathlib.Path({str(tmp_path / 'file')!r}); "
        "command.run(lambda: print(path.write_bytes(bytes(5000))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert ("could not be written: File too large" in done.stderr) == bool(code)
