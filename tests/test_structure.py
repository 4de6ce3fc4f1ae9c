"""The layout: which room may import which, and what starts without TensorFlow."""

import ast
import subprocess
import sys

import pytest
from conftest import ROOT

COMMANDS = [
    "data_prep.task",
    "data_prep.verify",
    "trainer.task",
    "trainer.evaluate",
    "trainer.export",
    "trainer.find_lr",
    "trainer.features",
    "trainer.inspect",
    "trainer.predict",
    "trainer.report",
    "trainer.serve",
    "trainer.preview",
    "trainer.search",
    "trainer.weights",
    "launch.quickstart",
    "launch.submit",
    "launch.staged",
    "launch.workers",
    "launch.compare",
]
# What each room, a package inside of one of the three, may import of others.
# Commands and stories stand above the rooms and may import all of theirs.
ROOMS = {
    "data_prep.runtime": set(),
    "data_prep.dataset": {"data_prep.runtime"},
    "data_prep.images": {"data_prep.runtime"},
    "data_prep.sources": {"data_prep.images", "data_prep.runtime"},
    "data_prep.runners": {"data_prep.images", "data_prep.runtime"},
    "data_prep.catalogue": {
        "data_prep.dataset",
        "data_prep.images",
        "data_prep.runtime",
        "data_prep.sources",
    },
    "data_prep.report": {
        "data_prep.catalogue",
        "data_prep.dataset",
        "data_prep.images",
        "data_prep.runtime",
    },
    "data_prep.writers": {
        "data_prep.catalogue",
        "data_prep.dataset",
        "data_prep.images",
        "data_prep.report",
        "data_prep.runtime",
    },
    "trainer.augmentation": set(),
    "trainer.recipes": {"data_prep.runtime"},
    "trainer.models": {"data_prep.runtime", "trainer.augmentation"},
    "trainer.distribution": {"data_prep.runtime"},
    "trainer.pipeline": {
        "data_prep.dataset",
        "data_prep.images",
        "data_prep.runtime",
    },
    "trainer.feature_extraction": {
        "data_prep.dataset",
        "data_prep.images",
        "data_prep.runtime",
        "trainer.augmentation",
        "trainer.distribution",
        "trainer.models",
        "trainer.pipeline",
    },
    "trainer.engine": {
        "data_prep.dataset",
        "data_prep.runtime",
        "trainer.augmentation",
        "trainer.distribution",
        "trainer.feature_extraction",
        "trainer.models",
        "trainer.pipeline",
    },
    "trainer.inference": {
        "data_prep.dataset",
        "data_prep.images",
        "data_prep.runtime",
        "trainer.distribution",
        "trainer.engine",
        "trainer.feature_extraction",
        "trainer.models",
        "trainer.pipeline",
    },
    "trainer.reporting": {
        "data_prep.dataset",
        "data_prep.report",
        "data_prep.runtime",
        "trainer.augmentation",
        "trainer.distribution",
        "trainer.engine",
        "trainer.feature_extraction",
        "trainer.inference",
        "trainer.models",
        "trainer.pipeline",
    },
    "trainer.tuning": {"data_prep.runtime"},
    "trainer.serving": {
        "data_prep.images",
        "data_prep.runtime",
        "trainer.inference",
    },
    "launch.staging": {"data_prep.dataset", "data_prep.runtime"},
    "launch.targets": {
        "data_prep.runtime",
        "trainer.distribution",
        "trainer.tuning",
    },
}
# Declarations of settings, their parser and what it makes of them, which every
# room may take its part from.
CONFIGS = {
    "data_prep.config",
    "trainer.config",
    "trainer.groups",
    "launch.arguments",
    "launch.groups",
    "launch.job",
    "launch.work",
}

PACKAGES = ("data_prep", "trainer", "launch", "shardtune")


def modules():
    """Yields the name and the path of every module of the project."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports_of(path, known):
    """Returns the modules of the project that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def room_of(module):
    return next((r for r in ROOMS if f"{module}.".startswith(f"{r}.")), None)


@pytest.fixture(scope="module")
def arrows():
    """What every module imports of the project."""
    found = dict(modules())
    return {n: imports_of(path, set(found)) for n, path in found.items()}


def test_every_room_is_in_the_table():
    rooms = {
        ".".join(name.split(".")[:2])
        for name, path in modules()
        if path.name == "__init__.py" and "." in name
    }
    assert rooms == set(ROOMS)


def test_rooms_import_what_the_table_allows(arrows):
    wrong = {
        f"{module} -> {imported}"
        for module, found in arrows.items()
        if (room := room_of(module))
        for imported in found - CONFIGS
        if room_of(imported) not in {room, *ROOMS[room]}
    }
    assert not wrong


def test_packages_import_one_way(arrows):
    """data_prep knows nothing of trainer, nor trainer of launch."""
    below = {
        "data_prep": {"data_prep"},
        "trainer": {"data_prep", "trainer"},
        "launch": {"data_prep", "trainer", "launch"},
        "shardtune": set(PACKAGES),
    }
    for module, found in arrows.items():
        allowed = below[module.partition(".")[0]]
        assert {i.partition(".")[0] for i in found} <= allowed, module


def test_no_module_imports_itself_in_a_circle(arrows):
    done, path = set(), []

    def visit(module):
        assert module not in path, [*path[path.index(module) :], module]
        if module not in done:
            path.append(module)
            for imported in arrows[module]:
                visit(imported)
            path.pop()
            done.add(module)

    for module in arrows:
        visit(module)


# Libraries that take a second or more to import, and those that not everybody
# has: they are imported where they are used.
SLOW = {
    "jinja2",
    *("tensorflow", "tensorflow_datasets", "keras", "keras_cv", "sklearn"),
    *("scipy", "matplotlib", "apache_beam", "fsspec", "hypertune", "PIL"),
    *("botocore", "google", "kubernetes_validate", "kubeflow", "aiohttp"),
    *("gcsfs", "s3fs", "optuna", "mlflow", "wandb"),
    *("ai_edge_litert", "onnx", "onnxruntime"),
    *("kubeflow_trainer_api", "sky"),
}


def test_imports_inside_functions_are_for_a_quick_start():
    """A command imports what brings TensorFlow when its flags are checked."""
    wrong = []
    for module, path in modules():
        tree = ast.parse(path.read_text())
        # The face imports what a name needs when the name is used.
        is_command = module in COMMANDS or module.startswith("shardtune")
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                names = []
                if isinstance(node, ast.ImportFrom):
                    names = [f"{node.module}.{a.name}" for a in node.names]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                for name in names:
                    if name.partition(".")[0] in PACKAGES and is_command:
                        continue
                    if name == "trainer.augmentation.colour":  # keras-cv
                        continue
                    if name.partition(".")[0] not in SLOW:
                        wrong.append(f"{module}.{function.name}: {name}")
    assert not wrong


@pytest.mark.parametrize(
    "module", [*COMMANDS, "trainer.pipeline.decoding_process"]
)
def test_commands_start_without_tensorflow(module):
    code = (
        f"import sys, {module}; "
        "slow = {'tensorflow', 'keras', 'keras_cv', 'sklearn'}; "
        "sys.exit(repr(slow & set(sys.modules)) if slow & set(sys.modules) "
        "else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


def test_help_lists_the_flags_and_succeeds(run):
    for module, flag in (
        ("data_prep.task", "--on_bad_image"),
        ("trainer.task", "--finetune_from"),
        ("launch.quickstart", "--weights"),
    ):
        done = run(module, "--help")
        assert done.returncode == 0
        assert flag in done.stdout
