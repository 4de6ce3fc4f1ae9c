"""The wheel and the sdist run when installed elsewhere."""

import importlib.metadata
import os
import re
import subprocess
import sys
import venv

import pytest
from conftest import ROOT
from conftest import write_noise

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_elsewhere(tmp_path, kind):
    subprocess.run(
        [sys.executable, "-m", "build", f"--{kind}", f"--outdir={tmp_path}"],
        check=True,
        cwd=ROOT,
        capture_output=True,
    )
    (built,) = tmp_path.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    # The libraries come from this environment, the project from the package.
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "--no-deps", str(built)]
    subprocess.run(install, check=True, capture_output=True)

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(libraries)}

    def run(*arguments):
        return subprocess.run(
            [place / "bin" / "shardtune", *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    code = "import data_prep, trainer; print(data_prep.__file__)"
    where = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert str(place) in where.stdout
    source = write_noise(tmp_path / "photos", count=10)
    # The user's own module, which the console command is not to find.
    (tmp_path / "trainer.py").write_text("raise SystemExit('wrong')\n")
    run("prepare", f"--source={source}", "--output_dir=data", "--workers=2")
    run(
        "train",
        "--data_dir=data",
        "--model_dir=model",
        "--weights=none",
        "--freeze_random_weights",
        "--recipe=",
        "--base=scratch",
        "--image_size=46",
        "--batch_size=8",
        "--frozen_epochs=1",
        "--finetune_epochs=1",
    )
    assert (tmp_path / "model" / "DONE.json").exists()
    assert "--weights" in run("quickstart", "--help").stdout
    # Templates and recipes come with it.
    words = ("--target=slurm", "--dry_run", "--", "--data_dir=d")
    rendered = run("submit", *words, "--model_dir=m", "--recipe=best").stdout
    assert "srun" in rendered
    code = (
        "import shardtune; "
        "c = shardtune.Config('d', 'm', recipe='best', image_size=224); "
        "print(c.model.flip_average, c.data.image_size)"
    )
    shown = subprocess.run(
        [python, "-c", code],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
    )
    assert shown.stdout == "True 224\n", shown.stderr
    (record,) = place.rglob("shardtune-*.dist-info")
    package = importlib.metadata.Distribution.at(record)
    files = {str(file) for file in package.files}
    assert {"shardtune/py.typed", "trainer/recipes/best.flags"} <= files
    assert any(file.endswith("LICENSE") for file in files)
    # Who prepares data needs no TensorFlow.
    always = [r.lower() for r in package.requires if ";" not in r]
    assert any(r.startswith("numpy") for r in always)
    slow = [r for r in always if re.match("tensor|keras|scikit|scipy", r)]
    assert not slow
    train = [r for r in package.requires if 'extra == "train"' in r]
    assert any(re.match("tensorflow *[>;(]", r) for r in train), train
