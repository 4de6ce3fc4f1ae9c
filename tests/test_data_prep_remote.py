"""Object storage in and out, on the file system of fsspec in memory."""

import dataclasses
import os

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


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_in_and_out(memory, tmp_path):
    """The same bytes as from a folder, into one."""
    source = write_classes(tmp_path / "photos", count=8)
    local = tmp_path / "local"
    prepare(PrepareConfig(str(source), str(local), workers=1))
    memory.put(str(source), "/bucket/", recursive=True)
    config = PrepareConfig("memory://bucket/photos", "memory://out/data")
    prepare(dataclasses.replace(config, workers=1))
    with pytest.raises(DataError, match="already exists and is not empty"):
        prepare(config)
    memory.get("/out/data/", str(tmp_path / "back") + "/", recursive=True)
    assert verify.verify(tmp_path / "back")
    found, wanted = hash_tree(tmp_path / "back"), hash_tree(local)
    for tree in (found, wanted):
        tree.pop("manifest.json")  # it names the source
    assert found == wanted
    with pytest.raises(DataError, match="holds nothing"):
        prepare(PrepareConfig("memory://bucket/empty", str(tmp_path / "no")))
    assert not (tmp_path / "no").exists()


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
