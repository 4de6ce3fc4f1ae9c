"""`python -m launch.submit`: what it renders, refuses, and how fast it is."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import launch_jobs
import launch_rules
import pytest
from absl import flags
from conftest import ROOT
from training import TINY
from training import prepare

from data_prep.runtime import setting_flags
from data_prep.runtime.errors import UsageError
from launch import arguments
from launch import submit
from launch.groups import KINDS
from launch.groups import TARGETS
from launch.job import Job

PLACES = ["--data_dir=data", "--model_dir=model"]


def render(target, words=PLACES, **fields):
    """Renders a job, and checks it by our rules."""
    rendered = submit.render(Job(target=target, **fields), list(words))
    launch_rules.check(target, rendered.files)
    return rendered


@pytest.mark.parametrize("fields, words", list(launch_jobs.jobs()))
def test_jobs_keep_our_rules(fields, words):
    rendered = render(words=words, **fields)
    assert rendered.commands
    # A target's client reads the very files that are written.
    folder = Job(**fields).common.folder
    named = [
        word.rpartition(f"{folder}/")[2]
        for command in rendered.commands
        for word in command
        if f"{folder}/" in word
    ]
    assert named and set(named) <= set(rendered.files)


def test_no_tensorflow_for_any_target():
    code = (
        "import sys, launch.submit, launch.staged, launch.workers\n"
        f"for target in {TARGETS}: __import__('launch.targets.' + target)\n"
        "sys.exit(repr({'tensorflow', 'keras'} & set(sys.modules)) "
        "if 'tensorflow' in sys.modules else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--", *PLACES, "--optimzer=sgd"], "optimizer"),
        (["--", *PLACES, "--batch_size=many"], "batch_size"),
        (["--", *PLACES, "stray"], "positional"),
        (["--", "--data_dir=data"], "--model_dir"),
        (["--", *PLACES, "--finetune_from=block9_conv1"], "block9_conv1"),
        (["--name=Bad_Name", "--", *PLACES], "--name"),
        (["--target=moon", "--", *PLACES], "target"),
        (["--grid=seed", "--", *PLACES], "--grid"),
        (["--grid=sead=1,2", "--", *PLACES], "sead"),
        (["--flag_files=absent.flags", "--", *PLACES], "absent.flags"),
        (["--tune=dropout=0:0.5", "--", *PLACES], "--tune"),
    ],
)
def test_wrong_commands_are_refused(words, says):
    with pytest.raises((UsageError, flags.Error), match=says):
        parsed(["--dry_run", *words])


def parsed(words):
    """Returns what a command line renders, without a process of its own."""
    values = flags.FlagValues()
    setting_flags.define_flags(Job, values)
    rest = values(["launch.submit", *words])
    job = setting_flags.from_flags(Job, values)
    return submit.render(job, rest[1:])


def test_wrong_commands_exit_with_64(run):
    for words in (
        ["--", *PLACES, "--optimzer=sgd"],
        ["--target=moon", "--"],
        [],
    ):
        done = run("launch.submit", *words)
        assert done.returncode == 64, done.stderr
        assert "error: " in done.stderr
        assert "Traceback" not in done.stderr


def test_arguments_are_spelt_out(tmp_path):
    """Flag files, which another machine may not see, are read here."""
    file = tmp_path / "my.flags"
    file.write_text("--seed=5\n--nodeterministic\n")
    words = [*PLACES, f"--flagfile={file}", "--batch_size", "16"]
    assert set(arguments.parse("trainer.task", words)) == {
        *PLACES,
        "--seed=5",
        "--deterministic=false",
        "--batch_size=16",
    }


FLINK = "--runner=FlinkRunner --flink_master=host:8081"


def test_data_prep_is_launched_the_same_way():
    fields = {
        "kubernetes": {"volumes": "claim:/mnt"},
        "vertex": {"image": "pkg.dev/p/r/s:1", "output_uri": "gs://bucket/run"},
    }
    for target in ("local", "docker", "slurm", "kubernetes", "vertex"):
        local = ["--source=/mnt/photos", "--output_dir=/mnt/data"]
        words = launch_jobs.PREPARE.get(target, local) + [
            "--shard_mb=32",
            "--runner=beam",
            f"--beam_options={FLINK}",
        ]
        more = fields.get(target, {})
        files = render(target, words, job="data_prep", **more).files
        text = next(iter(files.values()))
        assert f"--beam_options={FLINK}" in text
        assert re.search(r'-m"?[\s-]+data_prep\.task', text)
        assert "--shard_mb=32" in text
    with pytest.raises(UsageError, match="--tune is for"):
        render("vertex", words, job="data_prep", tune="seed=1:2", **more)
    with pytest.raises(UsageError, match="one process"):
        render("slurm", words, job="data_prep", workers=2)


@pytest.mark.parametrize(
    "source, volume, inside",
    [
        ("/a/photos", "/a/photos:/job/source:ro", "/job/source"),
        ("csv:/a/t.csv", "/a:/job/source:ro", "csv:/job/source/t.csv"),
        ("tfds:/a/set", "/a/set:/job/source:ro", "tfds:/job/source"),
        ("tfds:mnist", None, "tfds:mnist"),
        ("csv:gs://b/t.csv", None, "csv:gs://b/t.csv"),
    ],
)
def test_sources_of_data_prep(source, volume, inside):
    """Each job sees the source, and where it could not it is refused."""
    words = [f"--source={source}", "--output_dir=/a/data"]
    script = render("docker", words, job="data_prep").files["run.sh"]
    assert f"--source={inside}" in script
    assert ("/job/source:ro" in script) == bool(volume)
    assert not volume or f"--volume={volume}" in script
    elsewhere = {"job": "data_prep", "image": "i", "volumes": "claim:/a"}
    assert render("kubernetes", words, **elsewhere)
    elsewhere["volumes"] = "claim:/b"
    words[1] = "--output_dir=/b/data"
    if not volume:
        assert render("kubernetes", words, **elsewhere)
        return
    with pytest.raises(UsageError, match="lies on no volume"):
        render("kubernetes", words, **elsewhere)


def test_dataflow_from_a_job_of_vertex():
    """data_prep reads gs:// itself: no folder of the job is in its way."""
    words = ["--source=gs://b/photos", "--output_dir=gs://b/data"]
    words += ["--runner=beam", "--beam_options=--runner=DataflowRunner"]
    files = render(
        "vertex", words, job="data_prep", image="r/i", output_uri="gs://b/out"
    ).files
    text = next(iter(files.values()))
    assert "--source=gs://b/photos" in text
    assert "/gcs/" not in text
    words[1] = "--output_dir=/data"
    with pytest.raises(UsageError, match="Dataflow sees no folder"):
        render(
            "vertex", words, job="data_prep", image="r/i", output_uri="gs://b/o"
        )


def test_credentials_reach_a_container(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/a b/key.json")
    text = render("docker").files["run.sh"]
    assert "AWS" not in text and "GOOGLE" not in text
    words = ["--data_dir=gs://bucket/data", "--model_dir=s3://bucket/model"]
    text = render("docker", words).files["run.sh"]
    assert "--env=AWS_SECRET_ACCESS_KEY \\\n" in text
    assert "secret" not in text
    assert "'--volume=/a b/key.json:/job/google.json:ro'" in text
    assert "-m launch.staged \\\n" in text


def test_grid():
    found = arguments.expand_grid("dropout=0,0.5 batch_size=16,32")
    assert found == [
        ["--dropout=0", "--batch_size=16"],
        ["--dropout=0", "--batch_size=32"],
        ["--dropout=0.5", "--batch_size=16"],
        ["--dropout=0.5", "--batch_size=32"],
    ]


def test_sweep_of_flag_files(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / f"{name}.flags").write_text(f"--seed={seed}\n")
    files = ",".join(str(tmp_path / f"{name}.flags") for name in "ab")
    found = render("slurm", flag_files=files).files
    assert found["runs/0.flags"] == "--model_dir=model/000\n--seed=1\n"
    assert found["runs/1.flags"] == "--model_dir=model/001\n--seed=2\n"
    assert "#SBATCH --array=0-1\n" in found["job.sbatch"]
    assert "--model_dir" not in found["job.sbatch"]


def words_of_client(text, program, folder, **environment):
    """Returns what a script gives a client, for which another one stands in."""
    fake = folder / program
    fake.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    done = subprocess.run(
        ["bash", "-c", text],
        env={
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\0")


def test_each_task_of_a_job_array_reads_its_own_flags(tmp_path):
    job = Job(target="slurm", grid="seed=1,2,3", output_dir=str(tmp_path))
    rendered = submit.render(job, ["--data_dir=d", "--model_dir=m"])
    script = rendered.files["job.sbatch"]
    for number in ("0", "2"):
        found = words_of_client(
            script, "srun", tmp_path, SLURM_ARRAY_TASK_ID=number
        )
        (path,) = (word for word in found if word.startswith("--flagfile="))
        assert path.endswith(f"/runs/{number}.flags")
        assert f"runs/{number}.flags" in rendered.files


ODD = "mo del$HOME`x`'\"%h;é"


@pytest.mark.parametrize("target", ["local", "docker", "slurm"])
def test_odd_names_survive_the_shell(target, tmp_path, monkeypatch):
    """The script run by bash, a stand-in taking the place of the client."""
    monkeypatch.chdir(tmp_path)
    words = ["--data_dir=data", f"--model_dir={ODD}"]
    fields = {"python": "python"} if target == "local" else {}
    (text,) = (
        text
        for name, text in render(target, words, **fields).files.items()
        if name in ("run.sh", "job.sbatch")
    )
    program = {"local": "python", "docker": "docker", "slurm": "srun"}[target]
    found = words_of_client(text, program, tmp_path)
    where = "/job/model_dir" if target == "docker" else ODD
    assert f"--model_dir={where}" in found
    if target == "docker":
        assert f"--volume={tmp_path / ODD}:{where}" in found
        assert (tmp_path / ODD).is_dir()  # else Docker makes it, as root


@pytest.mark.skipif(
    not shutil.which("shellcheck"), reason="shellcheck is not installed"
)
@pytest.mark.parametrize("target", ["local", "docker", "slurm"])
@pytest.mark.parametrize("sweep", [False, True])
def test_shellcheck(target, sweep, tmp_path):
    if target == "docker" and sweep:
        return
    files = render(target, grid="seed=1,2" if sweep else "", workers=1).files
    for name in ("run.sh", "job.sbatch"):
        if name in files:
            path = tmp_path / name
            path.write_text(files[name])
            # 2050: a number of workers stands where a variable might.
            done = subprocess.run(
                ["shellcheck", "--exclude=SC2050", str(path)],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout


def test_a_user_without_a_name(monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("getpass.getuser", unknown)
    text = render("local").files["shardtune.service"]
    assert f"\nUser={os.getuid()}\n" in text


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd is not installed"
)
def test_systemd_unit(tmp_path):
    odd = str(tmp_path / "od d$HOME%h")
    text = render("local", output_dir=odd).files["shardtune.service"]

    def verify(text):
        path = tmp_path / "shardtune.service"
        path.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", str(path)],
            capture_output=True,
            text=True,
        )
        return done.returncode, [
            line for line in done.stderr.splitlines() if path.name in line
        ]

    assert verify(text) == (0, [])
    for old, new in (
        ("KillMode=mixed", "KillMode=mixd"),
        ("RestartPreventExitStatus=64", "RestartPreventExitStatus=many"),
        ("ExecStart=", "ExecStrt="),
        ("User=", "Usr="),
        ("Environment=", "Environmnt="),
    ):
        assert old in text
        code, said = verify(text.replace(old, new))
        assert code or said, new


@pytest.mark.parametrize(
    "target, old, new",
    [
        ("local", f"exec {sys.executable}", sys.executable),
        ("docker", "exec docker", "docker"),
        ("docker", "--stop-timeout=120", ""),
        ("docker", "  -m trainer.task", '  sh -c "python -m trainer"'),
        ("docker", "docker run", "docker run --entrypoint=sh"),
        ("slurm", "#SBATCH --requeue", ""),
        ("slurm", "--open-mode=append", "--open-mode=apend"),
        ("slurm", "--signal=USR1", "--signal=B:USR1"),
        ("slurm", "--ntasks-per-node=1", "--ntasks-per-node=4"),
        ("slurm", "  python -m", '  bash -c "python -m'),
        ("slurm", "\nfi\n", "\n"),
        ("skypilot", "exec python", "python"),
        ("skypilot", "exec python", "sh -c 'python'"),
        ("skypilot", "    - 75", "    - 76"),
    ],
)
def test_mutants_break_a_rule(target, old, new):
    fields, words = launch_jobs.LEAST[target]
    files = dict(render(words=words, **fields).files)
    (name,) = (n for n in files if n in ("run.sh", "job.sbatch", "job.yaml"))
    assert old in files[name]
    files[name] = files[name].replace(old, new)
    with pytest.raises(AssertionError, match="is wrong"):
        launch_rules.check(target, files)


def tell_otherwise(text, word, others):
    """Returns a file where other words stand for one: YAML, JSON or shell."""
    listed = re.search(f' *- "{word}"', text)
    if listed:
        indent = listed[0].partition("-")[0]
        lines = "\n".join(f'{indent}- "{other}"' for other in others)
        return text.replace(listed[0], lines)
    if f'"{word}"' in text:
        quoted = ", ".join(f'"{other}"' for other in others)
        return text.replace(f'"{word}"', quoted)
    assert word in text
    return text.replace(word, " ".join(others))


@pytest.mark.parametrize("target", launch_jobs.LEAST)
@pytest.mark.parametrize(
    "others",
    [
        ["--sead=3"],
        ["--seed=three"],
        ["--seed=3", "--deterministic", "maybe"],
        ["--seed=3", "False"],  # absl would go on, and leave out what follows
    ],
)
def test_flags_that_the_trainer_does_not_take(target, others):
    fields, words = launch_jobs.LEAST[target]
    files = render(words=[*words, "--seed=3"], **fields).files
    mutants = {
        name: tell_otherwise(text, "--seed=3", others)
        for name, text in files.items()
        if "--seed=3" in text and not name.endswith(".service")
    }
    assert mutants
    with pytest.raises(UsageError):
        launch_rules.check(target, {**files, **mutants})


@pytest.mark.parametrize(
    "target, fields, says",
    [
        ("slurm", {"slurm_options": "--signal=B:USR1@60"}, "no notice"),
        ("slurm", {"slurm_options": "--open-mode=truncate"}, "erase its log"),
        ("slurm", {"slurm_options": "--ntasks-per-node=4"}, "all GPUs"),
        ("slurm", {"slurm_options": "--requeue=no"}, "would not come back"),
        ("slurm", {"grace_seconds": 60, "time_limit": 1}, "before the start"),
        ("slurm", {"setup": "echo 'x"}, "--setup"),
        ("local", {"setup": "if true"}, "--setup"),
    ],
)
def test_what_would_break_a_script_is_refused(target, fields, says):
    with pytest.raises(UsageError, match=says):
        submit.render(Job(target=target, **fields), PLACES)


def test_client_that_is_missing_is_named(run, tmp_path):
    done = run(
        "launch.submit",
        "--target=slurm",
        f"--output_dir={tmp_path}",
        "--",
        *PLACES,
        env={**os.environ, "PATH": str(pathlib.Path(sys.executable).parent)},
    )
    assert done.returncode == 64
    assert "sbatch is not installed" in done.stderr
    assert not list(tmp_path.iterdir())


def test_exit_code_of_a_local_run_is_the_trainers(run, tmp_path):
    done = run(
        "launch.submit",
        f"--output_dir={tmp_path}",
        f"--python={sys.executable}",
        "--",
        f"--data_dir={tmp_path / 'absent'}",
        f"--model_dir={tmp_path / 'model'}",
    )
    assert done.returncode == 65
    assert "manifest.json" in done.stderr
    script = (tmp_path / "shardtune" / "run.sh").read_text()
    assert shlex.quote(sys.executable) in script


@pytest.mark.slow
def test_a_stop_reaches_a_local_run_and_its_sweep(tmp_path):
    """SIGTERM to launch.submit: saved, 75; the same command goes on."""
    data = prepare(tmp_path)
    model = tmp_path / "model"
    words = [sys.executable, "-m", "launch.submit", "--grid=seed=1,2"]
    words += [f"--output_dir={tmp_path}", f"--python={sys.executable}", "--"]
    words += [f"--data_dir={data}", f"--model_dir={model}", *TINY]
    words += ["--frozen_epochs=60", "--finetune_epochs=0"]
    first = subprocess.Popen(words, cwd=ROOT)
    metrics = model / "000" / "metrics.jsonl"
    end = time.monotonic() + 600
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 75
    assert len(metrics.read_text().splitlines()) < 60
    assert not (model / "001").exists()
    assert subprocess.run(words, cwd=ROOT).returncode == 0
    for run in ("000", "001"):
        rows = (model / run / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(row)["epoch"] for row in rows]
        assert epochs == list(range(1, 61))


def commands_of_document():
    text = (ROOT / "docs" / "launch.md").read_text().replace("\\\n", " ")
    return [
        line.strip("| `")
        for line in re.findall(
            r"python -m launch\.submit --target=[a-z][^`|\n]*", text
        )
    ]


@pytest.mark.parametrize("kind", ["", *KINDS])
def test_the_platforms_own_schemas_are_not_needed(kind, monkeypatch):
    for name in ("kubeflow.training", "google.cloud.aiplatform_v1"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in (
        *("botocore", "kubernetes_validate", "kubeflow_trainer_api"),
        *("kubeflow", "google.cloud"),
    ):
        monkeypatch.setitem(sys.modules, name, None)
    for line in commands_of_document():
        assert kind or parsed(shlex.split(line)[3:]).files
    if kind:
        words = ["--data_dir=/mnt/data", "--model_dir=/mnt/model"]
        assert render("kubernetes", words, kind=kind, volumes="claim:/mnt")


@pytest.mark.parametrize("line", commands_of_document())
def test_examples_of_the_document_are_rendered(line):
    rendered = parsed(shlex.split(line)[3:])
    assert rendered.files
    assert rendered.commands


def test_dry_run_writes_nothing(run, tmp_path):
    words = ("--dry_run", f"--output_dir={tmp_path}", "--", *PLACES)
    done = run("launch.submit", *words)
    assert done.returncode == 0, done.stderr
    assert f"exec {sys.executable} -m trainer.task" in done.stdout
    assert not list(tmp_path.iterdir())


def test_every_target_has_an_example():
    found = {
        word.partition("=")[2]
        for line in commands_of_document()
        for word in line.split()
        if word.startswith("--target=")
    }
    assert found == set(TARGETS)


def test_compare_lists_unfinished_runs_last(run, tmp_path):
    for name, rate, accuracy in (
        ("a", 0.1, 0.5),
        ("b", 0.2, 0.75),
        ("c", 0.3, None),
    ):
        (tmp_path / name).mkdir()
        config = {"optimizer": "adam", "rate": rate, "model_dir": name}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        if accuracy is not None:
            figures = {"split": "test", "accuracy": accuracy, "loss": 1.0}
            (tmp_path / name / "evaluation.json").write_text(
                json.dumps(figures)
            )
            (tmp_path / name / "DONE.json").write_text("{}")
    done = run("launch.compare", "--csv", *(tmp_path / n for n in "abc"))
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[1:] for line in done.stdout.splitlines()] == [
        ["rate", "split", "accuracy", "loss", "finished"],
        ["0.2", "test", "0.7500", "1.0000", "yes"],
        ["0.1", "test", "0.5000", "1.0000", "yes"],
        ["0.3", "", "", "", "no"],
    ]
    assert run("launch.compare", tmp_path / "absent").returncode == 65


@pytest.mark.parametrize("target", ["slurm", "local"])
def test_flags_that_waiting_runs_read_are_kept(tmp_path, target):
    folder = tmp_path / "shardtune"

    def submitted(grid):
        job = Job(target=target, grid=grid, output_dir=str(tmp_path))
        rendered = submit.render(job, ["--data_dir=d", "--model_dir=m"])
        # In place of sbatch, or of the run itself.
        done = dataclasses.replace(
            rendered, commands=(("true",),), runs_here=False
        )
        return submit.submit(done, folder)

    assert submitted("seed=1,2") == 0
    assert submitted("seed=1,2") == 0  # the same again
    with pytest.raises(UsageError, match="another sweep.*another --name"):
        submitted("seed=1,3")
    assert "--seed=2" in (folder / "runs" / "1.flags").read_text()


def line_of(target, words=(), **fields):
    job = Job(target=target, **fields)
    places = ["--data_dir=/d/data", "--model_dir=/m/model"]
    if target == "vertex":
        places = ["--data_dir=gs://b/data"]
    rendered = submit.render(job, [*places, *words])
    (name,) = [n for n in rendered.files if n in ("job.sbatch", "job.yaml")]
    return rendered.files[name].replace(" \\\n", "")


def test_slurm_runs_a_container():
    text = line_of("slurm", container="apptainer:/images/shardtune.sif")
    for word in ("--nv", "--bind=/d/data", "--bind=/m", f"--bind={ROOT}"):
        assert f" {word} " in text
    assert re.search(r"srun .* apptainer exec .*/shardtune.sif\s+python", text)
    assert "--nv" not in line_of("slurm", container="apptainer:x", gpus=0)
    text = line_of("slurm", container="pyxis:registry/shardtune:1")
    assert "--container-image=registry/shardtune:1" in text
    assert "/d/data:/d/data,/m:/m" in text
    with pytest.raises(UsageError, match="apptainer:IMAGE or pyxis:IMAGE"):
        Job(target="slurm", container="docker:x")


def test_slurm_gives_a_task_its_processors():
    assert re.search(r"srun .*--cpus-per-task=5 ", line_of("slurm", cpus=5))


@pytest.mark.parametrize("target", ["slurm", "kubernetes", "vertex"])
def test_machines_wait_long_for_one_another(target):
    fields = {
        "kubernetes": {"volumes": "c:/d,e:/m"},
        "vertex": {
            "image": "r/s:1",
            "output_uri": "gs://b/o",
        },
    }.get(target, {})
    one = line_of(target, **fields)
    assert "startup_timeout" not in one
    assert "--startup_timeout=1800" in line_of(target, workers=2, **fields)
    words = ["--startup_timeout=70"]
    text = line_of(target, words, workers=2, **fields)
    assert "--startup_timeout=70" in text and "1800" not in text
