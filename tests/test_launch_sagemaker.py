"""Requests to SageMaker: botocore, our rules, moto, Amazon's own drivers."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import launch_rules
import pytest
from conftest import ROOT
from launch_jobs import SAGEMAKER as FIELDS
from training import prepare

from data_prep.runtime.errors import UsageError
from launch import submit
from launch.job import Job
from trainer.engine import history

WORDS = ["--data_dir=s3://bucket/data", "--seed=4"]


def render(words=WORDS, **fields):
    rendered = submit.render(Job(**{**FIELDS, **fields}), list(words))
    launch_rules.check("sagemaker", rendered.files)
    return rendered


def request(words=WORDS, **fields):
    return json.loads(render(words, **fields).files["job.json"])


@pytest.mark.parametrize("spot", [False, True])
def test_request_passes_botocore(spot):
    pytest.importorskip("botocore")
    found = request(spot=spot, workers=4)
    assert found["AlgorithmSpecification"]["ContainerArguments"] == [
        "--seed=4",
        "--startup_timeout=1800.0",
    ]
    assert found["ResourceConfig"]["InstanceCount"] == 4
    assert found["EnableManagedSpotTraining"] is spot
    assert found["CheckpointConfig"]["S3Uri"] == "s3://bucket/out/shardtune"


def test_data_prep_reads_and_writes_s3_itself():
    words = ["--source=csv:s3://bucket/t.csv", "--output_dir=s3://bucket/data"]
    found = request(words, job="data_prep")  # checked by botocore, too
    assert found["AlgorithmSpecification"] == {
        "TrainingImage": FIELDS["image"],
        "TrainingInputMode": "File",
        "ContainerEntrypoint": ["python", "-m", "data_prep.task"],
        "ContainerArguments": words,
    }
    assert "InputDataConfig" not in found and "CheckpointConfig" not in found
    for number, flag in ((0, "--source"), (1, "--output_dir")):
        local = [f"{flag}=/data" if i == number else words[i] for i in (0, 1)]
        with pytest.raises(UsageError, match=f"{flag}=/data is a path of this"):
            render(local, job="data_prep")


# Path and new value; None deletes the key. botocore's validator, the walk over
# its choices and patterns, or our own rules refuse each.
MUTANTS = {
    "misspelt key": ("StoppingConditions", {}),
    "misspelt key below": ("ResourceConfig.InstanceTypes", "ml.g5.xlarge"),
    "wrong type": ("ResourceConfig.InstanceCount", "two"),
    "required key": ("RoleArn", None),
    "bad choice": ("ResourceConfig.InstanceType", "ml.bogus.12xlarge"),
    "bad name": ("TrainingJobName", "bad name!"),
    "bad role": ("RoleArn", "arn:aws:iam::1:user/train-somebody"),
    "bad mode": ("AlgorithmSpecification.TrainingInputMode", "Files"),
    "too many retries": ("RetryStrategy.MaximumRetryAttempts", 31),
    "no time to wait": ("StoppingCondition.MaxWaitTimeInSeconds", 60),
    "no checkpoints": ("CheckpointConfig", None),
    "checkpoints elsewhere": ("CheckpointConfig.LocalPath", "/tmp/checkpoints"),
    "shell as PID 1": (
        "AlgorithmSpecification.ContainerEntrypoint",
        ["/bin/bash", "-c", "python -m trainer.task"],
    ),
    "the image's own entry point": (
        "AlgorithmSpecification.ContainerEntrypoint",
        None,
    ),
    "unknown trainer flag": (
        "AlgorithmSpecification.ContainerArguments",
        ["--sead=4"],
    ),
    "bad trainer value": (
        "AlgorithmSpecification.ContainerArguments",
        ["--optimizer=adamm"],
    ),
    "two words for a boolean, misspelt": (
        "AlgorithmSpecification.ContainerArguments",
        ["--deterministic", "fals"],
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_refused(mutant):
    pytest.importorskip("botocore")
    path, value = MUTANTS[mutant]
    *above, key = path.split(".")
    whole = request(spot=True)
    place = whole
    for name in above:
        place = place[name]
    if value is None:
        del place[key]
    else:
        place[key] = value
    with pytest.raises((UsageError, AssertionError)):
        launch_rules.check("sagemaker", {"job.json": json.dumps(whole)})


def test_shards_for_each_worker_are_refused():
    whole = request()
    source = whole["InputDataConfig"][0]["DataSource"]["S3DataSource"]
    source["S3DataDistributionType"] = "ShardedByS3Key"
    with pytest.raises(AssertionError, match="FullyReplicated"):
        launch_rules.check("sagemaker", {"job.json": json.dumps(whole)})


@pytest.mark.parametrize(
    "fields, says",
    [
        ({"machine_type": "ml.bogus.12xlarge"}, "InstanceType"),
        (
            {"role_arn": "arn:aws:iam::123456789012:role/" + "a" * 2048},
            "RoleArn",
        ),
    ],
)
def test_botocore_is_asked_at_submit_time(fields, says):
    pytest.importorskip("botocore")
    with pytest.raises(UsageError, match=says):
        submit.render(Job(**{**FIELDS, **fields}), list(WORDS))


@pytest.mark.parametrize(
    "words, fields, says",
    [
        (["--data_dir=data"], {}, "--data_dir=data"),
        (WORDS, {"role_arn": ""}, "--role_arn"),
        (WORDS, {"output_uri": ""}, "--model_dir"),
        (WORDS, {"image": "shardtune"}, "registry"),
        ([*WORDS, "--model_dir=model"], {}, "a path of this machine"),
        (WORDS, {"time_limit": 2}, "MaxRuntimeInSeconds"),
    ],
)
def test_wrong_commands_are_refused(words, fields, says):
    with pytest.raises(UsageError, match=says):
        render(words, **fields)


def test_aws_submits_it_to_moto(tmp_path, monkeypatch):
    """Amazon's command line, a local server taking the place of SageMaker."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.server")
    binary = pathlib.Path(sys.executable).parent
    if not shutil.which("aws", path=str(binary)):
        pytest.skip("awscli is not installed")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "PATH": f"{binary}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        rendered = render(spot=True)
        assert submit.submit(rendered, Job(**FIELDS).common.folder) == 0
        client = boto3.client("sagemaker", region_name="us-east-1")
        wanted = json.loads(rendered.files["job.json"])
        found = client.describe_training_job(
            TrainingJobName=wanted["TrainingJobName"]
        )
        # What moto keeps of it.
        assert found["CheckpointConfig"] == wanted["CheckpointConfig"]
        algorithm = wanted["AlgorithmSpecification"]
        for name in ("ContainerEntrypoint", "ContainerArguments"):
            assert found["AlgorithmSpecification"][name] == algorithm[name]
    finally:
        server.stop()
        shutil.rmtree(Job(**FIELDS).common.folder, ignore_errors=True)


def can_mount():
    if os.geteuid() or not shutil.which("unshare"):
        return False
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/opt"],
        capture_output=True,
    )
    return tried.returncode == 0


private_opt = pytest.mark.skipif(
    not can_mount(), reason="needs root and unshare, for an /opt/ml of its own"
)
TINY = {
    "base": "scratch",
    "image_size": "46",
    "weights": "none",
    "freeze_random_weights": "true",
    "batch_size": "8",
    "finetune_epochs": "0",
    "precision": "float32",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("sagemaker")
    return prepare(root)


def lay_out(ml, data, hyperparameters, hosts=("algo-1",), rank=0):
    """Makes what SageMaker puts below /opt/ml before a job starts."""
    for name in ("input/config", "input/data", "model", "output/data"):
        (ml / name).mkdir(parents=True, exist_ok=True)
    if not (ml / "input/data/train").exists():
        shutil.copytree(data, ml / "input/data/train")
    for name, content in {
        "hyperparameters": hyperparameters,
        "inputdataconfig": {"train": {"TrainingInputMode": "File"}},
        "resourceconfig": {
            "current_host": hosts[rank],
            "hosts": list(hosts),
            "current_instance_type": "ml.g5.xlarge",
            "current_group_name": "homogeneousCluster",
            "instance_groups": [
                {
                    "instance_group_name": "homogeneousCluster",
                    "instance_type": "ml.g5.xlarge",
                    "hosts": list(hosts),
                }
            ],
            "network_interface_name": "eth0",
        },
    }.items():
        path = ml / "input/config" / f"{name}.json"
        path.write_text(json.dumps(content))


def contained(ml, line, before=()):
    """Starts a shell line that sees a folder as /opt/ml.

    Args:
        ml: The folder.
        line: The shell line.
        before: Words that start the rest elsewhere.
    """
    inside = (
        "mount -t tmpfs tmpfs /opt && mkdir /opt/ml && "
        f"mount --bind {ml} /opt/ml && {line}"
    )
    return subprocess.Popen(
        [*before, "unshare", "-m", "bash", "-c", inside],
        cwd=ROOT,
        env={**os.environ, "TRAINING_JOB_NAME": "job"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def entry(whole):
    """Returns the exec line of a request, as SageMaker starts it."""
    algorithm = whole["AlgorithmSpecification"]
    words = [
        *algorithm["ContainerEntrypoint"],
        *algorithm["ContainerArguments"],
    ]
    return f"exec {sys.executable} {' '.join(words[1:])}"


@private_opt
@pytest.mark.slow
def test_spot_interruption_resumes(tmp_path, data):
    """The request's own entry point, stopped, on another machine again."""
    words = [*WORDS, *(f"--{k}={v}" for k, v in TINY.items())]
    line = entry(request([*words, "--frozen_epochs=40"], spot=True))
    ml = tmp_path / "ml"
    lay_out(ml, data, {})
    first = contained(ml, line)
    metrics = ml / "checkpoints" / "metrics.jsonl"
    end = time.monotonic() + 600
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    text = first.communicate()[0]
    assert first.returncode == 75, text
    # Only the folder of checkpoints comes with.
    other = tmp_path / "other"
    lay_out(other, data, {})
    shutil.copytree(ml / "checkpoints", other / "checkpoints")
    second = contained(other, line)
    text = second.communicate()[0]
    assert second.returncode == 0, text
    rows = (other / "checkpoints/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == list(range(1, 41))
    model = other / "model"
    assert {"DONE.json", "model.keras", "saved_model"} <= set(os.listdir(model))
    assert not (model / "checkpoints").exists()
    assert not (other / "output/failure").exists()


HOSTS = ("algo-1", "algo-2")


@pytest.fixture
def two_networks(tmp_path):
    """Two machines' networks with a cable between; the words that enter each.

    SageMaker's workers all have one port, each at an address of its own.
    """
    names = [f"st{os.getpid()}{end}" for end in "ab"]
    script = """
        set -e
        ip netns add $1; ip netns add $2
        ip link add wire netns $1 type veth peer name wire netns $2
        ip -n $1 address add 10.77.0.1/24 dev wire
        ip -n $2 address add 10.77.0.2/24 dev wire
        for name; do ip -n $name link set wire up; ip -n $name link set lo up
        done
    """
    made = subprocess.run(
        ["bash", "-c", script, "bash", *names], capture_output=True, text=True
    )
    if made.returncode:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        pytest.skip(f"networks cannot be made here: {made.stderr}")
    yield [["ip", "netns", "exec", name] for name in names]
    for name in names:
        subprocess.run(["ip", "netns", "del", name], check=True)


@private_opt
@pytest.mark.skipif(not shutil.which("ip"), reason="iproute2 is not installed")
@pytest.mark.slow
def test_two_machines_with_an_opt_ml_each(tmp_path, data, two_networks):
    """One is lost; both come back with the first one's checkpoints."""
    words = [*WORDS, *(f"--{k}={v}" for k, v in TINY.items())]
    line = entry(request([*words, "--frozen_epochs=30"], spot=True, workers=2))
    names = tmp_path / "hosts"
    names.write_text(
        "127.0.0.1 localhost\n10.77.0.1 algo-1\n10.77.0.2 algo-2\n"
    )
    line = f"mount --bind {names} /etc/hosts && {line}"

    def start(place, checkpoints):
        processes = []
        for rank, network in enumerate(two_networks):
            ml = tmp_path / place / HOSTS[rank]
            lay_out(ml, data, {}, HOSTS, rank)
            if checkpoints:
                shutil.copytree(checkpoints, ml / "checkpoints")
            processes.append(contained(ml, line, network))
        return processes

    kept = tmp_path / "first" / HOSTS[0] / "checkpoints"
    metrics = kept / "metrics.jsonl"
    first, second = start("first", None)
    end = time.monotonic() + 600
    while not metrics.exists() or not metrics.read_text():
        assert time.monotonic() < end and first.poll() is None
        time.sleep(0.1)
    second.kill()
    text = first.communicate()[0]
    second.communicate()
    assert first.returncode == 75, text
    assert 1 <= len(metrics.read_text().splitlines()) < 30
    both = start("again", kept)
    texts = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    ml = tmp_path / "again" / HOSTS[0]
    rows = (ml / "checkpoints/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == list(range(1, 31))
    assert {"DONE.json", "model.keras"} <= set(os.listdir(ml / "model"))


@private_opt
@pytest.mark.slow
def test_failure_is_told(tmp_path, data):
    words = [*WORDS, *(f"--{k}={v}" for k, v in TINY.items())]
    ml = tmp_path / "ml"
    lay_out(ml, data, {})
    (ml / "input/data/train/manifest.json").unlink()
    done = contained(ml, entry(request(words)))
    text = done.communicate()[0]
    assert done.returncode == 65, text
    assert "manifest.json" in (ml / "output/failure").read_text()


@private_opt
@pytest.mark.slow
def test_amazons_own_drivers(tmp_path, data):
    """ModelTrainer's scripts: hyper-parameters come as two words each."""
    try:
        files = importlib.metadata.files("sagemaker-train")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("sagemaker-train is not installed")
    (driver,) = (
        f.locate() for f in files if f.name == "basic_script_driver.py"
    )
    ml = tmp_path / "ml"
    lay_out(ml, data, {**TINY, "frozen_epochs": "1", "deterministic": "false"})
    shutil.copytree(
        pathlib.Path(driver).parent.parent, ml / "input/data/sm_drivers"
    )
    (ml / "input/data/sm_drivers/sourcecode.json").write_text("{}")
    code = ml / "input/data/code"
    code.mkdir()
    (code / "train.py").write_text(
        'import runpy\n\nrunpy.run_module("trainer.task", run_name="__main__")\n'
    )
    scripts = "/opt/ml/input/data/sm_drivers"
    done = contained(
        ml,
        f"export PYTHONPATH={ROOT} SM_ENTRY_SCRIPT=train.py && "
        f"{sys.executable} {scripts}/scripts/environment.py && "
        "source /opt/ml/input/sm_training.env && cd /opt/ml/input/data/code && "
        f"{sys.executable} {scripts}/distributed_drivers/basic_script_driver.py",
    )
    text = done.communicate()[0]
    assert done.returncode == 0, text
    config = json.loads((ml / "checkpoints/config.json").read_text())
    assert config["deterministic"] is False
    assert config["data_dir"] == "/opt/ml/input/data/train"
    assert (ml / "model/DONE.json").exists()


def test_metrics_are_those_of_the_epochs():
    """Lines as the trainer prints them: of an epoch, a fitted head, the test."""
    epoch = {
        "loss": 0.5,
        "accuracy": 0.7,
        "val_loss": 0.25,
        "val_accuracy": 0.9,
        "images_per_second": 12.0,
        "data_wait_fraction": 0.1,
        "seconds": 3.0,
        "skipped_steps": 0,
        "phase": "frozen",
        "epoch": 1,
    }
    head = {"C": 1.0, "scaling": "none", "val_loss": 0.75, "val_accuracy": 0.6}
    log = [
        history.fitted_head_summary("logistic_regression", head),
        history.epoch_summary("frozen 1/1", epoch),
        history.export_summary([epoch], epoch),
        "test accuracy 0.8500, loss 0.3500, 200 images",
    ]
    found = {
        one["Name"]: re.findall(one["Regex"], "\n".join(log))
        for one in request()["AlgorithmSpecification"]["MetricDefinitions"]
    }
    assert found == {
        "train:loss": ["0.5000"],
        "validation:loss": ["0.2500"],
        "validation:accuracy": ["0.9000"],
    }
