"""Whatever reads texts from outside takes time with their length, not with its square.

Each text here is so long that the square would take minutes.
"""

import contextlib

import pytest

from data import parse_next
from evaluation.maths import extract
from formats.calls import CLOSE, OPEN, parse_calls
from sources.maths import plain_traceback
from sources.record import is_error
from sources.rows import Refused
from sources.toolace import call_or_prose, unframed
from sources.toolbench import step_message
from stages.asking import bare_json
from stages.code import same_output
from tools.sandbox import code_of

READERS = {
    "is_error": (is_error, ["Traceback error", "Error", "a.", "x"]),
    "parse_calls": (
        parse_calls,
        ["", "Action:", "Action: f Arguments: ", "Action: f Arguments: {'a': ", OPEN],
    ),
    "parse_next": (parse_next, ["", "Next: executor"]),
    "code_of": (code_of, ["", "```python\n", "'''"]),
    "bare_json": (bare_json, ["", "```json\n", "x</think>", "{"]),
    "same_output": (lambda text: same_output(text, "1"), ["", "1", "Traceback"]),
    "extract": (extract, ["", "-", r"\boxed{", "he answer is", "```output"]),
    "plain_traceback": (plain_traceback, ["", "E Traceback (most recent call last)", "Cell In, line 1"]),
    "step_message": (step_message, ["", "Thought:", "x\nAction: f\n", "x\nAction: f\nAction Input: {}"]),
    "unframed": (unframed, ["Role definition: x Historical dialog data is as follows: "]),
    "call_or_prose": (lambda text: call_or_prose(text, ["f"]), ["[", "[f(", "[f(a", "[f(a=", "[f(a='x'"]),
}
PIECES = [
    " ",
    "\n",
    " \n",
    "a",
    "1",
    "1.",
    "a.",
    "'",
    '"',
    "\\",
    "(",
    "{",
    "[",
    "{'a':",
    ",",
    "-",
    "```\n",
    CLOSE,
]
PIECES += ["Error", "Error \n", "'' ", "next: ", "Action: f\n", "Historical dialog data is as follows: "]


@pytest.mark.parametrize("name", READERS)
def test_no_text_takes_minutes(name):
    read, heads = READERS[name]
    for head in heads:
        for piece in PIECES:
            for tail in ("", "!"):
                with contextlib.suppress(Refused, ValueError):
                    read(head + piece * (50_000 // len(piece)) + tail)
