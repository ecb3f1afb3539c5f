r"""glaive-function-calling-v2 (paper, 3.3: part of the 90k rows for BFCL): its rows -> records.

    {"system": "SYSTEM: ... functions. Use them if required -\n" and one JSON object for each function,
     "chat": text}

The chat's turns begin with USER:, ASSISTANT: or FUNCTION RESPONSE: and stand three newlines apart; the
assistant's end with <|endoftext|>. A call is

    <functioncall> {"name": "f", "arguments": '{"a": "let's"}'}

with JSON in single quotes, of which the last before the brace closes; or with a bare object or JSON text, as
mirrors have it, some of which keep the functions in a list.

Decisions. \' in these quotes is no JSON and can only mean an apostrophe, so it is read as one. Words before a
call, in its turn or one of their own, are the thought that leads to it. A turn marker inside a turn is
damage (once "AI:" was replaced everywhere): refused. So is every other form of a call; rows without functions
have nothing to call.
"""

import re
from collections import Counter
from typing import Any

from formats.calls import JSON
from sources.record import dialogue, record_of, said, tool_of, unlike, unwrapped
from sources.rows import GAP, ROW, Refused, embedded, field
from sources.schemas import parameters_of

TURN = re.compile(r"(?:\A\s*|\n\n\n)(USER|ASSISTANT|FUNCTION RESPONSE):")
FIRST = re.compile(r"(?:\[\s*)?\{")
END, CALL = "<|endoftext|>", "<functioncall>"
OTHER_CALL = re.compile(r"\bto= ?[\w.-]+: ?\{")
WRITTEN = re.compile(
    r"""\s*\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments":\s*(?:'(.*)'|(\{.*\}|".*"))\s*\}\s*""",
    re.DOTALL,
)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def glaive(row: dict) -> dict:
    """A row -> its record. Raises Refused."""
    dropped = Counter()
    tools = unlike(glaive_tools(field(row, "system", str), dropped), dropped)
    before, *pieces = TURN.split(field(row, "chat", str))
    if before.strip() or not pieces:
        raise Refused("chat without turn markers", before)
    parts: list[tuple[str, Any]] = []
    for role, text in zip(pieces[::2], pieces[1::2], strict=True):
        if role == "USER":
            parts.append(("user", text))
        elif role == "FUNCTION RESPONSE":
            parts.append(("result", said(text)))
        else:
            parts += said_by_assistant(text)
    turns, missing = dialogue(parts, dropped)
    return record_of("bfcl", tools, turns, missing, dropped)


def said_by_assistant(text: str) -> list[tuple[str, Any]]:
    """An assistant's turn as parts: an answer, a call, or words and a call. Raises Refused."""
    if not text.rstrip().endswith(END):
        raise Refused("answer without its end mark", text)
    said_to_user = text.rstrip().removesuffix(END)
    prose, call, written = said_to_user.partition(CALL)
    if call:
        words = [("answer", prose)] if prose.strip() else []
        return [*words, ("call", [glaive_call(written)])]
    if OTHER_CALL.search(said_to_user):
        raise Refused("call in another form", said_to_user)
    return [("answer", said_to_user)]


def glaive_tools(system: str, dropped: Counter) -> list[dict]:
    """The functions, JSON objects one behind the other from the first brace on, or in a list."""
    first, tools = FIRST.search(system), []
    if not first:
        raise Refused("no tools in the system text")
    at = first.start()
    while at < len(system):
        try:
            given, at = ROW.raw_decode(system, at)
        except (ValueError, RecursionError) as fault:
            raise Refused("tools that cannot be read", str(fault)) from None
        for tool in map(unwrapped, given if isinstance(given, list) else [given]):
            name = field(tool, "name", str)
            parameters = parameters_of(tool.get("parameters") or {}, dropped, tool.get("required"))
            tools.append(tool_of(name, tool.get("description"), parameters))
        at = GAP.match(system, at).end()
    return tools


def glaive_call(text: str) -> dict:
    """What stands behind <functioncall>, as a call. Raises Refused."""
    found = WRITTEN.fullmatch(text)
    if not found:
        raise Refused("call in another form", text)
    name, quoted, bare = found.groups()
    arguments = bare if quoted is None else quoted
    try:
        value = JSON.decode(arguments)
    except (ValueError, RecursionError):
        value = embedded(with_apostrophes(arguments), dict, "arguments")
    if isinstance(value, str):
        value = embedded(value, dict, "arguments")
    if not isinstance(value, dict):
        raise Refused("arguments that are no JSON object", arguments)
    return {"name": JSON.decode(name), "arguments": value}


def with_apostrophes(text: str) -> str:
    r"""JSON in which \' stands for an apostrophe, as JSON."""
    return ESCAPE.sub(lambda escape: "'" if escape[1] == "'" else escape[0], text)
