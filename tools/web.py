"""HTTP for one service: bodies with limits, JSON, events, a page; refusals in OpenAI's shape.

A client can be slow, vanish or send half a request: that costs it its own connection and no other's. Each has
a thread; sockets have a time limit; events that a slow reader has not taken wait in memory, which the length
of an answer limits, and not in the thread that makes them.
"""

import base64
import hashlib
import hmac
import ipaddress
import json
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from threading import Lock
from urllib.parse import urlsplit

from cli import UserError
from tools.messages import Refusal

TIMEOUT = 60  # seconds that a client may take for a body, for its next request, and to take what we send
BODY = 32 << 20  # bytes of one body
BODIES = 4 * BODY  # bytes of all bodies in memory
CONNECTIONS = 512  # at a time, each with a thread
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class Server(ThreadingMixIn, TCPServer):
    """A thread for each connection. Raises UserError where it cannot listen."""

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 256

    def __init__(self, host: str, port: int, handler: type, key: str = ""):
        self.key, self.lock = key, Lock()
        self.connections = self.busy = self.bodies = 0  # busy: requests that are being answered
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), handler)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--port: cannot listen at {host}, {port} ({reason}); try another one") from None

    def process_request(self, request: socket.socket, address: tuple) -> None:
        if self.connections < CONNECTIONS:
            super().process_request(request, address)
            return
        request.setblocking(False)
        request.send(BUSY)
        self.shutdown_request(request)

    def process_request_thread(self, request: socket.socket, address: tuple) -> None:
        with self.count("connections", 1):
            super().process_request_thread(request, address)

    @contextmanager
    def count(self, name: str, amount: int) -> Iterator[None]:
        """Within it, an amount is added to a number of this server."""
        self.add(name, amount)
        try:
            yield
        finally:
            self.add(name, -amount)

    def add(self, name: str, amount: int) -> int:
        with self.lock:
            setattr(self, name, getattr(self, name) + amount)
            return getattr(self, name)

    def handle_error(self, *_) -> None:
        """Clients that have left are no news."""


def is_local(host: str | None) -> bool:
    """Whether a name or an address is that of this machine, for itself alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def name_of(host: str) -> str | None:
    """A Host header without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def written(value: dict) -> str:
    """JSON in which nothing looks like markup, for whoever shows it as what it is not."""
    return json.dumps(value).replace("<", "\\u003c")


class Handler(BaseHTTPRequestHandler):
    """What one connection asks: `answer` says what comes, or raises Refusal."""

    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT
    wbufsize = 1 << 16  # headers and body in one packet: two would wait for each other
    disable_nagle_algorithm = True
    left = 0  # bytes of the body that have not been read
    events: "Events | None" = None  # that are being sent

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        with self.server.count("busy", 1):
            self.answer_or_refuse()

    do_POST = do_GET

    def answer_or_refuse(self) -> None:
        self.events, self.left = None, self.length()
        try:
            self.check_client()
            self.answer()
        except Refusal as refusal:
            if self.events:  # in the middle of a stream
                self.events.send(refusal.body())
                self.events.finish()
            else:
                self.refuse(refusal)
        except ConnectionError:
            self.close_connection = True

    # ---- what comes ----

    def check_client(self) -> None:
        """The key; without one, no web page from elsewhere may use what this machine can. Raises Refusal."""
        if self.server.key:
            sent = self.headers.get("Authorization", "").encode("latin-1")
            if not (self.is_open() or hmac.compare_digest(sent, f"Bearer {self.server.key}".encode())):
                raise Refusal("wrong or missing key", code="invalid_api_key", status=401)
            return
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if host and not is_local(name_of(host)):
            raise Refusal(f"Host: got {host[:60]!r}, wanted this machine's own name, or a --key", status=403)
        if origin and origin.partition("://")[2] != host:
            raise Refusal(f"Origin: got {origin[:60]!r}, wanted a page of this server", status=403)

    def is_open(self) -> bool:
        """Whether the path asks for no key."""
        return False

    def length(self) -> int:
        """Bytes that come as the body; -1 where that is not said, or not clearly."""
        given = self.headers.get_all("Content-Length", ["0"])
        clear = len(given) == 1 and re.fullmatch(r"\d{1,15}", given[0], re.ASCII)
        return int(given[0]) if clear and "Transfer-Encoding" not in self.headers else -1

    @contextmanager
    def body(self) -> Iterator[bytes]:
        """The body, which counts among those in memory within it. Raises Refusal, ConnectionError."""
        if self.left < 0:
            raise Refusal("wanted a Content-Length, once, and no other encoding", status=411)
        if self.left > BODY:
            got = f"body: got {self.left:,} bytes, wanted at most {BODY:,}"
            raise Refusal(got, code="request_too_large", status=413)
        data, deadline = bytearray(), time.monotonic() + TIMEOUT
        try:
            while self.left:
                part = self.rfile.read1(min(self.left, 1 << 16))
                if not part or time.monotonic() > deadline:
                    raise ConnectionAbortedError
                self.left -= len(part)
                data += part
                if self.server.add("bodies", len(part)) > BODIES:
                    raise Refusal("too much to read at once; try again", status=503, after=1)
            yield bytes(data)
        finally:
            self.server.add("bodies", -len(data))

    def gone(self) -> bool:
        """Whether the client has closed its end."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN)
        if not poll.poll(0):
            return False
        try:
            return not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    # ---- what goes ----

    def reply(self, value: dict, status: int = 200, headers: dict | None = None) -> None:
        self.send(written(value).encode(), "application/json", status, headers)

    def send(self, data: bytes, kind: str, status: int = 200, headers: dict | None = None) -> None:
        self.send_response(status)
        always = {"Content-Type": kind, "Content-Length": len(data), "X-Content-Type-Options": "nosniff"}
        for name, value in (always | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        self.wfile.flush()

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an error and close: what follows an unread body is no request."""
        headers = {"Connection": "close"}
        if refusal.after is not None:
            headers["Retry-After"] = refusal.after
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        self.reply(refusal.body(), refusal.status, headers)
        self.drain()

    def drain(self) -> None:
        """Take what is still sent for a while: a client that is cut off sees no answer."""
        self.connection.settimeout(1)
        end = time.monotonic() + 2
        with suppress(OSError):
            while self.left and time.monotonic() < end:
                part = self.rfile.read1(1 << 16)
                if not part:
                    break
                self.left = max(self.left - len(part), 0)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the library finds wrong."""
        self.refuse(Refusal(message or self.responses[code][0], status=code))

    def version_string(self) -> str:
        return "moragent"

    def log_message(self, *_) -> None:
        """Prompts and keys belong in no log."""


class Events:
    """Server-sent events. `send` never waits for the reader; `finish` does, for TIMEOUT at a time."""

    def __init__(self, handler: Handler):
        self.connection, self.waiting = handler.connection, bytearray()
        handler.events, handler.close_connection = self, True
        handler.send_response(200)
        for name, value in (("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")):
            handler.send_header(name, value)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.flush()

    def send(self, value: dict | str) -> None:
        """Raises ConnectionError where the reader has left."""
        text = value if isinstance(value, str) else written(value)
        self.waiting += f"data: {text}\n\n".encode()
        poll = select.poll()
        poll.register(self.connection, select.POLLOUT)
        if poll.poll(0):
            del self.waiting[: self.connection.send(self.waiting)]

    def finish(self) -> None:
        self.connection.sendall(self.waiting)


# ---- a page ----

INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def policy(page: str) -> str:
    """The content security policy under which a page runs its own script and style and nothing else."""
    rules = (
        "default-src 'none'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    for kind, text in INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        rules += f"; {kind}-src 'sha256-{digest}'"
    return rules
