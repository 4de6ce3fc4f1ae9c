"""Takes from every Python that has this on its path what Windows lacks."""

import os
import signal
import subprocess  # noqa: F401
import sys

# Python's own modules have chosen by the real system.
import psutil  # noqa: F401

for name in ("fcntl", "resource"):
    sys.modules[name] = None
for name in ("fork", "pread", "pwrite", "sched_getaffinity", "getuid"):
    delattr(os, name)
for name in (
    *("SIGUSR1", "SIGHUP", "SIGKILL"),
    *("pthread_sigmask", "sigwait"),
):
    delattr(signal, name)
