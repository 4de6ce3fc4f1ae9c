"""The layout: who imports whom, and what starts without TensorFlow."""

import ast
import pathlib
import subprocess
import sys

import pytest
from absl import flags
from conftest import ROOT

from data_prep import task as data_prep_task
from launch import submit
from trainer import task as trainer_task

PACKAGES = ("data_prep", "trainer", "launch")

# Leaves import nothing local but other leaves of this list.
LEAVES = {
    "data_prep.errors": set(),
    "data_prep.progress": set(),
    "data_prep.records": set(),
    "data_prep.fingerprint": set(),
    "data_prep.tfds_metadata": set(),
    "data_prep.workers": set(),
    "data_prep.audit": {"data_prep.fingerprint"},
    "data_prep.splits": {"data_prep.errors"},
    "trainer.atomic": set(),
    "trainer.bases": set(),
    "trainer.classical": set(),
    "trainer.config": {"data_prep.errors", "trainer.bases"},
    "trainer.cluster_env": {"data_prep.errors"},
    "trainer.feature_store": {"data_prep.errors"},
    "trainer.feature_writer": {
        "data_prep.errors",
        "trainer.atomic",
        "trainer.feature_store",
    },
    "trainer.handover": set(),
    "trainer.startup": set(),
    "trainer.decode": set(),
    "trainer.optimizers": set(),
    "trainer.stop": set(),
    "trainer.rendezvous": {"data_prep.errors"},
    "trainer.workers": {
        "data_prep.errors",
        "trainer.cluster_env",
        "trainer.stop",
    },
    "trainer.dropout": {"trainer.augmentation.random_bits"},
    "trainer.model": {"trainer.bases", "trainer.dropout"},
    "trainer.augmentation.random_bits": set(),
    "trainer.augmentation.affine": {"trainer.augmentation.random_bits"},
    "trainer.augmentation.mix": {"trainer.augmentation.random_bits"},
}
# What trainer may know of data_prep: the bridge, and leaves.
BRIDGE = {
    f"data_prep.{name}"
    for name in (
        "audit",
        "command",
        "errors",
        "manifest",
        "progress",
        "records",
        "splits",
    )
}


def modules():
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def local_imports(path: pathlib.Path) -> set[str]:
    known = {name for name, _ in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{a.name}" for a in node.names}
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    packages = {n for n, p in modules() if p.name == "__init__.py"}
    return (found & known) - packages


def test_leaves_import_nothing_local():
    paths = dict(modules())
    found = {name: local_imports(paths[name]) for name in LEAVES}
    assert found == LEAVES


def test_data_flows_one_way():
    for name, path in modules():
        imports = local_imports(path)
        if name.startswith("data_prep"):
            assert not {i for i in imports if not i.startswith("data_prep")}
        if name.startswith("trainer"):
            assert {i for i in imports if i.startswith("data_prep")} <= BRIDGE
            assert not {i for i in imports if i.startswith("launch")}
        # launch.stores runs beside the trainer, and does so when it is asked.
        if name.startswith("launch") and name != "launch.stores":
            assert "import tensorflow" not in path.read_text()


@pytest.mark.parametrize(
    "module",
    [
        "data_prep.task",
        "data_prep.verify",
        "trainer.task",
        "trainer.evaluate",
        "trainer.export",
        "trainer.find_lr",
        "trainer.features",
        "trainer.predict",
        "trainer.preview",
        "trainer.weights",
        "launch.quickstart",
        "launch.submit",
        "launch.staged",
        "launch.workers",
        "launch.compare",
    ],
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


def test_flags_are_documented():
    """Scripts depend on the flags: a new one appears in the README."""
    readme = (ROOT / "README.md").read_text()
    for task in (data_prep_task, trainer_task, submit):
        values = flags.FlagValues()
        task.define_flags(values)
        for name in values:
            assert f"`--{name}`" in readme, name
