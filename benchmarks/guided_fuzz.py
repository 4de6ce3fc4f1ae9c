"""Looks for what takes the parsers down, led by which of their lines were run.

pip install -e '.[test,fuzz]'
python -m benchmarks.guided_fuzz --seconds=60 [--only=TEXT]

The property tests of tests/test_parsers.py say what to draw and what must hold.
There hypothesis draws, at random, and the same in every run. Here libFuzzer does
(atheris), which goes on from what reached new lines of data_prep, trainer and
launch. Each test has a process of its own, as libFuzzer ends the one it is in. What
a test does not hold for is kept as a file in --keep, and tried again by
`--again=FILE --only=TEST`.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTS = "tests/test_parsers.py"
# libFuzzer's own words, for the process of a test: this module is a plugin of
# pytest there.
_WORDS = "SHARDTUNE_LIBFUZZER"
_SHORTEST_HANG = 60  # seconds for one example; a test asks 20 of a server

if _WORDS in os.environ:
    import atheris

    # For good, and before anything of ours is imported.
    atheris.instrument_imports(
        include=["data_prep", "trainer", "launch"]
    ).__enter__()


def pytest_pyfunc_call(pyfuncitem: object) -> None:
    """Gives a property test to libFuzzer, which ends the process."""
    from hypothesis import HealthCheck
    from hypothesis import given
    from hypothesis import settings

    property_test = pyfuncitem.obj.hypothesis
    names = pyfuncitem._fixtureinfo.argnames
    fixtures = {name: pyfuncitem.funcargs[name] for name in names}

    @settings(
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(**property_test._given_kwargs)
    def holds(**drawn: object) -> None:
        property_test.inner_test(**fixtures, **drawn)

    atheris.Setup(
        ["pytest", *os.environ[_WORDS].split("\n")],
        holds.hypothesis.fuzz_one_input,
    )
    atheris.Fuzz()


class Outcome(NamedTuple):
    """What became of one test.

    Attributes:
        held: For all examples.
        examples: How many were tried.
        reached: Places in our code, as atheris counts them.
        said: All that was printed.
    """

    held: bool
    examples: int
    reached: int
    said: str


def _pytest(*words: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-q", *words],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def property_tests(file: str, only: str) -> list[str]:
    """Returns pytest's names of the tests that hypothesis draws for.

    Args:
        file: That they are in.
        only: What stands in their names.
    """
    listed = _pytest("--collect-only", "-m", "hypothesis", file).stdout
    # Its names begin with where the file is from a folder of pytest's choice.
    found = re.findall(r"(?m)^[^:]+::(.+)$", listed)
    return [f"{file}::{name}" for name in found if only in name]


def fuzz(test: str, *words: str) -> Outcome:
    """Gives one test to libFuzzer.

    Args:
        test: As pytest calls it.
        *words: Of libFuzzer: how long, or files to try.
    """
    done = _pytest(
        *("-s", "-p", "benchmarks.guided_fuzz", test),
        **{_WORDS: "\n".join([f"-timeout={_SHORTEST_HANG}", *words])},
    )
    tried = re.findall(r"(?m)^#(\d+)\s.* cov: (\d+)", done.stdout)
    examples, reached = tried[-1] if tried else (0, 0)
    return Outcome(
        done.returncode == 0, int(examples), int(reached), done.stdout
    )


def main() -> None:
    """Fuzzes the chosen tests in turn; exits with 1 if one did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each test")
    parser.add_argument("--tests", default=TESTS, help="file of the tests")
    parser.add_argument("--examples", type=int, help="instead of seconds")
    parser.add_argument("--seed", type=int, default=0, help="0: any")
    parser.add_argument("--only", default="", help="tests whose name holds it")
    parser.add_argument("--keep", default="fuzz", help="folder of examples")
    parser.add_argument("--again", default="", help="a kept file, and no other")
    arguments = parser.parse_args()
    keep = pathlib.Path(arguments.keep).resolve()
    keep.mkdir(parents=True, exist_ok=True)
    words = [f"-artifact_prefix={keep}/", f"-seed={arguments.seed}"]
    if arguments.examples:
        words.append(f"-runs={arguments.examples}")
    else:
        words.append(f"-max_total_time={arguments.seconds}")
    if arguments.again:
        words = [str(pathlib.Path(arguments.again).resolve())]
    tests = property_tests(arguments.tests, arguments.only)
    lost = 0
    for test in tests:
        outcome = fuzz(test, *words)
        print(
            f"{test}: {outcome.examples} examples, {outcome.reached} places",
            flush=True,
        )
        if not outcome.held:
            lost += 1
            print(outcome.said[-4000:], flush=True)
    if not tests:
        sys.exit(
            f"no property test in {arguments.tests} has {arguments.only!r}"
        )
    sys.exit(f"{lost} tests do not hold" if lost else 0)


if __name__ == "__main__":
    main()
