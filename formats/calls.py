"""Function calls: checked against JSON schemas, compared, written for the model, read from what it writes.

A tool is the OpenAI-style schema of a function, {"name", "description", "parameters"}; a call is {"name",
"arguments"}. A call as an executor writes it (the paper's Figs. 8 and 11; in Fig. 9 it is Action-Input):

    [unused11]Action: get_weather Arguments: {"city": "Bali"}[unused12]

Several stand on one line, with ", " between. The writer has one form, the reader takes what models make
of it. Checks raise ValueError with the field, what was got and what was wanted; data.py adds file and line.
"""

import ast
import contextlib
import json
import math
import re
import warnings

# ---- JSON, strictly ----


def _unique(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {max(names, key=names.count)!r} stands twice in one object")
    return value


def _no_constant(name: str):
    raise ValueError(f"{name} is not a JSON number")


# JSON as we read it, in files and in calls: no key twice, no NaN; raw newlines in strings do no harm
JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant, strict=False)
MAX_DEPTH = 64  # of objects and lists inside each other
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, from a JSON "\ud83d" without its other half


def check_plain(value: object, at: str = "", depth: int = 0) -> None:
    """Refuse what JSON can say but not everybody can hold: half characters, 1e999, endless nesting.

    `at` is the path to the value within the whole, and `depth` the number of steps in it.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"{at[:60]}...: nested too deeply, wanted at most {MAX_DEPTH} levels")
    if isinstance(value, dict):
        for name, inner in value.items():
            check_plain(name, at or "key", depth)
            check_plain(inner, f"{at}.{name}".removeprefix("."), depth + 1)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            check_plain(inner, f"{at}[{i}]", depth + 1)
    elif isinstance(value, str) and SURROGATE.search(value):
        raise ValueError(f"{at}: got half a character in {value!r:.60}, wanted text that UTF-8 can hold")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{at}: got {value}, wanted a finite number")


# ---- schemas ----

# fmt: off
KINDS = {
    "string": [str], "integer": [int], "number": [int, float], "boolean": [bool], "null": [type(None)],
    "array": [list], "object": [dict],
    # further names that data sets use; a name that is not here accepts everything
    "str": [str], "int": [int], "float": [int, float], "double": [int, float], "bool": [bool],
    "list": [list], "tuple": [list], "dict": [dict],
}
# fmt: on


def check_value(value: object, schema: dict, at: str = "") -> None:
    """Hold a JSON value against a JSON schema.

    Read are type, enum, required, properties, items and additionalProperties. Keys that `properties` lacks
    are refused unless the last allows them. 1 is a number; 1.0 is no integer. Raises ValueError with the path
    to the fault, which begins with `at`.
    """
    if fault := _fault(value, schema):
        path, what = fault
        where = f"{at}{path}" if at else path.removeprefix(".")
        raise ValueError(f"{where}: {what}")


def _fault(value: object, schema: dict) -> tuple[str, str] | None:
    """The first fault: the path to it from here, put together on the way back, and what it is."""
    if not schema:
        return None
    kinds = schema.get("type") or []
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is_of_kind(value, kind) for kind in kinds):
        return "", f"got {value!r:.60}, wanted {' or '.join(kinds)}"
    if "enum" in schema and not _is_among(value, schema["enum"]):
        return "", f"got {value!r:.60}, wanted {' or '.join(map(repr, schema['enum']))}"
    if isinstance(value, list) and (rule := schema.get("items")):
        for i, inner in enumerate(value):
            if fault := _fault(inner, rule):
                return f"[{i}]{fault[0]}", fault[1]
    if isinstance(value, dict):
        return _fault_of_object(value, schema)
    return None


def _fault_of_object(value: dict, schema: dict) -> tuple[str, str] | None:
    for name in schema.get("required", ()):
        if name not in value:
            return f".{name}", "missing"
    known = schema.get("properties", {})
    further = schema.get("additionalProperties", "properties" not in schema)
    for name, inner in value.items():
        rule = known.get(name, further)
        if rule is False:
            return f".{name}", f"unknown, wanted {' or '.join(known) or 'nothing'}"
        if rule is not True and (fault := _fault(inner, rule)):
            return f".{name}{fault[0]}", fault[1]
    return None


def _is_of_kind(value: object, kind: str) -> bool:
    kinds = KINDS.get(kind) or KINDS.get(kind.lower())
    return kinds is None or type(value) in kinds


def _is_among(value: object, options: list) -> bool:
    if isinstance(value, str):
        return value in options
    return _key(value) in map(_key, options)


def _key(value: object) -> str:
    """One text for all equal JSON values; 1 equals 1.0."""
    return json.dumps(json.loads(json.dumps(value), parse_float=_number), sort_keys=True)


def _number(text: str) -> int | float:
    value = float(text)
    return int(value) if value.is_integer() else value


def check_call(call: dict, tools: list[dict]) -> str | None:
    """Why a call does not fit the tools' schemas, for an observation; None if it fits."""
    tool = next((tool for tool in tools if tool["name"] == call["name"]), None)
    if not tool:
        names = ", ".join(tool["name"] for tool in tools) or "none"
        return f"unknown function {call['name']!r:.60}; available: {names}"
    try:
        check_value(call["arguments"], {"properties": {}} | tool.get("parameters", {}) | {"type": "object"})
    except ValueError as fault:
        return f"{tool['name']}: argument {fault}"
    return None


def same_calls(a: list[dict], b: list[dict]) -> bool:
    """Equal names and arguments, calls in any order. 1 equals 1.0; strings and order in lists are exact."""
    a, b = ([_key([call["name"], call["arguments"]]) for call in calls] for calls in (a, b))
    return sorted(a) == sorted(b)


# ---- written calls ----

OPEN, CLOSE = "[unused11]", "[unused12]"  # tokens in openPangu, plain text elsewhere
KEYWORDS = {"bfcl": "Arguments", "toolbench": "Action-Input"}  # domains that call functions
KEYWORD = r"(?:Arguments|Action[- ]Input)[ \t]{0,4}:"
# Data sets have names such as `M4.5+ Earthquakes`: any text on one line up to a keyword and its spaces.
NAME = rf"(?=\S)(?:(?!{KEYWORD})[^\n])+?(?<=\S)"
WHOLE_NAME = re.compile(NAME)
BEFORE = re.compile(rf"\s*(?:{re.escape(OPEN)}\s*)?Action:\s*(?P<name>{NAME})\s*{KEYWORD}\s*")
BEHIND = re.compile(rf"\s*(?:{re.escape(CLOSE)}\s*)?,?\s*")


class CallError(ValueError):
    """Text of an executor that is no call; the message is fit for an observation."""


def write_calls(calls: list[dict], domain: str) -> str:
    """Calls as an executor writes them."""
    return "".join(call_parts(calls, domain))


def call_parts(calls: list[dict], domain: str) -> list[str]:
    """The text of calls, in which OPEN and CLOSE are parts of their own: what an argument holds is not."""
    parts = []
    for call in calls:
        arguments = json.dumps(call["arguments"], ensure_ascii=False, allow_nan=False)
        parts += [", ", OPEN, f"Action: {call['name']} {KEYWORDS[domain]}: {arguments}", CLOSE]
    return parts[1:]


def parse_calls(text: str) -> list[dict]:
    """Read one call or more. Raises CallError saying what stood in the way.

    Accepted: with or without [unused11] and [unused12], `Arguments` or `Action-Input`, JSON or a Python
    literal or a mixture, a comma or nothing between calls. Whatever an argument's text looks like, it stays
    an argument.
    """
    calls, at = [], 0
    while not calls or at < len(text):
        before = BEFORE.match(text, at)
        if not before:
            raise CallError(f"expected Action: NAME Arguments: {{...}}, got {text[at : at + 50]!r}")
        name, at = before["name"], before.end()
        try:
            arguments, end = _read_arguments(text, at)
        except (ValueError, SyntaxError, RecursionError) as error:
            got = f"{text[at : at + 50]!r} ({error})"
            raise CallError(f"{name[:60]}: expected arguments as an object {{...}}, got {got}") from None
        calls.append({"name": name, "arguments": arguments})
        at = BEHIND.match(text, end).end()
    return calls


def _read_arguments(text: str, at: int) -> tuple[dict, int]:
    """The object at position `at`, and the position behind it."""
    value, end = _read_value(text, at)
    if not isinstance(value, dict):
        raise ValueError("no object")
    check_plain(value)
    return value, end


SPACE = re.compile(r"\s*(?:(?:#[^\n]*|\\(?:\r\n|[\r\n]))\s*)*")  # and Python's comments and joined lines
STRING = re.compile(
    r"""([rRuU]?)(?:\'\'\'(?:[^\\]|\\.)*?\'\'\'|"{3}(?:[^\\]|\\.)*?"{3}|'(?!'')(?:[^'\\]|\\.)*'|"(?!"")(?:[^"\\]|\\.)*")""",
    re.DOTALL,
)
NUMBER = re.compile(r"[.\d](?:[eE][-+]|[.\w])*", re.ASCII)
WORD = re.compile(r"\w+")
CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
CLOSING = {"{": "}", "[": "]", "(": ")"}
IN_STRING = re.compile(r"\\\r\n|\\.|[\n\r\0]", re.DOTALL)
SPELLED = {"\n": "\\n", "\r": "\\r", "\0": "\\x00", "\\\0": "\\\\\\x00"}


def _read_value(text: str, at: int, depth: int = 0) -> tuple[object, int]:
    """A value in JSON or in Python's literals from position `at` on, and the position of what follows it.

    Not by ast.literal_eval, which crashes the interpreter on deep nesting. Python's tuples are lists.
    """
    if depth > 2 * MAX_DEPTH:
        raise ValueError(f"nested too deeply, wanted at most {MAX_DEPTH} levels")
    at = SPACE.match(text, at).end()
    if text[at : at + 1] in CLOSING:
        value, at = _read_items(text, at, depth)
    elif found := STRING.match(text, at):
        value = ""
        while found:  # Python's strings side by side are one
            value += _string(found[0], found[1])
            at = SPACE.match(text, found.end()).end()
            found = STRING.match(text, at)
    elif found := NUMBER.match(text, at):
        value, at = _number_of(found[0]), found.end()
    elif text.startswith(("-", "+"), at):
        sign, at = text[at], SPACE.match(text, at + 1).end()
        value, end = _read_value(text, at, depth + 1)
        if type(value) not in (int, float) or text.startswith(("-", "+"), at):
            raise ValueError(f"{sign} stands before what is no number")
        value, at = -value if sign == "-" else value, end
    elif (found := WORD.match(text, at)) and found[0] in CONSTANTS:
        value, at = CONSTANTS[found[0]], found.end()
    else:
        raise ValueError(f"{text[at : at + 10]!r} unexpected" if text[at:] else "no end of the object")
    return value, at


def _read_items(text: str, at: int, depth: int) -> tuple[object, int]:
    """What stands in brackets from position `at` on: an object, a list, or a value in parentheses."""
    opening, at = text[at], SPACE.match(text, at + 1).end()
    items, comma = [], True  # whether an item may follow
    while text[at : at + 1] != CLOSING[opening]:
        if not comma:
            raise ValueError(f"{text[at : at + 10]!r} unexpected" if text[at:] else "no end of the object")
        item, at = _read_value(text, at, depth + 1)
        at = SPACE.match(text, at).end()
        if opening == "{":
            if not isinstance(item, str) or text[at : at + 1] != ":":
                raise ValueError(
                    f"{text[at : at + 10]!r} unexpected, wanted keys that are texts, and a colon"
                )
            value, at = _read_value(text, at + 1, depth + 1)
            item, at = (item, value), SPACE.match(text, at).end()
        items.append(item)
        comma = text.startswith(",", at)
        at = SPACE.match(text, at + comma).end()
    if opening == "{":
        return _unique(items), at + 1
    if opening == "(" and len(items) == 1 and not comma:
        return items[0], at + 1
    return items, at + 1


def _string(piece: str, prefix: str) -> str:
    """A string as JSON reads it, where it is one, else as Python does. Raw newlines may stand in it."""
    if piece.startswith('"'):
        with contextlib.suppress(ValueError):
            return JSON.decode(piece)
    if prefix in "rR" and prefix:
        quotes = 3 if piece[1:4] in ("'''", '"""') else 1
        return piece[1 + quotes : -quotes]
    spelled = IN_STRING.sub(lambda found: SPELLED.get(found[0], found[0]), piece)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of unknown escapes such as \d
        return ast.literal_eval(spelled)


def _number_of(digits: str) -> int | float:
    """A number of JSON or Python. Raises ValueError, for complex ones, too."""
    if set(digits) & set(".eE") and digits[:2].lower() != "0x":
        return float(digits)
    return int(digits, 0)


# ---- the tools and calls of a record ----


def object_of(required: dict, optional: dict | None = None) -> dict:
    """The schema of an object with these keys and no others."""
    return {"type": "object", "required": list(required), "properties": required | (optional or {})}


TEXT, LIST = {"type": "string"}, {"type": "array"}
SCHEMA: dict = {"type": "object", "additionalProperties": True}  # of a schema: what `check_value` reads of it
SCHEMA["properties"] = {
    "type": {"type": ["string", "array"], "items": TEXT},
    "enum": LIST,
    "required": LIST | {"items": TEXT},
    "properties": {"type": "object", "additionalProperties": SCHEMA},
    "items": SCHEMA,
}
SCHEMA["properties"]["additionalProperties"] = SCHEMA | {"type": ["boolean", "object"]}
TOOLS = LIST | {"items": object_of({"name": TEXT}, {"description": TEXT, "parameters": SCHEMA})}
CALLS = LIST | {"items": object_of({"name": TEXT, "arguments": {"type": "object"}})}


def check_tools(tools: list[dict], at: str) -> None:
    """The form of schemas, and that no name stands twice. Raises ValueError."""
    check_value(tools, TOOLS, at)
    _check_names(tools, at)
    names = [tool["name"] for tool in tools]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"{at}[{i}].name: got {name!r:.60} again, wanted each name once")


def check_calls(calls: list[dict], at: str) -> None:
    """Form only: not whether the calls fit the tools. Raises ValueError."""
    check_value(calls, CALLS, at)
    _check_names(calls, at)
    if not calls:
        raise ValueError(f"{at}: got an empty list, wanted one call or more")


def _check_names(functions: list[dict], at: str) -> None:
    for i, function in enumerate(functions):
        if not WHOLE_NAME.fullmatch(function["name"]):
            wanted = "a name on one line, without spaces around it or `Arguments:` in it"
            raise ValueError(f"{at}[{i}].name: got {function['name']!r:.60}, wanted {wanted}")
