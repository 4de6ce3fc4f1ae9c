"""Kills and stops at every moment of a run, in one process.

A kill leaves what is on disk at its moment. So one run is made whose folder is
copied at every moment that matters, and the copies go on. Real kills and real
signals are those of test_resume.py.
"""

import pathlib
import re
import shutil
import types

import faults
import numpy as np
import pytest
from training import LAST
from training import STATES
from training import STEPS
from training import TINY_SETTINGS
from training import assert_same
from training import curve
from training import prepare
from training import saved

from data_prep.runtime import signals
from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import Stopped
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError
from trainer.config import Config
from trainer.engine import start_rule

pytestmark = pytest.mark.usefixtures("deterministic")

IMAGES = 22
HEAD = {"logits/kernel", "logits/bias"}
# What the last step saved is before each call: training's three, validation.
SAVED_BEFORE = [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("kills"))


def go_on(data, folder, devices=1, **settings):
    """Trains what is left, and exports nothing.

    Args:
        data: Data set.
        folder: Model directory.
        devices: How many to train on.
        settings: Beside those of `TINY_SETTINGS` and `STATES`.

    Returns:
        Epoch and images, by replica, of every step; also what they were up to
        a stop, which is an attribute of the error.
    """
    from trainer import run
    from trainer.distribution import devices as devices_lib
    from trainer.engine import train_step

    strategy = "one_device" if devices == 1 else "mirrored"
    values = {**TINY_SETTINGS, "strategy": strategy, **STATES, **settings}
    config, manifest = start_rule.check(
        Config(str(data), str(folder), deterministic=True, **values)
    )
    notes = []
    with pytest.MonkeyPatch.context() as patch:
        real = train_step.make_replica_step
        patch.setattr(train_step, "make_replica_step", real)
        faults.note_images(train_step, notes)
        names = [f"CPU:{number}" for number in range(devices)]
        patch.setattr(devices_lib, "_prepare_devices", lambda _: names)
        try:
            run.train(config, manifest)
        except Stopped as error:
            error.notes = by_step(notes, devices)
            raise
    return by_step(notes, devices)


def by_step(notes, devices):
    """Returns epoch and images of every step; replicas come in any order."""
    steps = []
    for first in range(0, len(notes), devices):
        parts = sorted(notes[first : first + devices])
        assert [part[0] for part in parts] == list(range(devices))
        (epoch,) = {part[1] for part in parts}
        steps.append((epoch, sum((part[2] for part in parts), [])))
    return steps


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory, tf):
    """An uninterrupted run, and its folder at every moment of a kill.

    Returns:
        `folder`, `steps` (what `go_on` returned), `saves` (arrays and state
        by the number of steps), and `moments`: what was about to happen, the
        folder's copy and the last number of steps that was saved wholly.
    """
    from trainer.engine import checkpoint
    from trainer.engine import checkpoint_writer
    from trainer.engine import loop

    root = tmp_path_factory.mktemp("whole")
    folder = root / "model"
    saves, moments, last = {}, [], [None]

    def look(what):
        copy = root / f"{len(moments)}"
        if folder.exists():
            shutil.copytree(folder, copy)
        moments.append((what, copy, last[0]))
        return copy

    def save(path, arrays, state):
        look("save")
        if path.name.startswith("step-"):
            number = int(re.findall(r"\d+", path.name)[0])
            saves[number] = dict(arrays), state
        real.save(path, arrays, state)

    def savez(file, **arrays):
        real.savez(file, **arrays)
        file.flush()
        half = look("half") / "checkpoints" / pathlib.Path(file.name).name
        with open(half, "rb+") as copied:
            copied.truncate(half.stat().st_size // 2)

    def replace(path, target):
        ours = pathlib.Path(target).parent == folder / "checkpoints"
        if ours:
            look("rename")
        real.replace(path, target)
        if ours and target.name.startswith("step-"):
            last[0] = int(re.findall(r"\d+", target.name)[0])

    def unlink(path, missing_ok=False):
        if path.parent == folder / "checkpoints" and path.exists():
            look("remove")
        real.unlink(path, missing_ok)

    def timed(*arguments):
        look("step")
        return real.timed(*arguments)

    real = types.SimpleNamespace(
        save=checkpoint.save,
        savez=np.savez,
        replace=pathlib.Path.replace,
        unlink=pathlib.Path.unlink,
        timed=loop.timed,
    )
    with pytest.MonkeyPatch.context() as patch:
        # At once: a thread would change what is being copied.
        patch.setattr(
            checkpoint_writer.CheckpointWriter, "_put", lambda _, task: task()
        )
        patch.setattr(checkpoint, "save", save)
        patch.setattr(np, "savez", savez)
        patch.setattr(pathlib.Path, "replace", replace)
        patch.setattr(pathlib.Path, "unlink", unlink)
        patch.setattr(loop, "timed", timed)
        steps = go_on(data, folder)
    return types.SimpleNamespace(
        folder=folder, steps=steps, saves=saves, moments=moments
    )


def test_a_whole_run_trains_on_every_image_once_an_epoch(whole):
    assert [epoch for epoch, _ in whole.steps] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    orders = [
        sum((ids for of, ids in whole.steps if of == epoch), [])
        for epoch in range(3)
    ]
    assert len(set(orders[0])) == IMAGES
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_what_every_kill_leaves_is_the_last_that_was_saved(whole):
    """Between any two changes of the folder, in a step and in validation."""
    from trainer.engine import checkpoint

    seen = [what for what, *_ in whole.moments]
    assert {seen.count(x) for x in ("half", "save")} == {seen.count("rename")}
    assert seen.count("rename") >= LAST + 3 and seen.count("remove") >= LAST - 2
    steps = [last for what, _, last in whole.moments if what == "step"]
    assert steps == SAVED_BEFORE
    for _, folder, last in whole.moments:
        found = checkpoint.newest(folder / "checkpoints")
        if last is None:
            assert found is None
            continue
        arrays, state = whole.saves[last]
        assert found.path.name == f"step-{last:09d}.npz"
        assert found.state == state
        assert_same(found.arrays, arrays)


def copy_of(whole, step, tmp_path):
    """Returns a folder in which so many steps are saved, and the next half."""
    *_, folder = (
        folder
        for what, folder, last in whole.moments
        if last == step and (what == "half" or step in (LAST, None))
    )
    assert list(folder.glob("checkpoints/incomplete.*")) or step == LAST
    return shutil.copytree(folder, tmp_path / "model")


@pytest.mark.parametrize("step", [None, *range(LAST + 1)])
def test_killed_after_any_step_it_goes_on_exactly(data, whole, tmp_path, step):
    """Both phases, at their boundary, and before anything was saved.

    Which images each step saw, every file of weights, and the curve.
    """
    from trainer.engine import checkpoint

    folder = copy_of(whole, step, tmp_path)
    assert go_on(data, folder) == whole.steps[step or 0 :]
    names = [
        sorted(path.name for path in one.glob("checkpoints/*"))
        for one in (folder, whole.folder)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        found, wanted = (
            checkpoint.load(one / "checkpoints" / name)[0]
            for one in (folder, whole.folder)
        )
        assert_same(found, wanted)
    assert curve(folder) == curve(whole.folder)


@pytest.mark.parametrize("lost", ["dropout", "augmentation", "order", "state"])
def test_the_comparison_can_fail(data, whole, tmp_path, tf, monkeypatch, lost):
    """Negative controls: after a resume, others are drawn, or a sum is lost."""
    from trainer.engine import checkpoint
    from trainer.engine import trained_part
    from trainer.models import dropout
    from trainer.pipeline import data_loader

    folder = copy_of(whole, 7, tmp_path)
    if lost == "dropout":
        key = dropout.mask_key
        monkeypatch.setattr(
            dropout, "mask_key", lambda seed, *rest: key(seed + 1, *rest)
        )
    elif lost == "augmentation":
        make = trained_part.make_augment
        monkeypatch.setattr(
            trained_part,
            "make_augment",
            lambda settings, seed, count: make(settings, seed + 1, count),
        )
    elif lost == "order":
        loader = data_loader.DataLoader.__init__
        monkeypatch.setattr(
            data_loader.DataLoader,
            "__init__",
            lambda *given, seed, **more: loader(*given, seed=seed + 1, **more),
        )
    else:
        path = checkpoint.step_path(folder / "checkpoints", 7)
        arrays, state = checkpoint.load(path)
        (name,) = (n for n in arrays if n.endswith("logits_kernel_momentum"))
        checkpoint.save(path, {**arrays, name: 0 * arrays[name]}, state)
    steps = go_on(data, folder)
    assert (steps == whole.steps[7:]) == (lost != "order")
    found, wanted = saved(folder, LAST), saved(whole.folder, LAST)
    assert (found["logits/kernel"] != wanted["logits/kernel"]).any()


def test_each_phase_saves_what_it_trains(whole):
    """Its optimizer too, but at its end: the next one has its own."""
    frozen, boundary, finetune = (set(whole.saves[n][0]) for n in (2, 3, 5))
    assert {n for n in frozen if n.startswith("frozen_optimizer")}
    assert boundary == HEAD
    learned = {n for n in finetune if not n.startswith(("fine", "average"))}
    assert HEAD < learned == {n for n in whole.saves[LAST][0]}
    assert {name.split("/")[0] for name in learned - HEAD} == {"conv4"}
    assert not {n for n in finetune if n.startswith("frozen")}


@pytest.mark.parametrize("arrays, state", [(2, 5), (5, 2)])
def test_a_checkpoint_of_the_other_phase_is_refused(
    data, whole, tmp_path, arrays, state
):
    """By the name of what it lacks; none of it is silently left out."""
    from trainer.engine import checkpoint

    folder = copy_of(whole, state, tmp_path)
    for path in folder.glob("checkpoints/step-*.npz"):
        path.unlink()
    checkpoint.save(
        checkpoint.step_path(folder / "checkpoints", state),
        whole.saves[arrays][0],
        whole.saves[state][1],
    )
    phase = "finetune" if state == 5 else "frozen"
    with pytest.raises(DataError, match=f"holds nothing for {phase}_optim"):
        go_on(data, folder)


@pytest.fixture
def ask(monkeypatch):
    """Returns what asks this process to stop, as a signal does."""
    monkeypatch.setattr(signals, "_received", [])
    return lambda: signals._received.append("SIGTERM")


def stop(data, folder, where, number, ask, **settings):
    """Returns what a run said, and its steps, that is asked to stop."""
    from trainer.engine import checkpoint
    from trainer.engine import loop

    owner, name = {
        "trace": (loop, "make_train"),
        "step": (loop, "timed"),
        "save": (checkpoint, "save"),
    }[where]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, getattr(owner, name))
        faults.before(owner, name, number, ask)
        with pytest.raises(Stopped) as stopped:
            go_on(data, folder, checkpoint_steps=0, **settings)
    return str(stopped.value), stopped.value.notes


@pytest.mark.parametrize(
    "where, number, done",
    [
        ("trace", 1, 1),
        ("step", 1, 2),  # seen before the next one
        ("step", 4, 4),  # in the last part of validation
        ("save", 2, 1),
        ("trace", 2, 4),  # of the second phase
    ],
)
def test_asked_to_stop_it_saves_within_a_step(
    data, whole, tmp_path, ask, where, number, done
):
    """What is saved is what a run saves that was not asked."""
    folder = tmp_path / "model"
    said, steps = stop(data, folder, where, number, ask)
    epoch, step = divmod(done, STEPS)
    assert f"SIGTERM after epoch {epoch} and {step} steps" in said
    assert steps == whole.steps[:done]
    assert_same(saved(folder, done), whole.saves[done][0])


def test_asked_before_validation_it_validates_later(data, whole, tmp_path, ask):
    folder = tmp_path / "model"
    said, steps = stop(data, folder, "step", 3, ask)
    assert "SIGTERM after epoch 0 and 3 steps" in said
    assert "epoch" not in (folder / "metrics.jsonl").read_text()
    signals._received.clear()
    assert steps + go_on(data, folder) == whole.steps
    assert_same(saved(folder, LAST), saved(whole.folder, LAST))
    assert curve(folder) == curve(whole.folder)


def test_another_number_of_devices_goes_on(data, tmp_path, ask, tf):
    """Elastic: 2 devices become 1, or 4; of the images nothing changes."""
    sgd = dict(
        optimizer="sgd",
        frozen_learning_rate=0.5,
        finetune_learning_rate=0.1,
    )
    wanted, first = tmp_path / "wanted", tmp_path / "2"
    steps = go_on(data, wanted, **sgd)
    said, done = stop(data, first, "step", 4, ask, devices=2, **sgd)
    assert "after epoch 1 and 1 steps" in said
    signals._received.clear()
    for devices in (1, 4):
        folder = shutil.copytree(first, tmp_path / str(devices))
        assert done + go_on(data, folder, devices, **sgd) == steps
        np.testing.assert_allclose(curve(folder), curve(wanted), rtol=1e-5)
    with pytest.raises(UsageError, match="shared evenly by 3 replicas"):
        go_on(data, tmp_path / "odd", 3, **sgd)


def assert_finite(folder):
    from trainer.engine import checkpoint

    paths = [*(folder / "checkpoints").glob("*.npz")]
    assert len(paths) >= 3  # the start, the newest, the best
    for path in paths:
        arrays, _ = checkpoint.load(path)
        assert all(np.isfinite(array).all() for array in arrays.values())


def test_a_validation_that_is_no_number_is_never_kept(
    data, whole, tmp_path, monkeypatch
):
    """What was good goes on as if it had not been."""
    from trainer.engine import loop

    folder = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "timed", loop.timed)
        faults.before(loop, "timed", len(SAVED_BEFORE), "nan")
        says = "the validation loss is nan after epoch 3"
        with pytest.raises(TrainingError, match=says):
            go_on(data, folder, nan_retries=0)
    assert_finite(folder)
    assert go_on(data, folder) == whole.steps[8:]
    assert_same(saved(folder, LAST), saved(whole.folder, LAST))
    assert curve(folder) == curve(whole.folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_pixel_that_is_no_number_is_never_kept(
    data, tmp_path, monkeypatch, value
):
    """In one image of each batch; ReLU hides it from the loss of its step."""
    from trainer.engine import train_step

    folder = tmp_path / "model"
    settings = dict(frozen_epochs=0, finetune_from="conv1", nan_retries=0)
    with monkeypatch.context() as patch:
        real = train_step.make_replica_step
        patch.setattr(train_step, "make_replica_step", real)
        faults.poison_pixels(train_step, 1, value)
        says = "not finite|the loss is (nan|inf) at step . of epoch 2"
        with pytest.raises(TrainingError, match=says):
            go_on(data, folder, **settings)
    assert_finite(folder)
    assert len(go_on(data, folder, **settings)) == STEPS
    assert_finite(folder)


def export_of(folder):
    """Returns the epoch whose weights would be exported, and is restored."""
    from trainer.engine import model_directory
    from trainer.models.classifier import build_classifier

    config, manifest = start_rule.load(str(folder))
    model = build_classifier(
        len(manifest.classes), config.data.image_size, config.model
    )
    model_directory.restore_best(model, folder)
    return model_directory.bests(folder)[0]["epoch"]


@pytest.mark.parametrize(
    "step", [5, pytest.param(LAST, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_the_best_of_the_others_is_exported(
    data, whole, tmp_path, capsys, step, damage
):
    """Best weights that cannot be read are named; nothing else changes."""
    folder = copy_of(whole, step, tmp_path)
    bests = whole.saves[step][1]["bests"]
    lost = bests["frozen"]
    best = folder / "checkpoints" / f"best-{lost['epoch']:05d}.npz"
    if damage == "gone":
        best.unlink()
    else:
        best.write_bytes(best.read_bytes()[:-100])
        with pytest.raises(DataError, match="run the same trainer.task again"):
            export_of(folder)
    assert go_on(data, folder) == whole.steps[step:]
    warned = capsys.readouterr().err
    assert f"{best} is damaged or missing" in warned
    assert "epoch 1, the best of the frozen phase" in warned
    left = whole.saves[LAST][1]["bests"]["finetune"]
    assert export_of(folder) == left["epoch"]
    assert [path.name for path in folder.glob("checkpoints/best-*")] == [
        f"best-{left['epoch']:05d}.npz"
    ]
    assert_same(saved(folder, LAST), saved(whole.folder, LAST))


def test_no_best_epoch_is_left(data, whole, tmp_path):
    folder = copy_of(whole, LAST, tmp_path)
    for path in folder.glob("checkpoints/best-*"):
        path.unlink()
    with pytest.raises(DataError, match="can be exported: pass another --mod"):
        go_on(data, folder)
