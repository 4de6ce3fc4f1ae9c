"""`launch.workers`: several processes of this machine as one training."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from training import TINY
from training import prepare

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
    assert workers.run_once(words, 2, grace, []) == expected


def test_every_worker_has_an_address_of_its_own(tmp_path):
    words = script(
        tmp_path,
        "with open(f'{sys.argv[1]}/{index}', 'w') as f: json.dump(config, f)",
    )
    assert workers.run_once([*words, str(tmp_path)], 3, 1.0, []) == 0
    found = [json.loads((tmp_path / str(n)).read_text()) for n in range(3)]
    assert [one["task"]["index"] for one in found] == [0, 1, 2]
    assert len(set(found[0]["cluster"]["worker"])) == 3
    assert all(one["cluster"] == found[0]["cluster"] for one in found)


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
