"""Jobs of Vertex AI: Google's messages, our rules, gcloud, the trainer."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import launch_rules
import pytest
import yaml
from conftest import ROOT
from launch_jobs import TUNE
from launch_jobs import VERTEX as FIELDS
from training import TINY
from training import prepare

from data_prep.runtime.errors import UsageError
from launch import submit
from launch.job import Job
from launch.targets import schemas
from launch.workers import free_ports

WORDS = ["--data_dir=gs://bucket/data", "--seed=4"]


def render(words=WORDS, **fields):
    rendered = submit.render(Job(**{**FIELDS, **fields}), list(words))
    launch_rules.check("vertex", rendered.files)
    return rendered


def config(**fields):
    return render(**fields).files["job.yaml"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"workers": 4, "spot": True, "service_account": "a@b.iam"},
        {"gpus": 0, "machine_type": "n1-standard-8"},
        {"package_uri": "gs://bucket/shardtune-0.1.0.tar.gz"},
        {"tune": TUNE},
    ],
)
def test_jobs_pass_googles_messages(fields):
    pytest.importorskip("google.cloud.aiplatform_v1")
    found = yaml.safe_load(config(**fields))
    spec = found.get("trialJobSpec", found)
    pools = spec["workerPoolSpecs"]
    assert [pool["replicaCount"] for pool in pools] == [1, 3][: len(pools)]
    program = next(
        pools[0][k]
        for k in pools[0]
        if k in ("containerSpec", "pythonPackageSpec")
    )
    assert "--data_dir=gs://bucket/data" in program["args"]
    assert "launch.staged" in str(program)
    # A trial gets a folder of its own from AIP_MODEL_DIR.
    given = [a for a in program["args"] if a.startswith("--model_dir=")]
    wanted = [] if "tune" in fields else ["--model_dir=gs://bucket/run/model"]
    assert given == wanted


def test_tuned_flags():
    found = yaml.safe_load(config(tune=TUNE))["studySpec"]["parameters"]
    assert found == [
        {
            "parameterId": "dropout",
            "scaleType": "UNIT_LINEAR_SCALE",
            "doubleValueSpec": {"minValue": 0, "maxValue": 0.5},
        },
        {
            "parameterId": "finetune_learning_rate",
            "scaleType": "UNIT_LOG_SCALE",
            # 1e-5 would be a text in YAML 1.1.
            "doubleValueSpec": {"minValue": 1.0e-5, "maxValue": 1.0e-3},
        },
        {
            "parameterId": "frozen_epochs",
            "scaleType": "UNIT_LINEAR_SCALE",
            "integerValueSpec": {"minValue": 0, "maxValue": 512},
        },
    ]


def test_tuned_values_arrive_as_words():
    tune = "batch_size=16,32 optimizer=adam,sgd flip_average=true,false"
    found = yaml.safe_load(config(tune=tune))["studySpec"]["parameters"]
    assert [one["categoricalValueSpec"]["values"] for one in found] == [
        ["16", "32"],
        ["adam", "sgd"],
        ["true", "false"],
    ]


MUTANTS = [
    ({}, "replicaCount", "replicaCountt"),
    ({}, "NVIDIA_L4", "NVIDIA_L5"),
    ({}, "workerPoolSpecs", "workerPoolSpec"),
    ({}, "strategy: STANDARD", "strategy: STANDRD"),
    ({}, "replicaCount: 1", "replicaCount: 2"),
    ({}, "replicaCount: 1", "replicaCount: one"),
    ({}, 'timeout: "86400s"', "timeout: one day"),
    ({}, "--seed=4", "--sead=4"),
    ({}, "--seed=4", "--seed=four"),
    ({}, '- python\n    - "-m"\n', "- bash\n    - '-c'\n"),
    ({}, "outputUriPrefix: gs://", "outputUriPrefix: s3://"),
    ({}, "acceleratorCount: 1", ""),
    ({}, "containerSpec", "pythonPackageSpec"),
    ({"workers": 2}, "OnWorkerRestart: true", "OnWorkerRestart: false"),
    ({"tune": TUNE}, "goal: MAXIMIZE", "goal: MAXIMISE"),
    ({"tune": TUNE}, "UNIT_LOG_SCALE", "UNIT_LN_SCALE"),
    ({"tune": TUNE}, "parameterId", "parameterID"),
]


@pytest.mark.parametrize("fields", [{}, {"tune": TUNE}])
def test_googles_messages_are_asked_at_submit_time(fields):
    """And their package is imported as it is, for whoever uses it next."""
    pytest.importorskip("google.cloud.aiplatform_v1")
    text = config(**fields)
    schemas.check_vertex("job.yaml", yaml.safe_load(text))
    mutant = yaml.safe_load(text.replace("machineType", "machineTyp"))
    with pytest.raises(UsageError, match="machineTyp"):
        schemas.check_vertex("job.yaml", mutant)
    package = sys.modules["google.cloud.aiplatform_v1"]
    assert package.JobServiceClient and package.__spec__.loader
    with pytest.raises(UsageError, match="NVIDIA_L5"):
        render(accelerator="NVIDIA_L5")


@pytest.mark.parametrize("fields, old, new", MUTANTS)
def test_mutants_are_refused(fields, old, new):
    pytest.importorskip("google.cloud.aiplatform_v1")
    text = config(**fields)
    assert old in text
    with pytest.raises((UsageError, AssertionError)):
        launch_rules.check("vertex", {"job.yaml": text.replace(old, new)})


@pytest.mark.parametrize(
    "words, fields, says",
    [
        (WORDS, {"output_uri": "out"}, "--output_uri"),
        (WORDS, {"image": "shardtune"}, "registry"),
        (WORDS, {"package_uri": "dist/s.tar.gz"}, "--package_uri"),
        (WORDS, {"tune": "dropout=0.5:0"}, "low below high"),
        (WORDS, {"tune": "dropout=0:0.5:cubic"}, "scale"),
        (WORDS, {"tune": "dropout=0:2"}, "dropout"),
        (WORDS, {"tune": "drop=0:0.5"}, "drop"),
        (WORDS, {"tune": "dropout=0:0.5", "grid": "seed=1,2"}, "--grid"),
    ],
)
def test_wrong_commands_are_refused(words, fields, says):
    with pytest.raises(UsageError, match=says):
        render(words, **fields)


def test_a_sweep_is_a_job_a_run():
    found = render(grid="seed=1,2")
    assert sorted(found.files) == ["shardtune-000.yaml", "shardtune-001.yaml"]
    assert len(found.commands) == 2
    text = found.files["shardtune-001.yaml"]
    assert "--model_dir=gs://bucket/run/model/001" in text
    assert "--seed=2" in text


class Service(http.server.BaseHTTPRequestHandler):
    """Takes the place of Vertex AI: keeps each request, says it is queued."""

    requests: list[tuple[str, dict]] = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        content = json.loads(body)
        self.requests.append((self.path, content))
        kind = self.path.partition("?")[0].rpartition("/")[2]
        content["name"] = f"projects/1/locations/us-central1/{kind}/42"
        content["state"] = "JOB_STATE_PENDING"
        answer = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.mark.skipif(
    not shutil.which("gcloud"), reason="gcloud is not installed"
)
@pytest.mark.parametrize(
    "fields, kind",
    [
        ({"workers": 2}, "customJobs"),
        ({"tune": TUNE}, "hyperparameterTuningJobs"),
    ],
)
def test_gcloud_sends_it(tmp_path, monkeypatch, fields, kind):
    """Google's command line, a local server taking the place of Vertex AI."""
    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{service.server_port}/"
    for name, value in {
        "AUTH_DISABLE_CREDENTIALS": "true",
        "API_ENDPOINT_OVERRIDES_AIPLATFORM": url,
        "CONFIG": str(tmp_path / "config"),
        "CORE_PROJECT": "project",
        "CORE_DISABLE_PROMPTS": "1",
    }.items():
        monkeypatch.setenv(f"CLOUDSDK_{name}", value)
    Service.requests.clear()
    try:
        fields = {**fields, "output_dir": str(tmp_path)}
        rendered = render(**fields)
        assert submit.submit(rendered, tmp_path / "shardtune") == 0
    finally:
        service.shutdown()
    ((path, body),) = Service.requests
    assert path.startswith(f"/v1/projects/project/locations/us-central1/{kind}")
    sent = body.get("jobSpec") or body["trialJobSpec"]
    file = yaml.safe_load(rendered.files["job.yaml"])
    pools = file.get("trialJobSpec", file)["workerPoolSpecs"]
    assert len(sent["workerPoolSpecs"]) == len(pools)
    for one, other in zip(sent["workerPoolSpecs"], pools, strict=True):
        assert one["containerSpec"] == other["containerSpec"]
        assert int(one["replicaCount"]) == other["replicaCount"]
        assert one["machineSpec"] == other["machineSpec"]
    if kind == "hyperparameterTuningJobs":
        assert int(body["maxTrialCount"]) == 20
        assert body["studySpec"]["metrics"][0]["metricId"] == "accuracy"


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_trial_reports_its_figure(tmp_path, workers):
    """The environment of a real job, a chief and a worker on this machine."""
    pytest.importorskip("hypertune")
    prepare(tmp_path)
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    groups = {"chief": addresses[:1]}
    if workers > 1:
        groups["worker"] = addresses[1:]
    for _ in range(5):
        processes = []
        for index in range(workers):
            kind = "worker" if index else "chief"
            task = {"type": kind, "index": 0, "trial": "3"}
            environ = {
                "AIP_MODEL_DIR": f"{tmp_path}/base/3/model/",
                "CLOUD_ML_TRIAL_ID": "3",
                "CLOUD_ML_HP_METRIC_FILE": str(tmp_path / f"metric{index}"),
                "TF_CONFIG": json.dumps(
                    {"cluster": groups, "task": task, "environment": "cloud"}
                ),
            }
            processes.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "trainer.task",
                        *TINY,
                        "--finetune_epochs=0",
                    ]
                    + [f"--data_dir={tmp_path / 'data'}"],
                    cwd=ROOT,
                    env={**os.environ, **environ},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate()[0] for process in processes]
        codes = [process.returncode for process in processes]
        # On a machine with more work than cores a worker may take the other
        # for lost: 75, and Vertex AI starts all of them again.
        if set(codes) != {75}:
            break
    assert codes == [0] * workers, outputs
    done = json.loads((tmp_path / "base/3/model/DONE.json").read_text())
    (line,) = (tmp_path / "metric0").read_text().splitlines()
    reported = json.loads(line)
    assert float(reported["accuracy"]) == done["exported"]["val_accuracy"]
    assert reported["trial"] == "3"
    assert not (tmp_path / "metric1").exists()
