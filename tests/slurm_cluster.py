"""A real Slurm of two nodes on this machine, in a folder of its own.

Debian's packages slurm-wlm and munge; nothing of /etc or of a Slurm that runs
here already is touched. The nodes are called 127.0.0.1 and 127.0.0.2, which
every machine can reach without a name server.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol")
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=30
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=30
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
NodeName=127.0.0.1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=127.0.0.2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclasses.dataclass
class Slurm:
    """A running cluster; `environ` makes Slurm's commands use it."""

    root: pathlib.Path
    environ: dict[str, str]

    def run(self, *words: str, check: bool = True) -> str:
        """Runs a command of Slurm's; returns its output."""
        done = subprocess.run(
            words, capture_output=True, text=True, env=self.environ
        )
        if check and done.returncode:
            raise RuntimeError(f"{words}: {done.stderr}")
        return done.stdout + done.stderr

    def job(self, number: str) -> dict[str, str]:
        """Returns what scontrol says of a job."""
        text = self.run("scontrol", "--oneliner", "show", "job", number)
        return dict(w.partition("=")[::2] for w in text.split() if "=" in w)

    def wait(self, number: str, *states: str, seconds: float = 600) -> dict:
        """Waits until a job is in one of the states; returns what it is."""
        end = time.monotonic() + seconds
        while (found := self.job(number))["JobState"] not in states:
            if time.monotonic() > end:
                raise TimeoutError(f"job {number} is {found}")
            time.sleep(0.2)
        return found

    def finish(self, number: str, seconds: float = 600) -> dict[str, str]:
        """Waits for the end of a job, through its restarts.

        Slurm starts a requeued job after two minutes; here it is told to do
        so at once.
        """
        end = time.monotonic() + seconds
        ends = ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")
        while True:
            found = self.job(number)
            if found["JobState"] in ends:
                # On its way back into the queue a job passes through these.
                time.sleep(3)
                if self.job(number)["JobState"] == found["JobState"]:
                    return found
            if found["JobState"] == "PENDING":
                # A credential of the second in which the last run was revoked
                # would be revoked too.
                time.sleep(2)
                start = ("scontrol", "update", f"jobid={number}")
                self.run(*start, "StartTime=now", check=False)
            if time.monotonic() > end:
                raise TimeoutError(f"job {number} is {found}")
            time.sleep(0.5)


def missing() -> str:
    """Returns why there can be no cluster here, "" if there can."""
    absent = [p for p in PROGRAMS if not find(p)]
    if absent:
        return f"{', '.join(absent)} not installed (slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "slurmd must run as root"


def find(program: str) -> str | None:
    """Returns the path of a program; daemons may not be on a user's PATH."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")


@contextlib.contextmanager
def cluster(root: pathlib.Path):
    """Starts a cluster in a short, new folder; ends it on leaving."""
    config = root / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    (root / "state").mkdir()
    config.write_text(CONFIG.format(root=root, host=host, ports=_ports(3)))
    key = root / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    environ = {
        **os.environ,
        "SLURM_CONF": str(config),
        "PATH": f"{os.environ['PATH']}:/usr/sbin",
    }
    daemons = (
        # --force: the folder need not be munge's own.
        ["munged", "--foreground", "--force"]
        + [f"--socket={root}/munge.socket", f"--key-file={key}"]
        + [f"--pid-file={root}/munged.pid", f"--seed-file={root}/munge.seed"]
        + [f"--log-file={root}/munged.log"],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config), "-N", "127.0.0.1"],
        ["slurmd", "-D", "-f", str(config), "-N", "127.0.0.2"],
    )
    running = []
    try:
        for words in daemons:
            with open(root / "daemons.log", "ab") as log:
                words[0] = find(words[0])
                running.append(
                    subprocess.Popen(words, env=environ, stdout=log, stderr=log)
                )
            if len(running) == 1:
                _until(lambda: (root / "munge.socket").exists())
        slurm = Slurm(root, environ)
        _until(
            lambda: (
                slurm.run("sinfo", "-hN", "-o", "%t", check=False).split()
                == ["idle"] * 2
            )
        )
        try:
            yield slurm
        finally:
            # A step would outlive the daemons.
            slurm.run("scancel", "--user=root", check=False)
            _until(lambda: not slurm.run("squeue", "-h", check=False))
    finally:
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            daemon.wait(timeout=60)


def _until(ready, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError("Slurm did not start; see its logs")
        time.sleep(0.2)


def _ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
