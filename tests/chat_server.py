"""A chat endpoint on this machine, POST {base_url}/chat/completions over real HTTP, that can misbehave.

  with ChatServer(lambda request: "Yes.", misbehave(seed=0)) as server:
      ...  # ask server.base_url; server.requests lists what came

A fault is named, for the request with a key (SHA-256 of its body) and its attempt, counted from 0:

  "429", "500", "401", ...   this status, with an error body that repeats the Authorization header
  "429-after", "503-after"   the same, with Retry-After
  "429-quota"                the same, saying that the quota is used up, as OpenAI does
  "close"                    the connection ends without a reply
  "truncate"                 it ends amid the body
  "invalid-json"             half a body, of the length it says
  "no-choices"               a body with an error in place of choices
  "slow"                     the right reply, `slow` seconds late
  "drip"                     the right reply, a byte every 20 ms
  "wrong"                    a well-formed reply with other words, WRONG
  "html", "events"           a web page, or a stream of events, with 200
  "gzip"                     the right reply, compressed unasked
  "gzip-bomb", "double-gzip" zeros without end, compressed once or twice
  "endless"                  a body without end
  "slow-headers", "continue" a header line, or "100 Continue", every 10 ms without end
"""

import contextlib
import gzip
import hashlib
import json
import random
import socket
import socketserver
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from itertools import chain, repeat

# those that trying again mends
FAULTS = ("429", "429-after", "500", "503", "close", "truncate", "invalid-json", "no-choices", "slow")
WRONG = "Sorry, what was the question?"
Faults = Callable[[str, int], str | None]  # key, attempt -> fault


def misbehave(seed: int, share: float = 0.3, kinds: Sequence[str] = FAULTS) -> Faults:
    """Each try fails by chance, in one of the ways; the same tries in every run."""

    def fault(key: str, attempt: int) -> str | None:
        chance = random.Random(f"{seed}/{key}/{attempt}")
        return chance.choice(kinds) if chance.random() < share else None

    return fault


@dataclass
class Request:
    key: str
    attempt: int
    fault: str | None
    body: dict
    path: str
    authorization: str | None
    time: float  # of its arrival, by the monotonic clock


class ChatServer:
    """Serves from threads of this process while entered.

    answer: from a request's body to the content, or to a whole `choices[0]` as a dict. slow: seconds.
    retry_after: the header's text. usage: whether replies count tokens. strict: the one name under which the
    limit of tokens is taken.
    """

    def __init__(
        self,
        answer: Callable[[dict], str | dict],
        faults: Faults = lambda key, attempt: None,
        slow: float = 1.0,
        retry_after: str = "1",
        usage: bool = True,
        strict: str = "",
    ):
        self.answer, self.faults, self.slow, self.retry_after, self.usage = (
            answer,
            faults,
            slow,
            retry_after,
            usage,
        )
        self.strict = strict
        self.requests: list[Request] = []
        self.open: set[socket.socket] = set()
        self._attempts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> "ChatServer":
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.chat = self
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.open):  # else they would be served on
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def receive(self, data: bytes, path: str, authorization: str | None) -> Request:
        """Take down a request and settle its fault."""
        key = hashlib.sha256(data).hexdigest()
        with self._lock:
            attempt = self._attempts[key]
            self._attempts[key] += 1
            fault = self.faults(key, attempt)
            request = Request(key, attempt, fault, json.loads(data), path, authorization, time.monotonic())
            self.requests.append(request)
        return request

    def reply(self, request: Request) -> dict:
        content = WRONG if request.fault == "wrong" else self.answer(request.body)
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
        choice = content if isinstance(content, dict) else choice
        reply = {"object": "chat.completion", "model": request.body["model"], "choices": [choice]}
        words = sum(len(message["content"].split()) for message in request.body["messages"])
        said = len(str(choice["message"]["content"] or "").split())
        return reply | ({"usage": {"prompt_tokens": words, "completion_tokens": said}} if self.usage else {})


OK = b"HTTP/1.1 200 OK\r\n"


def slowly(part: bytes) -> Iterator[bytes]:
    while True:
        yield part
        time.sleep(0.01)


def packed(body: bytes, encoding: str = "gzip") -> list[bytes]:
    return [OK + f"Content-Encoding: {encoding}\r\n\r\n".encode() + gzip.compress(body)]


# what is sent for a fault, in place of the reply given
RAW: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "html": lambda reply: [OK + b"Content-Type: text/html\r\n\r\n<!DOCTYPE html><html>Welcome</html>"],
    "events": lambda reply: [OK + b"Content-Type: text/event-stream\r\n\r\ndata: " + reply + b"\n\n"],
    "gzip": packed,
    "gzip-bomb": lambda reply: packed(bytes(1 << 26)),
    "double-gzip": lambda reply: packed(gzip.compress(bytes(1 << 26)), "gzip, gzip"),
    "endless": lambda reply: chain([OK + b"\r\n"], repeat(bytes(1 << 16))),
    "slow-headers": lambda reply: chain([OK], slowly(b"X: y\r\n")),
    "continue": lambda reply: slowly(b"HTTP/1.1 100 Continue\r\n\r\n"),
}


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads, allow_reuse_address, request_queue_size = True, True, 128
    chat: ChatServer

    def handle_error(self, *_) -> None:
        """Clients that have left are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # a reply is one packet: two of them would wait for each other
    disable_nagle_algorithm = True

    def log_message(self, *_) -> None:
        pass

    def setup(self) -> None:
        super().setup()
        self.server.chat.open.add(self.connection)

    def finish(self) -> None:
        self.server.chat.open.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        chat = self.server.chat
        data = self.rfile.read(int(self.headers["Content-Length"]))
        request = chat.receive(data, self.path, self.headers["Authorization"])
        fault = request.fault or ""
        if fault == "close":
            self.close_connection = True
        elif fault[:3].isdigit():
            error = {
                "message": f"no; you sent {request.authorization}",
                "code": "insufficient_quota" if fault.endswith("-quota") else fault,
            }
            self.send(int(fault[:3]), {"error": error}, after=fault.endswith("-after"))
        elif chat.strict and chat.strict not in request.body:
            time.sleep(0.1)  # for others to come
            self.send(400, {"error": {"message": f"'max_tokens' is not supported; use '{chat.strict}'"}})
        elif fault in RAW:
            self.close_connection = True
            with contextlib.suppress(OSError):  # the client has had enough
                for part in RAW[fault](json.dumps(chat.reply(request)).encode()):
                    self.wfile.write(part)
                    self.wfile.flush()
        elif fault == "no-choices":
            self.send(200, {"error": {"message": f"busy; you sent {request.authorization}"}})
        else:
            time.sleep(chat.slow if fault == "slow" else 0)
            self.send(200, chat.reply(request), fault)

    def send(self, status: int, body: dict, fault: str = "", after: bool = False) -> None:
        data = json.dumps(body).encode()
        data = data[: len(data) // 2] if fault == "invalid-json" else data
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data) + 100 * (fault == "truncate")))
        if after:
            self.send_header("Retry-After", self.server.chat.retry_after)
        self.end_headers()
        self.close_connection |= fault == "truncate"
        for part in [data[i : i + 1] for i in range(len(data))] if fault == "drip" else [data]:
            self.wfile.write(part)
            self.wfile.flush()
            time.sleep(0.02 if fault == "drip" else 0)
