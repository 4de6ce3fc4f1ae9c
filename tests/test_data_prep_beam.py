"""The same bytes from Apache Beam as from local processes."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import object_stores
import pytest
from conftest import ROOT
from conftest import hash_tree
from test_data_prep_audit import write_copies
from test_data_prep_audit import write_pictures

from data_prep.config import PrepareConfig
from data_prep.runners.beam import Beam
from data_prep.runtime import storage
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from launch.workers import free_ports

pytest.importorskip("apache_beam", reason="needs the extra beam")


@pytest.mark.slow
def test_beam_makes_the_same_bytes(run, tmp_path):
    source = write_pictures(tmp_path / "photos", count=30)
    write_copies(source)
    (source / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    common = (f"--source={source}", "--on_bad_image=skip", "--image_size=64")
    for name, *more in (
        ("local",),
        ("direct", "--runner=beam"),
        (
            "processes",
            "--runner=beam",
            "--beam_options=--runner=DirectRunner "
            "--direct_running_mode=multi_processing --direct_num_workers=2",
        ),
    ):
        data = tmp_path / name / "data"
        done = run("data_prep.task", *common, f"--output_dir={data}", *more)
        assert done.returncode == 0, (name, done.stderr)
        assert os.listdir(data.parent) == ["data"]
    local = hash_tree(tmp_path / "local" / "data")
    assert hash_tree(tmp_path / "direct" / "data") == local
    assert hash_tree(tmp_path / "processes" / "data") == local


def test_an_error_of_the_data_comes_back(tmp_path):
    runner = Beam("", str(tmp_path))
    results = runner.map(fail_at_three, range(5))
    with pytest.raises(DataError, match="^three$"):
        list(results)


def fail_at_three(number):
    if number == 3:
        raise DataError("three")
    return number


def test_bad_images_are_named_by_beam_too(run, tmp_path):
    source = write_pictures(tmp_path / "photos", count=6)
    (source / "cat" / "bad.jpg").write_bytes(b"\xff\xd8\xff no image")
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={tmp_path / 'data'}",
        "--runner=beam",
    )
    assert done.returncode == 65, done.stderr
    assert "cat/bad.jpg cannot be decoded: its header is" in done.stderr
    assert not (tmp_path / "data").exists()


def test_without_beam_it_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['apache_beam'] = None; "
        "sys.modules['apache_beam.options.pipeline_options'] = None; "
        "import runpy; sys.argv[0] = 'data_prep.task'; "
        "runpy.run_module('data_prep.task', run_name='__main__')"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            f"--source={tmp_path / 'photos'}",
            f"--output_dir={tmp_path / 'other' / 'data'}",
            "--runner=beam",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64, done.stderr
    assert "pip install 'shardtune[beam]'" in done.stderr


@pytest.fixture
def bucket():
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield from object_stores.gs_bucket(monkeypatch)


@pytest.mark.slow
def test_workers_that_share_no_folder(run, bucket, tmp_path):
    """As on Dataflow: a real portable pipeline, its workers elsewhere.

    They are processes in a mount namespace of their own, where the folders of
    the process that starts the pipeline are empty.
    """
    source = write_pictures(tmp_path / "photos", count=12)
    write_copies(source)
    local = tmp_path / "local" / "data"
    done = run("data_prep.task", f"--source={source}", f"--output_dir={local}")
    assert done.returncode == 0, done.stderr
    for path in source.rglob("*.*"):
        name = path.relative_to(source).as_posix()
        storage.write(f"{bucket}/photos/{name}", path.read_bytes())
    here = tmp_path / "here"
    here.mkdir()
    with worker_pool(hidden=tmp_path, log=tmp_path / "pool") as address:
        portable = (
            "--runner=beam",
            "--beam_options=--runner=PortableRunner --job_endpoint=embed "
            f"--environment_type=EXTERNAL --environment_config={address}",
        )
        data = f"{bucket}/data"
        done = run(
            "data_prep.task",
            f"--source={bucket}/photos",
            f"--output_dir={data}",
            *portable,
            env={**os.environ, "TMPDIR": str(here)},
        )
        assert done.returncode == 0, done.stderr
        # The control: they see nothing of a folder of ours.
        unseen = run(
            "data_prep.task",
            f"--source={source}",
            f"--output_dir={bucket}/unseen",
            *portable,
            env={**os.environ, "TMPDIR": str(here)},
        )
        assert unseen.returncode == 65
        assert "does not exist" in unseen.stderr
    found = {name: storage.read(url) for url, name, _ in storage.files(data)}
    wanted = {path.name: path.read_bytes() for path in local.iterdir()}
    assert found.pop("manifest.json") != wanted.pop("manifest.json")
    assert found == wanted


@contextlib.contextmanager
def worker_pool(hidden: pathlib.Path, log: pathlib.Path):
    """Yields the address of a pool of Beam's workers that see no `hidden`."""
    if subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    (port,) = free_ports(1)
    script = (
        f"mount --make-rprivate / && mount -t tmpfs none {hidden} && "
        f"exec {sys.executable} -m "
        "apache_beam.runners.worker.worker_pool_main --service_port="
        f"{port}"
    )
    python = os.path.dirname(sys.executable)  # where it looks for `python`
    with log.open("wb") as output:
        pool = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script],
            cwd=ROOT,
            env={**os.environ, "PATH": f"{python}:{os.environ['PATH']}"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until_open(port, pool)
        yield f"localhost:{port}"
    finally:
        os.killpg(pool.pid, signal.SIGKILL)
        pool.wait()


def wait_until_open(port: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("localhost", port), timeout=1).close()
            return
        time.sleep(0.1)
    raise AssertionError("the pool ended")


def test_dataflow_takes_no_local_folders(tmp_path):
    options = "--runner=DataflowRunner --project=p"
    for source, target in (
        ("gs://bucket/photos", str(tmp_path / "data")),
        (str(tmp_path / "photos"), "gs://bucket/data"),
        ("tfds:mnist", "gs://bucket/data"),
    ):
        with pytest.raises(UsageError, match="Dataflow sees no folder"):
            PrepareConfig(source, target, runner="beam", beam_options=options)
    PrepareConfig(
        "csv:gs://bucket/table.csv",
        "gs://bucket/data",
        runner="beam",
        beam_options=options,
    )
