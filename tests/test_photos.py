"""The default recipe on real photos with the ImageNet weights."""

import json
import pathlib
import shutil

import pytest
from training import lines

pytestmark = pytest.mark.slow

# Photos of each class: enough to tell a broken recipe from a good one. What
# it reaches on all of them stands with the recipes.
COUNTS = {"train": 100, "validation": 100}
PHASES = ("frozen", "finetune")


@pytest.fixture(scope="module")
def data(photo_paths, tmp_path_factory):
    from data_prep.config import PrepareConfig
    from data_prep.prepare import prepare

    place = tmp_path_factory.mktemp("photos")
    for split, count in COUNTS.items():
        for folder in pathlib.Path(photo_paths[0], split).iterdir():
            chosen = place / "photos" / split / folder.name
            chosen.mkdir(parents=True)
            for path in sorted(folder.iterdir())[:count]:
                shutil.copy(path, chosen)
    prepare(
        PrepareConfig(
            source=str(place / "photos"),
            output_dir=str(place / "data"),
            on_leak="keep",  # one dog of the published set is in both splits
        )
    )
    return place / "data"


def test_default_flags(data, photo_paths, run, tmp_path):
    """One epoch of fine-tuning after a fitted head."""
    model = tmp_path / "model"
    done = run(
        "trainer.task",
        f"--data_dir={data}",
        f"--model_dir={model}",
        f"--weights={photo_paths[1]}",
        "--image_size=96",
        "--finetune_epochs=1",
        "--min_accuracy=0.88",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mirrored validation images are known as well" in done.stdout
    (row,) = lines(model / "metrics.jsonl")
    assert row["phase"] == "finetune" and row["accuracy"] > 0.85


def test_plain_defaults(data, photo_paths, run, tmp_path):
    """On two replicas. Measured: 0.905, and a loss that fine-tuning halves."""
    model = tmp_path / "model"
    done = run(
        "trainer.task",
        f"--data_dir={data}",
        f"--model_dir={model}",
        f"--weights={photo_paths[1]}",
        "--recipe=",
        "--image_size=96",
        "--virtual_devices=2",
        "--min_accuracy=0.88",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    evaluation = json.loads((model / "evaluation.json").read_text())
    assert evaluation["images"] == 200
    assert evaluation["accuracy"] >= 0.88
    rows = lines(model / "metrics.jsonl")
    frozen, tuned = ([r for r in rows if r["phase"] == p] for p in PHASES)
    assert tuned[-1]["loss"] < 0.6 * frozen[-1]["loss"]
    assert min(r["val_loss"] for r in tuned) < min(
        r["val_loss"] for r in frozen
    )
