"""Commands in processes of their own that need not import TensorFlow.

Its import is most of what a small run takes. So one process imports it and
nothing else, and forks for each command: what is run, its signals, its exit
code and what it prints are a real process's. Nothing is kept from one command
to the next. Tests of how a command starts run `python -m` instead.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading

_STREAMS = (1, 2)  # stdout and stderr


class Process:
    """A command that runs; what `subprocess.Popen` is, as far as tests ask.

    Args:
        words: What follows `python`: `-m` and a module, or a path; arguments.
        cwd: Its folder.
        env: All of its environment.
        join: Whether stderr goes where stdout does.
    """

    def __init__(self, words, *, cwd, env, join=False):
        self.returncode = None
        ours, theirs = os.pipe()
        outputs, given = [ours], [theirs, theirs]
        if not join:
            other, given[1] = os.pipe()
            outputs.append(other)
        self._files = [open(one, "rb") for one in outputs]
        request = {"words": words, "cwd": str(cwd), "env": env}
        self.pid = _Server.running().start(request, given)
        for one in set(given):
            os.close(one)

    def poll(self):
        """Returns its exit code, negative for a signal's; None while it runs."""
        if self.returncode is None:
            self.returncode = _Server.running().code_of(self.pid, wait=False)
        return self.returncode

    def wait(self):
        """Returns its exit code when it has ended."""
        if self.returncode is None:
            self.returncode = _Server.running().code_of(self.pid, wait=True)
        return self.returncode

    def communicate(self):
        """Returns its outputs as text when it has ended; stderr may be None."""
        read = {}

        def drain(index, file):
            with file:
                read[index] = file.read().decode()

        threads = [
            threading.Thread(target=drain, args=one)
            for one in enumerate(self._files)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.wait()
        return read[0], read.get(1)

    def send_signal(self, number):
        """Sends it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Sends SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run(words, *, cwd, env):
    """Runs a command to its end; see `Process`."""
    process = Process(words, cwd=cwd, env=env)
    out, errors = process.communicate()
    return subprocess.CompletedProcess(words, process.returncode, out, errors)


class _Server:
    """The process that forks, as the tests see it; one for each of theirs."""

    _found = None

    @classmethod
    def running(cls):
        if cls._found is None:
            cls._found = cls()
        return cls._found

    def __init__(self):
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._codes = {}
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
            # A thread of OpenBLAS would not be there in the forked process.
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        theirs.close()

    def start(self, request, descriptors):
        socket.send_fds(
            self._socket, [json.dumps(request).encode()], descriptors
        )
        while (message := self._receive()) and "pid" not in message:
            self._codes[message["ended"]] = message["code"]
        return message["pid"]

    def code_of(self, pid, wait):
        while pid not in self._codes:
            if not wait and not select.select([self._socket], [], [], 0)[0]:
                return None
            message = self._receive()
            self._codes[message["ended"]] = message["code"]
        return self._codes[pid]

    def _receive(self):
        return json.loads(self._socket.recv(1 << 16))


def serve(connection):
    """Forks for every request, and tells of every process that has ended."""
    ended, noted = os.pipe()
    os.set_blocking(noted, False)
    signal.set_wakeup_fd(noted)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            os.read(ended, 1 << 12)
            while (found := _reap()) is not None:
                tell(connection, ended=found[0], code=found[1])
        if connection in ready:
            text, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 2)
            if not text:
                return
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (ended, noted, connection.fileno()):
                    os.close(one)
                become(**json.loads(text), descriptors=descriptors)
                return
            tell(connection, pid=pid)
            for one in descriptors:
                os.close(one)


def tell(connection, **message):
    connection.send(json.dumps(message).encode())


def _reap():
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    return (pid, os.waitstatus_to_exitcode(status)) if pid else None


def become(words, cwd, env, descriptors):
    """Runs a command as Python's own start would; its end is this process's."""
    for one, stream in zip(descriptors, _STREAMS, strict=True):
        os.dup2(one, stream)
    for one in descriptors:
        os.close(one)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    if words[0] == "-m":
        sys.path[0], sys.argv = cwd, words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv = os.path.dirname(words[0]), words
        runpy.run_path(words[0], run_name="__main__")


def main():
    sys.path[0] = os.getcwd()
    from data_prep.runtime import startup

    startup.import_tensorflow()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
