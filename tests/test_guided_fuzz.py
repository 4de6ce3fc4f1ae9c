"""libFuzzer tries the property tests, and says which of them does not hold."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("atheris")

TEST = """
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset import records

@given(content=st.binary(max_size=20))
def test_holds(tmp_path_factory, content):
    try:
        records.deserialize(content)
    except ValueError:
        pass


@given(content=st.binary(max_size=20))
def test_does_not_hold(tmp_path_factory, content):
    test_holds.hypothesis.inner_test(tmp_path_factory, content)
    assert content[:1] != b"q"
"""


@pytest.fixture
def fuzz(tmp_path):
    (tmp_path / "test_example.py").write_text(TEST)

    def fuzz_it(*words):
        words = [f"--tests={tmp_path}/test_example.py", *words]
        words += [f"--keep={tmp_path}/kept"]
        return subprocess.run(
            [sys.executable, "-m", "benchmarks.guided_fuzz", *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    return fuzz_it


def test_what_a_test_does_not_hold_for_is_kept(fuzz, tmp_path):
    done = fuzz("--examples=20000", "--seed=1")
    assert "1 tests do not hold" in done.stderr and done.returncode == 1
    assert "assert content[:1] != b" in done.stdout
    (kept,) = (tmp_path / "kept").iterdir()
    assert fuzz("--only=does_not", f"--again={kept}").returncode == 1
    assert fuzz("--only=test_holds", f"--again={kept}").returncode == 0


def test_a_name_that_no_test_has(fuzz):
    done = fuzz("--only=other")
    assert "no property test" in done.stderr and done.returncode == 1
