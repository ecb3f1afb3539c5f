"""serve.py on a port of this machine, in threads of this process; and a model that says what it is told.

with live(model, frame, says=by_role) as server:
    status, body = server.ask({"messages": [...]})
"""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import serve
from engine.generation import Sequence, score
from engine.serving import Passes
from formats.frames import Frame
from mor import ROLES

Says = Callable[[str, str], str]  # role, everything so far as text -> what it says


class Parrot:
    """Appends the tokens of given texts, 16 a pass; the model fills the caches. ids: before each turn."""

    def __init__(self, frame: Frame, says: Says):
        self.frame, self.says, self.ids = frame, says, []

    def __call__(self, model, sequences: list[Sequence]) -> None:
        score(model, sequences, [[] for _ in sequences])
        for sequence in sequences:
            said = behind(sequence.ids, self.frame.headers[ROLES[sequence.role]])
            before = sequence.ids[: len(sequence.ids) - len(said)]
            if not said:
                self.ids.append((before, list(sequence.role_ids)))
            text = self.says(ROLES[sequence.role], self.frame.decode(before))
            wanted = [*self.frame.encode(text), self.frame.end]
            sequence.extend(wanted[len(said) :][:16], None)


def behind(ids: list[int], header: list[int]) -> list[int]:
    """What stands behind the last header of a kind."""
    at = len(ids)
    while ids[at - len(header) : at] != header:
        at -= 1
    return ids[at:]


class Live:
    """A server that runs, and how to talk to it."""

    def __init__(self, server: serve.Endpoint, parrot: Parrot | None):
        self.server, self.passes, self.parrot = server, server.passes, parrot
        self.address = server.server_address[:2]

    def send(self, method: str, path: str, body: object = None, headers: dict | None = None):
        """A request on a connection of its own -> (connection, response)."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        return connection, connection.getresponse()

    def ask(self, body: object, **headers: str) -> tuple[int, dict]:
        connection, response = self.send("POST", "/v1/chat/completions", body, headers)
        with closing(connection):
            return response.status, json.loads(response.read())

    def stream(self, body: dict) -> list[dict | str]:
        """All events."""
        connection, response = self.send("POST", "/v1/chat/completions", body | {"stream": True})
        with closing(connection):
            events = response.read().decode().split("\n\n")
        assert events.pop() == "" and all(event.startswith("data: ") for event in events)
        return [text if text == "[DONE]" else json.loads(text) for text in (e[6:] for e in events)]


@contextmanager
def live(model, frame: Frame, says: Says | None = None, flags: str = "") -> Iterator[Live]:
    args = serve.parse_args(["--adapter", "", "--port", "0", *flags.split()])
    parrot = Parrot(frame, says) if says else None
    with Passes(model, args.batch, args.queue, advance=parrot) as passes:
        threading.Thread(target=passes.run, daemon=True).start()
        with serve.Endpoint(model, frame, passes, args) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
            thread.start()
            try:
                yield Live(server, parrot)
            finally:
                server.shutdown()
                thread.join()
