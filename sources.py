"""The data sets of the paper's section 3.3: how their files are read and what their rows become.

    SOURCES["apigen"].read(path)     -> rows, one by one, in the memory of one row
    SOURCES["apigen"].convert(row)   -> records that data.check_record has passed; raises Refused

Here are APIGen, ToolACE and glaive; toolbench.py and maths.py hold the others, rows.py what all share. A
record's `source` says which of its parts the row did not have ("missing", as paths into the record: texts
that stand there as "" and are to be completed), what was left behind ("dropped", counted) and which
observations report a fault ("errors").

A row with several user turns becomes one record with all of them, not several with the earlier turns as
history: each role's turn is then trained once, and completing and judging go step by step anyway.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import data
import maths
import toolbench
from calls import JSON
from cli import UserError
from rows import (
    ROW,
    embedded,
    field,
    literal,
    parameters_of,
    read_rows,
    read_type,
    reason,
    record_of,
    said,
    schema_of,
    summarize,
    tool_of,
    unlike,
)
from rows import Refused as Refused  # for callers


@dataclass(frozen=True)
class Source:
    """A data set's form. keys: what its rows have, one set of them at least; rule: row -> record."""

    name: str
    keys: tuple[set[str], ...]
    rule: Callable[[dict], dict]
    reader: Callable[[Path], Iterator[Any]] = read_rows

    def read(self, path: Path) -> Iterator[Any]:
        """Yield the rows of a file. Raises UserError for one that cannot be read or is of another form."""
        rows = self.reader(path)
        head = list(islice(rows, 20))
        if head and not any(
            isinstance(row, dict) and keys <= row.keys() for row in head for keys in self.keys
        ):
            got = ", ".join(head[0]) if isinstance(head[0], dict) else type(head[0]).__name__
            wanted = " or ".join(", ".join(sorted(keys)) for keys in self.keys)
            raise UserError(
                f"{path}: rows have {got:.60}, those of {self.name} have {wanted}; check --source"
            )
        yield from chain(head, rows)

    def convert(self, row: Any) -> list[dict]:
        """The row's records, each checked. Raises Refused."""
        if not isinstance(row, dict):
            raise Refused("not the source's shape", type(row).__name__)
        record = self.rule(row)
        record["source"] = {"dataset": self.name, **record["source"]}
        try:
            data.check_record(record, "record")
        except UserError as fault:
            raise Refused("not a valid record", str(fault)) from None
        return [record]


# ---- dialogues: the parts of a row -> turns, for all three sources below ----

SMALL_TALK = re.compile(r"(?:You're|You are)(?: very| most)? welcome\b", re.IGNORECASE)
AFTER = {"user": ("", "call", "result", "answer"), "call": ("user", "result"), "result": ("call",)}
AFTER["answer"] = ("user", "result")
OUT_OF_ORDER = {"user": "two queries in a row", "result": "result of no call"}


def dialogue(parts: list[tuple[str, Any]], dropped: Counter) -> tuple[list[dict], list[str]]:
    """("user", text), ("call", calls), ("result", text) and ("answer", text) in turn -> turns, missing paths.

    No source has thoughts: every reasoner turn is missing. A round whose calls got no result, or whose result
    no answer, ends with a reasoner and a summarizer turn that are missing too. At the end a query without an
    answer and rounds of mere thanks ("You're welcome!" sums up nothing) are dropped. Raises Refused.
    """
    while parts:
        answered = len(parts) > 1 and parts[-2][0] == "user"
        if parts[-1][0] == "user":
            parts, what = parts[:-1], "query without an answer"
        elif answered and parts[-1][0] == "answer" and SMALL_TALK.match(parts[-1][1].strip()):
            parts, what = parts[:-2], "small talk at the end"
        else:
            break
        dropped[what] += 1
    if not parts:
        raise Refused("no answer")
    turns: list[dict] = []
    missing: list[str] = []
    last = ""
    for kind, value in [*parts, ("user", None)]:
        if last not in AFTER[kind]:
            raise Refused(OUT_OF_ORDER.get(kind, "two answers in a row") if last else "no query", kind)
        if kind == "user" and last in ("call", "result"):
            reason(turns, missing, "", "summarizer")
            summarize(turns, missing, "")
        if kind == "user" and value is not None:
            turns.append({"role": "user", "content": filled(value)})
        elif kind == "call":
            reason(turns, missing, "", "executor")
            turns.append({"role": "executor", "calls": value})
        elif kind == "result":
            turns.append({"role": "observation", "content": value})
        elif kind == "answer":
            reason(turns, missing, "", "summarizer")
            summarize(turns, missing, filled(value))
        last = kind
    return turns, missing


def filled(text: str) -> str:
    """The text as `said`, refused where it is empty."""
    text = said(text)
    if not text:
        raise Refused("empty turn")
    return text


# ---- APIGen (xlam-function-calling-60k) ----
# {"id", "query", "answers": JSON text of [{"name", "arguments"}], "tools": JSON text of [{"name",
#  "description", "parameters": {parameter: {"type", "description", "default"?}}}]}. `parameters` is flat, and
# a parameter may be called `type`. Types are Python's, "List[int], optional". A parameter is required unless
# its type says optional; where a call leaves out one that has a default, that one was meant optional too.
# Dropped are defaults of another type than theirs, and the filler "" of required ones. No thought, no result,
# no answer: user, reasoner, executor, reasoner, summarizer; without any call user, reasoner, summarizer.


def apigen(row: dict) -> dict:
    dropped = Counter()
    given = embedded(row.get("tools"), list, "tools", ROW)
    calls = embedded(row.get("answers"), list, "answers")
    calls = [{"name": field(c, "name", str), "arguments": field(c, "arguments", dict)} for c in calls]
    tools = unlike([flat_tool(tool, calls, dropped) for tool in given], dropped)
    parts: list[tuple[str, Any]] = [("user", field(row, "query", str))]
    if calls:
        turns, missing = dialogue([*parts, ("call", calls)], dropped)
    else:  # none of the tools is of use
        turns, missing = [{"role": "user", "content": filled(row["query"])}], []
        reason(turns, missing, "", "summarizer")
        summarize(turns, missing, "")
    record = record_of("bfcl", tools, turns, missing, dropped)
    record["source"] |= {"id": row["id"]} if isinstance(row.get("id"), str | int) else {}
    return record


def flat_tool(tool: Any, calls: list[dict], dropped: Counter) -> dict:
    """{"name", "description", "parameters": flat map} -> a function schema."""
    name, given = field(tool, "name", str), field(tool, "parameters", dict)
    properties = {parameter: schema_of(spec, dropped) for parameter, spec in given.items()}
    required = [p for p, spec in given.items() if not read_type(str(spec.get("type", "any")))[1]]
    for parameter in required:
        if properties[parameter].get("default") == "":
            del properties[parameter]["default"]
            dropped["defaults that are a filler"] += 1
    used = [call["arguments"] for call in calls if call["name"] == name]
    left_out = {
        p for p in required if "default" in given[p] and any(p not in arguments for arguments in used)
    }
    dropped["required parameters with a default that a call leaves out"] += len(left_out)
    required = [parameter for parameter in required if parameter not in left_out]
    schema = {"type": "object", "properties": properties, "required": required}
    return tool_of(name, tool.get("description"), schema)


# ---- ToolACE ----
# {"system": text with a list of functions, "conversations": [{"from": "user" | "assistant" | "tool",
#  "value"}]}. The list is JSON, sometimes Python's repr, between fixed words. Of a function's two `required`
# the one inside `parameters` counts. An assistant turn is prose or a list of calls, [Name(a="x", b=1)], whose
# names are free text ("M4.5+ Earthquakes, Past 7 Days"): the longest listed name that stands there. A tool
# turn is a JSON list of {"name", "results"}, one for each call. Some prompts are a whole dialogue in a fixed
# frame; its turns are put back into the history. That "date" and "file" were replaced by "string" in names
# cannot be undone and does no harm: schemas and calls had it alike.

BEFORE_TOOLS, AFTER_TOOLS = "that you can invoke:\n", ". \nShould you decide"
FRAME = re.compile(
    r"\s*Role definition:.*?Historical dialog data is as follows:\s*(?P<dialogue>.*?)\s*"
    r"Please continue your answer given the historical dialog\. Your role is the Response assistant\.\s*",
    re.DOTALL,
)
SPEAKER = re.compile(r"(?:\A|\n) ?(Inquirer|Response assistant):")
FUNCTIONS = {"user": "user", "assistant": "answer", "tool": "result"}


def toolace(row: dict) -> dict:
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
    parameters = parameters_of(field(tool, "parameters", dict), dropped, tool.get("required"))
    return tool_of(field(tool, "name", str), tool.get("description"), parameters)


def unframed(text: str) -> list[tuple[str, str]]:
    """A user turn as parts: one, or those of the dialogue that it tells."""
    if "Historical dialog data" not in text:
        return [("user", text)]
    frame = FRAME.fullmatch(text)
    before, *pieces = SPEAKER.split(frame["dialogue"]) if frame else ("?",)
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
    if text.startswith("[") and (text.endswith(")]") or text == "[]" or starts_call(text, 1, names)):
        return "call", read_calls(text, names)
    bare = text.endswith(")") and starts_call(text, 0, names)
    if bare or ("[" in text and any(f"[{name}(" in text for name in names)):
        raise Refused("call inside prose", text)
    return "answer", text


def starts_call(text: str, at: int, names: list[str]) -> str | None:
    """The longest name that stands at the position with a bracket behind it."""
    return next(
        (n for n in names if text.startswith(n, at) and text[at + len(n) :].lstrip(" ")[:1] == "("), None
    )


GAP = re.compile(r"\s*")
ARGUMENT = re.compile(r"""\s*([^\s=,()'"][^=,()'"]*?)\s*=\s*""")
SCALAR = re.compile(r"""(?:"([^"\\]*)"|(-?(?:0|[1-9]\d*)(?:\.\d+)?)|(True|False|None))(?=\s*[,)])""")
SCALARS = {"True": True, "False": False, "None": None}
PIECE = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[(\[{]|[)\]}]|,|[^'"()\[\]{},]+""", re.DOTALL)


UNLISTED = re.compile(r"[^\[\](){}\n]+?(?= *\()")


def read_calls(text: str, names: list[str]) -> list[dict]:
    """[Name(a="x", b=1), Other()] -> calls. Raises Refused unless each character has its place."""
    calls, at = [], 1
    while True:
        at = GAP.match(text, at).end()
        name = starts_call(text, at, names)
        if name is None:
            unlisted = UNLISTED.match(text, at)
            if not unlisted:
                raise Refused("call that cannot be read", text[at:])
            name = unlisted[0]
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
        found = SCALAR.match(text, key.end())
        if found:
            string, number, word = found.groups()
            at = found.end()
            value = string if number is None else float(number) if "." in number else int(number)
            value = SCALARS[word] if word else value
        else:
            at = value_end(text, key.end())
            try:
                value = literal(text[key.end() : at])
            except ValueError as fault:
                raise Refused("call that cannot be read", str(fault)) from None
        arguments[key[1]] = value
        at = GAP.match(text, at).end()
        if text[at : at + 1] == ",":
            at = GAP.match(text, at + 1).end()
        elif text[at : at + 1] != ")":
            raise Refused("call that cannot be read", text[at:])
    return arguments, at + 1


def value_end(text: str, at: int) -> int:
    """Where a value ends: at a comma or bracket that is in no string and no bracket of its own."""
    depth = 0
    while piece := PIECE.match(text, at):
        if depth == 0 and piece[0] in (",", ")", "]", "}"):
            return at
        depth += (piece[0] in ("(", "[", "{")) - (piece[0] in (")", "]", "}"))
        at = piece.end()
    raise Refused("call that cannot be read", text[at:])


# ---- glaive-function-calling-v2 ----
# {"system": "SYSTEM: ... functions. Use them if required -\n" and one JSON object for each function, "chat":
#  text}. The chat's turns begin with USER:, ASSISTANT: or FUNCTION RESPONSE: and stand three newlines apart;
# the assistant's end with <|endoftext|>. A call is
#   <functioncall> {"name": "f", "arguments": '{"a": "let's"}'}
# with JSON in single quotes, of which the last before the brace closes, or with a bare object. \' in there is
# no JSON and can only mean an apostrophe, so it is read as one. Words before a call, said to the user, are
# dropped. A turn marker inside a turn is damage (once "AI:" was replaced everywhere): refused. So is every
# other form of a call; rows without functions have nothing to call.

TURN = re.compile(r"(?:\A\s*|\n\n\n)(USER|ASSISTANT|FUNCTION RESPONSE):")
END, CALL = "<|endoftext|>", "<functioncall>"
OTHER_CALL = re.compile(r"\bto= ?[\w.-]+: ?\{")
WRITTEN = re.compile(
    r"""\s*\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments":\s*(?:'(.*)'|(\{.*\}))\s*\}\s*""", re.DOTALL
)
ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def glaive(row: dict) -> dict:
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
        elif not text.rstrip().endswith(END):
            raise Refused("answer without its end mark", text)
        else:
            text = text.rstrip().removesuffix(END)
            prose, call, written = text.partition(CALL)
            if call:
                dropped["words before a call"] += bool(prose.strip())
            elif OTHER_CALL.search(text):
                raise Refused("call in another form", text)
            parts.append(("call", [glaive_call(written)]) if call else ("answer", text))
    turns, missing = dialogue(parts, dropped)
    return record_of("bfcl", tools, turns, missing, dropped)


def glaive_tools(system: str, dropped: Counter) -> list[dict]:
    """The functions, JSON objects one behind the other from the first brace on."""
    at, tools = system.find("{"), []
    if at < 0:
        raise Refused("no tools in the system text")
    while at < len(system):
        try:
            tool, at = ROW.raw_decode(system, at)
        except (ValueError, RecursionError) as fault:
            raise Refused("tools that cannot be read", str(fault)) from None
        name = field(tool, "name", str)
        parameters = parameters_of(tool.get("parameters") or {}, dropped, tool.get("required"))
        tools.append(tool_of(name, tool.get("description"), parameters))
        at = GAP.match(system, at).end()
    return tools


def glaive_call(text: str) -> dict:
    found = WRITTEN.fullmatch(text)
    if not found:
        raise Refused("call in another form", text)
    name, quoted, bare = found.groups()
    arguments = bare if quoted is None else quoted
    try:
        value = JSON.decode(arguments)
    except (ValueError, RecursionError):
        arguments = ESCAPE.sub(lambda escape: "'" if escape[1] == "'" else escape[0], arguments)
        value = embedded(arguments, dict, "arguments")
    if not isinstance(value, dict):
        raise Refused("arguments that are no JSON object", arguments)
    return {"name": JSON.decode(name), "arguments": value}


# ---- the table ----

FORMS = [
    Source("toolbench-trees", ({"answer_generation"},), toolbench.tree, toolbench.read_trees),
    Source("toolbench-conversations", ({"id", "conversations"},), toolbench.conversation),
    Source("toolbench-messages", ({"tools", "instruction", "chains"},), toolbench.messages),
    Source("apigen", ({"query", "answers", "tools"},), apigen),
    Source("toolace", ({"system", "conversations"},), toolace),
    Source("glaive", ({"system", "chat"},), glaive),
    Source("mathcoder", ({"messages"}, {"record"}), maths.mathcoder),
    Source("tora", ({"messages"},), maths.tora),
]
SOURCES = {source.name: source for source in FORMS}
