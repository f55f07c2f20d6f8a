"""A proxy that stands between a client and a server and fails at random, as a network and a busy service do."""

from collections import Counter
import http.client
import http.server
import random
import threading
from urllib.parse import urlsplit

FAULTS = ("503", "429", "500", "reset before", "reset after", "cut short")


class FaultyProxy:
    """Passes requests on to `upstream`; a share of them meets one of FAULTS. `injected` counts them by kind.

    "reset before": the connection breaks and nothing was done; "reset after": it was done, and nobody is told.
    """

    def __init__(self, upstream: str, share: float, seed: int = 0):
        self.upstream = urlsplit(upstream)
        self.share = share
        self.injected: Counter[str] = Counter()
        self.passed = 0
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "FaultyProxy":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fault(self) -> str | None:
        """Draw what happens to a request."""
        with self._lock:
            if self._draw.random() >= self.share:
                self.passed += 1
                return None
            kind = self._draw.choice(FAULTS)
            self.injected[kind] += 1
            return kind


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that have gone: they were broken off."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.owner.fault()
        if kind == "reset before":
            self.close_connection = True
            self.connection.close()
            return
        if kind in ("503", "429", "500"):
            self._answer(int(kind), [], b"try later")
            return
        upstream = self.owner.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port or 80, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if kind == "reset after":
            self.close_connection = True
            self.connection.close()
            return
        dropped = ("transfer-encoding", "content-length", "connection")
        kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in dropped]
        self._answer(answer.status, kept, data, cut_short=kind == "cut short" and len(data) > 1)

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut_short: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut_short else data)
        if cut_short:
            self.close_connection = True
            self.connection.close()

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = _serve
