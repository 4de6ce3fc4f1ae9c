"""Which runs may go on with a model directory."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import types

import pytest
from conftest import ROOT
from conftest import write_classes
from conftest import write_image

from data_prep.config import PrepareConfig
from data_prep.dataset import manifest as manifest_lib
from data_prep.prepare import prepare
from data_prep.runtime import directory_lock
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.engine import start_rule


@pytest.fixture
def begun(tmp_path):
    """A model directory that a run has begun; returns it and its config."""
    config = Config("data", str(tmp_path), dropout=0.25, recipe="fast")
    content = start_rule.identity(config, MANIFEST)
    (tmp_path / start_rule.CONFIG).write_text(json.dumps(content))
    return tmp_path, config


MANIFEST = types.SimpleNamespace(
    fingerprint="0123456789abcdef",
    splits={
        "train": types.SimpleNamespace(count=1000),
        "validation": types.SimpleNamespace(count=100),
    },
)


@pytest.fixture(autouse=True)
def data_set(monkeypatch):
    monkeypatch.setattr(manifest_lib, "load", lambda _: MANIFEST)


def check(config, model_dir):
    assert config.run.model_dir == str(model_dir)
    start_rule.check(config)


def forget(model_dir, *names):
    """Leaves settings out, as an older version did that knew none of them."""
    path = model_dir / "config.json"
    content = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: v for k, v in content.items() if k not in names})
    )


def test_a_setting_that_was_not_known_had_its_default(begun):
    model_dir, config = begun
    forget(model_dir, "augment_strength", "cutmix", "recipe")
    check(config, model_dir)
    with pytest.raises(UsageError, match=r"--cutmix=1.0 \(was 0.0\)"):
        check(config.replace(cutmix=1.0), model_dir)


def test_what_a_run_is_may_not_change_but_how_it_runs_may(begun):
    """Every setting, by its declared scope."""
    model_dir, config = begun
    others = {
        "data_dir": "elsewhere",
        "model_dir": str(model_dir),
        "recipe": "",
        "cache_dir": "cache",
        "feature_dir": "features",
        "strategy": "one_device",
        "tracker": "mlflow",  # of which [test] has the package
    }
    for one in config.settings():
        if one.scope == "run":
            continue
        value = others.get(one.name)
        if value is None and one.choices:
            value = one.choices[-1]
        elif value is None:
            value = one.default + 1 if one.high is None else one.high
        check(config.replace(**{one.name: value}), model_dir)


def test_a_run_that_was_begun_otherwise_is_refused_by_name(begun):
    """Every setting that says what a run is; the directory is left alone."""
    model_dir, config = begun
    check(config, model_dir)  # the control
    path = model_dir / start_rule.CONFIG
    content = json.loads(path.read_text())
    names = config.identity()
    assert {"seed", "batch_size", "image_size", "optimizer"} < names.keys()
    for name, value in names.items():
        was = f"another {value}" if isinstance(value, str) else value + 1
        path.write_text(json.dumps({**content, name: was}))
        message = re.escape(f"--{name}={value} (was {was})")
        with pytest.raises(UsageError, match=f"other flags: {message}. Run"):
            check(config, model_dir)
    assert os.listdir(model_dir) == [start_rule.CONFIG]


@pytest.fixture
def change(tmp_path):
    """Returns what makes a data set of which one thing is as told."""

    def make(what):
        source = write_classes(tmp_path / what / "photos", count=10)
        image, other = source / "cat" / "000.png", source / "dog" / "000.png"
        if what == "a name of a class":
            (source / "dog").rename(source / "wolf")
        elif what == "labels":  # of two images
            content = image.read_bytes()
            image.write_bytes(other.read_bytes())
            other.write_bytes(content)
        elif what == "pixels":
            write_image(image, 250)
        elif what == "fewer images":
            image.unlink()
        elif what == "more classes":
            write_classes(source, ["fox"], count=10, first=100)
        seed = int(what == "splits")
        data = tmp_path / what / "data"
        prepare(PrepareConfig(str(source), str(data), workers=1, seed=seed))
        return str(data)

    return make


def test_another_data_set_is_refused(tmp_path, monkeypatch, change):
    """By its fingerprint, whatever it is that differs."""
    monkeypatch.undo()  # real manifests
    config = Config(change("begun"), str(tmp_path), recipe="", batch_size=4)
    begun = manifest_lib.load(config.data.data_dir)
    content = start_rule.identity(config, begun)
    (tmp_path / start_rule.CONFIG).write_text(json.dumps(content))
    check(config.replace(data_dir=change("nothing")), tmp_path)  # the control
    for what in (
        *("a name of a class", "labels", "pixels", "fewer images"),
        *("more classes", "splits"),
    ):
        with pytest.raises(DataError, match="was trained on another data set"):
            check(config.replace(data_dir=change(what)), tmp_path)


def test_other_software_is_named(tmp_path, tf, capsys):
    """What a run goes on with may change its numbers, and is no refusal."""
    from trainer.engine import model_directory

    config = Config("data", str(tmp_path), recipe="")
    strategy = tf.distribute.get_strategy()
    path = tmp_path / model_directory.ENVIRONMENT

    def claim():
        model_directory.claim(config, MANIFEST, tmp_path, strategy)
        return capsys.readouterr().err

    assert claim() == claim() == ""  # the control
    found = json.loads(path.read_text())
    assert found["versions"].keys() > {"tensorflow", "keras", "numpy"}
    for name, version in found["versions"].items():
        others = {**found["versions"], name: "0.1"}
        path.write_text(json.dumps({**found, "versions": others}))
        message = f"begun with other software: {name} 0.1 -> {version}. The"
        assert message in claim()
    path.write_text(json.dumps({**found, "precision": "mixed_float16"}))
    assert "software: precision mixed_float16 -> float32" in claim()
    assert claim() == ""


def test_workers_agree_on_what_they_compute_and_may_differ_in_places(begun):
    _, config = begun

    def purpose(**changes):
        return start_rule.purpose(config.replace(**changes), MANIFEST)

    assert purpose(cache_dir="here", checkpoint_minutes=1.0) == purpose()
    for name in ("steps_per_loop", "nan_retries", "seed"):
        assert purpose(**{name: 2}) != purpose()


def test_workers_that_write_nothing_notice_what_is_not_finite(tmp_path, tf):
    """Else they would wait for the first one, which raises."""
    import keras

    from trainer.engine import checkpoint
    from trainer.engine.checkpointer import Checkpointer
    from trainer.engine.training_state import TrainingState
    from trainer.groups import Checkpoints

    checkpointer = Checkpointer(tmp_path, Checkpoints(), writes=False)
    variables = {"kernel": keras.Variable([1.0, float("inf")])}
    with pytest.raises(checkpoint.NotFinite, match="kernel"):
        checkpointer.save(TrainingState(), 3, variables)
    with pytest.raises(checkpoint.NotFinite, match="kernel"):
        checkpointer.save_best({"epoch": 1}, variables)


@pytest.mark.parametrize("left", [[], ["start.npz"], ["best-00001.npz"]])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(
    tmp_path, tf, left
):
    from trainer.engine import training as training_lib

    (tmp_path / "checkpoints").mkdir()
    for name in left:
        (tmp_path / "checkpoints" / name).write_bytes(b"")
    training_lib._refuse_lost_checkpoints(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("")
    training_lib._refuse_lost_checkpoints(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(DataError, match="step-.*npz are gone"):
        training_lib._refuse_lost_checkpoints(tmp_path)


def begin_with(model_dir, weights):
    config = Config("data", str(model_dir), recipe="", weights=str(weights))
    content = start_rule.identity(config, MANIFEST)
    (model_dir / start_rule.CONFIG).write_text(json.dumps(content))
    return config


def test_weights_are_the_same_by_their_content(tmp_path):
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    file = tmp_path / "some.weights.h5"
    file.write_bytes(b"weights")
    config = begin_with(model_dir, file)
    moved = file.rename(tmp_path / "moved.weights.h5")
    check(config, model_dir)  # gone: the run's own files have them
    again = config.replace(weights=str(moved))
    check(again, model_dir)
    begin_with(model_dir, moved)
    moved.unlink()
    begin_with(model_dir, moved)
    file.write_bytes(b"weights")
    check(config, model_dir)  # still known after a start without them
    file.write_bytes(b"others")
    other = config.replace(weights=str(file))
    with pytest.raises(UsageError, match=r"--weights=.*some.weights.h5 \(was"):
        check(other, model_dir)


HOLD = """
import pathlib, sys
from data_prep.runtime import directory_lock
with directory_lock.held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["usual", "killed"])
def test_a_directory_in_use_is_refused_until_its_run_ends(tmp_path, end):
    model_dir = tmp_path / "model"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, model_dir],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    message = (
        f"model is in use by process {holder.pid} on {os.uname().nodename}"
    )
    with pytest.raises(Stopped, match=message):
        directory_lock.refuse_if_held(model_dir)
    with (
        pytest.raises(Stopped, match=message),
        directory_lock.held(model_dir),
    ):
        raise AssertionError("two runs are in it")
    if end == "killed":
        holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (model_dir / directory_lock.LOCK).exists() == (end == "killed")
    directory_lock.refuse_if_held(model_dir)
    with directory_lock.held(model_dir), pytest.raises(Stopped):
        directory_lock.refuse_if_held(model_dir)
    assert not list(model_dir.glob("*"))


def test_a_run_holds_its_directory(tmp_path, tf, monkeypatch):
    from trainer import run

    config = Config("data", str(tmp_path / "model"), recipe="", batch_size=8)

    def train(*_):
        directory_lock.refuse_if_held(tmp_path / "model")

    monkeypatch.setattr(run, "train_and_evaluate", train)
    with pytest.raises(Stopped, match="is in use by process"):
        run.run(config)


def test_a_clock_that_is_set_back_changes_no_time(tmp_path, tf, monkeypatch):
    from trainer import run

    def train(*_):
        monkeypatch.setattr(time, "time", lambda: 1.0)
        return {"evaluation": {"split": "test", "accuracy": 1.0}}

    monkeypatch.setattr(run, "train_and_evaluate", train)
    config = Config("data", str(tmp_path / "model"), recipe="", batch_size=8)
    assert 0 <= run.run(config)["seconds"] < 1000


def test_a_checkpoint_is_due_by_steps_and_by_time(tmp_path, tf, monkeypatch):
    from trainer.engine import checkpointer
    from trainer.engine.training_state import TrainingState
    from trainer.groups import Checkpoints

    now = [1000.0]
    monkeypatch.setattr(checkpointer.time, "monotonic", lambda: now[0])
    settings = Checkpoints(checkpoint_steps=10, checkpoint_minutes=2.0)
    saves = checkpointer.Checkpointer(tmp_path, settings, writes=True)
    # Of calls that take 4 steps each, that which passes a multiple of 10.
    found = [saves.is_due(step, 4) for step in (4, 8, 12, 16, 20, 24)]
    assert found == [False, False, True, False, True, False]
    now[0] += 119
    assert not saves.is_due(4, 4)
    now[0] += 1
    assert saves.is_due(4, 4)
    saves.save(TrainingState(), 4, {})
    assert not saves.is_due(8, 4)
    saves.wait()
    never = Checkpoints(checkpoint_steps=0, checkpoint_minutes=0.0)
    saves = checkpointer.Checkpointer(tmp_path, never, writes=False)
    now[0] += 1e6
    assert not saves.is_due(10, 10)
