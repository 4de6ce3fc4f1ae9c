"""What follows a submission: its record, and the platform's own client.

Clients are stand-ins that print their words; of Slurm, Docker, AWS and Google
the real ones run in the tests of their targets.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys

import launch_jobs
import pytest
from conftest import ROOT
from conftest import hash_tree

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from launch import follow
from launch import submit
from launch.job import Job
from launch.staging.mirror import Mirror
from launch.targets import submitted

CLIENTS = (
    *("sbatch", "squeue", "scancel", "kubectl", "gcloud", "aws", "docker"),
    "sky",
)


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """Programs of these names that print their words; sbatch a number."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in CLIENTS:
        path = folder / name
        answer = f'echo "{name}" "$@"'
        if name == "sbatch":
            answer = 'case "$1" in --parsable) echo "42;cluster";; esac'
        if name == "gcloud":
            answer = 'echo "projects/1/locations/r/customJobs/77"'
        path.write_text(f"#!/bin/sh\n{answer}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return folder


def submit_job(target, tmp_path, **fields):
    least, words = launch_jobs.LEAST[target]
    job = Job(**{**least, "output_dir": str(tmp_path), **fields})
    assert submit.main(job, words) == 0
    return submitted.load(job.common.folder)


def asked(action, found, capfd, **options):
    capfd.readouterr()
    assert follow.ask(action, found, **options) == 0
    said = capfd.readouterr().out
    return [x[2:] for x in said.splitlines() if x.startswith("$ ")]


def test_slurm(clients, tmp_path, capfd):
    found = submit_job("slurm", tmp_path)
    assert found.ids == ("42",)
    assert "launch.logs --follow" in capfd.readouterr().out
    assert asked("status", found, capfd) == ["squeue --jobs=42"]
    assert asked("cancel", found, capfd) == ["scancel 42"]
    with pytest.raises(UsageError, match="has not begun"):
        follow.ask("logs", found)
    (tmp_path / "shardtune-42.out").write_text("epoch 1\n")
    (line,) = asked("logs", found, capfd)
    assert line == f"tail --lines=+1 {tmp_path}/shardtune-42.out"


def test_kubernetes(clients, tmp_path, capfd):
    found = submit_job("kubernetes", tmp_path, namespace="science")
    client = "kubectl --namespace=science"
    pods = "--selector=batch.kubernetes.io/job-name=shardtune"
    assert asked("status", found, capfd) == [
        f"{client} get job shardtune",
        f"{client} get pods {pods}",
    ]
    (line,) = asked("logs", found, capfd, follow=True)
    assert line.startswith(f"{client} logs {pods}") and "--follow" in line
    (line,) = asked("cancel", found, capfd)
    assert line == f"kubectl delete --filename={tmp_path}/shardtune/job.yaml"


def test_a_job_that_is_there_is_not_said_to_run(clients, tmp_path, capfd):
    (clients / "kubectl").write_text(
        "#!/bin/sh\necho 'job.batch/shardtune unchanged'\n"
    )
    least, words = launch_jobs.LEAST["kubernetes"]
    job = Job(**{**least, "output_dir": str(tmp_path)})
    assert submit.main(job, words) == 1
    assert "nothing was started" in capfd.readouterr().err
    # Its Service alone was left.
    (clients / "kubectl").write_text(
        "#!/bin/sh\necho 'service/shardtune unchanged'\n"
        "echo 'job.batch/shardtune created'\n"
    )
    assert submit.main(job, words) == 0


def test_vertex(clients, tmp_path, capfd):
    found = submit_job("vertex", tmp_path)
    assert found.ids == ("projects/1/locations/r/customJobs/77",)
    assert asked("status", found, capfd) == [
        "gcloud ai custom-jobs describe 77 --region=us-central1"
    ]
    assert asked("cancel", found, capfd) == [
        "gcloud ai custom-jobs cancel 77 --region=us-central1"
    ]
    assert "stream-logs 77" in asked("logs", found, capfd, follow=True)[0]
    assert 'job_id="77"' in asked("logs", found, capfd)[0]
    assert found.model_dirs == ("gs://bucket/run/model",)


def test_sagemaker(clients, tmp_path, capfd):
    found = submit_job("sagemaker", tmp_path, grid="seed=1,2")
    first, second = found.ids
    assert first.startswith("shardtune-000-")
    lines = asked("cancel", found, capfd)
    assert [f"--training-job-name={first}" in lines[0]] == [True]
    assert "stop-training-job" in lines[1] and second in lines[1]
    (line, _) = asked("logs", found, capfd, follow=True)
    assert "aws --region=us-east-1 logs tail" in line and "--follow" in line


@pytest.mark.parametrize(
    "target, wanted",
    [
        (
            "docker",
            {
                "status": "docker ps --all '--filter=name=^shardtune$'",
                "logs": "docker logs --follow shardtune",
                "cancel": "docker stop shardtune",
            },
        ),
        (
            "skypilot",
            {
                "status": "sky jobs queue",
                "logs": "sky jobs logs --follow --name shardtune",
                "cancel": "sky jobs cancel --yes --name shardtune",
            },
        ),
    ],
)
def test_what_is_known_by_its_name(clients, tmp_path, capfd, target, wanted):
    least, words = launch_jobs.LEAST[target]
    job = Job(**{**least, "output_dir": str(tmp_path)})
    rendered = submit.render(job, words)
    folder = str(job.common.folder)
    found = submitted.Submitted(target, "shardtune", rendered.names, folder, ())
    for action, line in wanted.items():
        options = {"follow": True} if action == "logs" else {}
        assert asked(action, found, capfd, **options) == [line]


def test_a_client_that_fails_is_told(clients, tmp_path):
    found = submit_job("slurm", tmp_path)
    (clients / "scancel").write_text("#!/bin/sh\nexit 3\n")
    assert follow.ask("cancel", found) == 1


def test_a_job_of_this_machine_is_stopped(tmp_path):
    """The real thing: the process that submits becomes the work."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nsleep 600\n")
    python.chmod(0o755)
    words = [sys.executable, "-m", "launch.submit", "--target=local"]
    words += [f"--output_dir={tmp_path}", f"--python={python}", "--"]
    process = subprocess.Popen(
        [*words, "--data_dir=data", "--model_dir=model"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stdout:
        if line.startswith("python -m launch.fetch "):
            break
    while not (tmp_path / "shardtune" / submitted.FILE).exists():
        pass
    found = submitted.load(tmp_path / "shardtune")
    assert found.ids == (str(process.pid),)
    assert follow.ask("status", found) == 0
    assert follow.ask("cancel", found) == 0
    process.wait()
    for action in ("status", "cancel"):
        with pytest.raises(UsageError, match="shardtune has ended.*/model"):
            follow.ask(action, found)
    # Its number is another process's by now, which began later.
    other = subprocess.Popen(["sleep", "600"])
    later = dataclasses.replace(found, ids=(str(other.pid),))
    with pytest.raises(UsageError, match="has ended"):
        follow.ask("cancel", later)
    assert other.poll() is None
    other.kill()
    other.wait()
    with pytest.raises(UsageError, match="where it was started"):
        follow.ask("logs", found)


@pytest.mark.parametrize(
    "fields, files",
    [
        ({}, ["model/metrics.jsonl"]),
        (
            {"grid": "seed=1,2"},
            [f"model/{n:03d}/metrics.jsonl" for n in (0, 1)],
        ),
        ({"workers": 2}, [f"jobs/a/logs/worker-{n}.log" for n in (0, 1)]),
    ],
)
def test_logs_of_this_machine(tmp_path, monkeypatch, capfd, fields, files):
    monkeypatch.chdir(tmp_path)
    job = Job(target="local", name="a", output_dir="jobs", **fields)
    words = ["--data_dir=data", "--model_dir=model"]
    rendered = submit.render(job, words)
    if "workers" in fields:
        assert f"--logs_dir={tmp_path}/jobs/a/logs " in rendered.files["run.sh"]
    paths = [str(tmp_path / name) for name in files]
    for path in paths:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text("said\n")
    place = ("a", ("1",), str(job.common.folder), ())
    found = submitted.Submitted("local", *place, log=rendered.log)
    assert asked("logs", found, capfd) == [
        shlex.join(["tail", "--lines=+1", *paths])
    ]


def test_a_model_directory_is_fetched(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "DONE.json").write_text("{}")
    follow.fetch(str(model), tmp_path / "here")
    assert hash_tree(tmp_path / "here") == hash_tree(model)
    with pytest.raises(UsageError, match="exists: pass another --to"):
        follow.fetch(str(model), tmp_path / "here")
    with pytest.raises(DataError, match="is no folder of this machine"):
        follow.fetch("/absent/model", tmp_path / "there")


@pytest.mark.parametrize("finished", [False, True])
def test_a_model_in_a_store_is_fetched(tmp_path, monkeypatch, finished):
    pytest.importorskip("s3fs")
    object_stores = pytest.importorskip("object_stores")
    with pytest.MonkeyPatch.context() as patched:
        for bucket in object_stores.s3_bucket(patched):
            model = tmp_path / "model"
            (model / "checkpoints").mkdir(parents=True)
            (model / "checkpoints" / "step-1.npz").write_text("state")
            (model / "metrics.jsonl").write_text("{}")
            (model / "DONE.json").write_text("{}")
            mirror = Mirror(f"{bucket}/model", model)
            mirror.push()
            if finished:
                mirror.publish()
            follow.fetch(f"{bucket}/model", tmp_path / "here")
            found = set(hash_tree(tmp_path / "here"))
            wanted = {"metrics.jsonl", "DONE.json"}
            if not finished:
                wanted |= {"checkpoints/step-1.npz"}
            assert found == wanted
            with pytest.raises(DataError, match="holds nothing yet"):
                follow.fetch(f"{bucket}/other", tmp_path / "there")


def test_a_job_that_was_not_submitted(run, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / submitted.FILE).write_text("{}")
    for module in ("status", "logs", "cancel", "fetch"):
        done = run(f"launch.{module}", f"--output_dir={tmp_path}", "absent")
        assert done.returncode == 64, done.stderr
        assert "Submitted were: other" in done.stderr
        done = run(f"launch.{module}", f"--output_dir={tmp_path}", "other")
        assert done.returncode == 64 and "submit again" in done.stderr


def test_a_record_says_what_was_submitted(clients, tmp_path):
    submit_job("slurm", tmp_path, grid="seed=1,2")
    content = json.loads((tmp_path / "shardtune" / submitted.FILE).read_text())
    assert content["target"] == "slurm" and content["ids"] == ["42"]
    assert content["log"] == f"{tmp_path}/shardtune-ID_*.out"
    assert content["model_dirs"] == [
        f"{tmp_path}/model/{n:03d}" for n in (0, 1)
    ]
