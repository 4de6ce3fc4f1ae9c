"""Slurm's short form of host names."""

import itertools
import re

from data_prep.runtime.errors import UsageError


def expand(hostlist: str) -> list[str]:
    """Returns the host names in Slurm's own order.

    As `scontrol show hostnames` prints them: the order is that of the ranks,
    so nothing is sorted, and `n[9-10,2]` is n9, n10, n2.

    Args:
        hostlist: Such as `gpu[01-03,07],login`.

    Raises:
        UsageError: If a bracket or range makes no sense.
    """
    hosts = []
    for item in re.findall(r"(?:[^,\[\]]|\[[^\]]*\])+", hostlist):
        parts = re.split(r"\[([^\]]*)\]", item)
        # Text outside of brackets and lists inside take turns.
        choices = [
            _expand_ranges(part, hostlist) if inside % 2 else [part]
            for inside, part in enumerate(parts)
        ]
        hosts += ["".join(pieces) for pieces in itertools.product(*choices)]
    return hosts


def _expand_ranges(ranges: str, hostlist: str) -> list[str]:
    numbers = []
    for piece in ranges.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        if not match:
            raise UsageError(
                f"the host list {hostlist!r} cannot be read: expected numbers "
                f"and ranges in brackets, received [{ranges}]."
            )
        low, high = match[1], match[2] or match[1]
        numbers += [
            str(number).zfill(len(low))
            for number in range(int(low), int(high) + 1)
        ]
    return numbers
