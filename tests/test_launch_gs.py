"""gs:// by TensorFlow itself, while the service is ill; see `gcs_service`.

Each fault stands beside a control: the same without it, or a milder one.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import gcs_service
import pytest
from conftest import ROOT
from remote_stores import remote_stores
from training import STEPS
from training import TINY
from training import assert_same
from training import prepare
from training import saved
from training import train

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from launch.staging.mirror import COMMIT
from launch.staging.mirror import Mirror

pytestmark = pytest.mark.skipif(
    bool(gcs_service.missing()), reason=gcs_service.missing()
)
CONTENT = b"0123456789" * 1000
# One request is the first try, and two are TensorFlow's retries.
TRIES = 3


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with gcs_service.service(tmp_path_factory.mktemp("gs")) as running:
        yield running


@pytest.fixture(scope="module")
def remote(service, tmp_path_factory):
    root = tmp_path_factory.mktemp("remote")
    with remote_stores(service, root) as running:
        yield running


@pytest.fixture
def store(remote, tmp_path):
    """A folder of the bucket that holds one object."""
    store = remote.open_store(f"gs://bucket/{tmp_path.name}")
    store.write("old", CONTENT)
    return store


def stored(service, store, name):
    """Returns an object, past the proxy."""
    return service.object(f"{store.uri.removeprefix('gs://bucket/')}/{name}")


OPERATIONS = {
    "read": ("GET /bucket", lambda store: store.read("old")),
    "list": ("GET .*prefix", lambda store: store.names()),
    "begin of a write": ("POST", lambda store: store.write("new", CONTENT)),
    "write": ("PUT", lambda store: store.write("new", CONTENT)),
    "delete": ("DELETE", lambda store: store.delete("old")),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_a_burst_of_503_is_ridden_out(service, store, what):
    pattern, operate = OPERATIONS[what]
    with service.fault(pattern, status=503, times=TRIES - 1) as fault:
        operate(store)
    assert fault.hits == TRIES - 1
    if "write" in what:
        assert stored(service, store, "new") == CONTENT
    if what == "delete":
        assert stored(service, store, "old") is None


@pytest.mark.parametrize("what", ["read", "list", "write"])
def test_a_longer_one_ends_in_a_message(service, store, what):
    pattern, operate = OPERATIONS[what]
    with service.fault(pattern, status=503):
        with pytest.raises(Stopped, match="does not answer.* 503.*again"):
            operate(store)
    assert stored(service, store, "new") is None
    operate(store)


@pytest.mark.parametrize("what", ["read", "write", "list"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(service, store, what, status):
    pattern, operate = OPERATIONS[what]
    with service.fault(pattern, status=status) as fault:
        with pytest.raises(DataError, match=f" {status} .*CREDENTIALS"):
            operate(store)
    # A write is tried anew when its file is freed; a list has a second way.
    assert fault.hits <= (1 if what == "read" else TRIES)
    operate(store)


def test_a_cut_body_is_read_again_or_refused(service, store, tmp_path):
    path = tmp_path / "copy"
    with service.fault("GET /bucket", kept=100, times=1) as fault:
        store.download("old", path)
    assert fault.hits == 1
    assert path.read_bytes() == CONTENT
    with service.fault("GET /bucket", kept=100):
        with pytest.raises(Stopped, match="partial file"):
            store.download("old", tmp_path / "other")
    assert os.listdir(tmp_path) == ["copy"]


def test_an_answer_that_is_lost(service, store):
    """The write was done; TensorFlow asks, and does not do it again."""
    before = len(service.requests)
    with service.fault("PUT", lost=True, times=1) as fault:
        store.write("new", CONTENT)
    assert fault.hits == 1
    assert stored(service, store, "new") == CONTENT
    methods = [r.partition(" ")[0] for r in service.requests[before:]]
    assert methods == ["POST", "PUT", "PUT"]


def test_slow_answers(service, store):
    limit = float(service.environ["GCS_READ_REQUEST_TIMEOUT_SECS"])
    with service.fault("GET /bucket", seconds=limit + 1, times=1) as fault:
        before = len(service.requests)
        assert store.read("old") == CONTENT
        reads = [r for r in service.requests[before:] if "GET /bucket" in r]
        assert (fault.hits, len(reads)) == (1, 2)
    with service.fault("GET /bucket", seconds=limit / 4) as fault:
        assert store.read("old") == CONTENT
        assert fault.hits == 1


def test_an_object_that_another_machine_writes_anew(service, store):
    """TensorFlow remembers sizes for seconds."""
    folder = store.uri.removeprefix("gs://bucket/")
    for content in (CONTENT, 2 * CONTENT, b"", 3 * CONTENT):
        service.put(f"{folder}/old", content)
        assert store.read("old") == content


def test_a_disk_that_is_full_leaves_the_old_object(
    service, store, remote, tmp_path
):
    """TensorFlow writes to a file of this machine first."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * 300_000)
    remote.limits.file_size(100_000)
    try:
        with pytest.raises(DataError, match="temporary file.*/tmp"):
            store.upload(path, "old")
        assert stored(service, store, "old") == CONTENT
    finally:
        remote.limits.file_size(-1)
    store.upload(path, "old")
    assert stored(service, store, "old") == path.read_bytes()


def test_a_write_that_failed_does_not_come_late(service, store):
    """TensorFlow tries it again when it frees the file: before our error."""
    with service.fault("POST", status=503):
        with pytest.raises(Stopped) as error:
            store.write("new", b"failed")
    store.write("new", CONTENT)
    del error
    time.sleep(0.5)
    assert stored(service, store, "new") == CONTENT


def test_a_commit_that_fails_is_made_up_for(service, store, tmp_path):
    model, other = tmp_path / "model", tmp_path / "other"
    model.mkdir()
    mirror = Mirror(store, model)

    def fetched():
        Mirror(store, other).fetch()
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


@pytest.fixture(scope="module")
def data(tmp_path_factory, remote):
    folder = prepare(tmp_path_factory.mktemp("data"))
    store = remote.open_store("gs://bucket/data")
    for path in folder.iterdir():
        store.upload(path, path.name)
    return folder


def staged(service, model, *arguments):
    """Returns the command of a run, where gs:// is the service."""
    return service.inside(
        [sys.executable, "-m", "launch.staged", "--copy_seconds=0.2", "--"]
        + ["--data_dir=gs://bucket/data", f"--model_dir={model}"]
        + [*TINY, "--finetune_epochs=0", *arguments]
    )


def test_refused_before_the_training_begins(service, data, tmp_path):
    with service.fault("POST .*model", status=403):
        done = subprocess.run(
            staged(service, f"gs://bucket/{tmp_path.name}/model"),
            cwd=ROOT,
            env={**os.environ, **service.environ, "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 65, done.stderr
    # TensorFlow may say before it that it tries again.
    assert re.search(r"^error: gs://bucket/.* 403 .*\n\Z", done.stderr, re.M)
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_between_data_and_commit(service, remote, data, tmp_path):
    """The next run goes on from the last commit, and ends as if nothing was.

    While the commit waits for its answer, a SIGTERM still reaches the
    training.
    """
    flags = ["--frozen_epochs=30", "--deterministic"]
    undisturbed = tmp_path / "undisturbed"
    done = train(data, undisturbed, "--finetune_epochs=0", *flags)
    assert done.returncode == 0, done.stderr

    folder = f"{tmp_path.name}/model"
    words = staged(service, f"gs://bucket/{folder}", *flags)
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
    store = remote.open_store(f"gs://bucket/{folder}")
    uncommitted = set(store.names()) - objects - {COMMIT}
    assert uncommitted, "it was killed before any data had been copied"
    assert 1 <= epochs < 30

    second = subprocess.run(
        words, cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert second.returncode == 0, second.stderr
    assert committed()[0] == 30
    Mirror(store, tmp_path / "fetched").fetch()
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
