"""The face: the package `shardtune`, its console command, shell completion."""

import json
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from conftest import write_noise
from training import environment

import shardtune
from data_prep.runtime.errors import UsageError
from shardtune import commands
from shardtune import completion

# As pip writes it into the folder of programs.
CONSOLE_SCRIPT = """\
import sys

from shardtune.cli import main

if __name__ == "__main__":
    sys.exit(main())
"""
SMALL = (
    "--recipe=",
    "--base=scratch",
    "--weights=none",
    "--image_size=62",
    "--batch_size=8",
    "--frozen_epochs=0",
    "--precision=float32",
    "--strategy=one_device",
)


@pytest.fixture
def program(tmp_path):
    """The words of the console command, without an installed package."""
    script = tmp_path / "bin" / "shardtune"
    script.parent.mkdir()
    script.write_text(CONSOLE_SCRIPT)
    return [sys.executable, str(script)]


@pytest.fixture
def strange_folder(tmp_path):
    """A folder whose own modules have the names of ours."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("trainer", "data_prep", "launch"):
        text = f"raise SystemExit('the wrong {name}.py was imported')\n"
        (folder / f"{name}.py").write_text(text)
    return folder


def call(words, cwd=ROOT, **options):
    return subprocess.run(
        [*map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT)),
        **options,
    )


def test_help_has_a_line_for_every_command(program):
    for words in (["--help"], []):
        done = call([*program, *words])
        assert done.returncode == 0, done.stderr
        for name, command in commands.COMMANDS.items():
            assert f"  {name} " in done.stdout
            assert command.summary in done.stdout


def test_version(program):
    done = call([*program, "--version"])
    assert done.stdout == f"shardtune {shardtune.__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(program):
    done = call([*program, "trian", "--data_dir=data"])
    assert done.returncode == 64
    assert "did you mean train?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["train", "find-lr", "submit", "completion"])
def test_help_of_a_command_shows_it_as_it_was_called(program, name):
    done = call([*program, name, "--help"])
    assert done.returncode == 0, done.stderr
    assert f"shardtune {name}" in done.stdout
    assert f"python -m {commands.COMMANDS[name].module}" not in done.stdout


@pytest.mark.parametrize("name", ["train", "features", "verify"])
def test_signals_are_awaited_before_anything_slow_is_imported(name):
    code = f"""
import sys
from data_prep.runtime import signals
slow = {{"numpy", "tensorflow", {commands.COMMANDS[name].module!r}}}
signals.watch = lambda code: print("awaited", code, slow & set(sys.modules))
sys.argv = ["shardtune", {name!r}, "--help"]
from shardtune import cli
cli.main()
"""
    done = call([sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    awaited = done.stdout.startswith("awaited 75 set()\n")
    assert awaited == (name != "verify")


@pytest.mark.slow
def test_it_works_beside_modules_of_the_same_names(program, strange_folder):
    write_noise(strange_folder / "photos", count=20)
    done = call(
        [*program, "prepare", "--source=photos", "--output_dir=data"]
        + ["--workers=2"],
        strange_folder,
    )
    assert done.returncode == 0, done.stderr
    assert (strange_folder / "data" / "manifest.json").exists()
    done = call([*program, "quickstart", "--help"], strange_folder)
    assert done.returncode == 0, done.stderr
    # What a command starts as `python -m ...` finds ours too.
    words = [*program, "submit", "--target=local"]
    words += [f"--python={sys.executable}"]
    words += ["--", "--data_dir=nowhere", "--model_dir=model"]
    done = call(words, strange_folder)
    assert done.returncode == 65, done.stderr
    assert "nowhere" in done.stderr
    # A training, stopped once it has begun: with the state saved.
    words = [*program, "train", "--data_dir=data", "--model_dir=model"]
    words += [*SMALL, "--finetune_epochs=10000"]
    training = subprocess.Popen(
        words,
        cwd=strange_folder,
        env=environment(PYTHONPATH=str(ROOT)),
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = strange_folder / "model" / "metrics.jsonl"
    while not metrics.exists() and training.poll() is None:
        time.sleep(0.1)
    training.send_signal(signal.SIGTERM)
    _, errors = training.communicate()
    assert training.returncode == 75, errors
    assert list((strange_folder / "model" / "checkpoints").iterdir())


def test_python_m_works_there_too(strange_folder):
    module = [sys.executable, "-m", "shardtune"]
    done = call([*module, "train", "--dropout=2"], strange_folder)
    assert done.returncode == 64
    assert "--data_dir is missing" in done.stderr
    write_noise(strange_folder / "photos", count=20)
    done = call(
        [*module, "prepare", "--source=photos", "--output_dir=data"]
        + ["--workers=2"],
        strange_folder,
    )
    assert done.returncode == 0, done.stderr


def test_python_m_works_in_a_checkout_that_is_not_installed(tmp_path):
    """`-S` leaves out the installed packages, `-P` the current folder."""
    for package in ("shardtune", "data_prep"):
        shutil.copytree(ROOT / package, tmp_path / package)
    words = [sys.executable, "-S", "-m", "shardtune", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "find-lr" in done.stdout


# ---- Python ----


def test_importing_it_imports_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import shardtune; "
        "print(sorted({m.partition('.')[0] for m in "
        "set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = call([sys.executable, "-c", code])
    assert done.stdout.strip() == "['shardtune']", done.stderr


def test_configs_are_the_commands_own():
    config = shardtune.Config("data", "model", dropout=0.5, recipe="best")
    assert config.model.dropout == 0.5
    assert config.data.image_size == 256  # of the recipe
    with pytest.raises(UsageError, match="did you mean light"):
        shardtune.Config("data", "model", augment="ligth")
    assert shardtune.PrepareConfig("photos", "data").checks.duplicates == "keep"
    assert set(shardtune.__all__) <= set(dir(shardtune))
    with pytest.raises(AttributeError, match="clasifier"):
        _ = shardtune.clasifier


def test_prepare_and_train(tf, tmp_path):
    import keras

    class Count(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1

    source = write_noise(tmp_path / "photos", count=20)
    data = str(tmp_path / "data")
    manifest = shardtune.prepare(
        str(source), data, workers=1, splits="train:14,validation:6"
    )
    assert manifest.splits["train"].count == 28
    count = Count()
    done = shardtune.train(
        data,
        str(tmp_path / "model"),
        callbacks=[count],
        recipe="",
        base="scratch",
        weights="none",
        image_size=62,
        batch_size=14,
        frozen_epochs=0,
        finetune_epochs=2,
        precision="float32",
        strategy="one_device",
    )
    assert count.epochs == 2
    saved = (tmp_path / "model" / "DONE.json").read_text()
    assert done == json.loads(saved)
    assert done["evaluation"]["split"] == "validation"


def test_a_missing_tensorflow_is_named_with_what_brings_it(tmp_path):
    """Without the extra [train]: a None hides a library."""
    code = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "sklearn"):
    sys.modules[name] = None
from shardtune import cli
cli.main()
"""
    for words in (
        ["train", "--data_dir=d", "--model_dir=m"],
        ["quickstart", f"--output_dir={tmp_path / 'q'}"],
        ["prepare", "--source=tfds:mnist", f"--output_dir={tmp_path / 'd'}"],
    ):
        done = call([sys.executable, "-c", code, *words])
        assert done.returncode == 64, done.stderr
        assert "pip install 'shardtune[train]'" in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


# ---- completion ----


def complete(*words):
    """Returns what bash proposes for the last of the words after shardtune."""
    typed = " ".join(shlex.quote(word) for word in ("shardtune", *words))
    code = (
        f"{completion.script('bash')}\n"
        f"COMP_WORDS=({typed}) COMP_CWORD={len(words)}\n"
        "_shardtune\n"
        'printf "%s\\n" "${COMPREPLY[@]-}"'
    )
    done = subprocess.run(
        ["bash", "-u", "-c", code], capture_output=True, text=True
    )
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_commands_flags_and_values():
    assert complete("pre") == ["prepare", "predict", "preview"]
    assert set(complete("")) == set(commands.COMMANDS)
    assert complete("train", "--augment") == [
        "--augment=",
        "--augment_strength=",
    ]
    assert complete("train", "--data_dir=d", "--nodet") == ["--nodeterministic"]
    assert "--features" not in complete("verify", "--")
    # bash splits --augment=cl in three words.
    assert complete("train", "--augment", "=", "cl") == ["classic"]
    assert "randaugment" in complete("train", "--augment", "=")
    assert complete("submit", "--target", "=", "sl") == ["slurm"]
    # Left to bash, which proposes files.
    assert complete("train", "--data_dir", "=", "ph") == []


def test_bash_completes_every_flag_of_every_command():
    for name, command in commands.COMMANDS.items():
        declared = commands.config_class(command.module).settings()
        proposed = set(complete(name, "--"))
        for one in declared:
            flag = f"--{one.name}" + ("" if one.type is bool else "=")
            assert flag in proposed, name


@pytest.mark.parametrize(
    "shell, words",
    [("bash", ["-n"]), ("zsh", ["-n"]), ("fish", ["--no-execute"])],
)
def test_scripts_are_valid(tmp_path, shell, words):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(completion.script(shell))
    done = subprocess.run(
        [shell, *words, str(script)], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_fish_completes_values(tmp_path):
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    script = tmp_path / "script.fish"
    script.write_text(completion.script("fish"))
    done = subprocess.run(
        ["fish", "--no-config", "-c"]
        + [f"source {script}; complete -C 'shardtune train --augment=cl'"],
        capture_output=True,
        text=True,
        env=environment(HOME=str(tmp_path)),
    )
    assert done.stdout.split() == ["--augment=classic"], done.stderr


def test_an_unknown_shell_is_refused(program):
    done = call([*program, "completion", "bsh"])
    assert done.returncode == 64
    assert "did you mean bash?" in done.stderr


def test_every_command_module_is_a_command():
    """A module with `cli` is in the table, but for two that jobs start."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for package in ("data_prep", "trainer", "launch", "shardtune")
        for path in pathlib.Path(ROOT, package).rglob("*.py")
        if "\ndef cli() ->" in path.read_text()
    }
    inside = {"launch.staged", "launch.workers"}
    assert modules - inside == {c.module for c in commands.COMMANDS.values()}
