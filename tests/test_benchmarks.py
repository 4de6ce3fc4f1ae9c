"""The benchmarks: what they report, and that every line of them runs.

Their figures depend on the machine; no test here looks at one.
"""

import json
import math
import re
import xml.etree.ElementTree

import numpy as np
import pytest
from conftest import ROOT
from conftest import write_image
from PIL import Image
from training import environment

from benchmarks import accuracy_over_time
from benchmarks import measure
from benchmarks import photos
from benchmarks import sizing
from benchmarks import soak
from benchmarks.measure import Comparison
from benchmarks.measure import Curve
from benchmarks.report import Report

RATES = Comparison(
    "Reading, 8 px",
    "images/s",
    {"ours": [90.0, 100.0, 130.0], "peer": [50.0]},
    ["other (No module named 'other')"],
)
COSTS = Comparison(
    "Whole", "seconds", {"ours": [2.0], "peer": [1.0]}, less_is_better=True
)
CURVE = Curve(
    "Over processors (raw), 8 px",
    "images/s",
    "processors",
    {2: [10.0], 4: [15.0, 16.0, 26.0]},
    {2: 10.0, 4: 20.0},
    "twice as many",
)


def test_a_ratio_says_how_many_times_as_good_ours_is():
    assert RATES.ratios() == {"ours": 1.0, "peer": 2.0}
    assert COSTS.ratios() == {"ours": 1.0, "peer": 0.5}
    assert CURVE.ratios() == {"2 processors": 1.0, "4 processors": 0.8}
    assert Comparison("nothing", "", {}, ["all"]).ratios() == {}


def test_table_shows_medians_spread_and_what_was_left_out():
    lines = measure.table(RATES).splitlines()
    assert lines[0] == RATES.title
    assert lines[2].split() == ["ours", "100", "90.00", "130", "3", "1.00"]
    assert lines[3].split() == ["peer", *["50.00"] * 3, "1", "2.00"]
    assert lines[4] == "left out: other (No module named 'other')"
    # The cheapest stands first.
    assert measure.table(COSTS).splitlines()[2].startswith("peer")
    assert "0.80" in measure.table(CURVE)


def test_report_is_whole_after_every_part(tmp_path):
    report = Report(str(tmp_path), "benchmarks.run", devices=["a GPU"])
    report.add([RATES])
    first = json.loads((tmp_path / "results.json").read_text())
    report.add([COSTS, CURVE])
    report.leave_out("recipes", "no weights")
    found = json.loads((tmp_path / "results.json").read_text())

    assert list(first["ratios"]) == [RATES.title]
    assert found["ratios"][COSTS.title]["peer"] == 0.5
    assert found["left_out"] == ["recipes: no weights"]
    assert found["command"].startswith("python -m benchmarks.run")
    machine = found["machine"]
    assert machine["devices"] == ["a GPU"] and machine["flags"]
    assert found["versions"]["numpy"] and found["commit"]
    rates, _, curve = found["results"]
    assert rates["left_out"] == RATES.left_out
    assert rates["rows"]["ours"] == {
        "n": 3,
        "median": 100.0,
        "least": 90.0,
        "most": 130.0,
        "values": [90.0, 100.0, 130.0],
    }
    assert curve["rows"]["4"]["expected"] == 20.0
    assert curve["rows"]["4"]["median"] == 16.0
    plots = {path.name for path in tmp_path.glob("*.svg")}
    assert plots == {"ratios.svg", "over-processors-raw-8-px.svg"}
    for name in plots:
        root = xml.etree.ElementTree.parse(tmp_path / name).getroot()
        assert root.tag.endswith("svg")


def test_photos_are_of_two_classes_and_no_copies(tmp_path):
    photos.write(tmp_path, 5)
    files = sorted(tmp_path.glob("*/*.jpg"))
    assert len({path.parent for path in files}) == 2
    assert len({path.read_bytes() for path in files}) == 10
    for path in files:
        with Image.open(path) as image:
            assert image.size == (photos.WIDTH, photos.HEIGHT)


def test_operations_of_a_step(tf):
    import keras

    from benchmarks import flops

    def make(*learning):
        keras.config.set_dtype_policy("float32")
        model = keras.Sequential(
            [
                keras.Input((10, 8, 3)),
                keras.layers.Conv2D(4, 3, padding="same", name="first"),
                keras.layers.DepthwiseConv2D(5, name="depthwise"),
                keras.layers.SeparableConv2D(7, 3, name="separable"),
                keras.layers.Flatten(),
                keras.layers.Dense(2, name="head"),
            ]
        )
        for layer in model.layers:
            layer.trainable = layer.name in learning
        return model

    # 2 * outputs * (window * channels that are summed)
    first = 2 * (10 * 8 * 4) * (9 * 3)
    depthwise = 2 * (6 * 4 * 4) * 25
    separable = 2 * (4 * 2) * (9 * 4 + 4 * 7)
    head = 2 * (4 * 2 * 7) * 2
    whole = first + depthwise + separable + head
    assert flops.of_step(make()) == whole
    assert flops.of_step(make("head")) == whole + head
    # Above the first that learns, the gradient goes through every layer.
    assert flops.of_step(make("depthwise", "head")) == (
        whole + depthwise + separable + 2 * head
    )


def test_operations_of_vgg16_are_the_published_ones(tf):
    """15.3 GMACs of convolutions (Simonyan and Zisserman; torchvision)."""
    from benchmarks import flops
    from trainer.groups import Model
    from trainer.models.classifier import build_classifier
    from trainer.models.classifier import set_trainable

    model = build_classifier(2, 224, Model())
    set_trainable(model, None)
    assert flops.of_step(model) / 2e9 == pytest.approx(15.35, abs=0.01)
    block5 = 3 * 2 * (14 * 14 * 512) * (9 * 512)
    frozen = flops.of_step(model)
    set_trainable(model, "block5_conv1")
    # Two gradients in each layer, but of the first one's input none; and
    # that of the head's input.
    assert flops.of_step(model) - frozen == (
        2 * block5 - block5 // 3 + 2 * 512 * 2
    )


@pytest.mark.parametrize(
    "name, precision, tflops",
    [
        ("NVIDIA A100-SXM4-40GB", "mixed_bfloat16", 312),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156),
        ("Tesla T4", "mixed_float16", 65),
        ("Tesla T4", "mixed_bfloat16", None),
        ("Tesla T4", "tf32", None),
        ("Tesla V100-SXM2-16GB", "mixed_float16", 125),
        ("NVIDIA H100 80GB HBM3", "mixed_bfloat16", 989),
        ("NVIDIA H100 PCIe", "mixed_bfloat16", 756),
        ("NVIDIA L40S", "mixed_float16", 362),
        ("NVIDIA L4", "mixed_float16", 121),
        ("GeForce of tomorrow", "mixed_float16", None),
    ],
)
def test_peaks_of_devices(tf, name, precision, tflops):
    from benchmarks import flops

    assert flops.peak(name, precision) == (tflops and tflops * 1e12)


# ---- the page of sizes ----


def test_sizing_page_is_what_the_constants_give(run):
    page = (ROOT / "docs" / "sizing.md").read_text()
    done = run("benchmarks.sizing")
    printed = done.stdout.strip().split("\n\n")
    assert len(printed) == 4
    for table in printed:
        assert table in page


@pytest.mark.parametrize("one", sizing.ALL, ids=lambda one: one.quote)
def test_constants_of_sizes_are_what_was_measured(one):
    results = " ".join((ROOT / "benchmarks" / "RESULTS.md").read_text().split())
    assert results.count(one.quote) == 1
    number = [
        float(n.replace(",", "")) for n in re.findall(r"\d[\d,.]*", one.quote)
    ]
    units = (1, 1e-6, sizing.MIB, 1e6 / 1000, 1e9, 1e9 / 1e7)
    assert any(
        math.isclose(one.value, found)
        for n in number
        for found in (*(n * unit for unit in units), 2 / n)
    )


# ---- every line runs ----


def absent():
    import not_installed  # noqa: F401


def seven():
    return lambda: 7


@pytest.mark.slow
def test_a_candidate_that_is_not_installed_is_named():
    found = measure.in_turns(
        "title", "items/s", {"ours": seven, "peer": absent}, rounds=2, runs=3
    )
    assert len(found.figures["ours"]) == 6
    assert found.left_out == ["peer (No module named 'not_installed')"]


@pytest.mark.slow
def test_the_smallest_suite_measures_every_part(tmp_path, run):
    done = run(
        "benchmarks.run",
        "--suite=smoke",
        f"--output_dir={tmp_path}",
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "results.json").read_text())
    titles = [one["title"] for one in found["results"]]
    for beginning in (
        *(
            "data_prep",
            "Input, ",
            "Input over",
            "Augmentation",
            "Training step",
        ),
        *("Features", "From 1797 digits", "Serving"),
    ):
        assert any(title.startswith(beginning) for title in titles), beginning
    for one in found["results"]:
        assert min(row["n"] for row in one["rows"].values()) >= 1
        # A fitted share of time, or a wait, may be nothing at all.
        assert all(row["median"] >= 0 for row in one["rows"].values())
    accuracy = found["ratios"][
        "From 1797 digits to a small network, from scratch, accuracy on "
        "other images"
    ]
    assert 0.5 < accuracy["plain Keras"] < 2


@pytest.mark.slow
def test_the_table_of_gpus_on_two_processors(tmp_path, run):
    done = run(
        "benchmarks.gpu",
        *("--virtual_devices=2", "--made=6", "--base=scratch", "--runs=1"),
        *("--image_size=46", "--batch_size=2", "--steps=2"),
        *("--precisions=float32", f"--output_dir={tmp_path}"),
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "results.json").read_text())
    rows = {one["title"].split(",")[0]: one["rows"] for one in found["results"]}
    assert set(rows) == {
        *("Step", "Share of the peak", "MirroredStrategy", "Augmentation"),
        *("Data", "Waiting for data", "Copies of 2 images"),
    }
    assert set(rows["Step"]) == {"float32, XLA", "float32, no XLA"}
    assert set(rows["MirroredStrategy"]) == {"1", "2"}
    assert 0 <= rows["Waiting for data"]["from memory"]["median"] <= 100
    assert "no peak of a processor" in done.stdout


@pytest.mark.slow
def test_without_a_gpu_it_says_what_to_do(run):
    done = run("benchmarks.gpu", env=environment(CUDA_VISIBLE_DEVICES=""))
    assert done.returncode == 64
    assert "--virtual_devices=2" in done.stderr


@pytest.mark.slow
def test_the_whole_path_under_faults_ends_as_without(tmp_path, run):
    done = run(
        *("benchmarks.soak", "--minutes=0", f"--scratch={tmp_path / 'soak'}"),
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "4 whole runs, all the same to the bit" in done.stdout
    assert re.search(r"faults: \{'", done.stdout)


def test_what_a_fault_leaves_behind_ends_the_soak(tmp_path):
    soak.check_nothing_is_left(tmp_path)
    (tmp_path / "incomplete.shard").touch()
    with pytest.raises(soak.Wrong, match="incomplete.shard"):
        soak.check_nothing_is_left(tmp_path)


def test_one_changed_bit_is_another_outcome(tmp_path):
    data, model = tmp_path / "data", tmp_path / "model"
    (model / "checkpoints").mkdir(parents=True)
    data.mkdir()
    (data / "photos-train.tfrecord-00000-of-00001").write_bytes(b"records")
    (model / "metrics.jsonl").touch()
    (model / "predictions.csv").write_text("file\n")
    newest = model / "checkpoints" / "step-00000002.npz"
    np.savez(newest, weights=np.zeros(2), **{"state.json": "{}"})
    before = soak.outcome(data, model)
    np.savez(newest, weights=np.array([0, 5e-324]), **{"state.json": "{}"})
    after = soak.outcome(data, model)
    assert {name for name in before if before[name] != after[name]} == {
        "step-00000002.npz weights"
    }
    with soak.flipped_bit(data):
        assert soak.outcome(data, model) != after
    assert soak.outcome(data, model) == after


def test_every_second_validation_photo_is_held_back(tmp_path):
    photos = tmp_path / "photos"
    for name in ("train/cats/1", "train/cats/2"):
        write_image(photos / f"{name}.png", 0)
    for number in range(5):
        write_image(photos / "validation" / "cats" / f"{number}.png", number)
    accuracy_over_time.hold_back(photos, tmp_path / "held")
    found = {
        split: [path.name for path in sorted(folder.rglob("*.png"))]
        for split, folder in (
            (folder.name, folder)
            for folder in sorted((tmp_path / "held").iterdir())
        )
    }
    assert found == {
        "test": ["1.png", "3.png"],
        "train": ["1.png", "2.png"],
        "validation": ["0.png", "2.png", "4.png"],
    }


def test_seeds_are_averaged_and_narrow_no_interval():
    one = accuracy_over_time.Run(
        "best", 0, 120.0, 0.99, 500, 0.98, None, 0, "a machine"
    )
    runs = [
        one,
        one._replace(seed=1, seconds=180.0, test=0.97),
        one._replace(name="fast", seconds=60.0),
    ]
    fast, best = accuracy_over_time.table(runs).splitlines()[2:]
    assert fast.startswith("| fast | 1 | 0.990 |")
    # Wilson's interval of 490 of 500.
    assert best == "| best | 2 | 0.980 | 0.964 to 0.989 | 0.980 |  | 2.5 |"
