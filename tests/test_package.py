"""The wheel and the sdist run when installed elsewhere."""

import os
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

    def run(module, *arguments):
        return subprocess.run(
            [python, "-m", module, *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(libraries)},
        )

    code = "import data_prep, trainer; print(data_prep.__file__)"
    where = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert str(place) in where.stdout
    source = write_noise(tmp_path / "photos", count=10)
    run("data_prep.task", f"--source={source}", "--output_dir=data")
    run(
        "trainer.task",
        "--data_dir=data",
        "--model_dir=model",
        "--weights=none",
        "--freeze_random_weights",
        "--base=scratch",
        "--image_size=46",
        "--batch_size=8",
        "--frozen_epochs=1",
        "--finetune_epochs=1",
    )
    assert (tmp_path / "model" / "DONE.json").exists()
    assert "--weights" in run("launch.quickstart", "--help").stdout
    # The templates come with it.
    words = ("--target=slurm", "--dry_run", "--", "--data_dir=d")
    rendered = run("launch.submit", *words, "--model_dir=m").stdout
    assert "srun" in rendered
