"""Processes that decode: same pixels, memory used again, and how they end."""

import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from conftest import ROOT
from training import prepare

from data_prep.dataset import manifest as manifest_lib
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from trainer.pipeline import decoding_pool
from trainer.pipeline import decoding_process
from trainer.pipeline.decoding_pool import DecodingPool
from trainer.pipeline.reader import Reader

SIZE = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("pool"))


@pytest.fixture
def reader(data):
    return Reader(str(data), manifest_lib.load(data), "train")


def children():
    return {
        child.pid
        for child in psutil.Process().children()
        if "decoding_process" in " ".join(child.cmdline())
    }


def gone(pids):
    """Waits for processes to end; a test without end is a failure."""
    while any(psutil.pid_exists(pid) for pid in pids):
        time.sleep(0.01)
    return True


def test_threads_get_their_own_images(reader):
    pool = DecodingPool(reader.shards, SIZE)
    everything = reader.pixels(np.arange(reader.count), SIZE)
    wrong = []

    def ask(seed):
        generator = np.random.default_rng(seed)
        for _ in range(20):
            chosen = generator.integers(0, reader.count, 5)
            found = pool.pixels(reader.rows(chosen))
            if not np.array_equal(found, everything[chosen]):
                wrong.append(chosen)

    threads = [threading.Thread(target=ask, args=[n]) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("asked", [False, True])
def test_who_asked_is_gone_before_the_answer(reader, tmp_path, asked):
    ours, theirs = multiprocessing.Pipe()
    ours.send((reader.shards, SIZE))
    if asked:
        ours.send_bytes(decoding_process.pack(0, reader.rows(np.arange(3))))
    ours.close()
    with open(tmp_path / "memory", "w+b") as memory, theirs:
        memory.truncate(3 * SIZE * SIZE * 3)
        passed = (theirs.fileno(), memory.fileno())
        words = map(str, [decoding_process.__name__, *passed])
        done = subprocess.run(
            [sys.executable, "-m", *words],
            pass_fds=passed,
            cwd=ROOT,
            capture_output=True,
        )
        pixels = memory.read()
    assert (done.returncode, done.stderr) == (0, b"")
    assert any(pixels) == asked


def test_memory_is_used_again_when_no_view_is_left(reader):
    pool = DecodingPool(reader.shards, SIZE)
    first = pool.pixels(reader.rows(np.arange(5)))
    view, wanted = first[2][3:], first[2][3:].copy()
    address = first.ctypes.data
    assert address % mmap_page() == 0
    del first
    second = pool.pixels(reader.rows(np.arange(5, 10)))
    assert second.ctypes.data != address
    np.testing.assert_array_equal(view, wanted)
    del view
    gc.collect()
    third = pool.pixels(reader.rows(np.arange(5)))
    assert third.ctypes.data == address
    del third
    size = os.fstat(pool._memory).st_size
    for _ in range(20):
        pool.pixels(reader.rows(np.arange(5)))
    assert os.fstat(pool._memory).st_size == size
    assert len(pool.pixels(reader.rows(np.arange(3)))) == 3  # of another size


def mmap_page():
    return decoding_pool.mmap.PAGESIZE


def test_tensorflow_takes_the_memory_as_it_is(reader, tf, monkeypatch):
    """A copy would be made while Python's lock is held."""
    from trainer.pipeline import input_pipeline

    addresses = []
    real = DecodingPool.pixels

    def spy(self, rows):
        result = real(self, rows)
        addresses.append(result.ctypes.data)
        return result

    monkeypatch.setattr(DecodingPool, "pixels", spy)
    source = input_pipeline.decoded_fast(reader, SIZE)
    plan = input_pipeline.plan_evaluation(reader.count, reader.count)
    (batch,) = input_pipeline.create(reader, plan, source)
    assert np.from_dlpack(batch.image).ctypes.data == addresses[0]


def test_a_damaged_record_is_named_and_the_others_come(data, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    manifest = manifest_lib.load(copy)
    row = manifest_lib.load_index(manifest, copy, "train")[3]
    path = copy / manifest.splits["train"].shards[0].name
    content = bytearray(path.read_bytes())
    content[row["offset"] + row["bytes"] // 2] ^= 1
    path.write_bytes(content)
    reader = Reader(str(copy), manifest, "train")
    pool = DecodingPool(reader.shards, SIZE)
    for _ in range(3):
        with pytest.raises(DataError, match=f"damaged at byte {row['offset']}"):
            pool.pixels(reader.rows(np.arange(5)))
        assert pool.pixels(reader.rows(np.arange(4, 8))).any()


def test_a_killed_process_is_an_error_and_no_wait(reader):
    pool = DecodingPool(reader.shards, SIZE)
    pool.pixels(reader.rows(np.arange(2)))
    (decoder,) = pool._decoders
    os.kill(decoder.process.pid, signal.SIGKILL)
    decoder.process.wait()
    for _ in range(2):
        with pytest.raises(TrainingError, match="ended with -9, killed: is"):
            pool.pixels(reader.rows(np.arange(2)))


def test_processes_end_with_the_pool(reader):
    before = children()
    pool = DecodingPool(reader.shards, SIZE)
    assert children() == before  # none before they are needed
    pool.pixels(reader.rows(np.arange(2)))
    started = children() - before
    assert len(started) == 1
    del pool
    gc.collect()
    assert gone(started)


def test_a_filled_cache_needs_no_processes(data, tf):
    from trainer.groups import Data
    from trainer.pipeline.data_loader import DataLoader

    before = children()
    readers = {
        split: Reader(str(data), manifest_lib.load(data), split)
        for split in ("train", "validation")
    }
    loader = DataLoader(
        Data(data_dir=str(data), image_size=SIZE, cache_mb=100),
        readers,
        batch_size=4,
        seed=0,
        replicas=1,
    )
    assert len(list(loader.training(loader.images["train"], 0)))
    gc.collect()
    assert gone(children() - before)


LEAVE = """
import os, signal, sys
import numpy as np
from data_prep.dataset import manifest
from trainer.pipeline.decoding_pool import DecodingPool
from trainer.pipeline.reader import Reader
reader = Reader(sys.argv[1], manifest.load(sys.argv[1]), "train")
pool = DecodingPool(reader.shards, 40)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
pool.pixels(reader.rows(np.arange(2)))
print(pool._decoders[0].process.pid, flush=True)
end = sys.argv[2]
if end == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if end == "exit":
    os._exit(3)
"""


@pytest.mark.parametrize(
    "end, code", [("killed", -9), ("exit", 3), ("usual", 0)]
)
def test_processes_end_with_the_one_that_started_them(data, end, code):
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, data, end],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert gone([int(done.stdout)])
    assert not done.stderr
