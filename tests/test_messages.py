"""tools/messages.py and tools/replies.py apart from HTTP: defaults, and texts that are held back."""

import json

import pytest
from conftest import CLOCK

from data import parse_next
from tools.messages import Refusal, read_request
from tools.replies import Reply, message_of

USER = {"role": "user", "content": "Hi"}


def read(**fields):
    return read_request(json.dumps({"messages": [USER]} | fields).encode())


@pytest.mark.parametrize(
    ("given", "taken"), [({}, 0), ({"temperature": 0.001}, 0), ({"temperature": 0.01}, 0.01)]
)
def test_a_temperature_that_is_meant_as_greedy_is(given, taken):
    """BFCL's harness sends 0.001."""
    assert read(**given).temperature == taken


def test_defaults():
    request = read()
    assert (request.top_p, request.max_tokens, request.stop, request.then) == (1.0, None, [], None)
    assert not (request.stream or request.include_usage or request.one_call or request.finish)
    assert request.seed != read().seed and read(seed=7).seed == 7 and read(top_p=0).top_p == 0


def test_two_messages_of_the_user_are_one():
    """As evaluate.py joins them in the questions of BFCL that have two."""
    request = read(messages=[USER, {"role": "user", "content": "What time is it?"}])
    assert request.turns == [{"role": "user", "content": "Hi\n\nWhat time is it?"}]


def test_a_refusal_is_a_servers_or_a_clients():
    assert Refusal("x", status=503).body()["error"]["type"] == "server_error"
    assert Refusal("x", "n", "c").body()["error"] == {
        "message": "x",
        "type": "invalid_request_error",
        "param": "n",
        "code": "c",
    }


TEXTS = [
    "I need it.\nNext: executor",
    "Next: summarizer",
    "What next: the executor\n“Next: `executor`.”\n",
    "next:   executor and more\nNEXT: Summarizer.",
    "No role is named. Next",
    "Next: nobody",
    "\n\nNext:\n  executor\n\n",
    "Next: executor Next: executor",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_thought_in_pieces_is_the_thought(text, size):
    """What names the next role is never sent, however the text is cut."""
    deltas = []
    reply = Reply(read(), deltas.append)
    for i in range(0, len(text), size):
        reply.watch("reasoner", text[i : i + size])
    reply.watch("reasoner", None)
    assert message_of(deltas)["reasoning_content"] == parse_next(text)[0]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize("stop", ["END", ["xx", "D", "END"], "nowhere", "Text"])
def test_an_answer_in_pieces_ends_before_the_stop(stop, size):
    text, deltas = "Text with an EN and an END in it", []
    reply = Reply(read(stop=stop), deltas.append)
    for i in range(0, len(text), size):
        reply.watch("summarizer", text[i : i + size])
        if reply.stopped:
            break
    reply.watch("summarizer", None)
    ends = [text.index(each) for each in ([stop] if isinstance(stop, str) else stop) if each in text]
    assert message_of(deltas)["content"] == text[: min(ends, default=len(text))]
    assert reply.stopped is bool(ends)


def test_a_thought_is_shown_while_it_is_spoken():
    """Also behind words that only look like the line that names the next role."""
    deltas = []
    reply = Reply(read(tools=[{"type": "function", "function": CLOCK}]), deltas.append)
    reply.watch("reasoner", "What comes next: we look at the clock and")
    assert message_of(deltas)["reasoning_content"].startswith("What comes next: we look at the clo")
