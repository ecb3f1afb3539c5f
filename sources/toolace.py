"""ToolACE (paper, 3.3: part of the 90k rows for BFCL): its rows -> records.

    {"system": text with a list of functions,
     "conversations": [{"from": "user" | "assistant" | "tool", "value"}]}

The list of functions is JSON, sometimes Python's repr, between fixed words. An assistant turn is prose or a
list of calls, [Name(a="x", b=1)], whose names are free text ("M4.5+ Earthquakes, Past 7 Days"). A tool turn
is a JSON list of {"name", "results"}, one for each call.

Decisions. Of a function's two `required` the one inside `parameters` counts. A name is the longest listed one
that stands there. Some prompts are a whole dialogue in a fixed frame; its turns are put back into the
history. That "date" and "file" were replaced by "string" in names cannot be undone and does no harm: schemas
and calls had it alike.
"""

import re
from collections import Counter
from typing import Any

from sources.record import dialogue, record_of, tool_of, unlike, unwrapped
from sources.rows import GAP, ROW, Refused, embedded, field, literal
from sources.schemas import parameters_of

BEFORE_TOOLS, AFTER_TOOLS = "that you can invoke:\n", ". \nShould you decide"
FRAME = re.compile(
    # the first of these headings, whatever follows: a lookahead is not tried again
    r"\s*Role definition:(?=(?P<head>.*?Historical dialog data is as follows:))(?P=head)(?P<dialogue>.*?)"
    r"Please continue your answer given the historical dialog\. Your role is the Response assistant\.\s*",
    re.DOTALL,
)
SPEAKER = re.compile(r"(?:\A|\n) ?(Inquirer|Response assistant):")


def toolace(row: dict) -> dict:
    """A row -> its record. Raises Refused."""
    dropped = Counter()
    _, found, rest = field(row, "system", str).partition(BEFORE_TOOLS)
    text, end, _ = rest.rpartition(AFTER_TOOLS)
    if not found or not end:
        raise Refused("no tools in the system text")
    tools = unlike([ace_tool(tool, dropped) for tool in ace_list(text)], dropped)
    if not tools:
        raise Refused("no tools in the system text")
    names = sorted((tool["name"] for tool in tools), key=len, reverse=True)
    parts: list[tuple[str, Any]] = []
    for turn in field(row, "conversations", list):
        role, value = field(turn, "from", str), field(turn, "value", str)
        if role == "user":
            parts += unframed(value)
        elif role == "tool":
            parts.append(("result", results(value, parts)))
        elif role == "assistant":
            parts.append(call_or_prose(value.strip(), names))
        else:
            raise Refused("unknown role", role)
    turns, missing = dialogue(parts, dropped)
    return record_of("bfcl", tools, turns, missing, dropped)


def ace_list(text: str) -> list:
    """The list of functions: JSON or a Python literal."""
    try:
        return embedded(text, list, "tools", ROW)
    except Refused:
        try:
            return embedded(literal(text), list, "tools")
        except ValueError as fault:
            raise Refused("tools that cannot be read", str(fault)) from None


def ace_tool(tool: Any, dropped: Counter) -> dict:
    """A listed function -> its schema."""
    tool = unwrapped(tool)
    parameters = parameters_of(field(tool, "parameters", dict), dropped, tool.get("required"))
    return tool_of(field(tool, "name", str), tool.get("description"), parameters)


def unframed(text: str) -> list[tuple[str, str]]:
    """A user turn as parts: one, or those of the dialogue that it tells."""
    if "Historical dialog data" not in text:
        return [("user", text)]
    frame = FRAME.fullmatch(text)
    before, *pieces = SPEAKER.split(frame["dialogue"].strip()) if frame else ("?",)
    if before.strip():
        raise Refused("dialogue inside a query")
    kinds = ["user" if speaker == "Inquirer" else "answer" for speaker in pieces[::2]]
    return list(zip(kinds, pieces[1::2], strict=True))


def results(text: str, parts: list[tuple[str, Any]]) -> str:
    """A tool turn's text, refused where it names other functions than the calls before it."""
    try:
        named = [result["name"] for result in ROW.decode(text)]
    except (ValueError, TypeError, KeyError, RecursionError):
        return text  # results are texts of any kind
    called = [call["name"] for call in parts[-1][1]] if parts and parts[-1][0] == "call" else []
    if named != called:
        raise Refused("result of no call", f"{named} after {called}")
    return text


def call_or_prose(text: str, names: list[str]) -> tuple[str, Any]:
    """An assistant's turn as a part. names: of the tools, the longest first. Raises Refused."""
    looks_like_calls = text.endswith(")]") or text == "[]" or starts_call(text, 1, names)
    if text.startswith("[") and looks_like_calls:
        return "call", read_calls(text, names)
    if text.endswith(")") and starts_call(text, 0, names):
        raise Refused("call inside prose", text)
    if "[" in text and any(f"[{name}(" in text for name in names):
        raise Refused("call inside prose", text)
    return "answer", text


def starts_call(text: str, at: int, names: list[str]) -> str | None:
    """The longest name that stands at the position with a bracket behind it."""
    for name in names:
        if text.startswith(name, at) and text[at + len(name) :].lstrip(" ").startswith("("):
            return name
    return None


ARGUMENT = re.compile(r"""\s*([^\s=,()'"](?:[^=,()'"]*[^\s=,()'"])?)\s*=\s*""")
SCALAR = re.compile(r"""(?:"([^"\\]*)"|(-?(?:0|[1-9]\d*)(?:\.\d+)?)|(True|False|None))(?=\s*[,)])""")
WORDS = {"True": True, "False": False, "None": None}
PIECE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[(\[{]|[)\]}]|,|[^'"()\[\]{},]+""", re.DOTALL)
UNLISTED = re.compile(r"[^\[\](){}\n](?:[^\[\](){}\n]*[^\[\](){}\n ])?(?= *\()")


def read_calls(text: str, names: list[str]) -> list[dict]:
    """[Name(a="x", b=1), Other()] -> calls. Raises Refused unless each character has its place."""
    calls, at = [], 1
    while True:
        at = GAP.match(text, at).end()
        name = starts_call(text, at, names)
        if name is None:
            found = UNLISTED.match(text, at)
            if not found:
                raise Refused("call that cannot be read", text[at:])
            name = found[0]
        at = text.index("(", at + len(name)) + 1
        arguments, at = read_arguments(text, at)
        calls.append({"name": name, "arguments": arguments})
        at = GAP.match(text, at).end()
        if text[at : at + 1] == "]" and at + 1 == len(text):
            return calls
        if text[at : at + 1] != ",":
            raise Refused("text after a call", text[at:])
        at += 1


def read_arguments(text: str, at: int) -> tuple[dict, int]:
    """`a="x", b=[1, 2])` -> the arguments and the position behind the bracket."""
    arguments: dict[str, Any] = {}
    at = GAP.match(text, at).end()
    while text[at : at + 1] != ")":
        key = ARGUMENT.match(text, at)
        if not key or key[1] in arguments:
            raise Refused("call that cannot be read", text[at:])
        arguments[key[1]], at = read_value(text, key.end())
        at = GAP.match(text, at).end()
        if text[at : at + 1] == ",":
            at = GAP.match(text, at + 1).end()
        elif text[at : at + 1] != ")":
            raise Refused("call that cannot be read", text[at:])
    return arguments, at + 1


def read_value(text: str, at: int) -> tuple[Any, int]:
    """A Python literal and the position behind it. The usual ones are read without Python's parser."""
    found = SCALAR.match(text, at)
    if not found:
        end = value_end(text, at)
        try:
            return literal(text[at:end]), end
        except ValueError as fault:
            raise Refused("call that cannot be read", str(fault)) from None
    string, number, word = found.groups()
    if string is not None:
        return string, found.end()
    if word:
        return WORDS[word], found.end()
    return (float(number) if "." in number else int(number)), found.end()


def value_end(text: str, at: int) -> int:
    """Where a value ends: at a comma or bracket that is in no string and no bracket of its own."""
    depth = 0
    while piece := PIECE.match(text, at):
        if depth == 0 and piece[0] in (",", ")", "]", "}"):
            return at
        depth += (piece[0] in ("(", "[", "{")) - (piece[0] in (")", "]", "}"))
        at = piece.end()
    raise Refused("call that cannot be read", text[at:])
