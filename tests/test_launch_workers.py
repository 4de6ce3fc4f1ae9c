"""`launch.workers`: several processes of this machine as one training."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from training import TINY
from training import prepare

from data_prep.runtime import subprocesses
from data_prep.runtime.errors import UsageError
from launch import workers


def script(tmp_path, text):
    path = tmp_path / "worker.py"
    path.write_text(
        "import json, os, signal, sys, time\n"
        "config = json.loads(os.environ['TF_CONFIG'])\n"
        "index = config['task']['index']\n" + text
    )
    return [sys.executable, str(path)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", 0),
        ("sys.exit(75)", 75),
        ("sys.exit(64)", 64),
        ("sys.exit(65 if index else 75)", 65),
        # One was killed, the others saved their state.
        ("os.kill(os.getpid(), 9) if index else sys.exit(75)", 75),
        ("os.kill(os.getpid(), 9)", 1),
        # The other hangs: it is ended when the grace is over.
        ("time.sleep(60) if index else sys.exit(75)", 75),
    ],
)
def test_exit_codes(tmp_path, text, expected):
    words = script(tmp_path, text)
    grace = 1.0 if "sleep" in text else 60.0
    assert workers.run_once(words, 2, grace, [], tmp_path) == expected


def test_every_worker_has_an_address_of_its_own(tmp_path):
    words = script(
        tmp_path,
        "with open(f'{sys.argv[1]}/{index}', 'w') as f: json.dump(config, f)",
    )
    assert workers.run_once([*words, str(tmp_path)], 3, 1.0, [], tmp_path) == 0
    found = [json.loads((tmp_path / str(n)).read_text()) for n in range(3)]
    assert [one["task"]["index"] for one in found] == [0, 1, 2]
    assert len(set(found[0]["cluster"]["worker"])) == 3
    assert all(one["cluster"] == found[0]["cluster"] for one in found)


def test_a_failed_worker_is_named_with_its_last_lines(
    tmp_path, capfd, monkeypatch
):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    words = script(
        tmp_path,
        "if not index: print('a peer is lost'); sys.exit(75)\n"
        "for number in range(20): print(number)\n"
        "print('where it broke', end='', file=sys.stderr)\n"
        "os.kill(os.getpid(), 9)",
    )
    assert workers.run_once(words, 2, 60.0, [], tmp_path) == 75
    shown, said = capfd.readouterr()
    printed = [f"1: {number}" for number in range(20)] + ["1: where it broke"]
    assert sorted(shown.splitlines()) == sorted(["0: a peer is lost", *printed])
    assert set(said.splitlines()[:2]) == {
        "workers: worker 0 ended with 75",
        "workers: worker 1 was ended by SIGKILL",
    }
    assert said.splitlines()[2:] == [
        "workers: worker 1 failed first. Its last lines:",
        *printed[-10:],
    ]
    assert (tmp_path / "worker-0.log").read_text() == "a peer is lost\n"


def test_lines_of_an_earlier_start_are_kept_but_not_shown(tmp_path, capfd):
    words = script(tmp_path, "print('again')")
    for _ in range(2):
        assert workers.run_once(words, 1, 60.0, [], tmp_path) == 0
        assert capfd.readouterr().out == "0: again\n"
    assert (tmp_path / "worker-0.log").read_text() == "again\nagain\n"


def test_workers_save_when_their_terminal_is_closed(tmp_path):
    """Writing to it fails from then on, which must not end them at once."""
    words = script(
        tmp_path,
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])\n"
        "print('ready')\n"
        "signal.sigwait([signal.SIGHUP])\n"
        "print('saving')\n"
        "time.sleep(1)\n"
        "open(f'{sys.argv[1]}/{index}.saved', 'w').close()\n"
        "sys.exit(75)",
    )
    code = (
        "import pathlib, sys\nfrom launch import workers\n"
        f"words = {[*words, str(tmp_path)]!r}\n"
        "code = workers.run_once(words, 2, 60, [], pathlib.Path(words[-1]))\n"
        "pathlib.Path(words[-1], 'code').write_text(str(code))"
    )
    child, terminal = pty.fork()
    if not child:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", code])
    text = b""
    while text.count(b": ready") < 2:
        text += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(child, 0)
    assert (tmp_path / "code").read_text() == "75"
    assert len(list(tmp_path.glob("*.saved"))) == 2


def test_gpus_are_shared():
    def shared(count, visible):
        return workers.share_gpus(count, {"CUDA_VISIBLE_DEVICES": visible})

    assert shared(2, "0,1,2,3") == ["0,1", "2,3"]
    assert shared(2, "4,7,9") == ["4", "7"]
    assert shared(2, "") == [None, None]
    with pytest.raises(UsageError, match="--workers=2 on 1 GPUs"):
        shared(2, "GPU-3a")


def test_gpus_are_counted_where_no_variable_names_them(tmp_path, monkeypatch):
    """nvidia-smi's own output, which a script prints: there is no GPU here."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n"
        "echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert workers.share_gpus(2, {}) == ["0", "1"]


def test_every_worker_sees_its_own_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    words = script(
        tmp_path,
        "with open(f'{sys.argv[1]}/{index}', 'w') as f:"
        " f.write(os.environ['CUDA_VISIBLE_DEVICES'])",
    )
    assert workers.run_once([*words, str(tmp_path)], 2, 1.0, [], tmp_path) == 0
    found = [(tmp_path / str(n)).read_text() for n in range(2)]
    assert found == ["5", "6"]


def test_codes_are_combined():
    assert workers.combine_codes([0, 0]) == 0
    assert workers.combine_codes([75, 0]) == 75
    assert workers.combine_codes([-9, 75]) == 75
    assert workers.combine_codes([75, 64]) == 64
    assert workers.combine_codes([64, 65]) == 1
    assert workers.combine_codes([-9, 0]) == 1


WAITS = """
import os, pathlib, signal, sys
name = pathlib.Path(sys.argv[1], os.environ.get("TF_CONFIG", "one")[-3:-2])
signal.pthread_sigmask(signal.SIG_BLOCK, set(range(1, 32)))
name.with_suffix(".ready").write_text(str(os.getpid()))
number = signal.sigwait(set(range(1, 32)))
name.with_suffix(".stopped").write_text(signal.Signals(number).name)
sys.exit(75)
"""

STARTERS = {
    "workers": "workers.run_once(words, 2, 60, [], pathlib.Path(words[-1]))",
    "staged": (
        "staged.subprocesses.python_module = lambda *_: words\n"
        "staged.run_trainer((), None, 60)"
    ),
}


def wait_for(folder, pattern, count):
    end = time.monotonic() + 300
    while len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < end, f"no {count} {pattern} in {folder}"
        time.sleep(0.05)


@pytest.mark.parametrize("starter", STARTERS)
@pytest.mark.parametrize(
    "sent, arrives", [("SIGKILL", "SIGTERM"), ("SIGHUP", "SIGHUP")]
)
def test_a_process_ends_with_what_started_it(tmp_path, starter, sent, arrives):
    words = [sys.executable, "-c", WAITS, str(tmp_path)]
    code = (
        "import pathlib\n"
        "from launch import staged, workers\n"
        f"words = {words!r}\n{STARTERS[starter]}"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    count = 2 if starter == "workers" else 1
    wait_for(tmp_path, "*.ready", count)
    process.send_signal(signal.Signals[sent])
    try:
        wait_for(tmp_path, "*.stopped", count)
    finally:
        for ready in tmp_path.glob("*.ready"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(ready.read_text()), signal.SIGKILL)
    process.wait()
    stopped = sorted(tmp_path.glob("*.stopped"))
    assert [path.read_text() for path in stopped] == [arrives] * count


@pytest.fixture
def folder_with_a_trainer(tmp_path):
    """A current folder that holds the user's own trainer.py and data_prep.py."""
    for name in ("trainer", "data_prep", "launch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('not ours')\n")
    return tmp_path


def test_workers_start_beside_a_trainer_of_the_users(folder_with_a_trainer):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launch.workers", "--workers=1", "--"]
        + ["--data_dir=absent", "--model_dir=model"],
        cwd=folder_with_a_trainer,
        # What ours says at once, before it imports TensorFlow.
        env={**os.environ, "PYTHONPATH": str(ROOT), "SM_HOSTS": "none"},
        capture_output=True,
        text=True,
    )
    assert done.returncode
    assert "the variable SM_HOSTS cannot be read" in done.stderr
    assert "not ours" not in done.stderr


def test_a_module_starts_beside_a_trainer_of_the_users(folder_with_a_trainer):
    code = (
        "from launch import quickstart\n"
        "quickstart.run_module('trainer.task', '--version')\n"
        "quickstart.run_module('data_prep.task', '--version')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=folder_with_a_trainer,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shardtune ") == 2


def test_a_module_finds_what_this_process_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside.py").write_text("print('found')\n")
    words = subprocesses.python_module("beside", "--flag")
    assert words == [sys.executable, "-P", "-m", "beside", "--flag"]

    def code():
        environ = subprocesses.environment()
        return subprocess.run(words, env=environ).returncode

    assert code() != 0
    # An empty entry is the current folder, and stays so.
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    assert code() == 0


@pytest.mark.slow
def test_a_killed_worker_restarts_all(tmp_path):
    data = prepare(tmp_path)
    model = tmp_path / "model"
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.workers", "--restarts=1", "--"]
        + [f"--data_dir={data}", f"--model_dir={model}", *TINY]
        + ["--frozen_epochs=50", "--finetune_epochs=0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    metrics = model / "metrics.jsonl"
    end = time.monotonic() + 600
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.1)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        children = [int(word) for word in file.read().split()]
    assert len(children) == 2
    os.kill(children[1], signal.SIGKILL)
    text = process.communicate()[0]
    assert process.returncode == 0, text
    assert "workers: start 2" in text
    epochs = [json.loads(x)["epoch"] for x in metrics.read_text().splitlines()]
    assert epochs == list(range(1, 51))
    assert (model / "DONE.json").exists()
