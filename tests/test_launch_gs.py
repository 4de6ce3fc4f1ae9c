"""gs:// by gcsfs, while the service is ill; see `gcs_service`.

Each fault stands beside a control: the same without it, or a milder one.
"""

import errno
import json
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time

import gcs_service
import pytest
from conftest import ROOT
from gcs_service import TRIES
from training import STEPS
from training import TINY
from training import assert_same
from training import prepare
from training import saved
from training import train

from data_prep.runtime import storage
from data_prep.runtime import store_clients
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError
from launch.staging.mirror import COMMIT
from launch.staging.mirror import Mirror

pytest.importorskip("gcsfs")
pytestmark = pytest.mark.skipif(
    bool(gcs_service.missing()), reason=gcs_service.missing()
)
CONTENT = b"0123456789" * 1000
MIB = 1 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        gcs_service.service(
            tmp_path_factory.mktemp("gs"), monkeypatch
        ) as running,
    ):
        yield running


@pytest.fixture
def url(service, tmp_path):
    """A folder of the bucket that holds one object."""
    url = f"gs://bucket/{tmp_path.name}"
    storage.write(f"{url}/old", CONTENT)
    return url


def stored(service, url, name):
    """Returns an object, past the proxy."""
    return service.object(f"{url.removeprefix('gs://bucket/')}/{name}")


READ = "GET /download"
# Of the request, and what makes it.
OPERATIONS = {
    "read": (READ, lambda url: storage.read(f"{url}/old")),
    "list": ("GET .*prefix", storage.names),
    "write": ("POST", lambda url: storage.write(f"{url}/new", CONTENT)),
    "delete": ("DELETE", lambda url: storage.delete(f"{url}/old")),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_a_burst_of_503_is_ridden_out(service, url, what):
    pattern, operate = OPERATIONS[what]
    with service.fault(pattern, status=503, times=TRIES - 1) as fault:
        operate(url)
    assert fault.hits == TRIES - 1
    if what == "write":
        assert stored(service, url, "new") == CONTENT
    if what == "delete":
        assert stored(service, url, "old") is None


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("what", OPERATIONS)
def test_a_longer_one_ends_in_a_message(service, url, what, status):
    pattern, operate = OPERATIONS[what]
    with service.fault(pattern, status=status):
        with pytest.raises(Stopped, match="does not answer.*again"):
            operate(url)
    assert stored(service, url, "new") is None
    operate(url)


@pytest.mark.parametrize("what", OPERATIONS)
@pytest.mark.parametrize("status, says", [(401, "401"), (403, "Forbidden")])
def test_a_refusal_is_final(service, url, what, status, says):
    pattern, operate = OPERATIONS[what]
    with service.fault(pattern, status=status) as fault:
        with pytest.raises(DataError, match=f"{says}.*CREDENTIALS"):
            operate(url)
    assert fault.hits == 1
    operate(url)


def test_a_cut_body_is_read_again_or_refused(service, url, tmp_path):
    with service.fault(READ, kept=100, times=1) as fault:
        storage.download(url, tmp_path, [("old", "copy")])
    assert fault.hits == 1
    assert (tmp_path / "copy").read_bytes() == CONTENT
    with service.fault(READ, kept=100):
        with pytest.raises(Stopped, match="PayloadError"):
            storage.download(url, tmp_path, [("old", "other")])
        with pytest.raises(Stopped, match="PayloadError"):
            storage.read(f"{url}/old")
    assert os.listdir(tmp_path) == ["copy"]


def test_an_answer_that_is_lost(service, url):
    """The write was done, and is done again: the same object."""
    before = len(service.requests)
    with service.fault("POST", lost=True, times=1) as fault:
        storage.write(f"{url}/new", CONTENT)
    assert fault.hits == 1
    assert stored(service, url, "new") == CONTENT
    methods = [r.partition(" ")[0] for r in service.requests[before:]]
    assert methods == ["POST", "POST"]
    with service.fault("DELETE", lost=True, times=1) as fault:
        storage.delete(f"{url}/new")
    assert fault.hits == 1
    assert stored(service, url, "new") is None


@pytest.mark.parametrize(
    "read",
    [
        lambda url, folder: storage.read(f"{url}/old"),
        lambda url, folder: storage.download(url, folder, [("old", "copy")]),
    ],
)
def test_slow_answers(service, url, tmp_path, read, monkeypatch):
    """An answer that does not come is asked for again; a slow one is not."""
    with service.fault(READ, seconds=0.5) as fault:
        read(url, tmp_path)
        assert fault.hits == 1
    monkeypatch.setattr(store_clients, "_SILENCE_SECONDS", 2)
    with service.fault(READ, seconds=3, times=1) as fault:
        before = len(service.requests)
        read(url, tmp_path)
        reads = [r for r in service.requests[before:] if READ in r]
        # Where the machine is slow too, once more.
        assert fault.hits == 1 and len(reads) >= 2


def test_an_object_that_another_machine_writes_anew(service, url, tmp_path):
    """Neither contents, nor sizes, nor listings are remembered."""
    folder = url.removeprefix("gs://bucket/")
    names = ["old"]
    for content in (CONTENT, 2 * CONTENT, b"", 3 * CONTENT):
        service.put(f"{folder}/old", content)
        assert storage.read(f"{url}/old") == content
        storage.download(url, tmp_path, [("old", "copy")])
        assert (tmp_path / "copy").read_bytes() == content
        service.put(f"{folder}/{len(names)}", b"")
        names = [str(len(names)), *names]
        assert storage.names(url) == sorted(names)


def test_a_disk_that_is_full_leaves_the_old_file(service, url, tmp_path):
    """An upload takes no room on it."""
    large, copy = tmp_path / "large", tmp_path / "copy"
    large.write_bytes(b"x" * 300_000)
    copy.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        storage.upload(large, f"{url}/large")
        with pytest.raises(OSError) as error:
            storage.download(url, tmp_path, [("large", "copy")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.errno == errno.EFBIG
    assert copy.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["copy", "large"]
    storage.download(url, tmp_path, [("large", "copy")])
    assert copy.read_bytes() == large.read_bytes()


def test_large_files_go_in_pieces(service, url, tmp_path):
    """In pieces of 50 MiB; one that fails leaves the old object."""
    large = tmp_path / "large"
    large.write_bytes(bytes(10 * MIB) + b"x" * (50 * MIB))
    service.largest = 0
    with service.fault("POST .*upload_id=", status=403, times=1) as fault:
        with pytest.raises(DataError):
            storage.upload(large, f"{url}/old")
    assert fault.hits == 1
    assert stored(service, url, "old") == CONTENT
    storage.upload(large, f"{url}/old")
    assert service.largest == 50 * MIB
    storage.download(url, tmp_path, [("old", "copy")])
    assert (tmp_path / "copy").read_bytes() == large.read_bytes()


def test_a_write_that_failed_does_not_come_late(service, url):
    with service.fault("POST", status=503):
        with pytest.raises(Stopped) as error:
            storage.write(f"{url}/new", b"failed")
    storage.write(f"{url}/new", CONTENT)
    del error
    time.sleep(0.5)
    assert stored(service, url, "new") == CONTENT


def test_a_commit_that_fails_is_made_up_for(service, url, tmp_path):
    model, other = tmp_path / "model", tmp_path / "other"
    model.mkdir()
    mirror = Mirror(url, model)

    def fetched():
        Mirror(url, other).fetch()
        return (other / "config.json").read_text()

    (model / "config.json").write_text("first")
    mirror.push()
    (model / "config.json").write_text("second")
    with service.fault(rf"POST .*{COMMIT}", status=403) as fault:
        with pytest.raises(DataError):
            mirror.push()
    assert fault.hits
    assert fetched() == "first"
    assert mirror.push() == 1
    assert fetched() == "second"


def test_the_client_that_is_missing_is_named(service, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    with pytest.raises(UsageError, match=r"gs://.*shardtune\[gcs\]"):
        storage.read("gs://bucket/old")


@pytest.fixture(scope="module")
def data(tmp_path_factory, service):
    folder = prepare(tmp_path_factory.mktemp("data"))
    for path in folder.iterdir():
        storage.upload(path, f"gs://bucket/data/{path.name}")
    return folder


def staged(model, *arguments):
    """Returns the command of a run."""
    return (
        [sys.executable, "-m", "launch.staged", "--copy_seconds=0.2", "--"]
        + ["--data_dir=gs://bucket/data", f"--model_dir={model}"]
        + [*TINY, "--finetune_epochs=0", *arguments]
    )


def test_refused_before_the_training_begins(service, data, tmp_path):
    # Of 401 gcsfs logs a traceback, too, if it may.
    with service.fault("POST .*model", status=401):
        done = subprocess.run(
            staged(f"gs://bucket/{tmp_path.name}/model"),
            cwd=ROOT,
            env={**os.environ, **service.environ, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 65, done.stderr
    assert re.search(r"^error: gs://bucket/.*401.*\n\Z", done.stderr, re.M)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_between_data_and_commit(service, data, tmp_path):
    """The next run goes on from the last commit, and ends as if nothing was.

    While the commit waits for its answer, a SIGTERM still reaches the
    training.
    """
    flags = ["--frozen_epochs=30", "--deterministic"]
    undisturbed = tmp_path / "undisturbed"
    done = train(data, undisturbed, "--finetune_epochs=0", *flags)
    assert done.returncode == 0, done.stderr

    folder = f"{tmp_path.name}/model"
    words = staged(f"gs://bucket/{folder}", *flags)
    environ = {**os.environ, **service.environ, "TMPDIR": str(tmp_path)}

    def committed():
        """Returns the last commit's epochs, and its objects' names."""
        content = service.object(f"{folder}/{COMMIT}")
        files = json.loads(content)["files"] if content else {}
        objects = {entry["object"] for entry in files.values()}
        if "metrics.jsonl" not in files:
            return 0, objects
        metrics = files["metrics.jsonl"]["object"]
        lines = service.object(f"{folder}/{metrics}").splitlines()
        return len(lines), objects

    def wait_for(condition):
        end = time.monotonic() + 600
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.05)

    first = subprocess.Popen(words, cwd=ROOT, env=environ)
    wait_for(lambda: committed()[0])
    with service.fault(rf"POST .*{COMMIT}", seconds=600) as fault:
        wait_for(lambda: fault.hits)
        first.send_signal(signal.SIGTERM)
        (child,) = children(first.pid)
        wait_for(lambda: not running(child))
        epochs, objects = committed()
        first.kill()
        first.wait()
    url = f"gs://bucket/{folder}"
    uncommitted = set(storage.names(url)) - objects - {COMMIT}
    assert uncommitted, "it was killed before any data had been copied"
    assert 1 <= epochs < 30

    second = subprocess.run(
        words, cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    assert committed()[0] == 30
    Mirror(url, tmp_path / "fetched").fetch()
    last = 30 * STEPS
    assert_same(saved(tmp_path / "fetched", last), saved(undisturbed, last))


def children(pid):
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def running(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
