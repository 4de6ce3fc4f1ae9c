"""The Dockerfile, built and run by buildah on a stand-in for its base.

The real base (TensorFlow's GPU image) cannot be fetched on every machine. The
stand-in is this machine's own Python with the shared libraries it needs; the
libraries of the project are mounted when it runs, so pip installs none.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from conftest import ROOT
from conftest import write_noise
from training import TINY

pytestmark = pytest.mark.slow
COMMANDS = ("sh", "mkdir", "chmod", "id")


def libraries_of(*files):
    """Returns the shared libraries that programs and modules need."""
    done = subprocess.run(
        ["ldd", *map(str, files)], capture_output=True, text=True
    )
    found = re.findall(r"^\t(?:.* => )?(/\S+) \(", done.stdout, re.MULTILINE)
    return set(found)


def make_base(root):
    """Lays out a root file system with a shell and Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = pathlib.Path(sysconfig.get_path("stdlib"))
    target = root / "usr/local/lib" / version
    ignore = shutil.ignore_patterns("site-packages", "__pycache__", "test")
    shutil.copytree(standard, target, ignore=ignore)
    (root / "usr/local/bin").mkdir(parents=True)
    python = pathlib.Path(sys.executable).resolve()
    shutil.copy2(python, root / "usr/local/bin" / version)
    for name in ("python", "python3"):
        (root / "usr/local/bin" / name).symlink_to(version)
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    programs = [shutil.which(name) for name in COMMANDS]
    for program in programs:
        shutil.copy(program, root / "usr/bin")
    compiled = [p for p in sys.path if p.endswith("site-packages")][0]
    modules = [
        *standard.glob("lib-dynload/*.so"),
        *pathlib.Path(compiled, "tensorflow").glob("*.so*"),
    ]
    for library in libraries_of(python, *programs, *modules):
        place = root / "usr/lib" / pathlib.Path(library).name
        if compiled not in library:
            place.parent.mkdir(exist_ok=True)
            shutil.copy(library, place)
    # Where the dynamic loader is asked for, and looks itself.
    (root / "lib64").symlink_to("usr/lib")
    (root / "lib").symlink_to("usr/lib")
    for name in ("tmp", "root", "etc", "proc", "sys", "dev"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    tools = target / "site-packages"
    tools.mkdir()
    import setuptools

    origin = pathlib.Path(setuptools.__file__).parent.parent
    for name in (
        "pip",
        "setuptools",
        "pkg_resources",
        "wheel",
        "packaging",
        "_distutils",
    ):
        for path in origin.glob(f"{name}*"):
            if path.is_dir():
                shutil.copytree(path, tools / path.name)


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, root):
        self._words = [
            "buildah",
            "--storage-driver=vfs",
            f"--root={root / 'storage'}",
            f"--runroot={root / 'run'}",
        ]

    def __call__(self, command, *words, check=True):
        extra = {
            "bud": ["--isolation=chroot", "--pull-never"],
            "run": ["--isolation=chroot"],
        }.get(command, [])
        done = subprocess.run(
            [*self._words, command, *extra, *map(str, words)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if check and done.returncode:
            raise RuntimeError(f"{command} {words}: {done.stderr[-3000:]}")
        return done


BUILD = ("--build-arg=BASE=localhost/standin", "--format=docker")
# Everything is there or mounted: pip builds the package and fetches nothing.
OFFLINE = "--build-arg=PIP_OPTIONS=--no-deps --no-build-isolation --no-index"


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    if not shutil.which("buildah"):
        pytest.skip("buildah is not installed")
    if os.geteuid():
        pytest.skip("buildah's chroot isolation needs root here")
    pytest.importorskip("setuptools")
    root = tmp_path_factory.mktemp("buildah")
    make_base(root / "rootfs")
    run = Buildah(root)
    name = run("from", "scratch").stdout.strip()
    run("copy", name, root / "rootfs", "/")
    run("config", "--env=PATH=/usr/local/bin:/usr/bin:/bin", name)
    run("commit", name, "localhost/standin")
    yield run
    shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="module")
def image(buildah, tmp_path_factory):
    """The Dockerfile as it is, but for cloudml-hypertune, which is online."""
    text = (ROOT / "Dockerfile").read_text().replace(" cloudml-hypertune", "")
    file = tmp_path_factory.mktemp("docker") / "Dockerfile"
    file.write_text(text)
    buildah("bud", *BUILD, OFFLINE, "--tag=ours", f"--file={file}", ".")
    return "localhost/ours"


def test_image_is_what_launchers_expect(buildah, image):
    found = json.loads(buildah("inspect", "--type=image", image).stdout)
    config = found["Docker"]["config"]
    assert config["Entrypoint"] == ["python"]
    assert config["User"] == "1000:1000"
    assert config["WorkingDir"] == "/job"


def test_the_stage_that_serves(buildah, image, tmp_path):
    text = (ROOT / "Dockerfile").read_text().replace(" cloudml-hypertune", "")
    (tmp_path / "Dockerfile").write_text(text)
    words = ("--target=serve", "--tag=serves", f"--file={tmp_path}/Dockerfile")
    buildah("bud", *BUILD, OFFLINE, *words, ".")
    found = json.loads(buildah("inspect", "--type=image", "serves").stdout)
    config = found["Docker"]["config"]
    assert config["User"] == "1000:1000"
    assert list(config["ExposedPorts"]) == ["8501/tcp"]
    python, *words = [*config["Entrypoint"], *config["Cmd"]]
    assert words == [
        *("-m", "trainer.serve", "--host=0.0.0.0", "--model_dir=/model")
    ]
    libraries = [p for p in sys.path if p.endswith("site-packages")][0]
    name = buildah("from", "serves").stdout.strip()
    # There is no model: it says so, and its flags are what it knows.
    done = buildah(
        "run",
        f"--volume={libraries}:/libraries:ro",
        "--env=PYTHONPATH=/usr/local/lib/python3.11/site-packages:/libraries",
        *(name, python, *words),
        check=False,
    )
    assert "error: /model holds no exported model" in done.stderr


def test_it_trains_as_no_root(buildah, image, tmp_path):
    for split, count in (("train", 11), ("validation", 3)):
        write_noise(tmp_path / "photos" / split, count=count, seed=count)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    libraries = [p for p in sys.path if p.endswith("site-packages")][0]
    name = buildah("from", image).stdout.strip()
    options = [
        f"--volume={tmp_path}/out:/out",
        f"--volume={tmp_path}/photos:/photos:ro",
        f"--volume={libraries}:/libraries:ro",
        "--env=PYTHONPATH=/usr/local/lib/python3.11/site-packages:/libraries",
        name,
        "python",
        "-m",
    ]
    for words in (
        ("data_prep.task", "--source=/photos", "--output_dir=/out/data"),
        (
            "trainer.task",
            "--data_dir=/out/data",
            "--model_dir=/out/m",
            *TINY,
            "--finetune_epochs=0",
        ),
    ):
        buildah("run", *options, *words)
    done = tmp_path / "out/m/DONE.json"
    assert done.stat().st_uid == 1000
    shown = buildah("run", *options, "launch.submit", "--help")
    assert "--target" in shown.stdout
    code = "import data_prep, os; print(data_prep.__file__, os.getuid())"
    where = buildah("run", *options[:-1], "-c", code).stdout.split()
    assert where[0].startswith("/usr/local/lib/") and where[1] == "1000"


@pytest.mark.parametrize(
    "old, new",
    [("COPY setup.py", "COPY setupp.py"), ("FROM ${BASE}", "FROM ${BASIS}")],
)
def test_mutants_do_not_build(buildah, image, tmp_path, old, new):
    text = (ROOT / "Dockerfile").read_text().replace(" cloudml-hypertune", "")
    assert old in text
    file = tmp_path / "Dockerfile"
    file.write_text(text.replace(old, new))
    done = buildah(
        "bud", *BUILD, OFFLINE, f"--file={file}", "--layers", ".", check=False
    )
    assert done.returncode, done.stdout
