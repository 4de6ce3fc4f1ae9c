"""Tasks of SkyPilot: its own loader, in an environment of its own.

Its requirements contradict those of the other platforms' packages, so the
interpreter that has it is named by a variable; `.ci/run` makes one.
"""

import json
import os
import subprocess

import launch_jobs
import pytest
import yaml

from data_prep.runtime.errors import UsageError
from launch import submit
from launch.job import Job
from trainer.distribution.cluster import Cluster
from trainer.distribution.cluster import find_cluster

PYTHON = os.environ.get("SHARDTUNE_TEST_SKYPILOT", "")
FIELDS, WORDS = launch_jobs.LEAST["skypilot"]


def tasks(words=WORDS, **fields):
    rendered = submit.render(Job(**{**FIELDS, **fields}), list(words))
    return [yaml.safe_load(text) for text in rendered.files.values()]


LOAD = """
import json, sys
import sky
for task in json.load(sys.stdin):
    try:
        found = sky.Task.from_yaml_config(task)
        (resources,) = found.resources
        print(json.dumps([found.num_nodes, resources.accelerators,
                          resources.use_spot, resources.image_id]))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def loaded(content):
    """Returns what SkyPilot makes of tasks, or says of them."""
    done = subprocess.run(
        [PYTHON, "-c", LOAD],
        input=json.dumps(content),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.skipif(not PYTHON, reason="SHARDTUNE_TEST_SKYPILOT is not set")
def test_skypilots_own_loader():
    variants = [
        {},
        {"gpus": 0},
        {"workers": 4, "gpus": 8, "gpu_type": "H100", "spot": True},
        {"infra": "gcp/us-central1", "env": ("A=b c",)},
    ]
    content = [task for fields in variants for task in tasks(**fields)]
    image = {"None": f"docker:{FIELDS['image']}"}
    none, cpus, many, there = loaded(content)
    assert none == [1, {"L4": 1}, False, {"null": image["None"]}]
    assert cpus[1] is None
    assert many[:3] == [4, {"H100": 8}, True]
    assert there[3] == {"us-central1": image["None"]}


@pytest.mark.skipif(not PYTHON, reason="SHARDTUNE_TEST_SKYPILOT is not set")
@pytest.mark.parametrize(
    "fields, old, new",
    [
        ({}, "num_nodes", "num_nods"),
        ({}, 'max_restarts_on_errors": 20', 'max_restarts_on_errors": "a"'),
        ({}, "L4:1", "L4:one"),
        ({"infra": "aws"}, '"aws"', '"nowhere"'),
    ],
)
def test_mutants_are_refused(fields, old, new):
    text = json.dumps(tasks(**fields))
    assert old in text
    (said,) = loaded(json.loads(text.replace(old, new)))
    assert isinstance(said, str), said


def test_several_nodes_find_each_other(tmp_path):
    """The script run by bash with SkyPilot's variables; python says its own."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nenv -0\n")
    python.chmod(0o755)
    (task,) = tasks(workers=2)
    environ = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7",
        "SKYPILOT_NODE_RANK": "1",
    }
    done = subprocess.run(
        ["bash", "-c", task["run"]], env=environ, capture_output=True, text=True
    )
    seen = dict(one.split("=", 1) for one in done.stdout.split("\0") if one)
    assert find_cluster(seen) == Cluster(("10.0.0.4:2222", "10.0.0.7:2222"), 1)
    assert "WORKERS" not in tasks()[0]["run"]


def test_it_runs_staged_and_comes_back():
    (task,) = tasks(restarts=7)
    line = task["run"].replace(" \\\n ", "")
    assert line.startswith("exec python -m launch.staged --")
    assert task["resources"]["job_recovery"] == {
        "max_restarts_on_errors": 7,
        "recover_on_exit_codes": [75],
    }


def test_a_sweep_is_a_task_a_run():
    rendered = submit.render(Job(**FIELDS, grid="seed=1,2"), WORDS)
    assert sorted(rendered.files) == [
        "shardtune-000.yaml",
        "shardtune-001.yaml",
    ]
    assert "--seed=2" in rendered.files["shardtune-001.yaml"]
    assert [c[-2] for c in rendered.commands] == list(rendered.names)


@pytest.mark.parametrize(
    "words, fields, says",
    [
        (WORDS, {"image": "shardtune:1"}, "in no registry"),
        (["--data_dir=data", WORDS[1]], {}, "a path of this machine"),
        ([WORDS[0], "--model_dir=/model"], {}, "a path of this machine"),
    ],
)
def test_wrong_commands_are_refused(words, fields, says):
    with pytest.raises(UsageError, match=says):
        tasks(words, **fields)
