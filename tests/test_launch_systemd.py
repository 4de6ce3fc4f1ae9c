"""The unit for systemd, in a real one that runs nothing else."""

import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import pytest
import systemd_host
from conftest import ROOT
from training import TINY
from training import prepare

from launch import submit
from launch.job import Job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(systemd_host.missing()), reason=systemd_host.missing()
    ),
]
# Ends as the next line of `codes` says, KILL for a signal; $0 is a folder's.
STANDIN = """\
#!/bin/bash
here=$(dirname "$0")
echo "$(id -un) $PATH" >> "$here/starts"
code=$(sed -n "$(wc -l < "$here/starts")p" "$here/codes")
[ "$code" = KILL ] && kill -KILL $$
exit "$code"
"""


@pytest.fixture
def folder():
    """A folder that every user may enter, which pytest's are not."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="systemd"))
    root.chmod(0o755)
    (root / "units").mkdir()
    yield root
    shutil.rmtree(root)


def install(folder, job, words):
    """Writes a job's files, its unit where its first line says."""
    rendered = submit.render(job, words)
    for name, text in rendered.files.items():
        path = job.common.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    unit = f"{job.common.name}.service"
    shutil.copy(job.common.folder / unit, folder / "units" / unit)


def test_it_starts_again_what_may_succeed(folder, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "nobody")
    monkeypatch.chdir(folder)
    path = f"{folder}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    # What it ends with at each start, how often it may start again, how often it
    # is started in all, and the state that it is left in.
    cases = {
        "again": (["75", "KILL", "0"], 20, 3, "inactive"),
        "wrong": (["64", "0"], 20, 1, "failed"),
        "data": (["65", "0"], 20, 1, "failed"),
        "limit": (["75", "75", "0"], 1, 2, "failed"),
    }
    for name, (codes, restarts, _, _) in cases.items():
        place = folder / name
        place.mkdir()
        place.chmod(0o777)
        (place / "codes").write_text("\n".join(codes) + "\n")
        (place / "python").write_text(STANDIN)
        (place / "python").chmod(0o755)
        job = Job(
            name=name,
            python=str(place / "python"),
            restarts=restarts,
            output_dir=str(folder / "launched"),
        )
        install(folder, job, ["--data_dir=data", "--model_dir=model"])
    with systemd_host.boot(folder / "units") as host:
        host.systemctl("start", "--no-block", *cases)
        for name, (_, _, starts, end) in cases.items():
            said = folder / name / "starts"
            wanted = [f"nobody {path}"] * starts
            host.wait(
                name,
                lambda found, said=said, wanted=wanted, end=end: (
                    found["ActiveState"] == end
                    and said.read_text().splitlines() == wanted
                ),
            )


def test_a_training_survives_stops_kills_and_a_restart(folder, monkeypatch):
    data, model = prepare(folder), folder / "model"
    monkeypatch.chdir(ROOT)
    job = Job(output_dir=str(folder / "launched"), python=sys.executable)
    words = [f"--data_dir={data}", f"--model_dir={model}", *TINY]
    install(folder, job, [*words, "--frozen_epochs=30", "--finetune_epochs=0"])
    metrics = model / "metrics.jsonl"

    def epochs():
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return [json.loads(line)["epoch"] for line in lines]

    def wait_for_more():
        before, end = len(epochs()), time.monotonic() + 300
        while len(epochs()) <= before:
            assert time.monotonic() < end
            time.sleep(0.05)

    with systemd_host.boot(folder / "units") as host:
        host.systemctl("enable", "--now", "shardtune")
        wait_for_more()
        host.systemctl("stop", "shardtune")
        assert host.show("shardtune", "ExecMainStatus") == "75"
        assert host.show("shardtune", "NRestarts") == "0"
        host.systemctl("start", "shardtune")
        wait_for_more()
        host.systemctl("kill", "--signal=KILL", "shardtune")
        wait_for_more()
        assert host.show("shardtune", "NRestarts") == "1"
    assert not (model / "DONE.json").exists()
    with systemd_host.boot(folder / "units") as host:
        # It was enabled: nobody starts it.
        host.wait("shardtune", lambda found: found["ActiveState"] == "inactive")
    assert epochs() == list(range(1, 31))
    assert (model / "DONE.json").exists()
