"""Features by two real processes as two hosts, each of its share."""

import json
import sys

import numpy as np
import pytest
from conftest import hash_tree
from training import FAULTS
from training import command
from training import curve
from training import finish
from training import prepare
from training import start_workers
from training import train

# 22 images in batches of 4: 6 files, of which each worker makes 3.
SMALL = (
    "--recipe=",
    "--base=scratch",
    "--weights=none",
    "--freeze_random_weights",
    "--image_size=62",
    "--batch_size=4",
    "--precision=float32",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("feature_workers"))


def extraction(data, out, fault=None):
    """Returns the words of a command that extracts the training split."""
    program = ("-m", "trainer.features")
    if fault:
        program = (str(FAULTS), f"{fault}:features")
    return [
        *(sys.executable, *program, f"--data_dir={data}"),
        *(f"--output_dir={out}", "--split=train", *SMALL),
    ]


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """What one process extracts."""
    out = tmp_path_factory.mktemp("alone") / "features"
    codes, outputs = finish(start_workers([extraction(data, out)]))
    assert codes == [0], outputs
    return hash_tree(out)


def files(out):
    return {
        path.name: path.stat().st_mtime_ns
        for path in out.glob("incomplete.4.train-*/features-*.npy")
    }


@pytest.mark.slow
def test_a_killed_worker_goes_on_with_its_share(data, tmp_path, alone):
    """The other one ends with 75; started again, both make the set of one."""
    out = tmp_path / "features"
    codes, outputs = finish(
        start_workers(
            [
                extraction(data, out),
                extraction(data, out, fault="shard:2:SIGKILL"),
            ]
        )
    )
    assert codes == [75, -9], outputs
    assert "error: another worker is gone" in outputs[0]
    assert "Traceback" not in outputs[0]
    left = files(out)
    # The survivor may hear of it before its own share is done.
    numbers = {int(name[9:14]) for name in left}
    assert {1} <= numbers <= {0, 1, 2, 4}
    assert not list(out.glob("train-*"))

    commands = [extraction(data, out)] * 2
    codes, outputs = finish(start_workers(commands))
    assert codes == [0, 0], outputs
    assert hash_tree(out) == alone
    assert "22 images, 128 values each" in outputs[0]
    assert "images" not in outputs[1]  # the first worker speaks for all
    (folder,) = out.iterdir()
    for name, time in left.items():
        assert (folder / name).stat().st_mtime_ns == time  # made once


@pytest.mark.slow
def test_what_a_killed_run_left_is_what_is_used(data, tmp_path, alone):
    """The control: a changed number in a kept file is in the finished set."""
    out = tmp_path / "features"
    (words,) = [extraction(data, out, fault="shard:3:SIGKILL")]
    codes, outputs = finish(start_workers([words]))
    assert codes == [-9], outputs
    (path,) = out.glob("incomplete.4.train-*/features-00001.npy")
    np.save(path, np.load(path) + np.float16(1))
    codes, outputs = finish(start_workers([extraction(data, out)] * 2))
    assert codes == [0, 0], outputs
    found = hash_tree(out)
    different = {
        name.split("/")[-1] for name in alone if found[name] != alone[name]
    }
    assert different == {"features-00001.npy", "features.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault, codes, texts",
    [
        ("shard:2:SIGSTOP", [75, None], ["another worker is gone", None]),
        (
            "shard:2:SIGTERM",
            [75, 75],
            ["stopped by another worker", "stopped by SIGTERM"],
        ),
        (
            "shard:2:full",
            [75, 65],
            ["another worker is gone", "No space left on device"],
        ),
    ],
)
def test_one_of_two_stops(data, tmp_path, fault, codes, texts):
    """Frozen, asked to stop, or with a full disk: none waits without end."""
    out = tmp_path / "features"
    processes = start_workers(
        [extraction(data, out), extraction(data, out, fault=fault)]
    )
    for process, code, text in zip(processes, codes, texts, strict=True):
        if code is None:
            process.kill()
        output = process.communicate()[0]
        if code is not None:
            assert process.returncode == code, output
            assert text in output
            assert "Traceback" not in output
    assert not list(out.glob("train-*"))
    assert files(out)  # what is finished is kept


@pytest.mark.slow
def test_training_on_features_by_two_workers(data, tmp_path):
    """Views extracted by both as their epochs come, a fitted head first."""
    flags = (
        "--recipe=",
        "--base=scratch",
        "--image_size=62",
        "--frozen_epochs=2",
        "--finetune_epochs=1",
        "--feature_cache",
        "--augment=classic",
        "--head_init=logistic_regression",
        "--class_weights=balanced",
        "--average_decay=0.9",
        "--flip_average",
        "--optimizer=sgd",
        "--frozen_learning_rate=0.05",
    )
    one, two = tmp_path / "one", tmp_path / "two"
    done = train(data, one, *flags)
    assert done.returncode == 0, done.stderr
    # In the frozen phase, while the second view is extracted: its third file.
    stopped = command(
        data, two, *flags, program=(str(FAULTS), "shard:3:SIGTERM")
    )
    codes, outputs = finish(
        start_workers([command(data, two, *flags), stopped])
    )
    assert codes == [75, 75], outputs
    assert "stopped by SIGTERM" in outputs[1]
    codes, outputs = finish(start_workers([command(data, two, *flags)] * 2))
    assert codes == [0, 0], outputs
    assert "resuming after epoch" in outputs[0]
    assert hash_tree(two / "features") == hash_tree(one / "features")
    np.testing.assert_allclose(curve(two), curve(one), rtol=1e-4, atol=1e-6)
    ours, theirs = (
        json.loads((model / "evaluation.json").read_text())["loss"]
        for model in (one, two)
    )
    # Probabilities near 1 are 6e-8 apart in float32, and so are such losses.
    assert ours == pytest.approx(theirs, rel=1e-3, abs=2e-7)
