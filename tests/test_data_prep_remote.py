"""gs:// in and out, against an emulator of Cloud Storage; no account."""

import os
import shutil
import socket

import pytest
from conftest import hash_tree
from conftest import write_classes

from data_prep import remote
from data_prep import verify
from data_prep.config import PrepareConfig
from data_prep.errors import DataError
from data_prep.errors import UsageError
from data_prep.prepare import prepare

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(scope="module")
def storage():
    """The environment of a process that talks to the emulator."""
    pytest.importorskip("gcsfs", reason="needs the extra gcs")
    server = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    emulator = server.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket="bucket"
    )
    emulator.start()
    yield {
        **os.environ,
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "FSSPEC_GS_TOKEN": "anon",
        # Else gcsfs asks a server that is not there, for a minute a call.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    emulator.stop()


def test_cloud_storage_in_and_out(storage, run, tmp_path):
    import gcsfs

    source = write_classes(tmp_path / "photos", count=8)
    local = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'local'}",
    )
    assert local.returncode == 0, local.stderr
    bucket = gcsfs.GCSFileSystem(
        endpoint_url=storage["STORAGE_EMULATOR_HOST"], token="anon"
    )
    for path in sorted(source.rglob("*.png")):
        name = path.relative_to(tmp_path).as_posix()
        bucket.pipe_file(f"bucket/{name}", path.read_bytes())
    arguments = ("--source=gs://bucket/photos", "--output_dir=gs://bucket/data")
    done = run("data_prep.task", *arguments, env=storage)
    assert done.returncode == 0, done.stderr
    again = run("data_prep.task", *arguments, env=storage)
    assert again.returncode == 65
    assert "already exists and is not empty" in again.stderr
    bucket.invalidate_cache()
    back = tmp_path / "back"
    back.mkdir()
    for name in bucket.ls("bucket/data", detail=False):
        (back / name.split("/")[-1]).write_bytes(bucket.cat_file(name))
    assert verify.verify(back)
    found, wanted = hash_tree(back), hash_tree(tmp_path / "local")
    for tree in (found, wanted):  # it names the source
        tree.pop("manifest.json")
    assert found == wanted
    empty = run(
        "data_prep.task",
        "--source=gs://bucket/nothing",
        f"--output_dir={tmp_path / 'other'}",
        env=storage,
    )
    assert empty.returncode == 65, empty.stderr
    assert "Traceback" not in empty.stderr


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_an_object_whose_name_leads_out(memory, tmp_path):
    memory.store["/photos/cat/1.png"] = None
    memory.pipe_file("/photos/cat/1.png", b"x")
    memory.store["/photos/../../outside.png"] = memory.store[
        "/photos/cat/1.png"
    ]
    with pytest.raises(DataError, match="leads out of its folder"):
        remote.fetch("memory://photos", str(tmp_path / "in"))
    assert os.listdir(tmp_path) == ["in"]


def test_the_manifest_comes_last(memory, tmp_path, monkeypatch):
    """A copy that breaks off leaves no manifest, and says so."""
    source = write_classes(tmp_path / "photos", count=8)
    put = type(memory).put_file
    names = []

    def put_some(self, local, path, **options):
        names.append(path.split("/")[-1])
        if len(names) > limit:
            raise OSError("the network is gone")
        return put(self, local, path, **options)

    monkeypatch.setattr(type(memory), "put_file", put_some)
    config = PrepareConfig(
        source=str(source), output_dir="memory://bucket/data", workers=1
    )
    limit = 5
    with pytest.raises(DataError, match="It holds no manifest.json"):
        prepare(config)
    assert not memory.exists("/bucket/data/manifest.json")
    assert memory.exists("/bucket/data")  # the control: it did begin
    memory.rm("/bucket/data", recursive=True)
    names, limit = [], 100
    prepare(config)
    assert names[-1] == "manifest.json"
    memory.get("/bucket/data/", str(tmp_path / "back") + "/", recursive=True)
    assert verify.verify(tmp_path / "back")


def test_an_address_of_no_store(tmp_path):
    with pytest.raises(UsageError, match="cannot be opened"):
        remote.fetch("nostore://bucket/photos", str(tmp_path / "in"))
    shutil.rmtree(tmp_path / "in", ignore_errors=True)
