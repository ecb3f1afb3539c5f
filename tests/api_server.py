"""A virtual API server on this machine, POST /virtual over real HTTP, that can misbehave.

  with ApiServer(lambda request: {"error": "", "response": "rain"}, faults) as server:
      ...  # ask server.url; server.requests lists the bodies that came

A fault is named, for a request and its attempt, counted from 0:

  "500", "400", "404", ...   this status
  "close"                    the connection ends without a reply
  "text", "list"             a reply that is no JSON, or no object
  "slow"                     the right reply, `slow` seconds late
"""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("500", "close", "text", "list", "slow")
Faults = Callable[[str, int], str | None]  # request, attempt -> fault


def misbehave(seed: int, share: float = 0.3) -> Faults:
    """Each try fails by chance, in one of the ways; the same tries in every run."""

    def fault(key: str, attempt: int) -> str | None:
        chance = random.Random(f"{seed}/{key}/{attempt}")
        return chance.choice(FAULTS) if chance.random() < share else None

    return fault


class ApiServer:
    """Serves from threads of this process while entered."""

    def __init__(self, answer: Callable, faults: Faults = lambda key, attempt: None, slow: float = 1.0):
        self.answer, self.faults, self.slow = answer, faults, slow
        self.requests: list[dict] = []
        self.attempts: Counter[str] = Counter()
        self.lock = threading.Lock()

    def __enter__(self) -> "ApiServer":
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.api = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/virtual"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Clients that have left are no news."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        api, data = self.server.api, self.rfile.read(int(self.headers["Content-Length"]))
        with api.lock:
            fault = api.faults(data.decode(), api.attempts[data.decode()])
            api.attempts[data.decode()] += 1
            api.requests.append(json.loads(data))
        if fault == "close":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(api.slow)
        body = json.dumps(api.answer(json.loads(data))).encode()
        body = {"text": b"Internal", "list": b"[1]"}.get(fault, body)
        self.send_response(int(fault) if fault and fault.isdigit() else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass
