"""Which tests of finished runs of pytest were skipped.

python .ci/skipped.py JUNIT_XML... [--allowed=FILE]

Prints their ids, as pytest takes them. With a file of allowed reasons, one part
of a reason per line, only those skipped for another one, and fails if there are
any.
"""

import argparse
import pathlib
import sys
from xml.etree import ElementTree


def find_skipped(report: pathlib.Path) -> list[tuple[str, str]]:
    """Returns id and reason of every skipped test.

    Args:
        report: What pytest's `--junitxml` wrote. A module that is skipped as a
            whole is a test of no module there, and its id is a file's.
    """
    found = []
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is None:
            continue
        *parts, name = (
            *filter(None, case.get("classname").split(".")),
            case.get("name"),
        )
        if not parts:
            parts, name = name.split("."), None
        # What follows the module is a class.
        depth = next(
            n for n in range(1, len(parts) + 1) if _file(parts[:n]).is_file()
        )
        test = "::".join(
            [str(_file(parts[:depth])), *parts[depth:], *filter(None, [name])]
        )
        found.append((test, f"{skipped.get('message')} {skipped.text}"))
    return found


def _file(parts: list[str]) -> pathlib.Path:
    return pathlib.Path(*parts).with_suffix(".py")


def main() -> None:
    """Prints what was skipped, and exits with 1 if that is not allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=pathlib.Path)
    parser.add_argument("--allowed", type=pathlib.Path)
    arguments = parser.parse_args()
    skipped = [one for path in arguments.reports for one in find_skipped(path)]
    if arguments.allowed is None:
        for test, _ in skipped:
            print(test)
        return
    allowed = arguments.allowed.read_text().splitlines()
    others = [
        f"skipped without leave: {test}: {reason}"
        for test, reason in skipped
        if not any(part in reason for part in allowed)
    ]
    for line in others:
        print(line)
    sys.exit(1 if others else 0)


if __name__ == "__main__":
    main()
