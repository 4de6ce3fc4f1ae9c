"""Data and models in object storage: real clients, local servers, faults."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import gcs_service
import object_stores
import pytest
from conftest import ROOT
from conftest import hash_tree
from remote_stores import remote_stores
from training import TINY
from training import prepare

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError
from launch import staged
from launch.staging import stores
from launch.staging.mirror import COMMIT
from launch.staging.mirror import Mirror


@dataclasses.dataclass
class Server:
    """A bucket on this machine.

    Attributes:
        uri: Of the bucket.
        open_store: As `stores.open_store`, from the test's process.
        inside: Makes a command one that reaches the bucket.
        environ: What else it needs for that.
    """

    uri: str
    open_store: Callable
    inside: Callable = list
    environ: dict = dataclasses.field(default_factory=dict)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("staged")
    return prepare(root)


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request, tmp_path_factory):
    if request.param == "gs":
        yield from gs_server(tmp_path_factory.mktemp("gs"))
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        for uri in object_stores.s3_bucket(monkeypatch):
            yield Server(uri, stores.open_store)


@pytest.fixture
def bucket(server, tmp_path):
    """A folder of the bucket that nothing lies in."""
    return f"{server.uri}/{tmp_path.name}"


def gs_server(root):
    if gcs_service.missing():
        pytest.skip(gcs_service.missing())
    with (
        gcs_service.service(root) as service,
        remote_stores(service, root) as remote,
    ):
        uri = f"gs://{gcs_service.BUCKET}"
        yield Server(uri, remote.open_store, service.inside, service.environ)


def upload(server, folder, uri):
    store = server.open_store(uri)
    for name in hash_tree(folder):
        store.upload(folder / name, name)
    return store


def test_data_is_checked_against_its_manifest(server, bucket, data, tmp_path):
    store = upload(server, data, f"{bucket}/data")
    staged.fetch_data(store, tmp_path / "whole")
    assert hash_tree(tmp_path / "whole") == hash_tree(data)
    # A shard of the same size with one other byte.
    (name,) = [n for n in store.names() if "train.tfrecord-00000" in n]
    content = bytearray(store.read(name))
    content[len(content) // 2] ^= 1
    store.write(name, bytes(content))
    with pytest.raises(DataError, match="damaged"):
        staged.fetch_data(store, tmp_path / "other")


def test_no_data_set(server, bucket, tmp_path):
    with pytest.raises(DataError, match="no manifest.json"):
        staged.fetch_data(server.open_store(f"{bucket}/absent"), tmp_path)


def test_a_copy_that_is_cut_short_leaves_the_last(server, bucket, tmp_path):
    """Every write in turn fails; what is fetched is one commit or the other."""
    model = tmp_path / "model"
    (model / "checkpoints").mkdir(parents=True)

    def write(version):
        for name in ("config.json", "checkpoints/a", "checkpoints/b"):
            (model / name).write_text(f"{name} {version}")

    def fetched(number):
        place = tmp_path / f"fetched{number}"
        Mirror(server.open_store(f"{bucket}/model"), place).fetch()
        return {
            p.read_text().split()[1] for p in place.rglob("*") if p.is_file()
        }

    store = server.open_store(f"{bucket}/model")
    mirror = Mirror(store, model)
    write(1)
    assert mirror.push() == 3
    assert fetched(1) == {"1"}
    whole = {"upload": store.upload, "write": store.write}
    for version in range(2, 6):
        write(version)
        calls = []

        def cut(function, calls=calls, fails_at=version - 1):
            def call(*words):
                calls.append(words)
                if len(calls) == fails_at:
                    raise Stopped("cut short")
                return function(*words)

            return call

        for name, function in whole.items():
            setattr(store, name, cut(function))
        with pytest.raises(Stopped, match="cut short"):
            mirror.push()
        assert fetched(version) == {str(version - 1)}
        # The next copy makes up for it.
        for name, function in whole.items():
            setattr(store, name, function)
        assert mirror.push() == 3
        assert fetched(f"{version}.again") == {str(version)}


def test_damage_is_noticed(server, bucket, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    mirror = Mirror(server.open_store(f"{bucket}/model"), model)
    mirror.push()
    assert mirror.push() == 0, "nothing changed"
    commit = json.loads(mirror._store.read(COMMIT))
    mirror._store.write(commit["files"]["config.json"]["object"], b"[]")
    with pytest.raises(DataError, match="damaged"):
        Mirror(server.open_store(f"{bucket}/model"), tmp_path / "other").fetch()
    mirror._store.delete(commit["files"]["config.json"]["object"])
    with pytest.raises(DataError, match="missing"):
        Mirror(server.open_store(f"{bucket}/model"), tmp_path / "third").fetch()

    mirror._store.write(COMMIT, b'{"files": {"config')
    with pytest.raises(DataError, match="COMMIT.json is damaged"):
        mirror.fetch()


def test_names_that_lead_out_of_the_folder(server, bucket, tmp_path):
    store = server.open_store(f"{bucket}/model")
    store.write("objects/1", b"outside")
    for name in ("../outside", "/outside", "a/../../outside"):
        entry = {"object": "objects/1", "sha256": ""}
        commit = {"files": {name: entry}}
        store.write(COMMIT, json.dumps(commit).encode())
        with pytest.raises(DataError, match="leads out"):
            Mirror(store, tmp_path / "a" / "model").fetch()
    assert not list(tmp_path.rglob("outside"))


def test_odd_names_and_equal_files(server, bucket, tmp_path):
    model = tmp_path / "model"
    (model / "a").mkdir(parents=True)
    for name in ("é #?%2F&+", "a/b c", "a/empty"):
        (model / name).write_text("" if name == "a/empty" else "same")
    store = server.open_store(f"{bucket}/model")
    Mirror(store, model).push()
    Mirror(store, tmp_path / "copy").fetch()
    assert hash_tree(tmp_path / "copy") == hash_tree(model)
    store.upload(model / "a/b c", "é #?%2F&+")
    assert store.read("é #?%2F&+") == b"same"
    assert "é #?%2F&+" in store.names()


def test_a_bucket_that_does_not_exist(server, tmp_path):
    """Said before the training, not after it."""
    scheme = server.uri.partition("://")[0]
    store = server.open_store(f"{scheme}://absent/model")
    assert store.names() == []
    with pytest.raises(DataError, match="no such bucket"):
        Mirror(store, tmp_path).try_out()


def test_what_could_not_be_copied_is_kept(
    server, bucket, tmp_path, monkeypatch
):
    """The store fails when the training is done."""
    store = server.open_store(f"{bucket}/model")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(staged, "open_store", lambda uri: store)

    def trained(words, environ, mirror, seconds):
        assert {"TMPDIR"} <= set(environ)
        (scratch / "model").mkdir(parents=True)
        (scratch / "model" / "DONE.json").write_text("{}")
        monkeypatch.setattr(store, "write", fail)
        return 0

    def fail(*words):
        raise Stopped("gone.")

    scratch = tmp_path / "scratch"
    monkeypatch.setattr(staged, "_watched", trained)
    words = ["--data_dir=data", f"--model_dir={bucket}/model"]
    with pytest.raises(Stopped, match=r"gone\. .* is kept") as caught:
        staged.train(words, scratch, 1)
    kept = pathlib.Path(str(caught.value).split(" in ")[-1].rstrip("."))
    assert (kept / "DONE.json").read_text() == "{}"


def test_runs_in_a_bucket_are_compared(server, bucket, tmp_path):
    """A finished run by its names, one that is not by its last commit."""
    for name, rate in (("000", 0.1), ("001", 0.2)):
        model = tmp_path / name
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"rate": rate}))
        mirror = Mirror(server.open_store(f"{bucket}/sweep/{name}"), model)
        if name == "001":
            figures = {"split": "test", "accuracy": 0.75, "loss": 1}
            (model / "evaluation.json").write_text(json.dumps(figures))
            (model / "DONE.json").write_text("{}")
        mirror.push()
        if name == "001":
            mirror.publish()
    words = ["-m", "launch.compare", "--csv", f"{bucket}/sweep"]
    done = subprocess.run(
        server.inside([sys.executable, *words]),
        env={**os.environ, **server.environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "run,rate,split,accuracy,loss,finished",
        f"{bucket}/sweep/001,0.2,test,0.7500,1.0000,yes",
        f"{bucket}/sweep/000,0.1,,,,no",
    ]


@pytest.mark.slow
def test_stopped_and_resumed_on_another_machine(server, bucket, data, tmp_path):
    upload(server, data, f"{bucket}/data")
    words = [sys.executable, "-m", "launch.staged", "--copy_seconds=0.5", "--"]
    words += [f"--data_dir={bucket}/data", f"--model_dir={bucket}/model"]
    words += [*TINY, "--frozen_epochs=40", "--finetune_epochs=0"]
    words = server.inside(words)
    environ = {**os.environ, **server.environ, "TMPDIR": str(tmp_path)}
    first = subprocess.Popen(words, cwd=ROOT, env=environ)
    store = server.open_store(f"{bucket}/model")

    def epochs():
        try:
            files = json.loads(store.read(COMMIT))["files"]
            text = store.read(files["metrics.jsonl"]["object"]).decode()
        except (FileNotFoundError, KeyError):
            return []
        return [json.loads(line)["epoch"] for line in text.splitlines()]

    end = time.monotonic() + 600
    while not epochs() and time.monotonic() < end:
        time.sleep(0.2)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 75
    reached = epochs()
    assert 1 <= len(reached) < 40
    assert not list(tmp_path.iterdir()), "scratch is left behind"
    assert subprocess.run(words, cwd=ROOT, env=environ).returncode == 0
    assert epochs() == list(range(1, 41))
    names = store.names()
    assert {"DONE.json", "model.keras", "labels.txt"} <= set(names)
    # Only what the last commit lists is kept.
    files = json.loads(store.read(COMMIT))["files"].values()
    kept = {n for n in names if n.startswith("objects/")}
    assert kept == {entry["object"] for entry in files}


def test_the_trainer_alone_makes_no_folder_called_gs(run, tmp_path):
    for data, model in (("data", "gs://b/model"), ("s3://b/data", "model")):
        done = run(
            "trainer.task",
            f"--data_dir={data}",
            f"--model_dir={model}",
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 64
        assert "launch.staged" in done.stderr
    assert not list(tmp_path.iterdir())


def test_client_that_is_missing_is_named():
    with pytest.raises(UsageError, match="nope:// is not known.*gs://, s3://"):
        stores.open_store("nope://bucket/x")
    if importlib.util.find_spec("adlfs"):
        pytest.skip("no known scheme lacks its client here")
    with pytest.raises(UsageError, match=r"adlfs.*shardtune\[s3\]"):
        stores.open_store("abfs://bucket/x")


@pytest.mark.parametrize(
    "error, kind",
    [
        (OSError("503"), Stopped),
        (TimeoutError(), Stopped),
        (PermissionError("403"), DataError),
        (ValueError("odd"), DataError),
        (FileNotFoundError("404"), FileNotFoundError),
    ],
)
def test_what_clients_raise(error, kind):
    def fail():
        raise error

    fsspec = pytest.importorskip("fsspec")
    store = stores.open_store("memory://bucket/x")
    assert isinstance(store._files, fsspec.AbstractFileSystem)
    with pytest.raises(kind):
        store._call(fail)
