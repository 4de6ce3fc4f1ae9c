"""A hundred classes and more, most of them small: the whole path, for real."""

import json

import numpy as np
import pytest
from conftest import write_noise
from training import train

SIZES = [max(1, 30 // (k // 4 + 1)) for k in range(104)]  # 30 to 1, 420 images
BREEDS = [f"breed_{k:03d}" for k in range(len(SIZES))]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("long_tail") / "photos"
    for seed, (breed, size) in enumerate(zip(BREEDS, SIZES, strict=True)):
        write_noise(root, [breed], size, seed)
    return root


def counts_of(data):
    manifest = json.loads((data / "manifest.json").read_text())
    return {
        name: list(split["class_counts"])
        for name, split in manifest["splits"].items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("head_init", ["zeros", "logistic_regression"])
def test_training_lives_with_classes_that_are_not_evaluated(
    source, run, tmp_path, head_init
):
    data, model = tmp_path / "data", tmp_path / "model"
    done = run("data_prep.task", f"--source={source}", f"--output_dir={data}")
    assert done.returncode == 0, done.stderr
    counts = counts_of(data)
    assert np.sum(list(counts.values()), axis=0).tolist() == SIZES
    assert min(counts["train"]) >= 1
    absent = [
        breed
        for breed, images in zip(BREEDS, counts["test"], strict=True)
        if not images
    ]
    assert 10 < len(absent) < 90
    findings = json.loads((data / "audit.json").read_text())["findings"]
    named = [f["file"] for f in findings if f["kind"] == "class_not_in_split"]
    assert set(absent) <= set(named)

    done = train(
        data,
        model,
        "--class_weights=balanced",
        f"--head_init={head_init}",
        "--finetune_epochs=1",
    )
    assert done.returncode == 0, done.stderr
    classes = json.loads((model / "evaluation.json").read_text())["classes"]
    assert [classes[b]["images"] for b in BREEDS] == counts["test"]
    assert [b for b in BREEDS if classes[b]["recall"] is None] == absent
    assert f"{len(absent)} classes have no image in test" in done.stdout
    lines = (model / "metrics.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert len(epochs) == 2
    assert np.isfinite([[e["loss"], e["val_loss"]] for e in epochs]).all()


@pytest.mark.slow
def test_small_classes_left_out(source, run, tmp_path):
    data = tmp_path / "data"
    done = run(
        "data_prep.task",
        f"--source={source}",
        f"--output_dir={data}",
        "--small_classes=drop",
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((data / "manifest.json").read_text())
    large = [b for b, n in zip(BREEDS, SIZES, strict=True) if n >= 3]
    assert manifest["classes"] == large
    counts = counts_of(data)
    assert all(min(c) >= 1 for c in counts.values())
    assert sum(map(sum, counts.values())) == sum(n for n in SIZES if n >= 3)
