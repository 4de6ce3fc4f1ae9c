"""Object storage in and out: Google's protocol, and fsspec's in memory."""

import os
import pathlib
import signal
import subprocess
import sys

import object_stores
import pytest
from conftest import ROOT
from conftest import hash_tree
from conftest import write_classes
from conftest import write_image
from test_data_prep_faults import held
from test_data_prep_faults import start
from test_data_prep_faults import wait_for

from data_prep.config import PrepareConfig
from data_prep.dataset import verification
from data_prep.prepare import prepare
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError
from data_prep.writers import output

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory():
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture(scope="module", params=["gs", "s3"])
def server(request):
    start = getattr(object_stores, f"{request.param}_bucket")
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from start(monkeypatch)


@pytest.fixture
def bucket(server, tmp_path):
    """A folder of a bucket that nothing lies in."""
    return f"{server}/{tmp_path.name}"


def put(folder: pathlib.Path, url: str) -> None:
    system, root = fsspec.core.url_to_fs(url)
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            system.put_file(str(path), f"{root}/{name}")


def get(url: str, folder: pathlib.Path) -> pathlib.Path:
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    folder.mkdir()
    for name in system.find(root):
        path = folder / name[len(root) + 1 :]
        path.parent.mkdir(parents=True, exist_ok=True)
        system.get_file(name, str(path))
    return folder


def names(url: str) -> list[str]:
    return sorted(name for _, name, _ in storage.files(url))


def without_manifest(folder: pathlib.Path) -> dict:
    found = hash_tree(folder)
    found.pop("manifest.json")  # it names the source
    return found


@pytest.mark.slow
def test_in_and_out(run, bucket, tmp_path):
    """The same bytes as from a folder into one, by the command."""
    source = write_classes(tmp_path / "photos", count=8)
    (source / "cat" / ".hidden").write_bytes(b"x")
    (source / "cat" / "bad # 100%.jpg").write_bytes(b"no image")
    write_image(source / "cat" / "[0-9]* {a,b}?.png", 99)  # no pattern
    (source / "dog" / "empty.png").touch()
    local = tmp_path / "local" / "data"
    skip = "--on_bad_image=skip"
    done = run(
        "data_prep.task", f"--source={source}", f"--output_dir={local}", skip
    )
    assert done.returncode == 0, done.stderr
    put(source, f"{bucket}/photos")
    data = f"{bucket}/data"
    words = (f"--source={bucket}/photos", f"--output_dir={data}", skip)
    done = run("data_prep.task", *words)
    assert done.returncode == 0, done.stderr
    back = get(data, tmp_path / "back")
    assert without_manifest(back) == without_manifest(local)
    again = run("data_prep.task", *words)
    assert again.returncode == 65
    assert "already exists and is not empty" in again.stderr
    checked = run("data_prep.verify", f"--data_dir={data}")
    assert checked.returncode == 0, checked.stderr
    shard = next(name for name in names(data) if "tfrecord" in name)
    content = bytearray(storage.read(f"{data}/{shard}"))
    content[60] ^= 1
    storage.write(f"{data}/{shard}", bytes(content))
    checked = run("data_prep.verify", f"--data_dir={data}")
    assert checked.returncode == 65
    assert f"{data}/{shard} is damaged at byte 0" in checked.stderr
    more = run(
        "data_prep.task",
        f"--source={bucket}/photos",
        f"--splits_from={bucket}/data",
        f"--output_dir={tmp_path / 'more'}",
        skip,
    )
    assert more.returncode == 0, more.stderr
    assert without_manifest(tmp_path / "more") == without_manifest(local)


def test_a_table_in_a_bucket(bucket, tmp_path):
    source = write_classes(tmp_path / "photos", count=8)
    files = sorted(p.relative_to(source) for p in source.rglob("*.png"))
    rows = [f"{path},{path.parts[0]}" for path in files]
    rows[1] = f"{bucket}/photos/{rows[1]}"  # a whole address
    table = "\n".join(["path,label", *rows])
    (source / "table.csv").write_text(table)
    put(source, f"{bucket}/photos")
    url = f"csv:{bucket}/photos/table.csv"
    manifest = prepare(PrepareConfig(url, str(tmp_path / "data"), workers=1))
    assert sum(split.count for split in manifest.splits.values()) == len(files)
    wrong = ["../cat/0.png", "gs://other/cat/0.png", "/etc/hosts", "gone.png"]
    rows = [f"{path},cat" for path in wrong]
    storage.write(
        f"{bucket}/photos/wrong.csv",
        "\n".join(["path,label", *rows, "cat/000.png,dog"]).encode(),
    )
    with pytest.raises(DataError, match="3 of 5 images are bad") as caught:
        url = f"csv:{bucket}/photos/wrong.csv"
        prepare(PrepareConfig(url, str(tmp_path / "no"), workers=1))
    assert str(caught.value).count("leads out of the source") == 3
    assert "gs://other/cat/0.png leads" in str(caught.value)
    assert "gone.png does not exist" in str(caught.value)


def test_layouts(bucket, tmp_path):
    for split, first in (("training", 0), ("evaluation", 100)):
        write_classes(tmp_path / "photos" / split, count=6, first=first)
    put(tmp_path / "photos", f"{bucket}/photos")
    url = f"{bucket}/photos/"
    manifest = prepare(PrepareConfig(url, str(tmp_path / "data"), workers=1))
    assert list(manifest.splits) == ["train", "test"]
    for path in (tmp_path / "photos").rglob("*.png"):
        name = f"{path.parent.name}.{path.name}"
        put_at = f"{bucket}/flat/{path.parent.parent.name}/{name}"
        storage.write(put_at, path.read_bytes())
    config = PrepareConfig(
        f"{bucket}/flat",
        str(tmp_path / "flat"),
        label_pattern="kaggle",
        workers=1,
    )
    assert prepare(config).classes == ["cat", "dog"]
    with pytest.raises(DataError, match="holds no class folder"):
        prepare(PrepareConfig(f"{bucket}/none", str(tmp_path / "no")))


def test_a_store_that_refuses_is_no_bad_image(memory, tmp_path, monkeypatch):
    """--on_bad_image=skip leaves out bad images, not what it cannot reach."""
    source = write_classes(tmp_path / "photos", count=8)
    put(source, "memory://bucket/photos")
    config = PrepareConfig(
        "memory://bucket/photos",
        str(tmp_path / "data"),
        on_bad_image="skip",
        workers=1,
    )
    for error, kind, says in (
        (PermissionError("no"), DataError, "cannot be reached.*PermissionErr"),
        (ConnectionResetError("gone"), Stopped, "does not answer.*gone"),
    ):

        def fail(*_, error=error, **__):
            raise error

        with monkeypatch.context() as broken:
            broken.setattr(type(memory), "cat_file", fail)
            with pytest.raises(kind, match=says):
                prepare(config)
    assert prepare(config).skipped == 0  # the control


def test_a_store_that_is_down(run, tmp_path):
    pytest.importorskip("s3fs")
    environ = {
        **os.environ,
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",  # nobody
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_MAX_ATTEMPTS": "1",
    }
    done = run(
        "data_prep.task",
        "--source=s3://bucket/photos",
        f"--output_dir={tmp_path / 'data'}",
        env=environ,
    )
    assert done.returncode == 75, done.stderr
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_object_whose_name_leads_out(memory):
    memory.pipe_file("/photos/cat/1.png", b"x")
    memory.store["/photos/cat/../../outside.png"] = memory.store[
        "/photos/cat/1.png"
    ]
    found = {
        name: problem for _, name, problem in storage.files("memory://photos")
    }
    assert found.pop("cat/1.png") == ""
    assert set(found.values()) <= {"leads out of the source"}


def test_killed_and_run_again(bucket, tmp_path):
    """What a killed run leaves is no data set, and the next one sweeps it."""
    source = write_classes(tmp_path / "photos", count=40)
    data = f"{bucket}/data"
    command = [sys.executable, "-m", "data_prep.task", f"--source={source}"]
    command += [f"--output_dir={data}"]
    marker = tmp_path / "at work"
    process = start(source, data, code=held(marker))
    wait_for(marker.name, tmp_path, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = names(data)
    assert left and "manifest.json" not in left
    storage.write(f"{data}/left.tfrecord-00000-of-00001", b"x")
    storage.write(f"{data}/left [0].jpg", b"x")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert verification.verify(data)
    assert not [name for name in names(data) if "left" in name or "/" in name]
    # The control: without the mark it is somebody's, and nothing is deleted.
    storage.write(f"{bucket}/photos/1.jpg", b"x")
    with pytest.raises(DataError, match="already exists and is not empty"):
        prepare(PrepareConfig(str(source), f"{bucket}/photos", workers=1))
    assert names(f"{bucket}/photos") == ["1.jpg"]


def test_a_whole_bucket_is_no_place():
    for url in ("gs://bucket", "s3://bucket/"):
        with pytest.raises(UsageError, match="is a whole bucket"):
            PrepareConfig("photos", url)


def test_what_is_whole_is_not_deleted(memory, tmp_path, monkeypatch):
    source = write_classes(tmp_path / "photos", count=8)
    config = PrepareConfig(str(source), "memory://bucket/data", workers=1)
    delete_below = storage.delete_below

    def fail(url):
        if url.endswith("/incomplete"):
            raise Stopped("gone")
        delete_below(url)

    monkeypatch.setattr(storage, "delete_below", fail)
    prepare(config)
    assert verification.verify("memory://bucket/data")


def test_of_two_runs_the_later_one_wins(memory):
    url = "memory://bucket/data"
    with pytest.raises(DataError, match="took it over"):
        with output.claim(url, "last") as first:
            pathlib.Path(first.folder, "last").write_text("first")
            with output.claim(url, "last") as second:
                pathlib.Path(second.folder, "last").write_text("second")
    assert names(url) == ["last"]
    assert storage.read(f"{url}/last") == b"second"


def test_a_copy_that_breaks_off(memory, tmp_path, monkeypatch):
    """The manifest comes last; what was written before it is swept."""
    source = write_classes(tmp_path / "photos", count=8)
    put_file = type(memory).put_file
    written = []

    def put_some(self, local, path, **options):
        written.append(path.split("/")[-1])
        if len(written) > limit:
            raise OSError("the network is gone")
        return put_file(self, local, path, **options)

    monkeypatch.setattr(type(memory), "put_file", put_some)
    config = PrepareConfig(str(source), "memory://bucket/data", workers=1)
    limit = 5
    with pytest.raises(DataError, match="the network is gone"):
        prepare(config)
    assert names("memory://bucket/data") == []
    written, limit = [], 100
    prepare(config)
    assert written[-1] == "manifest.json"
    assert verification.verify("memory://bucket/data")


def test_an_address_of_no_store():
    with pytest.raises(UsageError, match="cannot be opened"):
        list(storage.files("nostore://bucket/photos"))
