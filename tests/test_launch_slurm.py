"""Batch scripts in a real Slurm of two nodes, with the real trainer."""

import json
import pathlib
import re
import shutil
import sys
import tempfile
import time

import pytest
import slurm_cluster
from training import TINY
from training import prepare

from launch import submit
from launch.job import Job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(slurm_cluster.missing()), reason=slurm_cluster.missing()
    ),
]


@pytest.fixture(scope="module")
def cluster():
    # A socket's path must be short, which pytest's folders are not.
    root = pathlib.Path(tempfile.mkdtemp(prefix="slurm"))
    with slurm_cluster.cluster(root) as running:
        yield running
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("slurm")
    return prepare(root)


@pytest.fixture
def queue(cluster, tmp_path):
    """Renders, writes and queues a job; returns its number and its log."""

    def queue_job(*words, **fields):
        job = Job(
            target="slurm",
            output_dir=str(tmp_path),
            gpus=0,
            cpus=1,
            memory_gb=1,
            python=sys.executable,
            **fields,
        )
        rendered = submit.render(job, [*TINY, *words])
        for name, text in rendered.files.items():
            path = job.common.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        test, _ = rendered.commands
        cluster.run(*test)
        number = cluster.run(
            "sbatch",
            "--parsable",
            f"--output={tmp_path}/%a.log"
            if job.slurm.grid
            else f"--output={tmp_path}/log",
            str(job.common.folder / "job.sbatch"),
        ).strip()
        return number, tmp_path / "log"

    return queue_job


def epochs(model):
    text = (model / "metrics.jsonl").read_text()
    return [json.loads(line)["epoch"] for line in text.splitlines()]


def wait_for(condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_options_arrive_as_they_were_written(cluster, queue, tmp_path):
    number, _ = queue(
        "--data_dir=/absent",
        f"--model_dir={tmp_path / 'model'}",
        slurm_options="--comment='two words' --hold",
        grid="dropout=0,0.5",
        runs_at_once=1,
    )
    found = cluster.job(number)
    assert found["ArrayTaskThrottle"] == "1"
    shown = cluster.run("scontrol", "show", "job", number)
    assert "Comment=two words" in shown
    cluster.run("scancel", number)


def test_a_setup_may_use_variables_that_are_not_set(cluster, queue, tmp_path):
    number, log = queue(
        "--data_dir=/absent",
        f"--model_dir={tmp_path / 'model'}",
        setup='source /etc/bash.bashrc; echo "set up$SHARDTUNE_ABSENT"',
    )
    found = cluster.finish(number)
    assert found["ExitCode"].startswith("65"), log.read_text()
    assert "set up" in log.read_text()


def test_time_limit_saves_requeues_and_resumes(cluster, queue, data, tmp_path):
    model = tmp_path / "model"
    number, log = queue(
        f"--data_dir={data}",
        f"--model_dir={model}",
        "--frozen_epochs=1000",
        "--finetune_epochs=0",
        time_limit=1,
        grace_seconds=45,
    )
    # The notice comes 45 s before the limit of one minute, or earlier.
    wait_for(lambda: int(cluster.job(number)["Restarts"]) >= 1)
    metrics = model / "metrics.jsonl"
    assert not metrics.exists() or len(epochs(model)) < 1000
    # On a busy machine 15 s would end each run before its first step.
    cluster.run("scontrol", "update", f"jobid={number}", "TimeLimit=60")
    found = cluster.finish(number)
    text = log.read_text()
    assert found["JobState"] == "COMPLETED", (found, text)
    assert re.search(r"exit code 75: requeued after 0 restarts", text)
    assert epochs(model) == list(range(1, 1001))
    assert (model / "DONE.json").exists()


def test_two_nodes_stop_and_resume_together(cluster, queue, data, tmp_path):
    model = tmp_path / "model"
    number, log = queue(
        f"--data_dir={data}",
        f"--model_dir={model}",
        "--frozen_epochs=50",
        "--finetune_epochs=0",
        workers=2,
    )
    metrics = model / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(epochs(model)) >= 2)
    # What --signal sends before the time limit.
    cluster.run("scancel", "--signal=USR1", number)
    wait_for(lambda: int(cluster.job(number)["Restarts"]) == 1)
    assert 2 <= len(epochs(model)) < 50
    found = cluster.finish(number)
    text = log.read_text()
    assert found["JobState"] == "COMPLETED", text
    assert "exit code 75: requeued after 0 restarts" in text
    assert epochs(model) == list(range(1, 51))
    environment = json.loads((model / "environment.json").read_text())
    assert environment["replicas"] == 2


def test_preemption_resumes(cluster, queue, data, tmp_path):
    """What a preempting partition does: SIGTERM to the tasks, then requeue."""
    model = tmp_path / "model"
    number, log = queue(
        f"--data_dir={data}",
        f"--model_dir={model}",
        "--frozen_epochs=120",
        "--finetune_epochs=0",
    )
    metrics = model / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(epochs(model)) >= 3)
    cluster.run("scontrol", "requeue", number)
    cluster.wait(number, "PENDING")
    reached = len(epochs(model))
    assert 3 <= reached < 120
    assert cluster.finish(number)["Restarts"] == "1"
    assert epochs(model) == list(range(1, 121)), log.read_text()


def test_scancel_stays_cancelled(cluster, queue, data, tmp_path):
    model = tmp_path / "model"
    number, log = queue(
        f"--data_dir={data}",
        f"--model_dir={model}",
        "--frozen_epochs=2000",
        "--finetune_epochs=0",
    )
    metrics = model / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(epochs(model)) >= 2)
    cluster.run("scancel", number)
    found = cluster.wait(number, "CANCELLED", "PENDING", "COMPLETED")
    time.sleep(3)
    assert cluster.job(number)["JobState"] == "CANCELLED", log.read_text()
    assert found["Restarts"] == "0"


def test_wrong_data_is_not_requeued(cluster, queue, tmp_path):
    number, log = queue(
        f"--data_dir={tmp_path / 'absent'}", f"--model_dir={tmp_path / 'm'}"
    )
    found = cluster.wait(number, "FAILED", "PENDING", "COMPLETED", "TIMEOUT")
    found = cluster.wait(number, "FAILED")
    assert found["ExitCode"] == "65:0", log.read_text()
    assert found["Restarts"] == "0"


def test_sweep_is_a_job_array(cluster, queue, data, tmp_path, run):
    number, _ = queue(
        f"--data_dir={data}",
        f"--model_dir={tmp_path / 'sweep'}",
        "--frozen_epochs=1",
        "--finetune_epochs=0",
        grid="frozen_learning_rate=1e-5,1e-2",
    )
    for index in (0, 1):
        assert (
            cluster.wait(f"{number}_{index}", "COMPLETED", "FAILED")["JobState"]
            == "COMPLETED"
        ), (tmp_path / f"{index}.log").read_text()
    runs = [tmp_path / "sweep" / name for name in ("000", "001")]
    done = run("launch.compare", "--csv", *runs)
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header.split(",") == [
        "run",
        "frozen_learning_rate",
        "split",
        "accuracy",
        "loss",
        "finished",
    ]
    assert {row.split(",")[1] for row in rows} == {"1e-05", "0.01"}


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("--requeue", "--requeuee", "unrecognized option"),
        ("--nodes=1", "--nodes=9", "not available"),
        ("--signal=USR1@", "--signal=USRX@", "signal"),
    ],
)
def test_slurm_refuses_mutants(cluster, tmp_path, old, new, said):
    """By the first of the two commands that submit a job."""
    job = Job(
        target="slurm", gpus=0, cpus=1, memory_gb=1, output_dir=str(tmp_path)
    )
    rendered = submit.render(job, ["--data_dir=d", "--model_dir=m"])
    test, _ = rendered.commands
    script = pathlib.Path(test[-1])
    script.parent.mkdir()
    text = rendered.files["job.sbatch"]
    script.write_text(text)
    cluster.run(*test)
    assert old in text
    script.write_text(text.replace(old, new))
    with pytest.raises(RuntimeError, match=said):
        cluster.run(*test)
