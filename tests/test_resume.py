"""Kills, signals, damaged files and changed flags: what goes on, and how."""

import io
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import faults
import numpy as np
import pytest
from conftest import ROOT
from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from training import LAST
from training import STATES
from training import STEPS
from training import assert_same
from training import command
from training import curve
from training import environment
from training import flags
from training import lines
from training import prepare
from training import saved
from training import settings_of
from training import train
from training import train_here

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import TrainingError
from data_prep.runtime.errors import UsageError

STATEFUL = flags(deterministic=True, **STATES)
CALLS = 3 * (STEPS + 1)  # and of validation, one each epoch


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """An uninterrupted run."""
    model = tmp_path_factory.mktemp("whole") / "model"
    done = train(data, model, *STATEFUL)
    assert done.returncode == 0, done.stderr
    return model


@pytest.fixture(scope="module")
def killed(data, tmp_path_factory):
    """A run killed within an epoch of its second phase; made once."""
    model = tmp_path_factory.mktemp("killed") / "model"
    cut = train(data, model, *STATEFUL, fault="step:7:SIGKILL")
    assert cut.returncode == -signal.SIGKILL, cut.stderr
    assert not (model / "DONE.json").exists()
    return model


@pytest.fixture
def cut(killed, tmp_path):
    """A copy of it."""
    return shutil.copytree(killed, tmp_path / "model")


def go_on(data, model, whole, *arguments):
    """Runs to the end and asserts that nothing shows the interruption."""
    done = train(data, model, *STATEFUL, *arguments)
    assert done.returncode == 0, done.stderr
    assert_same(saved(model, LAST), saved(whole, LAST))
    assert curve(model) == curve(whole)
    assert not list((model / "checkpoints").glob("incomplete.*"))
    return done


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(data, cut, whole):
    assert "resuming after epoch 1 and" in go_on(data, cut, whole).stdout


def test_a_checkpoint_of_another_version_is_refused():
    from trainer.engine.training_state import TrainingState

    with pytest.raises(DataError, match="another version .*hold best.*--model"):
        TrainingState().restore({"step": 3, "best": {}})


MOMENTS = st.one_of(
    st.tuples(st.just("step"), st.integers(1, CALLS)),
    st.tuples(
        st.sampled_from(["save", "half", "rename", "remove"]),
        st.integers(1, 8),
    ),
)


@pytest.mark.slow
@settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@example([("half", 1), ("save", 2), ("rename", 6), ("step", 2), ("remove", 1)])
@given(st.lists(MOMENTS, min_size=1, max_size=3))
def test_any_chain_of_kills(data, tmp_path_factory, whole, chain):
    """Killed again and again: in a step, validation, or any part of a save."""
    model = tmp_path_factory.mktemp("chain") / "model"
    for where, number in chain:
        cut = train(data, model, *STATEFUL, fault=f"{where}:{number}:SIGKILL")
        # A later moment may lie behind the end of what was left to do.
        assert cut.returncode in (-signal.SIGKILL, 0), cut.stderr
    go_on(data, model, whole)


@pytest.mark.parametrize(
    "fault, devices",
    [
        ("step:5:SIGHUP", 0),
        ("trace:1:SIGTERM/SIGTERM", 0),  # as schedulers do
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in (
                ("step:2:SIGTERM", 2),
                ("step:4:SIGUSR1+SIGTERM", 0),
                ("save:3:SIGINT", 0),
            )
        ),
    ],
)
def test_a_signal_saves_within_a_step(data, tmp_path, whole, fault, devices):
    """A real one, also while TensorFlow traces, and a second one after it.

    What is saved at each moment is for test_kills.py.
    """
    arguments = ("--checkpoint_steps=0",) + (
        (f"--virtual_devices={devices}",) if devices else ()
    )
    model = tmp_path / "model"
    cut = train(data, model, *STATEFUL, *arguments, fault=fault)
    assert cut.returncode == 75, cut.stderr
    name = re.search(r"SIG[A-Z1]+", fault)[0]
    # In validation's only step or behind it, the next step is an epoch's first.
    assert re.search(f"stopped by {name} after epoch [01] and", cut.stderr)
    assert "Traceback" not in cut.stderr
    assert not (model / "DONE.json").exists()
    if devices == 0:
        go_on(data, model, whole, *arguments)
    else:
        done = train(data, model, *STATEFUL, *arguments)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(curve(model), curve(whole), rtol=1e-3)


@pytest.mark.slow
def test_two_signals_of_one_interrupt_save(data, tmp_path, whole):
    """`timeout -s INT` sends one to the process and one to its group."""
    model = tmp_path / "model"
    arguments = ("--checkpoint_steps=0",)
    cut = train(
        data, model, *STATEFUL, *arguments, fault="step:2:SIGINT+SIGINT"
    )
    assert cut.returncode == 75, cut.stderr
    assert "stopped by SIGINT after epoch 0 and 3 steps" in cut.stderr
    go_on(data, model, whole, *arguments)


def test_a_later_interrupt_does_not_wait_for_the_state(data, tmp_path):
    model = tmp_path / "model"
    cut = train(data, model, *STATEFUL, fault="step:2:SIGINT/SIGINT")
    assert cut.returncode == 75, cut.stderr
    # Progress may stand before it, where the first steps took seconds.
    *_, last = cut.stderr.splitlines()
    assert last == "error: stopped by SIGINT. Run the same command again."


@pytest.mark.slow
def test_the_end_keeps_what_going_on_and_exporting_need(data, cut, whole):
    """No optimizer: nothing trains any more."""
    before = sorted(path.name for path in (cut / "checkpoints").iterdir())
    assert len([name for name in before if name.startswith("step-")]) == 2
    go_on(data, cut, whole)
    steps = [*(cut / "checkpoints").glob("step-*.npz")]
    assert [path.name for path in steps] == [f"step-{LAST:09d}.npz"]
    assert all("/" in name for name in saved(cut, LAST))
    with np.load(cut / "checkpoints" / "start.npz") as start:
        assert saved(cut, LAST).keys() <= set(start.files)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_nohup_is_respected(handler):
    code = (
        "import signal; from data_prep.runtime import signals; "
        "print(signal.SIGHUP in signals.SIGNALS)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handler),
    )
    assert done.stdout == f"{handler == signal.SIG_DFL}\n", done.stderr


HEAR = """
import json, os, signal, sys, time
from data_prep.runtime import signals

def hear(names, later, deferred, told):
    signals._MOMENT = 0 if later else 1000
    signals.watch(75)
    if deferred:
        signals.defer()
    # One more: once it is heard, all before it have had their effect.
    for count, name in enumerate([*names, "SIGTERM"], 1):
        os.kill(os.getpid(), signal.Signals[name])
        while len(signals._received) < count or not deferred:
            time.sleep(0.001)
    os.write(told, signals.requested().encode())
    os._exit(0)

answers = []
for case in json.loads(sys.argv[1]):
    asked, told = os.pipe()
    child = os.fork()
    if not child:
        hear(*case, told)
    os.close(told)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    answers.append([code, os.read(asked, 100).decode()])
print(json.dumps(answers))
"""
PAIRS = [
    ("SIGTERM", "SIGTERM"),
    ("SIGUSR1", "SIGTERM"),
    ("SIGHUP", "SIGHUP"),
    ("SIGTERM", "SIGINT"),
    ("SIGINT", "SIGTERM"),
    ("SIGINT", "SIGINT"),
]


def test_a_second_signal_only_ends_what_ctrl_c_began():
    """Each signal before and while a run saves, and another soon or later."""
    cases, wanted, said = [], [], []
    for names, later, deferred in itertools.product(
        PAIRS, (False, True), (False, True)
    ):
        cases.append((names, later, deferred))
        impatient = later and names == ("SIGINT", "SIGINT")
        ends = impatient or not deferred
        wanted.append([75, ""] if ends else [0, names[0]])
        if ends:
            said.append(
                f"error: stopped by {names[0]}. Run the same command again."
            )
    done = subprocess.run(
        [sys.executable, "-c", HEAR, json.dumps(cases)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == wanted
    assert done.stderr.splitlines() == said


def blocks_sigterm(process):
    """Whether it waits for signals: the first that it does."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)
    return blocked >> (signal.SIGTERM - 1) & 1


def imports_tensorflow(process):
    maps = pathlib.Path(f"/proc/{process.pid}/maps").read_text()
    return "libtensorflow" in maps


def signalled(data, model, moment):
    """Returns exit code and errors of a run that two signals end.

    Args:
        data: Data set.
        model: Model directory.
        moment: Of its process: whether to send them. The run is too long to
            be over before.
    """
    process = subprocess.Popen(
        command(data, model, "--finetune_epochs=10000"),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    while not moment(process):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # twice, as schedulers do
    _, errors = process.communicate()
    return process.returncode, errors


@pytest.mark.parametrize("moment", [blocks_sigterm, imports_tensorflow])
def test_a_signal_before_training_ends_at_once(data, tmp_path, moment):
    """While Python and TensorFlow are imported."""
    code, errors = signalled(data, tmp_path / "model", moment)
    assert code == 75, errors
    assert "stopped by SIGTERM. Run the same command again." in errors
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_signal_from_outside_is_heard(data, tmp_path):
    metrics = tmp_path / "model" / "metrics.jsonl"
    code, errors = signalled(
        data,
        tmp_path / "model",
        lambda _: metrics.exists() and len(lines(metrics)) >= 2,
    )
    assert code == 75, errors
    assert "the state is saved. Run the same command again." in errors


@pytest.mark.slow
def test_a_killed_export_is_made_again(data, tmp_path, whole):
    for number, fault in enumerate(("put:2:SIGKILL", "evaluate:1:SIGTERM")):
        model = tmp_path / str(number)
        cut = train(data, model, *STATEFUL, fault=fault)
        assert cut.returncode in (-signal.SIGKILL, 75), cut.stderr
        assert not (model / "DONE.json").exists()
        go_on(data, model, whole)
        assert (model / "model.keras").exists()
        assert (model / "saved_model" / "saved_model.pb").exists()
        assert not list(model.glob("incomplete.*"))


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_what_was(data, tmp_path, whole):
    model = tmp_path / "model"
    cut = train(data, model, *STATEFUL, fault="save:4:full")
    assert cut.returncode == 1
    assert "No space left on device" in cut.stderr
    assert "Traceback" not in cut.stderr
    go_on(data, model, whole)


class TestCheckpoints:
    """The files alone, as fast tests."""

    DAMAGES = {
        "cut": lambda b: b[: len(b) // 2],
        "empty": lambda b: b"",
        "a state that is cut": lambda b: _with_state(b, b'{"step": '),
        "no state": lambda b: _with_state(b, None),
        "the end missing": lambda b: b[:-1],
        "zeros": lambda b: bytes(len(b)),
        "text": lambda b: b"checkpoint",
        "the head missing": lambda b: b[100:],
    }

    @pytest.mark.parametrize("damage", DAMAGES)
    def test_damage_is_passed_over_aloud(self, tmp_path, tf, damage, capsys):
        from data_prep.runtime.errors import DataError
        from trainer.engine import checkpoint

        arrays = {"a/kernel": np.arange(500, dtype=np.float32)}
        for step in (3, 6):
            path = checkpoint.step_path(tmp_path, step)
            checkpoint.save(path, arrays, {"step": step})
        assert checkpoint.newest(tmp_path)[2] == {"step": 6}
        path.write_bytes(self.DAMAGES[damage](path.read_bytes()))
        found, loaded, state = checkpoint.newest(tmp_path)
        assert state == {"step": 3}
        np.testing.assert_array_equal(loaded["a/kernel"], arrays["a/kernel"])
        assert f"{path.name} is damaged" in capsys.readouterr().err
        found.unlink()
        with pytest.raises(DataError, match="none of the 1 checkpoints"):
            checkpoint.newest(tmp_path)

    def test_any_flipped_bit_is_noticed_or_changes_nothing(self, tf, tmp_path):
        """Each bit around the arrays, and some of theirs.

        What is in a zip file's directory alone, such as dates, says nothing.
        """
        from trainer.engine import checkpoint

        path = tmp_path / "step-000000003.npz"
        kernel = np.arange(5000, dtype=np.float32).reshape(50, 100)
        checkpoint.save(path, {"a/kernel": kernel}, {"step": 3})
        whole = path.read_bytes()
        start = whole.index(kernel.tobytes())
        inside = range(start, start + kernel.nbytes)
        around = sorted(set(range(len(whole))) - set(inside))
        noticed = 0
        for place in [*around, *inside[::997]]:
            for bit in range(8):
                changed = bytearray(whole)
                changed[place] ^= 1 << bit
                try:
                    arrays, state = checkpoint.load(io.BytesIO(changed))
                except DataError:
                    noticed += 1
                    continue
                assert place not in inside
                assert state == {"step": 3} and list(arrays) == ["a/kernel"]
                np.testing.assert_array_equal(arrays["a/kernel"], kernel)
        assert noticed > 5 * len(around)  # of 8 bits

    def test_what_is_not_finite_is_never_saved(self, tf):
        import keras

        from trainer.engine import checkpoint

        good = keras.Variable(np.ones(3, np.float32))
        bad = keras.Variable(np.array([1.0, np.nan], np.float32))
        assert checkpoint.copy({"good": good})["good"].sum() == 3
        with pytest.raises(checkpoint.NotFinite, match="bad holds numbers"):
            checkpoint.copy({"good": good, "bad": bad})

    def test_leftovers_are_swept_and_the_last_kept(self, tmp_path, tf):
        from trainer.engine import checkpoint
        from trainer.engine.checkpoint_writer import CheckpointWriter

        (tmp_path / "incomplete.step-000000009.npz").write_text("half")
        writer = CheckpointWriter(tmp_path)
        for step in range(4):
            path = checkpoint.step_path(tmp_path, step)
            writer.save(path, {"a": np.ones(2)}, {})
            best = tmp_path / f"best-{step:05d}.npz"
            writer.save(best, {"a": np.ones(2)}, {})
            writer.keep_only({best})
        writer.wait()
        assert sorted(os.listdir(tmp_path)) == [
            "best-00003.npz",
            "step-000000002.npz",
            "step-000000003.npz",
        ]


def _with_state(content, state):
    """Returns a checkpoint with other bytes for its state; None leaves it out."""
    with np.load(io.BytesIO(content)) as archive:
        arrays = dict(archive)
    del arrays["state.json"]
    if state is not None:
        arrays["state.json"] = np.frombuffer(state, np.uint8)
    changed = io.BytesIO()
    np.savez(changed, **arrays)
    return changed.getvalue()


@pytest.mark.slow
def test_the_newest_damaged_the_one_before_goes_on(data, cut, whole):
    newest = sorted((cut / "checkpoints").glob("step-*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    done = go_on(data, cut, whole)
    assert f"{newest.name} is damaged" in done.stderr


def test_no_whole_checkpoint_is_no_fresh_start(data, cut, deterministic):
    for path in (cut / "checkpoints").glob("step-*.npz"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="checkpoints in .* is whole"):
        train_here(data, cut, **settings_of(cut))


def test_other_flags_are_refused_by_name(data, cut, tf):
    for name, value, message in (
        ("seed", 4, "--seed=4 (was 0)"),
        ("batch_size", 11, "--batch_size=11 (was 8)"),
        ("optimizer", "sgd", "--optimizer=sgd (was adam)"),
        ("image_size", 48, "--image_size=48 (was 46)"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            train_here(data, cut, **{**settings_of(cut), name: value})


@pytest.mark.slow
def test_a_blown_up_loss_goes_back_with_half_the_rate(
    data, tmp_path, tf, monkeypatch, capsys
):
    from trainer.engine import loop

    real = loop.timed
    results = {}
    for name, retries in (("model", 1), ("refused", 0)):
        monkeypatch.setattr(loop, "timed", real)
        faults.before(loop, "timed", 6, "nan")
        settings = {**STATES, "nan_retries": retries}
        try:
            train_here(data, tmp_path / name, **settings)
        except TrainingError as error:
            results[name] = str(error)
        else:
            results[name] = capsys.readouterr().out
    assert (
        "the loss is nan at step 2 of epoch 2 (finetune phase)"
        in (results["model"])
    )
    assert (
        "Going back to step-000000004.npz with half the learning rate"
        in (results["model"])
    )
    rows = lines(tmp_path / "model" / "metrics.jsonl")
    # Half of the rate, at the first of two steps of warm-up.
    assert rows[1]["learning_rate"] == pytest.approx(3e-5 / 2 / 2)
    assert "the loss is nan at step 2 of epoch 2" in results["refused"]
    assert "Going back" not in results["refused"]
    path = sorted((tmp_path / "refused" / "checkpoints").glob("step-*"))[-1]
    assert path.name == "step-000000004.npz"


@pytest.mark.slow
def test_a_gradient_that_is_no_number_goes_back(
    data, tmp_path, tf, monkeypatch, capsys
):
    """Its loss is one: what the step made of the weights is what shows it."""
    from trainer.engine import checkpoint
    from trainer.engine import train_step

    real = train_step.make_replica_step
    monkeypatch.setattr(train_step, "make_replica_step", real)
    faults.poison_gradients(train_step, 5)
    model = tmp_path / "model"
    train_here(data, model, **STATES, nan_retries=1)
    said = capsys.readouterr().out
    assert "holds numbers that are not finite" in said
    assert "Going back to step-000000004.npz with half" in said
    rows = lines(model / "metrics.jsonl")
    assert len(rows) == 3
    assert all(np.isfinite(r["val_loss"]) for r in rows)
    for path in (model / "checkpoints").glob("*.npz"):
        arrays, _ = checkpoint.load(path)
        assert all(np.isfinite(array).all() for array in arrays.values())
