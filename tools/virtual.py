"""StableToolBench's virtual API server, and a file of what it has answered so far.

  with Exchanges(Path("exchanges.jsonl"), fill=True) as known, Server("http://HOST:8080/virtual") as server:
      World(known, server).ask("Data", "keyword_analysis", "popularsites", {"q": "tea"})  # text, code

A request is looked up in the file first; what the server answers is added. So a run can be done again without
a server, and several methods see the same world. The file alone is enough. One exchange a line:

  {"request": {"category", "tool_name", "api_name", "tool_input": {...}}, "reply": {"error", "response"}}

Two requests are the same where their JSON with sorted keys is (the server's own cache wants the same order of
keys, too). `reply` may be a text as well: an observation that was recorded, maybe cut.

  the server's reply                            what the agent sees, and its code
  an object with `error` and `response`         it as JSON, cut at LONGEST characters; 0, or 6 to 11
  408, 429, 5xx; none, cut, no JSON, no object  asked again; in the end an error of that kind, 12
  late                                          asked again; in the end "Timeout error...", 5
  another status                                an error with the status, 12
  401, 403, 404, 405; no connection on any try  UserError, also for all who ask later
  nothing in the file, and no server            an error that says so, 12

What ends in 5 or 12 is no answer, and is not added to the file.
"""

import contextlib
import json
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cli import UserError, append, exclusive, open_file, parse_object
from tools.connection import LARGEST, TOO_LARGE, HangUp, Transient, decompressed, http_library, is_local

LONGEST = 1024  # characters of an observation
TIMEOUT, UNREADABLE = 5, 12  # codes: late, no answer
CODES = {
    "API not working error...": 6,
    "Unauthorized error...": 7,
    "Unsubscribed error...": 8,
    "Too many requests error...": 9,
    "Rate limit per minute error...": 10,
    "Message error...": 11,
}
AGAIN = (408, 429)  # and 5xx
MISPLACED = (401, 403, 404, 405)  # no request will escape it

LATE = "Timeout error..."
INVALID = "request invalid, data error."
WANTED = '{"request": {"category", "tool_name", "api_name", "tool_input"}, "reply"} on each line'

# ---- the file ----


class Exchanges(contextlib.AbstractContextManager):
    """What was answered so far, from a file that one process at a time may fill; None: of this run alone.

    A last line that a killed process has not ended is cut off. Raises UserError for a file that is damaged,
    in use, or, unless it is to be filled, not there.
    """

    def __init__(self, path: Path | None, fill: bool = False):
        self.path, self._file, self._lock = path, None, threading.Lock()
        self._replies: dict[str, Any] = {}
        with contextlib.ExitStack() as stack:
            if path and fill:
                self._file = stack.enter_context(exclusive(path, "name another file"))
            if path:
                self._read(path)
            self._open = stack.pop_all()

    def __exit__(self, *_) -> None:
        self._open.close()

    def _read(self, path: Path) -> None:
        """Take in the lines."""
        try:
            with open_file(path) as file:
                *lines, last = file.read().split(b"\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); wanted {WANTED}") from None
        for number, line in enumerate(lines, 1):
            self._take(line, f"{path}:{number}")
        try:
            self._take(last, "")
        except UserError:  # a killed process has not ended it
            if self._file:
                self._file.truncate(sum(len(line) + 1 for line in lines))
        else:
            if self._file:
                append(self._file, b"\n")

    def _take(self, line: bytes, where: str) -> None:
        row = parse_object(line, where, WANTED)
        if not isinstance(row.get("request"), dict) or not isinstance(row.get("reply"), dict | str):
            raise UserError(f"{where}: got {', '.join(row) or 'nothing'}; wanted {WANTED}")
        self._replies.setdefault(key_of(row["request"]), row["reply"])

    def get(self, request: dict) -> dict | str | None:
        """The reply to a request, if it is known."""
        return self._replies.get(key_of(request))

    def add(self, request: dict, reply: dict) -> dict | str:
        """Keep a reply and return it; of two for one request the first counts. Raises UserError."""
        key = key_of(request)
        with self._lock:
            if key not in self._replies:
                if self._file:
                    try:
                        append(self._file, (json.dumps({"request": request, "reply": reply}) + "\n").encode())
                    except OSError as error:
                        fault = f"cannot be written ({error.strerror}); free space"
                        raise UserError(f"{self.path}: {fault}") from None
                self._replies[key] = reply
            return self._replies[key]


def key_of(request: dict) -> str:
    return json.dumps(request, sort_keys=True)


# ---- the server ----


class NoAnswer(Exception):
    """What the agent sees in place of an answer."""

    def __init__(self, text: str, code: int = UNREADABLE):
        super().__init__(text)
        self.text, self.code = text, code


class Server(contextlib.AbstractContextManager):
    """A virtual server, to be asked by any number of threads; `key` is what it may want for the real APIs.

    tries: of one request. backoff: seconds before the second, doubled before each further one. total: of one
    try. A server on this machine is asked without a proxy. Raises UserError for a bad URL or no HTTP client.
    """

    def __init__(self, url: str, key: str = "", tries: int = 6, backoff: float = 0.5, total: float = 60.0):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in url:
            raise UserError(f"--server: got {url!r:.100}; wanted http://HOST:PORT/virtual")
        self.url, self._key, self._tries, self._backoff, self._total = url, key, tries, backoff, total
        self._http, self._fault, self._ended = http_library(), "", threading.Event()
        timeout = self._http.Timeout(total, connect=10.0, pool=None)
        limits = self._http.Limits(max_connections=None, max_keepalive_connections=0)
        try:
            self._client = self._http.Client(
                trust_env=not is_local(parts.hostname), timeout=timeout, limits=limits
            )
        except (ValueError, ImportError, self._http.InvalidURL):  # their texts may hold a password
            raise UserError("a proxy of the environment cannot be used; unset it or mend it") from None

    def __exit__(self, *_) -> None:
        self._client.close()

    def ask(self, request: dict) -> dict:
        """The server's reply. Raises NoAnswer, and UserError where no request would be answered."""
        body = request | {"tool_input": json.dumps(request["tool_input"])}
        body |= {"strip": "truncate", "toolbench_key": self._key}
        unreachable = True
        for number in range(self._tries):
            if number:
                self._ended.wait(self._backoff * 2 ** (number - 1))
            if self._fault:
                raise UserError(self._fault)
            try:
                return self._post(body)
            except Transient as fault:
                last = fault
            unreachable &= last.unreachable
        if unreachable:
            raise self._end(f"cannot be reached ({last}); start the server or mend --server")
        if str(last) == LATE:
            raise NoAnswer(LATE, TIMEOUT)
        raise NoAnswer(f"{INVALID}{last}")

    def _end(self, fault: str) -> UserError:
        self._fault = f"{self.url}: {fault}, then run again: what is answered is kept"
        self._ended.set()
        return UserError(self._fault)

    def _post(self, body: dict) -> dict:
        """One try. Raises Transient, NoAnswer, UserError."""
        status, headers, content = self._exchange(json.dumps(body).encode())
        if status in MISPLACED:
            raise self._end(f"the server answered {status}; mend --server (most end in /virtual)")
        if status in AGAIN or status >= 500:
            raise Transient(f" status_code={status}")
        if status != 200:
            raise NoAnswer(f"{INVALID} status_code={status}")
        try:
            reply = json.loads(decompressed(content, headers))
        except (ValueError, RecursionError):
            raise Transient("") from None
        if not isinstance(reply, dict):
            raise Transient("")
        return reply

    def _exchange(self, data: bytes) -> tuple[int, Any, bytes]:
        """Status, headers and body of the reply. Raises Transient."""
        http, body = self._http, bytearray()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        with HangUp(self._total) as line:
            try:
                options = {"content": data, "headers": headers, "extensions": {"trace": line.trace}}
                with self._client.stream("POST", self.url, **options) as response:
                    for part in response.iter_raw():
                        body += part
                        if len(body) > LARGEST:
                            raise Transient(f" {TOO_LARGE}")
            except http.TimeoutException as error:
                raise Transient(LATE, unreachable=isinstance(error, http.ConnectTimeout)) from None
            except http.RequestError as error:
                text = LATE if line.late else f" {type(error).__name__}"
                refused = isinstance(error, http.ConnectError | http.ProxyError)
                raise Transient(text, unreachable=refused) from None
        if line.late:
            raise Transient(LATE)
        return response.status_code, response.headers, bytes(body)


# ---- both ----


class World:
    """Answers requests from a file of exchanges and, where it has none, from a server."""

    def __init__(self, known: Exchanges, server: Server | None = None):
        self.known, self.server = known, server

    def ask(self, category: str, tool: str, api: str, arguments: dict) -> tuple[str, int]:
        """What the agent sees of a call, and its code."""
        request = {"category": category, "tool_name": tool, "api_name": api, "tool_input": arguments}
        reply = self.known.get(request)
        try:
            if reply is None:
                reply = self.known.add(request, self._new(request))
        except NoAnswer as fault:
            return error_text(fault.text), fault.code
        if isinstance(reply, str):
            return shortened(reply), 0
        return shortened(json.dumps(reply)), CODES.get(str(reply.get("error")), 0)

    def _new(self, request: dict) -> dict:
        if not self.server:
            raise NoAnswer(f"{INVALID} no such request is recorded")
        return self.server.ask(request)


def error_text(error: str) -> str:
    """An observation that reports a fault."""
    return json.dumps({"error": error, "response": ""})


def shortened(text: str) -> str:
    """At LONGEST characters, as ToolBench does."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
