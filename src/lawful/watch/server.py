"""The server of the page: it answers GET, for those who may ask, from memory and the record.

Python's own `http.server`, without its part that serves files: an address is looked up in a table
of answers, so there is no path to climb out of. Who may ask:

- Host:    a page of another site could make its name point here (DNS rebinding), so the name asked
           for must be this machine's, or a bare address.
- Origin:  a request that says it comes from another site is refused.
- token:   needed for every number when others than this machine can connect; it travels in a
           header that only our own page sends, never in an address.

The page may load nothing from elsewhere and be framed by nobody; a name that holds markup is set as
text. One answer is at most `MOST` bytes, a client that says nothing for `PATIENCE` seconds is cut,
and `CLIENTS` connections are held at a time.
"""

from __future__ import annotations

import gzip
import hmac
import ipaddress
import json
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..record import RecordError
from ..report.html import asset, plotly_js
from . import answers
from .follow import Follower

MOST = 1_000_000
PATIENCE = 30.0
CLIENTS = 64
PART = 900_000
"""Letters of plotly in one answer; the page puts the parts together."""

ENDPOINTS: dict[str, Callable[[Follower, dict[str, str]], Any]] = {
    "/api/runs": answers.runs,
    "/api/run": answers.run,
    "/api/layer": answers.layer,
    "/api/series": answers.series,
}

SAFE = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' blob:; connect-src 'self'; "
    "style-src 'self' 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refusal(ValueError):
    """The server cannot be started as asked; the message says why and what to do."""


class Server(ThreadingHTTPServer):
    """The server and what its answers need.

    follower: of the runs.  token: what a client must know, "" when there is none.
    names:    hosts it answers to, besides bare addresses when it listens to others.
    """

    daemon_threads = True
    follower: Follower
    token: str
    names: frozenset[str]
    local: bool

    def __init__(self, host: str, port: int, follower: Follower, token: str) -> None:
        self.follower, self.token, self.local = follower, token, is_loopback(host)
        own = {"localhost", "127.0.0.1", "[::1]"}
        if not self.local:
            own |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self.names = frozenset(own)
        self._room = threading.BoundedSemaphore(CLIENTS)
        self._open: set[Any] = set()
        if ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__((host, port), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it when there is no room."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, then make room."""
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._room.release()

    def server_close(self) -> None:
        """Stop listening, and leave no connection that would go on being answered."""
        super().server_close()
        for request in list(self._open):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that was cut is nobody's error."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "lawful"
    sys_version = ""
    timeout = PATIENCE
    server: Server

    def do_GET(self) -> None:
        """Answer from the table."""
        url = urlsplit(self.path)
        if not self._from_here():
            self._send(403, "text/plain", b"this address is not served under that name")
        elif url.path in ENDPOINTS:
            self._tell(ENDPOINTS[url.path], url.query)
        elif url.path in pages():
            self._send(200, *pages()[url.path])
        else:
            self._send(404, "text/plain", b"there is nothing here")

    def _from_here(self) -> bool:
        """Whether the request names this server and comes from its own page, or from no page."""
        port = self.server.server_address[1]
        host = self.headers.get("Host", "").lower()
        name = host.removesuffix(f":{port}")
        listed = name in self.server.names or (not self.server.local and is_address(name))
        origin = self.headers.get("Origin")
        site = self.headers.get("Sec-Fetch-Site", "none")
        ours = origin is None or urlsplit(origin).netloc.lower() == host
        return listed and ours and site in ("none", "same-origin")

    def _tell(self, answer: Callable[[Follower, dict[str, str]], Any], query: str) -> None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.token and not hmac.compare_digest(
            given.encode(), self.server.token.encode()
        ):
            self._send(401, "text/plain", b"a token is needed")
            return
        self.server.follower.wake()
        code = 200
        try:
            document = answer(self.server.follower, dict(parse_qsl(query, max_num_fields=8)))
        except (LookupError, ValueError, OverflowError) as error:
            code, document = 404, {"fault": f"no such thing: {type(error).__name__}"}
        except RecordError as error:
            document = {"fault": str(error)[:500]}
        body = json.dumps(document, allow_nan=False, separators=(",", ":")).encode()
        if len(body) > MOST:
            code, body = 500, b'{"fault":"the answer is too large to send"}'
        self._send(code, "application/json", body)

    def _send(self, code: int, kind: str, body: bytes, packed: bytes | None = None) -> None:
        self.send_response(code)
        if len(body) > 1000 and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = packed or gzip.compress(body, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in SAFE.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed: an address may hold what should not be."""


def serve(follower: Follower, host: str, port: int, token: str | None) -> Server:
    """A server that listens, not yet serving: `serve_forever` serves, `server_close` ends.

    token: None makes one where one is needed: when `host` is not this machine alone.
    Raises `Refusal` for a host, port or token that cannot be used.
    """
    if token is not None and len(token) < 16:
        raise Refusal(
            "the token has fewer than 16 characters: use a longer one, or let one be made"
        )
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    pages()  # now, so that the first who asks does not wait for it
    try:
        return Server(host, port, follower, token or "")
    except (OSError, OverflowError) as error:
        raise Refusal(f"cannot listen on {host}:{port}: {error}") from error


def address(server: Server) -> str:
    """Where the page is; the token stands behind #, which a browser does not send."""
    host, port = server.server_address[:2]
    shown = f"[{host!s}]" if ":" in str(host) else str(host)
    if shown in ("0.0.0.0", "[::]"):
        shown = socket.gethostname()
    return f"http://{shown}:{port}/" + (f"#{server.token}" if server.token else "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def is_address(name: str) -> bool:
    """Whether a host is written as a bare IP address, which no name server can redirect.

    >>> is_address("192.168.1.7"), is_address("[fe80::1]"), is_address("evil.example")
    (True, True, False)
    """
    with suppress(ValueError):
        ipaddress.ip_address(name.strip("[]"))
        return True
    return False


@cache
def pages() -> dict[str, tuple[str, bytes, bytes]]:
    """Address -> (kind, contents, the same compressed) of everything that is no number."""
    parts = plotly_parts()
    own = resources.files(__package__)
    page = own.joinpath("watch.html").read_text(encoding="utf-8")
    world = {"phases": answers.phases(), "relations": answers.relations(), "parts": len(parts)}
    texts = {
        "/": ("text/html", page),
        "/watch.css": ("text/css", asset("page.css") + own.joinpath("watch.css").read_text()),
        "/figures.js": ("text/javascript", asset("figures.js")),
        "/watch.js": ("text/javascript", own.joinpath("watch.js").read_text(encoding="utf-8")),
        "/world.json": ("application/json", json.dumps(world)),
        **{f"/plotly-{i}": ("text/plain", part) for i, part in enumerate(parts)},
    }
    return {
        path: (kind, text.encode(), gzip.compress(text.encode(), 6))
        for path, (kind, text) in texts.items()
    }


def plotly_parts() -> list[str]:
    """The script of plotly in parts small enough to send."""
    script = plotly_js()
    return [script[i : i + PART] for i in range(0, len(script), PART)]
