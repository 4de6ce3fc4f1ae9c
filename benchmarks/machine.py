"""What a figure was measured on: machine, versions, commit."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable

import psutil

from data_prep.runtime import limits

# What the benchmarks here measure, and what they measure it against.
PACKAGES = (
    *("tensorflow", "keras", "keras-cv", "tf-keras", "tensorflow-datasets"),
    *("numpy", "opencv-python-headless", "pillow", "simplejpeg", "starlette"),
    *("uvicorn", "torch", "webdataset", "grain", "nvidia-dali-cuda120"),
)
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def line(*packages: str) -> str:
    """Returns one line about the machine and the versions of packages."""
    found = versions(packages)
    words = [f"{name} {found.get(name, 'absent')}" for name in packages]
    return (
        f"{os.cpu_count()} x {_cpuinfo('model name')}, "
        f"Python {platform.python_version()}, " + ", ".join(words)
    )


def describe() -> dict[str, object]:
    """Returns the machine, for JSON; `load` is of the last minute."""
    return {
        "model": _cpuinfo("model name"),
        "processors": os.cpu_count(),
        "processors allowed": limits.processors(),
        "flags": sorted(_cpuinfo("flags").split()),
        "memory_bytes": psutil.virtual_memory().total,
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Returns what is checked out, and whether files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(_ROOT), *words],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (", changed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git checkout"


def _cpuinfo(key: str) -> str:
    """Returns a line of the first processor; "" where there is none."""
    path = pathlib.Path("/proc/cpuinfo")
    for text in path.read_text().splitlines() if path.exists() else ():
        name, _, value = text.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
