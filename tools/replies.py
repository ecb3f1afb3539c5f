"""What the roles say becomes the deltas of a chat completion, while they speak.

reasoner                           reasoning_content
executor, when its turn is read    tool_calls; what cannot be read as calls becomes content
summarizer                         content
"""

import json
import re
import secrets
from collections.abc import Callable

from data import parse_next
from tools.messages import FINISH, GIVE_UP, Request

# What may become the line that names the next role (data.NEXT): from its colon on, and how long it is before
MAYBE = re.compile(r"(?:^|\s)[“”]?next:\s{0,4}[\"'*`<“”]{0,3}[a-z]{0,10}[\"'*`>.“”\s]*\Z", re.IGNORECASE)
AHEAD = 6


class Reply:
    """The deltas of one response, sent while the roles speak: `watch` is an Episode's.

    send: takes a delta, {"content": ...} and the like. A text is held back as long as it may yet turn out to
    be the line that names the next role, or a text of `stop`. stopped: one of these has come. called: a call
    was sent.
    """

    def __init__(
        self,
        request: Request,
        send: Callable[[dict], None],
        domain: str = "bfcl",
        thoughts: str = "reasoning",
    ):
        self.request, self.send, self.domain, self.thoughts = request, send, domain, thoughts
        self.text, self.sent, self.thought = "", 0, ""
        self.stopped = self.called = False

    def watch(self, role: str, piece: str | None) -> None:
        if piece is None:
            self.end(role)
            self.text, self.sent = "", 0
            return
        self.text += piece
        if role == "reasoner":
            self.pass_on("reasoning_content", self.text[: unsure_from(self.text)])
        elif role == "summarizer" and not self.request.finish:
            cut = first_stop(self.text, self.request.stop)
            self.stopped = cut is not None
            ahead = max(map(len, self.request.stop), default=1) - 1
            safe = len(self.text) - ahead if cut is None else cut
            self.pass_on("content", self.text[: max(safe, 0)])

    def end(self, role: str) -> None:
        """What was held back is sure now."""
        if role == "reasoner":
            self.thought, _ = parse_next(self.text)
            self.pass_on("reasoning_content", self.thought)
        elif role == "summarizer" and self.request.finish:
            self.call(0, finish_call(self.text))
        elif role == "summarizer":
            self.pass_on("content", self.text[: first_stop(self.text, self.request.stop)])
        elif role in ("executor", "observation") and self.domain == "math":
            end = "\n\n" if role == "observation" else ""
            self.send({"reasoning_content": f"\n\n{role}:\n{self.text}{end}"})

    def pass_on(self, name: str, text: str) -> None:
        """Send what is new in `text`."""
        if len(text) > self.sent:
            self.send({name: text[self.sent :]})
            self.sent = len(text)

    def execute(self, turn: dict) -> None:
        """An executor's turn, read as calls or not."""
        made = turn.get("calls", [])
        if not made:
            self.send({"content": turn["content"]})
        if made and self.thoughts == "content":
            self.send({"content": self.thought})
        for i, call in enumerate(made[: 1 if self.request.one_call else None]):
            self.call(i, call)

    def call(self, index: int, call: dict) -> None:
        """Send a call whole, with an id of its own. In its JSON the order of keys is the model's."""
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)}
        written = {"index": index, "id": f"call_{secrets.token_hex(12)}", "type": "function"}
        self.send({"tool_calls": [written | {"function": function}]})
        self.called = True


def unsure_from(text: str) -> int:
    """Where in a reasoner's text the line that names the next role may begin."""
    found = MAYBE.search(text)
    return found.start() if found else max(len(text) - AHEAD, 0)


def first_stop(text: str, stop: list[str]) -> int | None:
    """Where the first of the texts of `stop` begins."""
    return min((text.index(end) for end in stop if end in text), default=None)


def message_of(deltas: list[dict]) -> dict:
    """The message that deltas add up to."""
    message: dict = {"role": "assistant", "content": None, "reasoning_content": ""}
    for delta in deltas:
        if "reasoning_content" in delta:
            message["reasoning_content"] += delta["reasoning_content"]
        if "content" in delta:
            message["content"] = (message["content"] or "") + delta["content"]
        for call in delta.get("tool_calls", ()):
            bare = {key: value for key, value in call.items() if key != "index"}
            message.setdefault("tool_calls", []).append(bare)
    if "tool_calls" not in message:
        message["content"] = message["content"] or ""
    return message


def finish_call(text: str) -> dict:
    """The call of Finish that says it."""
    if text.strip() == GIVE_UP:
        return {"name": FINISH, "arguments": {"return_type": "give_up_and_restart"}}
    return {"name": FINISH, "arguments": {"return_type": "give_answer", "final_answer": text}}
