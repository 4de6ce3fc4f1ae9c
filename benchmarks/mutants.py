"""Small wrong changes in what is promised, and whether the tests notice them.

python -m benchmarks.mutants [--only=TEXT] [--list]

Each change of mutants.toml is made in a copy of the project, and the tests
nearest to it are run there, up to the first that fails: it is named, as is a
change that none of them notices. A change that they hang on is noticed too, when
--time_limit has passed. The project itself is not touched.
"""

import argparse
import collections
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = pathlib.Path(__file__).with_suffix(".toml")
# pytest: some test failed, or none could be collected because of the change.
_NOTICED = (1, 2)
_FAILED = ("FAILED ", "ERROR ")  # how it names such a test


class Mutant(NamedTuple):
    """A small wrong change.

    Attributes:
        promise: What it breaks.
        file: The module, relative to the project.
        old: Text that stands there once.
        new: What takes its place.
        tests: What pytest is given.
    """

    promise: str
    file: str
    old: str
    new: str
    tests: str

    @property
    def room(self) -> str:
        """The folder of the module, for the table."""
        return str(pathlib.Path(self.file).parent)


def read() -> list[Mutant]:
    """Returns all changes of the list.

    Raises:
        ValueError: If the text to change does not stand there exactly once.
    """
    content = tomllib.loads(LIST.read_text())
    found = [Mutant(**one) for one in content["mutant"]]
    for one in found:
        times = (ROOT / one.file).read_text().count(one.old)
        if times != 1:
            raise ValueError(
                f"{one.file} holds {times} times: {one.old!r} ({one.promise})"
            )
    return found


def noticed_by(mutant: Mutant, copy: pathlib.Path, time_limit: float) -> str:
    """Returns the test that fails on the change; "" if none does.

    Args:
        mutant: The change.
        copy: A copy of the project, which is left as it was.
        time_limit: Seconds for its tests.
    """
    path = copy / mutant.file
    kept = path.read_text()
    path.write_text(kept.replace(mutant.old, mutant.new))
    try:
        done = run_tests(mutant.tests, copy, time_limit)
    except subprocess.TimeoutExpired:
        return "the time limit"
    finally:
        path.write_text(kept)
    if done.returncode not in (0, *_NOTICED):
        sys.exit(f"pytest {mutant.tests} cannot be run:\n{done.stdout}")
    failed = [x for x in done.stdout.splitlines() if x.startswith(_FAILED)]
    return failed[0].split()[1] if failed else ""


def run_tests(
    tests: str, copy: pathlib.Path, time_limit: float
) -> subprocess.CompletedProcess:
    """Runs pytest in a copy of the project, up to the first failure.

    Raises:
        subprocess.TimeoutExpired: If it takes longer; its processes are killed.
    """
    words = ["-q", "-x", "-n0", "-m", "", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "pytest", *words, *shlex.split(tests)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=time_limit)
    finally:
        # Also of a Ctrl-C here, which its session does not get.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def main() -> None:
    """Tries the changes and prints a table of what was noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a file or promise")
    parser.add_argument("--list", action="store_true", help="try nothing")
    parser.add_argument(
        "--time_limit", type=float, default=1200, help="seconds for a change"
    )
    arguments = parser.parse_args()
    chosen = [
        one for one in read() if arguments.only in f"{one.file} {one.promise}"
    ]
    if arguments.list:
        for one in chosen:
            print(f"{one.file}: {one.promise}")
        return
    tried: collections.Counter = collections.Counter()
    noticed: collections.Counter = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "project")
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__")
        )
        for one in chosen:
            tried[one.room] += 1
            test = noticed_by(one, copy, arguments.time_limit)
            noticed[one.room] += bool(test)
            print(
                f"{'noticed' if test else 'UNNOTICED'}: {one.file}: "
                f"{one.promise} {test}",
                flush=True,
            )
    for room, count in sorted(tried.items()):
        print(f"{room}: {noticed[room]} of {count}")
    total = sum(tried.values())
    print(f"all: {sum(noticed.values())} of {total}")
    sys.exit(sum(noticed.values()) < total)


if __name__ == "__main__":
    main()
