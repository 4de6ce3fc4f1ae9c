"""The documents: links lead somewhere, commands are what the code takes."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys

import pytest
import test_structure
from absl import flags
from conftest import ROOT
from conftest import write_noise

import shardtune
from data_prep.runtime import setting_flags
from shardtune.commands import COMMANDS
from shardtune.commands import config_class

DOCUMENTS = sorted(
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "benchmarks")
    for path in folder.glob("*.md")
)
README = ROOT / "README.md"
VARIABLES = r"(?:[A-Z_]+=(?:'[^']*'|\S+) +)*"
OURS = re.compile(
    rf"{VARIABLES}(?:shardtune [a-z]|python -m (?:data_prep|trainer|launch)\.)"
)
# Programs of others; what stands behind them is not checked.
OTHERS = re.compile(
    rf"{VARIABLES}(?:apt-get|docker|gcloud|pip|pytest|python -m (?:build|venv)|ruff)( |$)"
    r"|\.ci/run$|$|#"
)


def generator():
    """docs/generate.py, which is no part of an installed package."""
    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("docs_generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def blocks(path):
    """Yields the language and the text of every fenced block."""
    yield from re.findall(
        r"^```(\w*)\n(.*?)^```$", path.read_text(), re.M | re.S
    )


def command_lines(path):
    """Yields the lines of the blocks of commands, continued ones joined."""
    for language, text in blocks(path):
        if not language:
            yield from text.replace("\\\n", " ").splitlines()


def without_blocks(path):
    """Returns the text of a document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)


def commands(path):
    """Yields the line, the module and the words of every command of ours."""
    in_prose = re.findall(r"`([^`]+)`", without_blocks(path))
    for line in (*command_lines(path), *in_prose):
        if not OURS.match(line) or "[its flags]" in line:  # the form of one
            continue
        words = shlex.split(re.sub(f"^{VARIABLES}", "", line), comments=True)
        if words[0] == "shardtune":
            yield line, COMMANDS[words[1]].module, words[2:]
        else:
            yield line, words[2], words[3:]


ALL = [
    pytest.param(module, words, id=f"{path.name}: {line[:70]}")
    for path in DOCUMENTS
    for line, module, words in commands(path)
]


def parse(module, words):
    """Returns the config that the command's own definitions make of it."""
    declared = config_class(module)
    values = flags.FlagValues()
    flags.DEFINE_string("flagfile", "", "", flag_values=values)
    setting_flags.define_flags(declared, values)
    rest = values([module, *words])[1:]
    return declared, setting_flags.given(declared, values), rest


# ---- links ----


def anchors(path):
    """Returns the anchors that GitHub gives the headings of a document."""
    text = without_blocks(path)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = without_blocks(path)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert "://" not in target, f"{target}: not checked without a network"
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{path.name}: {target}"


def test_files_that_are_named_exist():
    """Paths in backticks that begin with a folder of the project."""
    start = r"(?:data_prep|trainer|launch|shardtune|tests|docs|benchmarks)/"
    for path in DOCUMENTS:
        for name in re.findall(rf"`({start}[\w/.]+)`", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


# ---- commands ----


def test_commands_are_found():
    assert len(ALL) > 50
    assert {module for module, _ in (case.values for case in ALL)} >= {
        one.module for name, one in COMMANDS.items() if name != "quickstart"
    }


@pytest.mark.parametrize("module, words", ALL)
def test_a_command_is_what_its_program_takes(module, words):
    assert module in generator().TITLES
    if "--help" in words or not words:
        return
    declared, given, rest = parse(module, words)
    required = [one.name for one in declared.settings() if one.required]
    given |= {name: "somewhere" for name in required if name not in given}
    config = declared(**given)
    if module in ("launch.workers", "launch.staged"):
        parse("trainer.task", rest)
    if module == "launch.submit" and rest:
        config = declared(**{**given, "dry_run": True})
        submit = importlib.import_module(module)
        assert not submit.main(config, rest)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_all_that_stands_among_commands_is_one(path):
    in_prose = re.findall(r"`(python -m [^`]+)`", without_blocks(path))
    for line in (*command_lines(path), *in_prose):
        module = re.match(r"python -m ((?:benchmarks|docs)\.\w+)", line)
        if module:
            file = module.group(1).replace(".", "/")
            assert (ROOT / f"{file}.py").exists(), line
        else:
            assert OURS.match(line) or OTHERS.match(line), line


def test_readme_runs(tmp_path):
    """What it says first, but for the training, which needs ImageNet."""
    found = [line for line, *_ in commands(README)]
    prepare = next(x for x in found if x.startswith("shardtune prepare --sou"))
    write_noise(tmp_path / "photos", count=30)
    for line in (prepare, "shardtune verify --data_dir=data"):
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "manifest.json").exists()


def test_ci_finds_its_commands_in_the_readme():
    text = README.read_text()
    assert len(re.findall(r"&& python -m launch\.quickstart$", text, re.M)) == 1
    assert len(re.findall(r"&& pytest$", text, re.M)) == 1


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_examples_compile_and_name_what_exists(path):
    for language, text in blocks(path):
        if language != "python":
            continue
        compile(text, str(path), "exec")
        for name in re.findall(r"shardtune\.(\w+)", text):
            assert hasattr(shardtune, name), name
        for call in re.findall(r"shardtune\.train\((.*?)\)\n", text, re.S):
            names = set(re.findall(r"(\w+)=", call)) - {"callbacks", "patience"}
            declared = shardtune.Config.settings()
            assert names <= {one.name for one in declared}


# ---- what stands in them ----


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 150


def test_flags_page_is_what_the_code_declares():
    page = ROOT / "docs" / "flags.md"
    assert page.read_text() == generator().page(), (
        "docs/flags.md is stale. Renew it: python -m docs.generate"
    )


def test_every_flag_of_every_command_is_in_the_flags_page():
    page = (ROOT / "docs" / "flags.md").read_text()
    for module in generator().TITLES:
        for one in config_class(module).settings():
            assert f"| `--{one.name}` |" in page, (module, one.name)


def test_flags_that_are_named_exist():
    """Flags in backticks are flags of some command."""
    known = {
        one.name
        for module in generator().TITLES
        for one in config_class(module).settings()
    }
    known |= {"help", "version", "flagfile", "name", "noname"}
    # Of programs of others, and what stands for --model_dir.
    known |= {"job_dir", "job-dir", "build-arg", "gpus-per-node"}
    known |= {"kill-on-bad-exit", "test-only", "tag"}
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md" or path.parent.name == "benchmarks":
            continue
        for code in re.findall(r"`([^`]+)`", without_blocks(path)):
            if code.startswith("--"):
                name = re.match(r"--([\w-]+)", code).group(1)
                assert name in known, f"{path.name} names --{name}"


def test_recipes_are_all_in_their_document():
    page = (ROOT / "docs" / "recipes.md").read_text()
    for path in (ROOT / "trainer" / "recipes").glob("*.flags"):
        assert f"| `{path.stem}` |" in page


def test_the_table_of_rooms_is_the_one_that_is_enforced():
    rows = re.findall(
        r"^\| `(\w+\.\w+)` \| [^|]+ \| ([^|]+) \|$",
        (ROOT / "BUILD.md").read_text(),
        re.M,
    )
    found = {room: set(re.findall(r"`([^`]+)`", names)) for room, names in rows}
    assert found == test_structure.ROOMS
