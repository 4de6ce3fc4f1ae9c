"""What the machine, or its container, leaves to this process."""

import math
import pathlib
from collections.abc import Iterator

import psutil

from data_prep.runtime import operating_system

_GROUPS = pathlib.Path("/sys/fs/cgroup")
_OWN_GROUPS = pathlib.Path("/proc/self/cgroup")


def memory_left() -> int:
    """Returns how many bytes of memory this process may still take."""
    left = psutil.virtual_memory().available
    for folder, names in _groups("memory"):
        try:
            limit, used = (int((folder / name).read_text()) for name in names)
        except (OSError, ValueError):  # no such file, or "max"
            continue
        left = min(left, max(0, limit - used))
    return left


def processors() -> int:
    """Returns how many processors this process may keep busy, at least 1."""
    count = operating_system.processors()
    for folder, names in _groups("cpu"):
        try:
            words = " ".join((folder / name).read_text() for name in names)
            quota, period = map(int, words.split())
        except (OSError, ValueError):
            continue
        if quota > 0:  # -1 is no limit
            count = min(count, math.ceil(quota / period))
    return max(1, count)


_FILES = {
    ("memory", 1): ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ("memory", 2): ("memory.max", "memory.current"),
    ("cpu", 1): ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    ("cpu", 2): ("cpu.max",),
}


def _groups(controller: str) -> Iterator[tuple[pathlib.Path, tuple[str, ...]]]:
    """Yields each control group above this process, and its files of limits.

    A limit of any group above counts too: those of Slurm, systemd and pods are
    nested (Linux, Documentation/admin-guide/cgroup-v2.rst; v1 in
    cgroup-v1/memory.rst).
    """
    if not _OWN_GROUPS.exists():
        return
    for line in _OWN_GROUPS.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        place, version = _GROUPS, 2
        if controllers:
            if controller not in controllers.split(","):
                continue
            place, version = _GROUPS / controller, 1
        own = place / group.strip("/")
        for folder in (own, *own.parents):
            if place not in (folder, *folder.parents):
                break
            yield folder, _FILES[controller, version]
