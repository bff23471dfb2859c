"""Web servers on loopback that misbehave as told: of a folder, or in front of another such as an object store."""

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HOP_BY_HOP = {"connection", "transfer-encoding", "server", "date", "content-length", "keep-alive"}


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong."""

    kind: str
    """status; drop: the connection breaks off; stall: silence until the server is closed; cut: a shorter file, and said
    so; flip: a byte is another one; endless: zeros follow, as long as they are read."""
    after: int = 0
    """Bytes of the body that are sent before a drop, a stall or a cut, or the place of the byte that is flipped."""
    status: int = 500
    body: bytes = b"a fault"
    """Of a status."""


@dataclass
class Request:
    """One that was answered."""

    method: str
    path: str
    range: str | None
    sent_bytes: int = 0


@dataclass
class FaultyServer:
    """Serves the files of `folder`, or what the server at `upstream` answers, with faults.

    `fault(path, n)` is asked at the n-th request (0, 1, ...) for a path, and returns a Fault or None.
    """

    folder: Path | None = None
    upstream: str = ""
    ranges: bool = True
    """Whether range requests are understood; a server may ignore them."""
    fault: Callable[[str, int], Fault | None] = lambda path, n: None
    write_fault: Callable[[str, int], Fault | None] = lambda path, n: None
    """The same for what is sent to `upstream` (PUT, POST, DELETE): status or stall, before it gets there; drop, after
    that; flip, of a byte of what is sent."""
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> "FaultyServer":
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: _Handler(self, *arguments))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def requests_of(self, name: str) -> list[Request]:
        """The GET requests whose path ends in a name."""
        with self._lock:
            return [r for r in self.requests if r.method == "GET" and r.path.endswith(name)]

    def record(self, request: Request) -> int:
        with self._lock:
            self.requests.append(request)
            return sum(r.path == request.path and r.method == request.method for r in self.requests) - 1

    def writes_of(self, name: str) -> list[Request]:
        """The PUT, POST and DELETE requests whose path ends in a name."""
        with self._lock:
            return [r for r in self.requests if r.method not in ("GET", "HEAD") and r.path.split("?")[0].endswith(name)]

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a well-behaved answer."""
        if self.upstream:
            return _ask(method, self.upstream + path, headers)
        file = self.folder / path.split("?")[0].lstrip("/")
        if not file.is_file():
            return 404, {}, b"no such file"
        body, asked = file.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
        if not self.ranges or not asked:
            return 200, {}, body
        start, stop = int(asked[1]), min(int(asked[2] or len(body)) + 1, len(body))
        if start >= len(body):
            return 416, {"Content-Range": f"bytes */{len(body)}"}, b""
        return 206, {"Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}, body[start:stop]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, owner: FaultyServer, *arguments):
        self.owner = owner
        super().__init__(*arguments)

    def do_GET(self) -> None:
        request = Request(self.command, self.path, self.headers.get("Range"))
        fault = self.owner.fault(self.path.split("?")[0], self.owner.record(request))
        status, headers, body = self.owner.answer(self.command, self.path, dict(self.headers))
        length = int(headers.pop("X-Length", len(body)))
        if fault and fault.kind == "status":
            status, headers, body = fault.status, {}, fault.body
            length = len(body)
        if fault and fault.kind == "cut":
            body = body[: fault.after]
            length = len(body)
        if fault and fault.kind == "flip" and len(body) > fault.after:
            body = body[: fault.after] + bytes([body[fault.after] ^ 1]) + body[fault.after + 1 :]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        endless = fault and fault.kind == "endless"
        self.send_header(*(("Connection", "close") if endless else ("Content-Length", str(length))))
        self.end_headers()
        if self.command == "HEAD":
            return
        broken = fault and fault.kind in ("drop", "stall")
        with suppress(ConnectionError):
            for start in range(0, fault.after if broken else len(body), 1 << 12):
                piece = body[start : min(start + (1 << 12), fault.after if broken else len(body))]
                self.wfile.write(piece)
                request.sent_bytes += len(piece)
            while endless and not self.owner.closing.is_set():
                self.wfile.write(bytes(1 << 16))
                request.sent_bytes += 1 << 16
        if endless:
            self.close_connection = True
        if broken:
            self.wfile.flush()
            if fault.kind == "stall":
                self.owner.closing.wait()
            self.close_connection = True

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        request = Request(self.command, self.path, None)
        fault = self.owner.write_fault(self.path.split("?")[0], self.owner.record(request))
        if fault and fault.kind == "stall":
            self.owner.closing.wait()
        if fault and fault.kind in ("status", "stall"):
            status, headers, answer = fault.status, {"Content-Type": "application/xml"}, fault.body
        else:
            if fault and fault.kind == "flip":
                body = body[: fault.after] + bytes([body[fault.after] ^ 1]) + body[fault.after + 1 :]
            headers = {"Content-Type": "application/octet-stream"} | dict(self.headers)  # else urllib says: a form
            status, headers, answer = _ask(self.command, self.owner.upstream + self.path, headers, body)
        self.close_connection = True
        if fault and fault.kind == "drop":
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_DELETE = do_PUT

    def log_message(self, *_) -> None:
        pass


def _ask(method: str, url: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    request = urllib.request.Request(url, body or None, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
        if method == "HEAD":
            kept["X-Length"] = answer.headers.get("Content-Length", "0")
        return answer.status, kept, answer.read()
