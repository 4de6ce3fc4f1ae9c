"""The image that `launch.submit` builds, and how it tells an old one."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import launch_jobs
import pytest
from conftest import ROOT

from data_prep.runtime.errors import UsageError
from launch import image
from launch import submit
from launch.groups import Docker
from launch.groups import Kubernetes
from launch.groups import SageMaker
from launch.job import Job
from launch.workers import free_ports


def git(folder, *words):
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout of which an image can be built from nothing."""
    root = tmp_path / "checkout"
    (root / "trainer").mkdir(parents=True)
    (root / "trainer" / "task.py").write_text("print(1)\n")
    (root / "Dockerfile").write_text("FROM scratch\nCOPY trainer /trainer\n")
    (root / ".dockerignore").write_text("# what is copied\n*\n!trainer\n")
    (root / "CHANGELOG.md").write_text("first\n")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    monkeypatch.setattr(image, "_CHECKOUT", root)
    return root


def test_a_commit_is_what_changed_the_image(checkout):
    first = image.find_revision(checkout)
    assert first == git(checkout, "rev-parse", "HEAD")
    (checkout / "CHANGELOG.md").write_text("second\n")
    assert image.find_revision(checkout) == first
    git(checkout, "commit", "--quiet", "--all", "--message=second")
    assert image.find_revision(checkout) == first
    (checkout / "trainer" / "new.py").write_text("")
    assert image.find_revision(checkout) == f"{first}-dirty"
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "--message=third")
    assert image.find_revision(checkout) == git(checkout, "rev-parse", "HEAD")


def test_no_commit_without_git(tmp_path):
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    assert image.find_revision(tmp_path) == ""


def programs(folder, monkeypatch, **codes):
    """Programs of these names alone, that end with these codes."""
    folder.mkdir(exist_ok=True)
    for name, code in codes.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\nexit {code}\n")
        path.chmod(0o755)
    git_program = folder / "git"
    if not git_program.exists():
        git_program.symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", f"{folder}:/bin")


@pytest.mark.parametrize(
    "codes, used",
    [
        ({"docker": 0, "podman": 0, "buildah": 0}, "docker"),
        # A client without its daemon.
        ({"docker": 1, "podman": 0, "buildah": 0}, "podman"),
        ({"docker": 1, "podman": 1, "buildah": 0}, "buildah"),
        # Its own message says what lacks.
        ({"docker": 1, "podman": 1, "buildah": 1}, "docker"),
    ],
)
def test_the_program_that_is_there_builds(
    tmp_path, monkeypatch, checkout, codes, used
):
    programs(tmp_path / "bin", monkeypatch, **codes)
    options = Kubernetes(build=True, image="here.io/a/b:1")
    build, push = image.build_commands(options, runs_here=False)
    revision = image.find_revision(checkout)
    assert build[:3] == (used, "build", "--tag=here.io/a/b:1")
    assert f"--label=org.opencontainers.image.revision={revision}" in build
    assert build[-1] == str(checkout)
    assert push == (used, "push", "here.io/a/b:1")


def test_what_runs_here_is_not_pushed(checkout):
    options = Docker(build=True, image="here.io/a/b:1")
    (build,) = image.build_commands(options, runs_here=True)
    assert build[0] == "docker" and "--build-arg=USER=root" not in build
    (_,) = image.build_commands(Kubernetes(build=True), runs_here=False)


def test_on_sagemaker_it_is_built_for_root(checkout):
    options = SageMaker(build=True, image="here.io/a/b:1")
    build, _ = image.build_commands(options, runs_here=False)
    assert "--build-arg=USER=root" in build


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"build_options": "--no-cache"}, "without --build"),
        ({"build": True, "build_options": "--label='a"}, "cannot be read"),
    ],
)
def test_build_options_that_are_refused(fields, says):
    with pytest.raises(UsageError, match=says):
        job = Job(target="docker", **fields)
        image.build_commands(job.options, runs_here=True)


def test_an_installed_package_builds_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(image, "_CHECKOUT", tmp_path)
    with pytest.raises(UsageError, match="is no checkout"):
        image.build_commands(Docker(build=True), runs_here=True)
    assert image.find_difference("shardtune:0.1.0") == ""


def test_a_build_that_fails_submits_nothing(tmp_path, monkeypatch, capfd):
    programs(tmp_path / "bin", monkeypatch, docker=3)
    least, words = launch_jobs.LEAST["docker"]
    job = Job(**least, build=True, output_dir=str(tmp_path))
    assert submit.main(job, words) == 1
    assert "docker build failed with 3" in capfd.readouterr().err
    assert not (tmp_path / "shardtune" / "submitted.json").exists()


REGISTRY = """\
version: 0.1
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A real registry, and a buildah that keeps its images in a folder."""
    for program in ("docker-registry", "buildah"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    if os.geteuid():
        pytest.skip("buildah's chroot isolation needs root here")
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    (tmp_path / "registry.yml").write_text(
        REGISTRY.format(root=tmp_path / "registry", port=port)
    )
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/images"\n'
        f'runroot = "{tmp_path}/run"\n'
    )
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nlocation = "{address}"\ninsecure = true\n'
    )
    monkeypatch.setenv("BUILDAH_ISOLATION", "chroot")
    for name in ("storage", "registries"):
        path = tmp_path / f"{name}.conf"
        monkeypatch.setenv(f"CONTAINERS_{name.upper()}_CONF", str(path))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(tmp_path / "registry.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    yield address
    process.kill()
    process.wait()
    shutil.rmtree(tmp_path / "images", ignore_errors=True)


def get(address, path):
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    request = urllib.request.Request(
        f"http://{address}/v2/{path}", headers={"Accept": kind}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_an_image_is_built_pushed_and_known_again(
    registry, checkout, tmp_path, monkeypatch, capfd
):
    folder = tmp_path / "bin"
    # Docker's client has no daemon; kubectl takes what it is given.
    programs(folder, monkeypatch, docker=1, podman=1, kubectl=0)
    (folder / "buildah").symlink_to("/usr/bin/buildah")
    least, words = launch_jobs.LEAST["kubernetes"]
    name = f"{registry}/team/shardtune:1"
    fields = {**least, "image": name, "output_dir": str(tmp_path)}

    def warnings(**more):
        assert submit.main(Job(**fields, **more), words) == 0
        said = capfd.readouterr().err.splitlines()
        return [line for line in said if line.startswith("warning: ")]

    first = image.find_revision(checkout)
    assert warnings(build=True, build_options="--quiet") == []
    manifest = get(registry, "team/shardtune/manifests/1")
    digest = manifest["config"]["digest"]
    config = get(registry, f"team/shardtune/blobs/{digest}")
    label = config["config"]["Labels"]["org.opencontainers.image.revision"]
    assert label == first
    assert warnings() == []
    (checkout / "trainer" / "task.py").write_text("print(2)\n")
    (line,) = warnings()
    assert f"{name} is of {first}, and" in line and f"{first}-dirty" in line
    git(checkout, "commit", "--quiet", "--all", "--message=second")
    (line,) = warnings(dry_run=True)
    assert image.find_revision(checkout) in line
    assert warnings(build=True, build_options="--quiet") == []
    assert warnings() == []
    # Of two states that are not committed nobody knows whether they are one.
    (checkout / "trainer" / "task.py").write_text("print(3)\n")
    assert warnings(build=True, build_options="--quiet") == []
    (line,) = warnings()
    assert line.count("-dirty") == 2
    # One that was built by hand does not say.
    subprocess.run(
        ["buildah", "build", "--quiet", f"--tag={name}", str(checkout)],
        check=True,
    )
    (line,) = warnings()
    assert "no commit that it names" in line
