"""Reading records of many shards, and what becomes of damaged ones."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from conftest import write_classes
from training import prepare
from training import train

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.dataset import records
from data_prep.dataset import verification
from data_prep.prepare import prepare as prepare_config
from data_prep.runtime.errors import DataError
from data_prep.writers import shards

SHARDS = 50


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """A split of 100 images, two in a shard."""
    root = tmp_path_factory.mktemp("many_shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "MAX_RECORDS", 2)
        prepare_config(
            PrepareConfig(
                source=str(write_classes(root / "photos", count=50)),
                output_dir=str(root / "data"),
                splits="train:1.0",
                similarity=0,
                workers=1,
            )
        )
    data = root / "data"
    assert len(manifest_lib.load(data).splits["train"].shards) == SHARDS
    return data


READ_ALL = """
import resource, sys
import numpy as np
from data_prep.dataset import manifest
from data_prep.runtime import startup
startup.import_tensorflow()
from trainer.pipeline.reader import Reader
data, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
reader = Reader(data, manifest.load(data), "train")
order = np.random.default_rng(0).permutation(reader.count)
print([len(content) for content in reader.contents(order)].count(0), order.size)
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [40, 4096])
def test_more_shards_than_may_be_open(many_shards, limit):
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, many_shards, str(limit)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "100"]


def test_shards_are_the_same_opened_once_or_each_time(
    many_shards, tf, monkeypatch
):
    from trainer.pipeline import reader as reader_lib
    from trainer.pipeline import shard_files

    manifest = manifest_lib.load(many_shards)
    order = np.arange(100)
    found = []
    for most in (1, SHARDS - 1, SHARDS + 1):
        monkeypatch.setattr(shard_files, "_most_open_files", lambda n=most: n)
        reader = reader_lib.Reader(str(many_shards), manifest, "train")
        found.append(list(reader.contents(order)))
        assert reader.files() == list(map(reader.files().__getitem__, order))
    assert found[0] == found[1] == found[2]
    assert len(set(found[0])) == 100


@pytest.mark.parametrize("shard", [0, 1, 25, SHARDS - 1])
@pytest.mark.parametrize("end", [0, 1])
def test_both_ends_of_every_shard_are_checked(many_shards, shard, end):
    manifest = manifest_lib.load(many_shards)
    index = manifest_lib.load_index(manifest, many_shards, "train").copy()
    verification.check_ends(manifest, str(many_shards), "train", index)
    row = index[2 * shard + end]
    row["id"] += 1
    with pytest.raises(DataError) as caught:
        verification.check_ends(manifest, str(many_shards), "train", index)
    name = manifest.splits["train"].shards[shard].name
    start = row["offset"] - records.HEADER_BYTES
    assert f"{name} is damaged at byte {start}: it holds" in str(caught.value)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A bit of a record in the middle of train, and of validation, is wrong."""
    data = prepare(tmp_path_factory.mktemp("damaged"))
    manifest = manifest_lib.load(data)
    places = {}
    for split in ("train", "test"):
        row = manifest_lib.load_index(manifest, data, split)[3]
        path = data / manifest.splits[split].shards[0].name
        content = bytearray(path.read_bytes())
        content[row["offset"] + row["bytes"] // 2] ^= 1
        path.write_bytes(content)
        places[split] = f"{path} is damaged at byte {row['offset']}"
    return data, places


@pytest.mark.slow
@pytest.mark.parametrize("cache_mb", [0, 100])
def test_a_damaged_record_ends_a_training_with_one_message(
    damaged, tmp_path, cache_mb
):
    data, places = damaged
    done = train(data, tmp_path / "model", f"--cache_mb={cache_mb}")
    assert done.returncode == 65, done.stderr
    (message,) = [
        line for line in done.stderr.splitlines() if "damaged" in line
    ]
    assert message.startswith(f"error: {places['train']}")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [("trainer.features", "--output_dir"), ("trainer.find_lr", "--output")],
)
def test_a_damaged_record_is_named_by_what_reads_training_images(
    damaged, run, tmp_path, words
):
    data, places = damaged
    module, flag = words
    done = run(
        module,
        f"--data_dir={data}",
        f"{flag}={tmp_path / 'out.png'}",
        "--recipe=",
        "--base=scratch",
        "--weights=none",
        "--freeze_random_weights",
        "--image_size=62",
        "--batch_size=4",
        "--cache_mb=0",
    )
    assert done.returncode == 65, done.stderr
    assert f"error: {places['train']}" in done.stderr
    assert "Traceback" not in done.stderr


FAIL_WHILE_A_PIPELINE_RUNS = """
import atexit, sys, time
import tensorflow as tf
from data_prep.runtime import command
from data_prep.runtime.errors import DataError

kept = []  # as what a traceback holds is kept

class Marker:
    def __del__(self, write=print):
        write("the interpreter's own end")

marker = Marker()

def slowly(number):
    time.sleep(0.0005)
    return number

def main():
    numbers = tf.data.Dataset.range(10**6).map(
        lambda n: tf.numpy_function(slowly, [n], tf.int64),
        num_parallel_calls=8,
    )
    kept.append(iter(numbers.prefetch(10**6)))
    next(kept[0])
    atexit.register(print, "an exit function")
    print("printed before")
    raise DataError("what went wrong")

command.run(main)
"""


def test_a_failure_is_no_abort_while_pipelines_call_python():
    """Whether one aborts is a matter of chance, so the cause is looked for."""
    done = subprocess.run(
        [sys.executable, "-c", FAIL_WHILE_A_PIPELINE_RUNS],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 65, done.stderr
    assert done.stdout == "printed before\nan exit function\n"
    assert done.stderr.splitlines()[-1] == "error: what went wrong"


def test_an_image_that_cannot_be_decoded_is_named(tmp_path, tf):
    """Its record is whole: what is in it is wrong."""
    from trainer.pipeline import input_pipeline
    from trainer.pipeline.reader import Reader

    data = prepare(tmp_path)
    manifest = manifest_lib.load(data)
    row = manifest_lib.load_index(manifest, data, "train")[3]
    path = data / manifest.splits["train"].shards[0].name
    content = bytearray(path.read_bytes())
    start, end = row["offset"], row["offset"] + row["bytes"]
    content[
        start + row["image_offset"] + 4 : start + row["image_offset"] + 60
    ] = bytes(56)
    checksum = records.masked_crc(bytes(content[start:end]))
    content[end : end + 4] = checksum.to_bytes(4, "little")
    path.write_bytes(content)
    reader = Reader(str(data), manifest, "train")
    file = reader.files()[3]
    message = f"byte {start}: OpenCV cannot decode the image, {file}"
    with pytest.raises(DataError, match=message):
        reader.pixels(np.array([3]), 48)
    source = input_pipeline.decoded_fast(reader, 48)
    plan = input_pipeline.plan_evaluation(reader.count, 8)
    with (
        pytest.raises(DataError, match=message),
        input_pipeline.naming_failures(),
    ):
        list(input_pipeline.create(reader, plan, source))
    with (
        pytest.raises(tf.errors.InvalidArgumentError),  # nobody reader's
        input_pipeline.naming_failures(),
    ):
        tf.reshape(tf.zeros(3), [2])
