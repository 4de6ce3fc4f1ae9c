"""Settings of `launch.submit`: each has an effect, or is refused.

And what the paths among the settings of the work mean to a target: mounted,
refused, or staged.
"""

import json
import re
import shlex
import subprocess

import launch_jobs
import launch_rules
import pytest
import yaml

from data_prep.runtime.errors import UsageError
from launch import arguments
from launch import submit
from launch.groups import TARGETS
from launch.job import Job

PLACES = ["--data_dir=data", "--model_dir=model"]


def render(target, words=PLACES, **fields):
    """Renders a job, and checks it by our rules."""
    rendered = submit.render(Job(target=target, **fields), list(words))
    launch_rules.check(target, rendered.files)
    return rendered


# A value of each setting that is not its default.
OTHER = {
    "job": "data_prep",
    "name": "other",
    "output_dir": "elsewhere",
    "workers": 2,
    "gpus": 2,
    "cpus": 3,
    "memory_gb": 5,
    "image": "registry.io/other/image:2",
    "build": True,
    "build_options": "--build-arg=USER=root",
    "grace_seconds": 77,
    "restarts": 3,
    "time_limit": 90,
    "grid": "seed=1,2",
    "python": "/bin/sh",
    "runs_at_once": 1,
    "scratch_gb": 70,
    "gpu_type": "A100",
    "infra": "aws",
    "container": "pyxis:image",
    "setup": "module load cuda",
    "volumes": "/host:/inside",
    "service_account": "somebody@project.iam",
    "region": "europe-west4",
    "machine_type": "g2-standard-16",
    "output_uri": "gs://other/place",
    "spot": True,
    "slurm_options": "--partition=gpu",
    "kind": "jobset",
    "namespace": "science",
    "accelerator": "NVIDIA_TESLA_T4",
    "package_uri": "gs://bucket/shardtune.tar.gz",
    "tune": launch_jobs.TUNE,
    "trials": 7,
    "parallel_trials": 2,
    "role_arn": "arn:aws:iam::123456789012:role/other",
}


def other_value(target, name, tmp_path):
    if name == "flag_files":
        path = tmp_path / "a.flags"
        path.write_text("--seed=5\n")
        return str(path)
    if name == "patch":
        path = tmp_path / "patch.yaml"
        path.write_text(PATCHES.get(target, PATCHES["kubernetes"]))
        return str(path)
    return OF_TARGET.get((target, name), OTHER[name])


PATCHES = {
    "kubernetes": "kind: Job\nspec: {template: {spec: {nodeSelector: {a: b}}}}",
    "vertex": "network: projects/1/global/networks/n",
    "sagemaker": "Tags: [{Key: team, Value: vision}]",
    "skypilot": "resources: {disk_size: 500}",
}


OF_TARGET = {
    ("sagemaker", "output_uri"): "s3://other/place",
    ("sagemaker", "region"): "us-east-2",
    ("sagemaker", "machine_type"): "ml.p3.2xlarge",
    ("kubernetes", "volumes"): "claim:/mnt,other:/inside",
    ("kubernetes", "service_account"): "somebody",
}


SETTINGS = {s.name: s for s in Job.settings()}
TAKEN = {
    target: {s.name for s in Job.groups()[target].settings()}
    for target in TARGETS
}


@pytest.mark.parametrize(
    "target, name", [(t, name) for t in TARGETS for name in sorted(TAKEN[t])]
)
def test_every_setting_of_a_target_has_an_effect(target, name, tmp_path):
    least, words = launch_jobs.LEAST[target]
    least = dict(least)
    if name in ("trials", "parallel_trials"):
        least["tune"] = launch_jobs.TUNE
    if name == "build_options":
        least["build"] = True
    if name == "runs_at_once":
        least["grid"] = launch_jobs.GRID
    if name == "region":  # that of the image would be another one
        least["image"] = "registry.io/other/image:2"
    changed = {**least, name: other_value(target, name, tmp_path)}
    assert changed[name] != SETTINGS[name].default

    def content(fields):
        rendered = submit.render(Job(**fields), list(words))
        launch_rules.check(target, rendered.files)
        stamp = r"\d{8}-\d{6}"  # of SageMaker's names
        return re.sub(
            stamp,
            "",
            repr((rendered.files, rendered.commands, rendered.before)),
        )

    # What a comment says is no effect.
    def effect(fields):
        return re.sub(r"(?<=\\n)#(?!SBATCH)[^\\]*", "", content(fields))

    assert effect(changed) != effect(least)


@pytest.mark.parametrize("name", ["restarts", "grace_seconds"])
def test_local_workers_are_told_how_often_and_how_long(name):
    """A unit of systemd, beside them, may say so too: that is not enough."""
    least, words = launch_jobs.LEAST["local"]
    least = {**least, "workers": 2}
    changed = {**least, name: OTHER[name]}
    scripts = [
        render(words=words, **fields).files["run.sh"]
        for fields in (least, changed)
    ]
    assert f"--{name}={OTHER[name]} " in scripts[1]
    assert scripts[0] != scripts[1]


@pytest.mark.parametrize("target", TARGETS)
def test_variables_reach_the_job(target):
    least, words = launch_jobs.LEAST[target]
    env = ("PLAIN=1", "ODD=a b'\"$x=")
    files = render(words=words, **{**least, "env": env}).files
    (text,) = (
        text
        for name, text in files.items()
        if name.startswith(("run.sh", "job"))
    )
    if target in ("local", "slurm"):
        exports = [x for x in text.splitlines() if x.startswith("export ")]
        done = subprocess.run(
            ["bash", "-c", "\n".join(exports) + '\nprintf %s "$PLAIN$ODD"'],
            capture_output=True,
            text=True,
        )
        assert done.stdout == "1a b'\"$x="
    elif target == "docker":
        assert "--env=PLAIN=1" in text
        assert shlex.quote(f"--env={env[1]}") in text
    elif target == "skypilot":
        found = yaml.safe_load(text)["envs"]
        assert found == {"PLAIN": "1", "ODD": "a b'\"$x="}
    elif target == "sagemaker":
        found = json.loads(text)["Environment"]
        assert found == {"PLAIN": "1", "ODD": "a b'\"$x="}
    else:
        wanted = [{"name": "PLAIN", "value": "1"}]
        wanted += [{"name": "ODD", "value": "a b'\"$x="}]
        assert wanted in _environments(yaml.safe_load(text))


def _environments(node):
    """Returns every list called env, without what we set ourselves."""
    if isinstance(node, list):
        return [found for one in node for found in _environments(one)]
    if not isinstance(node, dict):
        return []
    own = [v[-2:] for k, v in node.items() if k == "env"]
    return own + [f for v in node.values() for f in _environments(v)]


def test_a_variable_without_a_value_is_refused():
    with pytest.raises(UsageError, match="--env=PATH is no variable"):
        Job(env=("PATH",))


def test_a_patch_is_merged(tmp_path):
    path = tmp_path / "patch.yaml"
    path.write_text(
        "kind: Job\n"
        "metadata: {labels: {kueue.x-k8s.io/queue-name: team}}\n"
        "spec:\n"
        "  template:\n"
        "    spec:\n"
        "      tolerations: [{key: gpu, effect: NoSchedule}]\n"
        "      containers: [{name: trainer, imagePullPolicy: Always}]\n"
        "      volumes: [{name: more, emptyDir: {}}]\n"
    )
    fields = {**launch_jobs.KUBERNETES, "workers": 2, "patch": str(path)}
    _, words = launch_jobs.LEAST["kubernetes"]
    text = render(words=words, **fields).files["job.yaml"]
    service, job = yaml.safe_load_all(text)
    assert "labels" not in service["metadata"]
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    pod = job["spec"]["template"]["spec"]
    assert pod["tolerations"] == [{"key": "gpu", "effect": "NoSchedule"}]
    (container,) = pod["containers"]
    assert container["imagePullPolicy"] == "Always"
    assert container["command"] == ["python", "-m", "trainer.task"]
    names = [volume["name"] for volume in pod["volumes"]]
    assert names == ["shm", "scratch", "volume-0", "more"]


@pytest.mark.parametrize(
    "text, says",
    [
        ("kind: JobSet\nspec: {}", "is for a JobSet: the job has Job"),
        ("- a list", "expected a mapping"),
        ("a: [", "cannot be read"),
        ("spec: {completionz: 3}", "completionz"),
    ],
)
def test_a_wrong_patch_is_refused(tmp_path, text, says):
    path = tmp_path / "patch.yaml"
    path.write_text(text)
    if says == "completionz":
        pytest.importorskip("kubernetes_validate")
    least, words = launch_jobs.LEAST["kubernetes"]
    with pytest.raises(UsageError, match=says):
        render(words=words, **least, patch=str(path))


@pytest.mark.parametrize("name", ["name", "output_dir", "job"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_common_setting_has_an_effect(target, name):
    least, words = launch_jobs.LEAST[target]
    changed = {**least, name: OTHER[name]}
    if name == "job":
        local = ["--source=/mnt/photos", "--output_dir=/mnt/data"]
        words = launch_jobs.PREPARE.get(target, local)
        assert "data_prep.task" in repr(render(words=words, **changed).files)
        return
    found = render(words=words, **changed)
    assert found.commands != render(words=words, **least).commands


@pytest.mark.parametrize(
    "target, name",
    [
        (target, name)
        for target in TARGETS
        for name in sorted(set.union(*TAKEN.values()) - TAKEN[target])
    ],
)
def test_settings_of_other_targets_are_refused(target, name, tmp_path):
    users = [other for other in TARGETS if name in TAKEN[other]]
    value = other_value(target, name, tmp_path)
    least, _ = launch_jobs.LEAST[target]
    with pytest.raises(UsageError) as caught:
        Job(**{**least, name: value})
    message = str(caught.value)
    assert message.startswith(f"--{name}={value} is for --target=")
    assert f"--target={' or '.join(users)}: --target={target} " in message
    # A flag that is given, at its default, asks for nothing.
    assert Job(**{**least, name: SETTINGS[name].default})


def test_a_refused_setting_exits_with_64(run):
    words = ("--target=docker", "--dry_run", "--grid=seed=1,2", "--", *PLACES)
    done = run("launch.submit", *words)
    assert done.returncode == 64
    assert "local or slurm or kubernetes or vertex or sagemaker" in done.stderr
    assert "Traceback" not in done.stderr


PATHS_OF_DOCKER = [
    ("--cache_dir=/a/cache", "/a/cache:/job/cache_dir", "/job/cache_dir"),
    ("--feature_dir=/a/kept", "/a/kept:/job/feature_dir", "/job/feature_dir"),
    ("--weights=/a/w.h5", "/a/w.h5:/job/weights/w.h5:ro", "/job/weights/w.h5"),
    ("--data_dir=/a/data", "/a/data:/job/data_dir:ro", "/job/data_dir"),
    ("--model_dir=/a/model", "/a/model:/job/model_dir", "/job/model_dir"),
    ("--splits_from=/a/old", "/a/old:/job/splits_from:ro", "/job/splits_from"),
    (
        "--corrections=/a/c.csv",
        "/a/c.csv:/job/corrections/c.csv:ro",
        "/job/corrections/c.csv",
    ),
]


@pytest.mark.parametrize("flag, volume, inside", PATHS_OF_DOCKER)
def test_docker_mounts_every_path(flag, volume, inside):
    name = flag.partition("=")[0]
    fields = {}
    words = [*PLACES, flag]
    if name in ("--splits_from", "--corrections"):
        fields["job"] = "data_prep"
        words = ["--source=photos", "--output_dir=out", flag]
    text = render("docker", words, **fields).files["run.sh"]
    assert f"--volume={volume} " in text
    assert re.search(rf"^  {name}={inside}( |$)", text, re.MULTILINE)
    assert flag not in text


def test_docker_mounts_every_setting_that_is_a_path():
    """The list above is whole: a new setting with a path belongs in it."""
    listed = {flag.partition("=")[0] for flag, *_ in PATHS_OF_DOCKER}
    declared = {
        f"--{one.name}"
        for config_class in arguments.CONFIGS.values()
        for one in config_class.settings()
        if one.path
    }
    # Tests of their own.
    assert declared - {"--source", "--output_dir"} == listed


def test_words_that_are_no_path_are_not_mounted():
    words = [*PLACES, "--weights=imagenet"]
    text = render("docker", words).files["run.sh"]
    assert "--weights=imagenet" in text and "/job/weights" not in text


@pytest.mark.parametrize("target", ["local", "docker", "slurm", "kubernetes"])
@pytest.mark.parametrize(
    "words, staged",
    [
        ([], False),
        (["--weights=s3://b/w.h5"], True),
        (["--data_dir=gs://b/data"], True),
        (["--model_dir=s3://b/model"], True),
    ],
)
def test_addresses_in_a_store_are_staged(target, words, staged):
    least, places = launch_jobs.LEAST[target]
    text = repr(render(words=[*places, *words], **least).files)
    assert ("launch.staged" in text) == staged
    assert (
        "-m trainer.task" in text or "'trainer.task'" in text
    ) != staged or (target == "kubernetes")


def test_a_store_in_one_run_of_a_sweep_is_staged():
    grid = "weights=s3://b/w.h5,imagenet"
    assert "launch.staged" in render("slurm", grid=grid).files["job.sbatch"]


@pytest.mark.parametrize("target", TARGETS)
def test_folders_that_cannot_be_in_a_store_are_refused(target):
    least, words = launch_jobs.LEAST[target]
    for name in ("cache_dir", "feature_dir"):
        given = [*words, f"--{name}=gs://b/c"]
        with pytest.raises(UsageError, match=f"--{name}=gs://b/c"):
            render(words=given, **least)
