"""A real systemd as process 1 of namespaces of its own, with our units alone.

It sees no unit of the machine (SYSTEMD_UNIT_PATH, and a folder of ours in the
place of /etc/systemd/system): nothing is mounted, cleaned or started but what a
test puts there. Its cgroup is a folder of its own, too.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time

import psutil

PROGRAM = "/lib/systemd/systemd"
CGROUPS = pathlib.Path("/sys/fs/cgroup/systemd")
UNITS = "/etc/systemd/system"
# $1: the folder of units. Under `set -e`: without its mounts nothing starts.
BOOT = f"""
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs /run
mount --bind "$1" {UNITS}
umount -R /sys/fs/cgroup
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir {CGROUPS}
mount -t cgroup -o none,name=systemd systemd {CGROUPS}
export SYSTEMD_UNIT_PATH={UNITS} SYSTEMD_GENERATOR_PATH=/run/none container=test
exec {PROGRAM} --system --unit=multi-user.target --log-target=null
"""
# What a unit waits for by default, and what ours names.
TARGETS = (
    *("sysinit", "basic", "multi-user", "network-online", "shutdown"),
    "default",
)


def missing():
    """Returns why it cannot run here, "" if it can."""
    if not os.path.exists(PROGRAM) or not shutil.which("nsenter"):
        return "systemd or nsenter is not installed"
    if os.geteuid() or not os.access(CGROUPS, os.W_OK):
        return "needs root, and cgroups with a systemd hierarchy"
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--cgroup", "--net", "--fork", "true"],
        check=False,
        capture_output=True,
    )
    return "namespaces cannot be made here" if done.returncode else ""


class Host:
    """A running systemd."""

    def __init__(self, number):
        self._number = number

    def systemctl(self, *words, check=True):
        """Runs systemctl there; returns its output."""
        done = subprocess.run(
            ["nsenter", f"--target={self._number}", "--mount", "--pid"]
            + ["systemctl", "--no-pager", *words],
            capture_output=True,
            text=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"systemctl {words}: {done.stderr}")
        return done.stdout.strip()

    def show(self, unit, name):
        """Returns a property of a unit."""
        return self.systemctl("show", f"--property={name}", "--value", unit)

    def wait(self, unit, is_so, seconds=300):
        """Waits until a condition of a unit's properties holds.

        Args:
            unit: Its name.
            is_so: Takes properties by name.
            seconds: After which it is a failure.
        """
        end = time.monotonic() + seconds
        while True:
            text = self.systemctl("show", unit)
            found = dict(x.split("=", 1) for x in text.splitlines() if "=" in x)
            if is_so(found):
                return found
            if time.monotonic() > end:
                raise TimeoutError(f"{unit}: {text}")
            time.sleep(0.2)


@contextlib.contextmanager
def boot(units):
    """Starts a systemd; at the end it is killed, as by a power cut.

    Args:
        units: Folder of units and of what is enabled, as of one machine.

    Yields:
        The `Host`.
    """
    for name in TARGETS:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    group = CGROUPS / f"shardtune-test-{os.getpid()}"
    group.mkdir()
    process = subprocess.Popen(
        # It ends with this process, however that ends.
        ["setpriv", "--pdeathsig=KILL"]
        + ["unshare", "--mount", "--pid", "--mount-proc", "--cgroup", "--net"]
        + ["--ipc", "--uts", "--fork", "--kill-child"]
        + ["bash", "-c", BOOT, "bash", str(units)],
        preexec_fn=lambda: (group / "cgroup.procs").write_text("0"),
        stdin=subprocess.DEVNULL,
    )
    try:
        while not (children := psutil.Process(process.pid).children()):
            if process.poll() is not None:
                raise RuntimeError("systemd did not start")
            time.sleep(0.05)
        host = Host(children[0].pid)
        end = time.monotonic() + 60
        while host.systemctl("is-system-running", check=False) not in (
            "running",
            "degraded",
        ):
            if time.monotonic() > end:
                raise TimeoutError("systemd is not up")
            time.sleep(0.2)
        yield host
    finally:
        process.kill()
        process.wait()
        _remove(group)


def _remove(group):
    """Removes a cgroup and those below it, once their processes are gone."""
    end = time.monotonic() + 30
    while group.exists():
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if time.monotonic() > end:
            raise TimeoutError(f"{group} is still in use")
        time.sleep(0.1)
