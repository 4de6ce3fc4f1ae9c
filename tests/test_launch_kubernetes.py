"""Manifests: read by Kubernetes's schemas and our rules, broken, and run."""

import json
import re

import launch_rules
import pytest
import yaml
from kubernetes_runner import Runner
from training import TINY
from training import prepare

from data_prep.runtime.errors import UsageError
from launch import submit
from launch.groups import KINDS
from launch.job import Job
from launch.targets import schemas

WORDS = ["--data_dir=/mnt/data", "--model_dir=/mnt/model", "--seed=3"]


def manifest(words=WORDS, volumes="claim:/mnt", **fields):
    job = Job(target="kubernetes", volumes=volumes, **fields)
    rendered = submit.render(job, list(words))
    launch_rules.check("kubernetes", rendered.files)
    return rendered.files["job.yaml"]


def assert_refused(text):
    """By a schema, as at submit time, or by one of our rules."""
    with pytest.raises(
        (UsageError, AssertionError),
        match="wrong|refuses|does not take|takes no|has no flag",
    ):
        launch_rules.check("kubernetes", {"job.yaml": text})


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_pass_their_schemas(kind):
    pytest.importorskip("kubernetes_validate")
    pytest.importorskip("kubeflow_trainer_api")
    pytest.importorskip("kubeflow.training")
    text = manifest(kind=kind, workers=4)
    assert '- "--seed=3"\n' in text
    assert ("LEGACY" in text) == (kind == "tfjob")


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_ends_at_its_time_limit(kind):
    text = manifest(kind=kind, workers=2, time_limit=90)
    assert text.count("activeDeadlineSeconds: 5400\n") == 1
    # Starting it anew would give it the same time again.
    assert text.count("- DeadlineExceeded") == (kind in ("jobset", "trainjob"))


@pytest.mark.parametrize("at_once, rounds", [(0, 1), (2, 3), (9, 1)])
def test_runs_that_wait_for_others_have_their_time(at_once, rounds):
    text = manifest(
        grid="seed=1,2,3,4,5", runs_at_once=at_once, words=WORDS[:2]
    )
    (job,) = (d for d in yaml.safe_load_all(text) if d["kind"] == "Job")
    assert job["spec"]["activeDeadlineSeconds"] == rounds * 86400
    assert job["spec"]["parallelism"] == min(at_once or 5, 5)


# What each mutant does, and who refuses it.
MUTANTS = {
    "misspelt key": ("completions: 2", "completionss: 2"),
    "misspelt key in the pod": ("mountPath: /dev/shm", "mountpath: /dev/shm"),
    "wrong type": ("parallelism: 2", "parallelism: two"),
    "bad enum": ("completionMode: Indexed", "completionMode: Indexedd"),
    "bad action": ("action: FailJob", "action: FailJobb"),
    "policy with OnFailure": (
        "restartPolicy: Never",
        "restartPolicy: OnFailure",
    ),
    "unknown trainer flag": ("--seed=3", "--sead=3"),
    "bad value of a trainer flag": ("--seed=3", "--seed=three"),
    "shell as PID 1": (
        '- python\n        - "-m"\n        - trainer.task\n',
        '- sh\n        - "-c"\n        - python -m trainer.task\n',
    ),
    "75 fails the job": ("        - 64\n", "        - 64\n        - 75\n"),
    "64 is retried": ("        - 64\n", ""),
    "another container's codes": (
        "containerName: trainer",
        "containerName: train",
    ),
    "another subdomain": ("subdomain: shardtune", "subdomain: other"),
    "not headless": ("clusterIP: None", "clusterIP: 10.0.0.1"),
    "hides unready pods": (
        "publishNotReadyAddresses: true",
        "publishNotReadyAddresses: false",
    ),
    "wrong worker names": ("shardtune-1.shardtune:", "shardtune-2.shardtune:"),
    "no shared memory": ("medium: Memory", 'medium: ""'),
    "no time to save": (
        "terminationGracePeriodSeconds: 120",
        "terminationGracePeriodSeconds: 5",
    ),
    "root": ("runAsNonRoot: true", "runAsNonRoot: false"),
    "root by number": ("runAsUser: 1000", "runAsUser: 0"),
    "any system call": ("RuntimeDefault", "Unconfined"),
    "gains rights": (
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
    ),
    "keeps capabilities": ("drop:", "add:"),
    "the node's network": (
        "restartPolicy: Never",
        "restartPolicy: Never\n      hostNetwork: true",
    ),
    "workers wait for others": ("parallelism: 2", "parallelism: 1"),
    "evicted without end": ("  activeDeadlineSeconds: 86400\n", ""),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_refused(mutant):
    pytest.importorskip("kubernetes_validate")
    old, new = MUTANTS[mutant]
    text = manifest(workers=2)
    assert old in text
    text = text.replace(old, new)
    if mutant == "75 fails the job":
        # Before the rule that ignores it.
        text = text.replace(
            "        - 75\n    - action", "        - 76\n    - action"
        )
    assert_refused(text)


@pytest.mark.parametrize(
    "kind, old, new",
    [
        ("jobset", "maxRestarts", "maxRestartss"),
        ("jobset", "enableDNSHostnames", "enableDNSHostname"),
        ("jobset", "action: FailJobSet", "action: FailJobset"),
        ("jobset", "replicas: 1", "replicas: one"),
        ("trainjob", "numNodes: 2", "numNode: 2"),
        ("trainjob", "runtimeRef", "runtimeReff"),
        ("tfjob", "cleanPodPolicy", "cleanPodsPolicy"),
        ("tfjob", "cleanPodPolicy: ", "cleanPodPolicy: Some"),
        ("tfjob", "Worker:", "Workers:"),
        ("tfjob", "name: tensorflow", "name: trainer"),
        ("jobset", "workers-0-1.shardtune:", "workers-1-1.shardtune:"),
        ("jobset", "parallelism: 2", "parallelism: 1"),
        ("trainjob", "node-0-1.shardtune:", "node-1-0.shardtune:"),
        (
            "trainjob",
            "  trainer:\n    numNodes: 2",
            "  trainer:\n    numNodes: 1",
        ),
    ],
)
def test_mutants_of_operators_are_refused(kind, old, new):
    pytest.importorskip("kubeflow_trainer_api")
    pytest.importorskip("kubeflow.training")
    text = manifest(kind=kind, workers=2)
    assert old in text
    assert_refused(text.replace(old, new))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "old, new",
    [
        ("- python\n", "- sh\n"),  # as process 1
        ("--seed=3", "--sead=3"),
        ("--seed=3", "--seed=three"),
        ('"--seed=3"', '"--deterministic"\n{indent}- "maybe"'),
    ],
)
def test_every_kind_is_refused_what_no_pod_may_run(kind, old, new):
    text = manifest(kind=kind, workers=2)
    (indent,) = set(re.findall(r'( *)- "--seed=3"', text))
    assert old in text
    assert_refused(text.replace(old, new.format(indent=indent)))


@pytest.mark.parametrize(
    "words, fields, says",
    [
        (["--data_dir=/mnt/d", "--model_dir=model"], {}, "no volume"),
        (["--data_dir=/mntx/d", "--model_dir=/mnt/m"], {}, "no volume"),
        (WORDS, {"volumes": "claim"}, "CLAIM:/path"),
        (WORDS, {"grid": "seed=1,2", "workers": 2}, "one worker a run"),
        (WORDS, {"volumes": "claim:/mnt,other:/dev/shm"}, "something else"),
        (WORDS, {"volumes": "claim:/mnt,other:/mnt/"}, "no / at its end"),
        (WORDS, {"volumes": "claim:/mnt,other:/mnt"}, "something else"),
        (WORDS, {"grace_seconds": 5}, "too short"),
        ([*WORDS, "--weights=/home/w.h5"], {}, "--weights=/home/w.h5 lies on"),
        ([*WORDS, "--feature_dir=/f"], {}, "--feature_dir=/f lies on no"),
        ([*WORDS, "--cache_dir=/c"], {}, "--cache_dir=/c lies on no volume"),
        (WORDS, {"grid": "weights=/mnt/w.h5,/home/w.h5"}, "/home/w.h5 lies on"),
        ([*WORDS, "extra"], {}, "positional"),
        ([*WORDS, "--optimzer=sgd"], {}, "optimizer"),
        ([*WORDS, "--finetune_from=block9_conv1"], {}, "no layer"),
    ],
)
def test_wrong_commands_are_refused(words, fields, says):
    with pytest.raises(UsageError, match=says):
        manifest(words, **fields)


def test_words_that_kubernetes_would_read_otherwise():
    """YAML 1.1 and 1.2 disagree on them; all readers agree on quotes."""
    text = manifest(namespace="on", service_account="1e5", image="0o17")
    for line in ("namespace: 'on'", 'Name: "1e5"', 'image: "0o17"'):
        assert f"{line}\n" in text


@pytest.mark.parametrize("words", [[], ["--seed=1"]])
def test_a_path_on_a_volume_is_taken(words):
    given = [
        "--weights=/mnt/w.h5",
        "--feature_dir=/mnt/f",
        "--cache_dir=/mnt/c",
    ]
    text = manifest([*WORDS, *given, *words])
    for word in given:
        assert f'- "{word}"\n' in text


def test_schemas_are_asked_at_submit_time():
    """By `render` itself, of what a user can get wrong."""
    pytest.importorskip("kubernetes_validate")
    document = {"apiVersion": "v1", "kind": "Service", "spec": {"porst": []}}
    with pytest.raises(UsageError, match="Kubernetes refuses the Service"):
        schemas.check_kubernetes(document)


def test_arguments_survive_yaml():
    weights = "--weights=/mnt/a b: #'\"\\é.h5"
    text = manifest([*WORDS, weights, "--deterministic", "False"])
    job = list(yaml.safe_load_all(text))[-1]
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert weights in arguments
    assert "--deterministic=false" in arguments


@pytest.mark.parametrize("kind", KINDS)
def test_account(kind):
    text = manifest(kind=kind, service_account="trainer")
    assert "serviceAccountName: trainer\n" in text
    assert "serviceAccountName" not in manifest(kind=kind)


SERVE = ["--model_dir=/mnt/model"]


def test_a_server_passes_its_schemas():
    pytest.importorskip("kubernetes_validate")
    text = manifest(SERVE, job="serve", workers=3, gpus=0)
    service, deployment = yaml.safe_load_all(text)
    assert deployment["spec"]["replicas"] == 3
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "trainer.serve"]
    assert container["args"] == ["--model_dir=/mnt/model", "--host=0.0.0.0"]
    # Nothing of a training of several workers.
    assert "WORKERS" not in text and "subdomain" not in text
    assert "job-name" not in text
    other = manifest([*SERVE, "--port=9000"], job="serve")
    assert "containerPort: 9000\n" in other


@pytest.mark.parametrize(
    "old, new",
    [
        ("path: /readyz", "path: /ready"),
        ("path: /healthz", "path: /readyz"),
        ("readinessProbe", "readynessProbe"),
        ("targetPort: http", "targetPort: web"),
        ("containerPort: 8501", "containerPort: 80"),
        ('"--host=0.0.0.0"', '"--host=127.0.0.1"'),
        ("restartPolicy: Always", "restartPolicy: Never"),
        ("matchLabels:\n      app.", "matchLabels:\n      other."),
        ("selector:\n    app.", "selector:\n    other."),
        ("PeriodSeconds: 120", "PeriodSeconds: 30"),
        ("sleep:\n", "slep:\n"),
        ("replicas: 1", "replicas: one"),
        ('"--model_dir=', '"--model_dirr='),
    ],
)
def test_mutants_of_a_server_are_refused(old, new):
    pytest.importorskip("kubernetes_validate")
    text = manifest(SERVE, job="serve")
    assert old in text
    assert_refused(text.replace(old, new))


@pytest.mark.parametrize(
    "words, fields, says",
    [
        (SERVE, {"kind": "jobset"}, "--kind=jobset is of no use to a server"),
        (SERVE, {"grid": "port=1,2"}, "--grid=port=1,2 is of no use"),
        (SERVE, {"time_limit": 5}, "--time_limit=5 is of no use"),
        (SERVE, {"restarts": 5}, "--restarts=5 is of no use"),
        (["--model_dir=model"], {}, "lies on no volume"),
        (["--model_dir=gs://b/m"], {}, "is not copied to a server"),
        ([*SERVE, "--port=0"], {}, "the Service has to know it"),
        ([*SERVE, "--data_dir=/mnt/data"], {}, "has no flag --data_dir"),
        (SERVE, {"target": "slurm", "volumes": ""}, "`shardtune serve`"),
    ],
)
def test_a_server_that_would_not_serve_is_refused(words, fields, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        submit.render(
            Job(
                **{"target": "kubernetes", "volumes": "claim:/mnt", **fields},
                job="serve",
            ),
            words,
        )


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    root = tmp_path_factory.mktemp("volume")
    prepare(root)
    return root


ONE_PHASE = (*TINY, "--data_dir=/mnt/data", "--finetune_epochs=0")


@pytest.mark.slow
def test_evicted_pod_is_replaced_and_resumes(volume, tmp_path):
    text = manifest(
        [*ONE_PHASE, "--model_dir=/mnt/evicted", "--frozen_epochs=60"]
    )
    metrics = volume / "evicted" / "metrics.jsonl"
    evicted = []

    def evict(runner):
        if not evicted and metrics.exists():
            evicted.append(len(metrics.read_text().splitlines()))
            runner.delete_pod(0)

    found = Runner(text, {"claim": volume}, tmp_path).run(evict)
    assert found.condition == "Complete", found
    assert found.codes == {0: [75, 0]}
    assert evicted[0] < 60
    epochs = [json.loads(x)["epoch"] for x in metrics.read_text().splitlines()]
    assert epochs == list(range(1, 61))


@pytest.mark.slow
def test_lost_worker_restarts_all(volume, tmp_path):
    words = [*ONE_PHASE, "--model_dir=/mnt/lost", "--frozen_epochs=50"]
    metrics = volume / "lost" / "metrics.jsonl"
    lost = []

    def lose(runner):
        if not lost and metrics.exists():
            lost.append(len(metrics.read_text().splitlines()))
            runner.kill_pod(1)

    found = Runner(manifest(words, workers=2), {"claim": volume}, tmp_path).run(
        lose
    )
    assert found.condition == "Complete", found
    assert found.codes[0] == [75, 0], found.logs[0]
    assert found.codes[1] == [137, 0], found.logs[1]
    assert lost[0] < 50
    epochs = [json.loads(x)["epoch"] for x in metrics.read_text().splitlines()]
    assert epochs == list(range(1, 51))


@pytest.mark.slow
def test_wrong_data_fails_at_once(tmp_path):
    text = manifest([*ONE_PHASE, "--model_dir=/mnt/model"])
    found = Runner(text, {"claim": tmp_path / "empty"}, tmp_path).run()
    assert found.condition == "Failed"
    assert found.codes == {0: [65]}
    assert "manifest.json" in found.logs[0]


@pytest.mark.slow
def test_sweep_runs_each_index(volume, tmp_path, run):
    text = manifest(
        [*ONE_PHASE, "--model_dir=/mnt/sweep", "--frozen_epochs=1"],
        grid="frozen_learning_rate=1e-5,1e-2",
    )
    # The flag files name the pods' paths, which only a pod could mount.
    text = re.sub(r"(?<=    --model_dir=)/mnt", str(volume), text)
    found = Runner(text, {"claim": volume}, tmp_path).run()
    assert found.condition == "Complete", found
    runs = [volume / "sweep" / name for name in ("000", "001")]
    done = run("launch.compare", "--csv", *runs)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
