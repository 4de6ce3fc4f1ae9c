"""Data and models in object storage: real clients, local servers, faults."""

import concurrent.futures
import errno
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time

import gcs_service
import object_stores
import pytest
from conftest import ROOT
from conftest import hash_tree
from training import TINY
from training import prepare

from data_prep.runtime import storage
from data_prep.runtime import store_clients
from data_prep.runtime import store_errors
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError
from launch import staged
from launch import workers
from launch.staging.lease import LEASE
from launch.staging.lease import Lease
from launch.staging.mirror import COMMIT
from launch.staging.mirror import Mirror


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("staged")
    return prepare(root)


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request, tmp_path_factory):
    """The address of a bucket on this machine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if request.param == "s3":
            yield from object_stores.s3_bucket(monkeypatch)
            return
        pytest.importorskip("gcsfs")
        if gcs_service.missing():
            pytest.skip(gcs_service.missing())
        root = tmp_path_factory.mktemp("gs")
        with gcs_service.service(root, monkeypatch):
            yield f"gs://{gcs_service.BUCKET}"


@pytest.fixture
def bucket(server, tmp_path):
    """A folder of the bucket that nothing lies in."""
    return f"{server}/{tmp_path.name}"


def upload(folder, url):
    for name in hash_tree(folder):
        storage.upload(folder / name, f"{url}/{name}")
    return url


def test_data_is_checked_against_its_manifest(bucket, data, tmp_path):
    url = upload(data, f"{bucket}/data")
    staged.fetch_data(url, tmp_path / "whole")
    assert hash_tree(tmp_path / "whole") == hash_tree(data)
    # A shard of the same size with one other byte.
    (name,) = [n for n in storage.names(url) if "train.tfrecord-00000" in n]
    content = bytearray(storage.read(f"{url}/{name}"))
    content[len(content) // 2] ^= 1
    storage.write(f"{url}/{name}", bytes(content))
    with pytest.raises(DataError, match="damaged"):
        staged.fetch_data(url, tmp_path / "other")


def test_no_data_set(bucket, tmp_path):
    with pytest.raises(DataError, match="no manifest.json"):
        staged.fetch_data(f"{bucket}/absent", tmp_path)


def test_a_copy_that_is_cut_short_leaves_the_last(
    bucket, tmp_path, monkeypatch
):
    """Every write in turn fails; what is fetched is one commit or the other."""
    model = tmp_path / "model"
    (model / "checkpoints").mkdir(parents=True)

    def write(version):
        for name in ("config.json", "checkpoints/a", "checkpoints/b"):
            (model / name).write_text(f"{name} {version}")

    def fetched(number):
        place = tmp_path / f"fetched{number}"
        Mirror(f"{bucket}/model", place).fetch()
        return {
            p.read_text().split()[1] for p in place.rglob("*") if p.is_file()
        }

    mirror = Mirror(f"{bucket}/model", model)
    write(1)
    assert mirror.push() == 3
    assert fetched(1) == {"1"}
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

        with monkeypatch.context() as broken:
            for name in ("upload", "write"):
                broken.setattr(storage, name, cut(getattr(storage, name)))
            with pytest.raises(Stopped, match="cut short"):
                mirror.push()
        assert fetched(version) == {str(version - 1)}
        # The next copy makes up for it.
        assert mirror.push() == 3
        assert fetched(f"{version}.again") == {str(version)}


def test_damage_is_noticed(bucket, tmp_path):
    model, url = tmp_path / "model", f"{bucket}/model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    mirror = Mirror(url, model)
    mirror.push()
    assert mirror.push() == 0, "nothing changed"
    commit = json.loads(storage.read(f"{url}/{COMMIT}"))
    config = f"{url}/{commit['files']['config.json']['object']}"
    storage.write(config, b"[]")
    with pytest.raises(DataError, match="damaged"):
        Mirror(url, tmp_path / "other").fetch()
    storage.delete(config)
    with pytest.raises(DataError, match="missing"):
        Mirror(url, tmp_path / "third").fetch()

    storage.write(f"{url}/{COMMIT}", b'{"files": {"config')
    with pytest.raises(DataError, match="COMMIT.json is damaged"):
        mirror.fetch()


def test_names_that_lead_out_of_the_folder(bucket, tmp_path):
    url = f"{bucket}/model"
    storage.write(f"{url}/objects/1", b"outside")
    for name in ("../outside", "/outside", "a/../../outside"):
        entry = {"object": "objects/1", "sha256": ""}
        commit = {"files": {name: entry}}
        storage.write(f"{url}/{COMMIT}", json.dumps(commit).encode())
        with pytest.raises(DataError, match="leads out"):
            Mirror(url, tmp_path / "a" / "model").fetch()
    assert not list(tmp_path.rglob("outside"))


def test_odd_names_and_equal_files(bucket, tmp_path):
    model, url = tmp_path / "model", f"{bucket}/model"
    (model / "a").mkdir(parents=True)
    odd = ["é #?%2F&+", "[0-9]* {a,b}?.png", "x#123", "x?generation=1"]
    for name in (*odd, "a/b c", "a/empty"):
        (model / name).write_text("" if name == "a/empty" else "same")
    Mirror(url, model).push()
    Mirror(url, tmp_path / "copy").fetch()
    assert hash_tree(tmp_path / "copy") == hash_tree(model)
    for name in odd:
        storage.upload(model / "a/b c", f"{url}/{name}")
        assert storage.read(f"{url}/{name}") == b"same"
        assert name in storage.names(url)
    storage.download(url, tmp_path / "odd", [(name, name) for name in odd])
    assert sorted(hash_tree(tmp_path / "odd")) == sorted(odd)
    storage.delete(f"{url}/{odd[1]}")
    assert odd[1] not in storage.names(url)
    assert storage.exists(f"{url}/{odd[0]}")
    storage.delete_below(url)
    assert storage.names(url) == []


def test_a_bucket_that_does_not_exist(server, tmp_path):
    """Said before the training, not after it."""
    url = f"{server.partition('://')[0]}://absent/model"
    assert storage.names(url) == []
    with pytest.raises(DataError, match="no such bucket"):
        Mirror(url, tmp_path).check_writable()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="no such bucket"):
        storage.upload(tmp_path / "file", f"{url}/file")


def test_a_file_that_goes_before_it_is_copied(bucket, tmp_path):
    with pytest.raises(FileNotFoundError):
        storage.upload(tmp_path / "gone", f"{bucket}/gone")
    assert storage.names(bucket) == []


def test_what_could_not_be_copied_is_kept(bucket, tmp_path, monkeypatch):
    """The store fails when the training is done."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def trained(words, mirror, seconds):
        (scratch / "model").mkdir(parents=True)
        (scratch / "model" / "DONE.json").write_text("{}")
        monkeypatch.setattr(storage, "write", fail)
        return 0

    def fail(*words):
        raise Stopped("gone.")

    scratch = tmp_path / "scratch"
    monkeypatch.setattr(staged, "run_trainer", trained)
    words = ["--data_dir=data", f"--model_dir={bucket}/model"]
    with pytest.raises(Stopped, match=r"gone\. .* is kept") as caught:
        staged.train(words, scratch, 1)
    kept = pathlib.Path(str(caught.value).split(" in ")[-1].rstrip("."))
    assert (kept / "DONE.json").read_text() == "{}"


def test_what_only_training_needs_gets_no_plain_name(bucket, tmp_path):
    model, url = tmp_path / "model", f"{bucket}/model"
    published = {"DONE.json", "labels.txt", "saved_model/checkpoints/a"}
    kept = {"checkpoints/a", "features/train-0a/features.json"}
    for name in published | kept:
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    mirror = Mirror(url, model)
    mirror.push()
    mirror.publish()
    names = {n for n in storage.names(url) if not n.startswith("objects/")}
    assert names == published | {"COMMIT.json"}
    Mirror(url, tmp_path / "again").fetch()
    assert all((tmp_path / "again" / name).exists() for name in kept)


def test_runs_in_a_bucket_are_compared(bucket, tmp_path):
    """A finished run by its names, one that is not by its last commit."""
    for name, rate in (("000", 0.1), ("001", 0.2)):
        model = tmp_path / name
        model.mkdir()
        (model / "config.json").write_text(json.dumps({"rate": rate}))
        mirror = Mirror(f"{bucket}/sweep/{name}", model)
        if name == "001":
            figures = {"split": "test", "accuracy": 0.75, "loss": 1}
            (model / "evaluation.json").write_text(json.dumps(figures))
            (model / "DONE.json").write_text("{}")
        mirror.push()
        if name == "001":
            mirror.publish()
    words = ["-m", "launch.compare", "--csv", f"{bucket}/sweep"]
    done = subprocess.run(
        [sys.executable, *words],
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


def test_a_lease_that_is_renewed_keeps_others_out(bucket):
    url = f"{bucket}/model"
    owner, other = Lease(url, patience=1.0), Lease(url, patience=60.0)
    with owner.held():
        assert not owner.is_lost
        with pytest.raises(Stopped, match=f"in use by process {os.getpid()}"):
            other.acquire()
        owner.check()
    assert LEASE not in storage.names(url)
    # Free again: nobody waits for it.
    with Lease(url, patience=600.0).held():
        pass


def test_a_lease_whose_owner_is_gone_is_taken_over(bucket):
    url = f"{bucket}/model"
    gone = Lease(url)
    gone.acquire()
    with Lease(url, patience=1.0).held() as mine:
        with pytest.raises(Stopped, match="in use by process"):
            gone.check()
        assert gone.is_lost and not mine.is_lost
        mine.check()


@pytest.mark.parametrize("begun", [True, False])
def test_a_run_that_lost_its_lease_stops_and_writes_no_more(
    begun, bucket, tmp_path, monkeypatch
):
    """Its trainer is asked to save; what it saved is kept here, not there."""
    url, scratch = f"{bucket}/model", tmp_path / "scratch"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    place = scratch / "model" / "config.json" if begun else tmp_path / "ready"
    other, ended = Lease(url), threading.Event()

    def take():
        while not (place.exists() or ended.is_set()):
            time.sleep(0.01)
        # As one that did not see ours, which may be renewed in between.
        while not ended.wait(0.05):
            other._renew()

    def trainer(*_):
        code = (
            "import pathlib, signal\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
            f"place = pathlib.Path({str(place)!r})\n"
            "place.parent.mkdir(parents=True, exist_ok=True)\n"
            "place.touch()\n"
            "signal.sigwait([signal.SIGTERM])\n"
            "raise SystemExit(75)\n"
        )
        return [sys.executable, "-c", code]

    monkeypatch.setattr(staged.subprocesses, "python_module", trainer)
    monkeypatch.setattr(staged, "Lease", lambda url: Lease(url, patience=1.0))
    monkeypatch.setattr(staged.signal, "signal", lambda *_: None)
    words = ["--data_dir=data", f"--model_dir={url}"]
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        taking = thread.submit(take)
        try:
            with pytest.raises(Stopped, match="in use by process") as stopped:
                staged.train(words, scratch, 0.1)
        finally:
            ended.set()
        taking.result()
    other.check()
    assert storage.names(url) == [LEASE]
    kept = list(tmp_path.glob("shardtune-kept-*/model/config.json"))
    assert len(kept) == begun
    assert ("kept here, in " in str(stopped.value)) == begun


def test_a_trial_finds_its_folder(bucket, tmp_path, monkeypatch):
    """Vertex AI names it by a variable alone."""
    monkeypatch.setenv("AIP_MODEL_DIR", f"{bucket}/base/3/model/")

    def run_trainer(words, *_):
        (model,) = [w for w in words if w.startswith("--model_dir=")]
        folder = pathlib.Path(model.partition("=")[2])
        folder.mkdir()
        (folder / "metrics.jsonl").touch()
        return 75

    monkeypatch.setattr(staged, "run_trainer", run_trainer)
    assert staged.train(["--data_dir=data"], tmp_path, 60.0) == 75
    Mirror(f"{bucket}/base/3/model", tmp_path / "fetched").fetch()
    assert (tmp_path / "fetched" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_two_workers_on_a_store_one_killed(bucket, data, tmp_path):
    """Each has copies of its own; the first holds the lease."""
    upload(data, f"{bucket}/data")
    words = [sys.executable, "-m", "launch.staged", "--copy_seconds=0.5", "--"]
    words += [f"--data_dir={bucket}/data", f"--model_dir={bucket}/model"]
    words += [*TINY, "--frozen_epochs=30", "--finetune_epochs=0"]
    words += ["--startup_timeout=900", "--checkpoint_steps=2"]

    def start():
        ports = workers.free_ports(2)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        processes = []
        for rank in range(2):
            scratch = tmp_path / f"{len(list(tmp_path.iterdir()))}"
            scratch.mkdir()
            task = {"type": "worker", "index": rank}
            cluster = {"cluster": {"worker": addresses}, "task": task}
            environ = {"TF_CONFIG": json.dumps(cluster), "TMPDIR": str(scratch)}
            processes.append(
                subprocess.Popen(words, cwd=ROOT, env=os.environ | environ)
            )
        return processes

    def epochs():
        try:
            files = json.loads(storage.read(f"{bucket}/model/{COMMIT}"))
            metrics = files["files"]["metrics.jsonl"]["object"]
            text = storage.read(f"{bucket}/model/{metrics}").decode()
        except (FileNotFoundError, KeyError):
            return []
        return [json.loads(line)["epoch"] for line in text.splitlines()]

    first, second = start()
    end = time.monotonic() + 600
    while not epochs() and time.monotonic() < end:
        time.sleep(0.2)
    first.kill()  # its trainer is stopped with it
    first.wait()
    assert second.wait() == 75
    assert 1 <= len(epochs()) < 30
    assert [process.wait() for process in start()] == [0, 0]
    assert epochs() == list(range(1, 31))
    names = storage.names(f"{bucket}/model")
    assert "DONE.json" in names and LEASE not in names


@pytest.mark.slow
def test_stopped_and_resumed_on_another_machine(bucket, data, tmp_path):
    upload(data, f"{bucket}/data")
    words = [sys.executable, "-m", "launch.staged", "--copy_seconds=0.5", "--"]
    words += [f"--data_dir={bucket}/data", f"--model_dir={bucket}/model"]
    words += [*TINY, "--frozen_epochs=40", "--finetune_epochs=0"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    # As for who has not set it: what AutoGraph writes is compiled, and kept.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    first = subprocess.Popen(words, cwd=ROOT, env=environ)
    url = f"{bucket}/model"

    def epochs():
        try:
            files = json.loads(storage.read(f"{url}/{COMMIT}"))["files"]
            metrics = files["metrics.jsonl"]["object"]
            text = storage.read(f"{url}/{metrics}").decode()
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
    names = storage.names(url)
    assert {"DONE.json", "model.keras", "labels.txt"} <= set(names)
    # Only what the last commit lists is kept.
    files = json.loads(storage.read(f"{url}/{COMMIT}"))["files"].values()
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
    with pytest.raises(UsageError, match="nope.*gs://.*s3://"):
        storage.names("nope://bucket/x")
    if importlib.util.find_spec("adlfs"):
        pytest.skip("no known scheme lacks its client here")
    with pytest.raises(UsageError, match=r"adlfs.*shardtune\[s3\]"):
        storage.names("abfs://bucket/x")


def boto_error(status):
    """Returns what s3fs raises of such an answer."""
    client = pytest.importorskip("botocore.exceptions").ClientError
    translate = pytest.importorskip("s3fs.errors").translate_boto_error
    response = {
        "Error": {"Code": str(status), "Message": "a fault"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return translate(client(response, "GetObject"))


def gcs_error(status):
    """Returns what gcsfs raises of such an answer."""
    retry = pytest.importorskip("gcsfs.retry")
    try:
        retry.validate_response(status, b'{"error": "a fault"}', "path")
    except Exception as error:
        return error


@pytest.mark.parametrize("error_of", [boto_error, gcs_error])
@pytest.mark.parametrize(
    "status, kind",
    [
        (400, DataError),
        (401, DataError),
        (403, DataError),
        (404, FileNotFoundError),
        (408, Stopped),
        (412, DataError),
        (429, Stopped),
        (500, Stopped),
        (502, Stopped),
        (503, Stopped),
    ],
)
def test_what_answers_mean(error_of, status, kind):
    error = error_of(status)
    assert type(store_errors.translate("gs://b/x", error)) is kind, repr(error)


@pytest.mark.parametrize(
    "error, kind",
    [
        (TimeoutError(), Stopped),
        (ConnectionResetError(), Stopped),
        (OSError("odd"), DataError),
        (PermissionError("no"), DataError),
        (ValueError("odd"), DataError),
        (FileNotFoundError("404"), FileNotFoundError),
        (OSError(errno.ENOSPC, "no room"), OSError),
    ],
)
def test_what_clients_raise(error, kind, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    memory = type(fsspec.filesystem("memory"))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(memory, "pipe_file", fail)
    monkeypatch.setattr(memory, "rm_file", fail)
    monkeypatch.setattr(memory, "get_file", fail)
    with pytest.raises(DataError if kind is FileNotFoundError else kind):
        storage.write("memory://bucket/x", b"")  # or: there is no such bucket
    with pytest.raises(kind):
        store_clients.call("memory://bucket/x", fail)
