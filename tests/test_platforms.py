"""What platforms say about a job, read from their variables."""

import json
import os
import shutil
import subprocess

import pytest

from data_prep.runtime.errors import DataError
from data_prep.runtime.errors import UsageError
from trainer import task
from trainer.config import Config
from trainer.distribution import command_line
from trainer.distribution import handover
from trainer.distribution import platform_settings
from trainer.distribution import slurm_hostlist
from trainer.distribution.cluster import Cluster
from trainer.distribution.cluster import find_cluster
from trainer.distribution.platform_settings import PlatformSettings


def tf_config(kind="worker", index=0, **groups):
    cluster = {name: list(hosts) for name, hosts in groups.items()}
    task = {"type": kind, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def slurm(hosts, tasks, rank, job=7):
    return {
        "SLURM_STEP_NODELIST": hosts,
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_PROCID": str(rank),
        "SLURM_JOB_ID": str(job),
    }


VERTEX_SPEC = {
    "cluster": {
        "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
        "workerpool1": [
            "cmle-training-workerpool1-ab-0:2222",
            "cmle-training-workerpool1-ab-1:2222",
        ],
    },
    "environment": "cloud",
    "task": {"type": "workerpool1", "index": 1, "trial": ""},
    "job": "{}",
}


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, None),
        (tf_config(worker=["a:1", "b:1"], index=1), (("a:1", "b:1"), 1)),
        (
            tf_config(chief=["a:1"], worker=["b:1", "c:1"], index=1),
            (("a:1", "b:1", "c:1"), 2),
        ),
        (
            tf_config("chief", chief=["a:1"], worker=["b:1"]),
            (("a:1", "b:1"), 0),
        ),
        # Vertex AI sets TF_CONFIG for a single machine too.
        (
            tf_config("chief", chief=["cmle-training-workerpool0-c-0:2222"]),
            None,
        ),
        (tf_config("chief", chief=["a:1"], worker=[]), None),
        ({"TF_CONFIG": "{}"}, None),
        (
            {"CLUSTER_SPEC": json.dumps(VERTEX_SPEC)},
            (
                (
                    "cmle-training-workerpool0-ab-0:2222",
                    "cmle-training-workerpool1-ab-0:2222",
                    "cmle-training-workerpool1-ab-1:2222",
                ),
                2,
            ),
        ),
        (
            {"SHARDTUNE_WORKERS": "t-0.t:2222,t-1.t:2222"}
            | {"JOB_COMPLETION_INDEX": "1"},
            (("t-0.t:2222", "t-1.t:2222"), 1),
        ),
        # A sweep is an Indexed Job of single processes.
        ({"JOB_COMPLETION_INDEX": "1"}, None),
        (
            {"SM_HOSTS": '["algo-1", "algo-2"]', "SM_CURRENT_HOST": "algo-2"},
            (("algo-1:8890", "algo-2:8890"), 1),
        ),
        ({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-1"}, None),
        # Ranks follow Slurm's order: never the alphabet's.
        (
            slurm("node[9-10,2]", 3, 1),
            (("node9:12700", "node10:12701", "node2:12702"), 1),
        ),
        (slurm("node1", 1, 0), None),
        # Within sbatch but outside of srun there is no step.
        ({"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_PROCID": "0"}, None),
        # TF_CONFIG goes before Slurm's.
        (tf_config(worker=["a:1"]) | slurm("n[1-2]", 2, 0), None),
    ],
)
def test_cluster(environ, expected):
    found = find_cluster(environ)
    assert found == (expected and Cluster(*expected))


def test_workers_of_one_host_are_counted():
    workers = ("a:1", "b:1", "a:2", "[::1]:3", "a:3")
    counts = [Cluster(workers, n).on_host for n in range(5)]
    assert counts == [3, 1, 3, 1, 3]


@pytest.mark.parametrize(
    "environ, says",
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG"),
        ({"TF_CONFIG": "[1]"}, "TF_CONFIG"),
        (tf_config(worker=["a:1", "b:1"], index=2), "worker 2"),
        (tf_config(worker=["a:1", "b:1"], index=-1), "worker -1"),
        (tf_config("worker", chief=["a:1"]), "'worker'"),
        (tf_config("ps", ps=["a:1"], worker=["b:1"]), "parameter servers"),
        (tf_config(worker=["a:1", "b:1"], ps=["c:1"]), "parameter servers"),
        (tf_config(worker=["a:1", "a:1"]), "twice"),
        (tf_config(worker=["a", "b"]), "host:port"),
        ({"SHARDTUNE_WORKERS": "a:1,b:1"}, "JOB_COMPLETION_INDEX"),
        (
            {"SHARDTUNE_WORKERS": "a:1,b:1", "JOB_COMPLETION_INDEX": "2"},
            "number 2",
        ),
        ({"SM_HOSTS": "algo-1", "SM_CURRENT_HOST": "algo-1"}, "SM_HOSTS"),
        ({"SM_HOSTS": '["algo-1"]', "SM_CURRENT_HOST": "algo-3"}, "algo-3"),
        (slurm("n[1-2]", 4, 0), "one task per node"),
        (slurm("n[1-x]", 2, 0), "n[1-x]"),
        (slurm("n[1-2]", 2, "x"), "SLURM_PROCID"),
    ],
)
def test_impossible_clusters_are_refused(environ, says):
    with pytest.raises(UsageError) as caught:
        find_cluster(environ)
    assert says in str(caught.value)


HOSTLISTS = {
    "login": ["login"],
    "n[1-3]": ["n1", "n2", "n3"],
    "n[9-10,2],a": ["n9", "n10", "n2", "a"],
    "gpu[08-10]": ["gpu08", "gpu09", "gpu10"],
    "r[1-2]n[1-2]": ["r1n1", "r1n2", "r2n1", "r2n2"],
    "b,a[2,1]": ["b", "a2", "a1"],
    "n[098-101]": ["n098", "n099", "n100", "n101"],
}


@pytest.mark.parametrize("hostlist", HOSTLISTS)
def test_host_lists(hostlist):
    assert slurm_hostlist.expand(hostlist) == HOSTLISTS[hostlist]


def test_vertex_settings():
    environ = {
        "AIP_MODEL_DIR": "gs://bucket/base/model/",
        "AIP_TENSORBOARD_LOG_DIR": "gs://bucket/base/logs/",
        "CLOUD_ML_HP_METRIC_FILE": "/tmp/metric",
    }
    found = platform_settings.find(environ)
    assert found.model_dir == "/gcs/bucket/base/model"
    assert found.log_dir == "/gcs/bucket/base/logs"
    assert str(found.metric_file) == "/tmp/metric"
    assert found.data_dir is found.publish_dir is found.failure_file is None


@pytest.mark.parametrize("toolkit", [True, False])
def test_sagemaker_settings(tmp_path, toolkit):
    """With Amazon's toolkit, and with an entry point of the container's own."""
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (tmp_path / "input" / "data" / "train").mkdir(parents=True)
    environ = {"TRAINING_JOB_NAME": "job"}
    if toolkit:
        environ |= {"SM_HOSTS": '["algo-1", "algo-2"]'}
        environ |= {"SM_CURRENT_HOST": "algo-2"}
    else:
        resources = {"hosts": ["algo-1", "algo-2"], "current_host": "algo-2"}
        (config / "resourceconfig.json").write_text(json.dumps(resources))
    workers = ("algo-1:8890", "algo-2:8890")
    assert find_cluster(environ, tmp_path) == Cluster(workers, 1)
    assert platform_settings.find(environ, tmp_path) == PlatformSettings(
        data_dir=str(tmp_path / "input" / "data" / "train"),
        model_dir=str(tmp_path / "checkpoints"),
        publish_dir=str(tmp_path / "model"),
        log_dir=str(tmp_path / "output" / "tensorboard"),
        failure_file=tmp_path / "output" / "failure",
    )


def test_kubernetes_failure_file(tmp_path):
    log = tmp_path / "termination-log"
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    found = platform_settings.find(environ, tmp_path, log)
    assert found.failure_file is None
    log.touch()
    assert platform_settings.find(environ, tmp_path, log).failure_file == log
    assert platform_settings.find({}, tmp_path, log) == PlatformSettings()


@pytest.mark.parametrize(
    "words, expected",
    [
        (["--deterministic", "False"], ["--deterministic=False"]),
        (["--deterministic", "true"], ["--deterministic=true"]),
        (
            ["--deterministic", "--seed", "1"],
            ["--deterministic", "--seed", "1"],
        ),
        (["--seed", "1"], ["--seed", "1"]),
        (["--job-dir", "a"], ["--model_dir", "a"]),
        (["--job_dir=a=b"], ["--model_dir=a=b"]),
        # A stray word is left for absl's caller to refuse.
        (["--deterministic", "maybe"], ["--deterministic", "maybe"]),
    ],
)
def test_arguments(words, expected):
    assert command_line.normalise(words, {"deterministic"}) == expected


@pytest.mark.skipif(
    not shutil.which("scontrol"), reason="Slurm is not installed"
)
@pytest.mark.parametrize("hostlist", HOSTLISTS)
def test_host_lists_are_slurms(hostlist, tmp_path):
    """scontrol reads a configuration even to expand names."""
    config = tmp_path / "slurm.conf"
    config.write_text("ClusterName=t\nSlurmctldHost=localhost\n")
    done = subprocess.run(
        ["scontrol", "show", "hostnames", hostlist],
        env={"SLURM_CONF": str(config), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == slurm_hostlist.expand(hostlist)


def test_what_cannot_be_read_ends_the_trainer_with_64(run):
    """Before its flags are parsed, too: SageMaker's hosts say where it is."""
    done = run(
        "trainer.task",
        "--data_dir=data",
        "--model_dir=model",
        env={**os.environ, "SM_HOSTS": "none"},
    )
    assert done.returncode == 64, done.stderr
    assert "error: the variable SM_HOSTS cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "variable, name",
    [("CLOUD_ML_HP_METRIC_FILE", "metric"), ("SM_MODEL_DIR", "published")],
)
def test_a_place_that_is_roots_is_refused_before_the_training(
    tmp_path, monkeypatch, variable, name
):
    """Root may write everywhere, so what the system says is said here."""
    refused = tmp_path / "roots"
    refused.mkdir()
    monkeypatch.setenv(variable, str(refused / "new" / name))
    if variable.startswith("SM_"):
        monkeypatch.setenv("SM_HOSTS", '["algo-1"]')
        monkeypatch.setenv("SM_CURRENT_HOST", "algo-1")
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != refused and real(path, mode)
    )
    config = Config(str(tmp_path / "absent"), str(tmp_path / "model"))
    with pytest.raises(UsageError, match=f"may not write to {refused}.*USER"):
        task.main(config)
    monkeypatch.undo()
    with pytest.raises(DataError, match="holds no manifest.json"):
        task.main(config)


def test_a_failure_that_cannot_be_reported_is_raised(tmp_path, capsys):
    """Not the refusal of the platform's file."""
    (tmp_path / "file").touch()
    handover.report_failure(tmp_path / "file" / "failure", ValueError("why"))
    assert "failure was not written" in capsys.readouterr().err
