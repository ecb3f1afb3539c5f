"""mock.py: which answer a call gets, what a result looks like as text, and which files are refused."""

import json
import re

import pytest
from conftest import CLOCK, WEATHER

from cli import UserError
from tools import mock
from tools.mock import Tools

# ---- calls ----


def test_answers_come_from_recordings_then_functions_then_stubs():
    recordings = [
        {"name": "get_weather", "arguments": {"city": "Bali", "days": 1}, "response": {"sky": "rain"}},
        {"name": "get_weather", "arguments": {"days": 1.0, "city": "Bali"}, "response": "never reached"},
        {"name": "gone", "arguments": {}, "response": "410"},
    ]
    tools = Tools([WEATHER, CLOCK], {"clock": lambda: None}, recordings)
    for _ in range(2):  # a recording does not wear out
        assert tools.call("get_weather", {"city": "Bali", "days": 1}) == '{"sky": "rain"}'
    assert tools.call("gone", {}) == "410"
    assert tools.call("clock", {}) == "null"
    stub = json.loads(tools.call("get_weather", {"city": "bali"}))
    assert stub["stub"] is True and stub["arguments"] == {"city": "bali"}


def test_results_of_any_kind_become_text():
    def fail():
        raise KeyError("tz")

    def loop():
        return loop.result

    loop.result = []
    loop.result.append(loop.result)
    results = {
        "'tz'": fail,
        "Circular": loop,
        '"2026-01-02"': lambda: {"day": __import__("datetime").date(2026, 1, 2)},
        "half ? pair": lambda: "half \ud800 pair",
        '"?"': lambda: ["\udfff"],
        "[cut: 50 of 1000 characters]": lambda: "x" * 1000,
        "SystemError": lambda: (_ for _ in ()).throw(SystemError("no")),
    }
    for expected, function in results.items():
        text = Tools([CLOCK], {"clock": function}, max_result_chars=50).call("clock", {})
        assert expected in text and text.encode(), text
        assert len(text) < 100


def test_interrupts_pass_through_tools():
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Tools([CLOCK], {"clock": interrupt}).call("clock", {})


def test_a_function_needs_a_schema():
    with pytest.raises(UserError, match="'clock' is in no schema"):
        Tools([WEATHER], {"clock": lambda: 0})


# ---- files ----


def test_tools_files_bare_and_wrapped(tmp_path):
    path = tmp_path / "tools.json"
    wrapped = {"type": "function", "function": WEATHER}
    strict = {"type": "function", "function": WEATHER | {"strict": True}}
    flat = {"type": "function", "strict": False} | WEATHER
    offered = [[first, CLOCK] for first in (WEATHER, wrapped, strict, wrapped | {"strict": True}, flat)]
    for tools in (*offered, []):
        path.write_text(json.dumps(tools, indent=2), encoding="utf-8-sig")
        assert mock.read_tools(str(path)) == [WEATHER, CLOCK][: len(tools)]


def test_responses_files_lists_and_lines(tmp_path):
    path = tmp_path / "responses"
    recordings = [
        {"name": "clock", "arguments": {}, "response": value} for value in ("12:30\u2028", [1], None)
    ]
    for text in (
        json.dumps(recordings),
        "\n".join(json.dumps(r, ensure_ascii=False) for r in recordings) + "\n",
    ):
        path.write_text(text)
        assert mock.read_responses(str(path)) == recordings


DEEP = '[{"name": "f", "parameters": {"default": ' + "[" * 100 + "]" * 100 + "}}]"
BAD_TOOLS = [  # contents, what the message must name
    (None, "cannot be read"),
    (b"", "not JSON"),
    (b"\xff\xfe", "cannot be read .*utf-8"),
    (b"[", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'"tools"', "got 'tools'; wanted a JSON list"),
    (b'{"name": 1}', "name"),
    (b"[1]", "entry 0"),
    (b'[{"type": "function", "function": 3}]', r"tools\[0\]"),
    (b'[{"type": "tool", "function": {"name": "f"}}]', r"tools\[0\]"),
    (b'[{"name": "f", "strict": "yes"}]', "strict"),
    (b'[{"description": "?"}]', r"tools\[0\].*name"),
    (b'[{"name": ""}]', r"tools\[0\].name"),
    (b'[{"name": "f"}, {"name": "f"}]', r"tools\[1\].*f"),
    (b'[{"name": "f", "name": "g"}]', "name"),
    (b'[{"name": "f", "paramters": {}}]', "paramters"),
    (b'[{"name": "f", "parameters": []}]', "parameters"),
    (b'[{"name": "f", "parameters": {"required": "x"}}]', "required"),
    (b'[{"name": "f", "parameters": {"properties": {"x": 1}}}]', "properties.x"),
    (b'[{"name": "f", "parameters": {"default": NaN}}]', "NaN"),
    (b'[{"name": "f\\ud800"}]', r"tools\[0\].name"),
    (DEEP.encode(), "deep|nested"),
]
BAD_RESPONSES = [
    (None, "cannot be read"),
    (b"12:30", "not JSON"),
    (b'{"name": "f"}\n{', "entry 1: not JSON"),
    (b'["12:30"]', "entry 0 is '12:30'"),
    (b'[{"name": "f", "arguments": {}}]', "has name, arguments; wanted name, arguments and response"),
    (b'[{"name": "f", "arguments": {}, "response": 1, "time": 2}]', "time"),
    (b'[{"name": 1, "arguments": {}, "response": 1}]', "name is 1"),
    (b'[{"name": "f", "arguments": "{}", "response": 1}]', "arguments is '{}'"),
]


@pytest.mark.parametrize(
    ("read", "content", "named"),
    [(mock.read_tools, *bad) for bad in BAD_TOOLS] + [(mock.read_responses, *bad) for bad in BAD_RESPONSES],
)
def test_bad_files_are_refused_in_one_line(tmp_path, read, content, named):
    """Each names the file, and what is wrong with which entry."""
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(str(path))
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert re.search(named, message)
