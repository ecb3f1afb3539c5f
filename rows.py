"""What the rules for all data sets share: rows as a stream, refusals, JSON inside text, schemas, records.

sources.py (APIGen, ToolACE, glaive), toolbench.py and maths.py hold the rules. A rule takes what it can read
without a guess and refuses the rest of the rows, each with a short reason that can be counted.
"""

import ast
import codecs
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from calls import JSON, check_value
from cli import UserError


class Refused(Exception):
    """Why one row becomes no record: a reason to count by, without data in it, and what this row had."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def field(row: Any, key: str, kind: type) -> Any:
    """row[key], refusing the row where it is absent or of another type."""
    if not isinstance(row, dict) or not isinstance(row.get(key), kind):
        got = type(row[key]).__name__ if isinstance(row, dict) and key in row else "nothing"
        raise Refused("not the source's shape", f"{key}: got {got}, wanted {kind.__name__}")
    return row[key]


# ---- rows of a file ----

BLOCK = 1 << 20  # bytes read at a time
LONGEST = 1 << 26  # characters of a row; what goes on for longer is a torn file
SPACE = re.compile(r"[ \t\r\n]*")
# Faster than calls.JSON, for what holds no calls: of a key that stands twice the last counts, as elsewhere;
# NaN and half characters are left for check_record to refuse.
ROW = json.JSONDecoder(strict=False)


class _Stream:
    """The JSON values of a file one after another, in the memory of a block or of the longest value."""

    def __init__(self, file):
        self.file, self.decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.bytes = "", 0, 0

    def grow(self) -> bool:
        """Put the next block behind what is left of the text; False at the end of the file."""
        left = self.text[self.at :]
        block = self.file.read(max(BLOCK, len(left)))
        before = self.bytes - len(self.decoder.getstate()[0])
        try:
            self.text, self.at = left + self.decoder.decode(block, final=not block), 0
        except UnicodeDecodeError as error:
            raise ValueError(f"byte {before + error.start} is not UTF-8") from None
        self.bytes += len(block)
        return bool(block)

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.grow():
                return ""

    def value(self) -> Any:
        """The value at the position. Raises ValueError for what is none, however long the file goes on."""
        while True:
            try:
                value, end = ROW.raw_decode(self.text, self.at)
            except json.JSONDecodeError as fault:
                # Cut short by the end of the block? Then the fault is at that end, or an open string.
                cut = fault.pos > len(self.text) - 16 or fault.msg.startswith("Unterminated")
                if not cut or len(self.text) - self.at > LONGEST or not self.grow():
                    raise ValueError(fault.msg) from None
                continue
            length = end - self.at
            if end + 2 < len(self.text) or not self.grow():  # 12 may be the beginning of 123, or of 12e+3
                self.at += length
                return value


def read_rows(path: Path) -> Iterator[Any]:
    """Yield the values of a JSON array, of JSON Lines, or the one value of a file. Raises UserError.

    Memory is that of a block or of the longest row, whatever the size of the file.
    """
    index = 0
    try:
        with open(path, "rb") as file:
            stream = _Stream(file)
            array = stream.peek() == "["
            if stream.peek() not in ("[", "{"):
                raise ValueError("got no [ or {" if stream.peek() else "the file is empty")
            stream.at += array
            while (mark := stream.peek()) != ("]" if array else ""):
                if array and index:
                    if mark != ",":
                        raise ValueError(f"got {mark!r}, wanted , or ]" if mark else "the array has no end")
                    stream.at += 1
                    stream.peek()
                yield stream.value()
                index += 1
            stream.at += array
            if stream.peek():
                raise ValueError(f"{stream.peek()!r} behind the array")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the data set's file") from None
    except (ValueError, RecursionError) as fault:
        wanted = "wanted a JSON array or JSON Lines in UTF-8, whole and unpacked"
        raise UserError(f"{path}: row {index} cannot be read ({fault}); {wanted}") from None


# ---- JSON and Python literals inside a text ----


def embedded(text: Any, kind: type, what: str, decoder: json.JSONDecoder = JSON) -> Any:
    """The JSON list or object that a text holds, or that stands there as it is."""
    if isinstance(text, str):
        try:
            text = decoder.decode(text)
        except (ValueError, RecursionError) as fault:
            raise Refused(f"{what} that cannot be read", str(fault)) from None
    if not isinstance(text, kind):
        raise Refused(f"{what} of another type", type(text).__name__)
    return text


DEEP = re.compile(r"(?:[-+~(\[{]\s*){99}")  # runs that could take the parser's whole stack
NAMES = {"true": True, "false": False, "null": None}  # JSON's words between Python's quotes


def literal(text: str) -> Any:
    """A Python literal as the JSON value that it spells. Raises ValueError for anything else.

    Tuples are lists; sets, bytes, names, calls, arithmetic and keys that stand twice are refused.
    """
    return _parsed(text, _plain)


def _parsed(text: str, read: Callable[[ast.AST], Any]) -> Any:
    """What `read` makes of the expression that the text is; any fault is a ValueError."""
    if DEEP.search(text):
        raise ValueError("nested too deeply")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes such as \d
            return read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as fault:
        raise ValueError(f"no Python expression ({fault})") from None


def _plain(node: ast.AST) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) in (str, int, float, bool, type(None)):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_plain(inner) for inner in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_plain(key) if key else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
            raise ValueError("keys that are not text, or stand twice")
        return dict(zip(keys, map(_plain, node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _plain(node.operand)
        if type(value) in (int, float):
            return -value
    if isinstance(node, ast.Name) and node.id in NAMES:
        return NAMES[node.id]
    raise ValueError(f"no plain value ({type(node).__name__})")


# ---- schemas ----
# Whatever words a source has for types, the record gets JSON Schema's. A type that JSON Schema cannot say
# (Callable, np.ndarray, a date) is left out and its words go to the description: without a type no right call
# is refused, and the model still reads what is wanted.

TYPES = {"str": "string", "char": "string", "int": "integer", "long": "integer", "float": "number"}
TYPES |= {"double": "number", "bool": "boolean", "list": "array", "tuple": "array", "sequence": "array"}
TYPES |= {"arraylist": "array", "iterable": "array", "dict": "object", "mapping": "object", "none": "null"}
TYPES |= {"hashmap": "object"}
TYPES |= {name: name for name in ("string", "integer", "number", "boolean", "array", "object", "null")}
DEFAULT = re.compile(r"defaults?\b\s*(?:is|to|=|:)?\s*(.+)", re.DOTALL | re.IGNORECASE)
KEPT = {"format", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "pattern"}


def parameters_of(spec: Any, dropped: Counter, outer: Any = None) -> dict:
    """The schema of a function's arguments, or of an object, from one that has properties.

    outer: a `required` list beside the schema, which counts where there is none inside.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("properties", {}), dict):
        raise Refused("parameters that are no object", repr(spec))
    if spec and "properties" not in spec and set(spec) - {"type", "required", "optional", "description"}:
        raise Refused("parameters without properties", ", ".join(spec))
    given = spec.get("properties", {})
    properties = {name: schema_of(inner, dropped) for name, inner in given.items()}
    listed = spec["required"] if isinstance(spec.get("required"), list) else outer
    required = [name for name in listed or () if isinstance(name, str) and name in properties]
    dropped["required names without a parameter"] += len(listed or ()) - len(required)
    required += [n for n, inner in given.items() if inner.get("required") is True and n not in required]
    return {"type": "object", "properties": properties, "required": required}


def schema_of(spec: Any, dropped: Counter) -> dict:
    """One parameter in JSON Schema's words; what does not fit its type (default, enum) is dropped."""
    if not isinstance(spec, dict):
        raise Refused("tool parameter that is no object", repr(spec))
    words = spec.get("type") or "any"
    words = " | ".join(map(str, words)) if isinstance(words, list) else str(words)
    known, _, default = read_type(words)
    out = deepcopy(known) if known and len(known) > 1 else dict(known or {})
    text = spec["description"] if isinstance(spec.get("description"), str) else ""
    text = text if known is not None else f"{text} (type: {words})".lstrip()
    out |= {"description": text} if text else {}
    if isinstance(spec.get("properties"), dict):
        inner = parameters_of(spec, dropped)
        out |= {"type": "object", "properties": inner["properties"], "required": inner["required"]}
    elif isinstance(spec.get("additionalProperties"), bool):
        out["additionalProperties"] = spec["additionalProperties"]
    if isinstance(spec.get("items"), dict):
        out["items"] = schema_of(spec["items"], dropped)
    if not KEPT.isdisjoint(spec):
        out |= {k: value for k, value in spec.items() if k in KEPT and isinstance(value, str | int | float)}
    enum = spec.get("enum")
    if isinstance(enum, list) and enum and all(fits(value, out) for value in enum):
        out["enum"] = enum
    elif enum:
        dropped["enums that do not fit their type"] += 1
    if "default" in spec or default is not None:
        default = spec["default"] if "default" in spec else default
        if fits(default, out) and default is not None:
            out["default"] = default
        else:
            dropped["defaults that do not fit their type"] += 1
    return out


def fits(value: Any, schema: dict) -> bool:
    try:
        check_value(value, schema)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def read_type(words: str) -> tuple[dict | None, bool, Any]:
    """`List[int], optional, default 3` -> its schema, whether it says optional, the default.

    The schema, not to be changed, is None where JSON Schema has no such type.
    """
    first, *rest = _outer_parts(words)
    optional = "optional" in words.lower()
    default = None
    for part in rest:
        if found := DEFAULT.match(part):
            try:
                default = literal(found[1])
            except ValueError:
                default = found[1] if re.fullmatch(r"\w+", found[1]) else None
    try:
        return _parsed(first, _type), optional, default
    except ValueError:
        return None, optional, default


def _outer_parts(words: str) -> list[str]:
    """The text split at the commas that are in no brackets."""
    depth = list(accumulate((c in "[({") - (c in "])}") for c in words))
    ends = [i for i, c in enumerate(words) if c == "," and not depth[i]]
    return [words[a + 1 : b].strip() for a, b in pairwise([-1, *ends, len(words)])]


def _type(node: ast.AST) -> dict:
    """A Python annotation as a schema. Raises ValueError for one that has none."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_type(node.left), _type(node.right)])
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "typing":
        node = ast.Name(node.attr)
    if isinstance(node, ast.Name):
        name = node.id.lower()
        if name == "set":
            return {"type": "array", "uniqueItems": True}
        if name != "any" and name not in TYPES:
            raise ValueError(f"no JSON type: {name}")
        return {"type": TYPES[name]} if name != "any" else {}
    if not isinstance(node, ast.Subscript):
        raise ValueError("no type")
    name = ast.unparse(node.value).removeprefix("typing.").lower()
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name in ("union", "optional"):
        return _union([_type(part) for part in parts] + [{"type": "null"}] * (name == "optional"))
    if name == "literal":
        return {"enum": [_plain(part) for part in parts]}
    out = _type(ast.Name(name))
    if out.get("type") == "object":
        return out | ({"additionalProperties": _type(parts[1])} if len(parts) == 2 else {})
    if out.get("type") != "array":
        raise ValueError("no such generic type")
    fixed = name == "tuple" and not (isinstance(parts[-1], ast.Constant) and parts[-1].value is ...)
    items = _union([_type(part) for part in parts if getattr(part, "value", 0) is not ...])
    out |= {"items": items} if items else {}
    return out | ({"minItems": len(parts), "maxItems": len(parts)} if fixed else {})


def _union(parts: list[dict]) -> dict:
    """One schema for any of several: their types side by side, as calls.check_value reads no anyOf."""
    unique = [part for i, part in enumerate(parts) if part not in parts[:i]]
    if len(unique) == 1 or {} in unique:
        return unique[0] if len(unique) == 1 else {}
    if any("enum" in part for part in unique):
        raise ValueError("a union of values")
    types = [
        name
        for part in unique
        for name in ([part["type"]] if isinstance(part["type"], str) else part["type"])
    ]
    types = [t for i, t in enumerate(types) if t not in types[:i]]
    types = [t for t in types if t != "integer" or "number" not in types]
    out = {"type": types[0] if len(types) == 1 else types}
    for kind in ("array", "object"):  # what is inside can be said if only one of them has it
        inside = [part for part in unique if kind in part["type"]]
        out |= {k: v for k, v in inside[0].items() if k != "type"} if len(inside) == 1 else {}
    return out


# ---- observations that report a fault ----

RAISED = re.compile(r"^\s*(?:\w+\.)*(\w*(?:Error|Exception|Failed|Interrupt|Exit))(?::|\s*$)", re.MULTILINE)
REPORTED = re.compile(r'\s*(?:error\b|\{\s*"error":\s*"[^"])', re.IGNORECASE)  # the latter: JSON cut short
HINT = re.compile("error|exception|failed|interrupt|exit", re.IGNORECASE)  # without it there is none


def is_error(observation: str) -> bool:
    """Does an observation report a failure: by a key `error`, its first word or an exception?"""
    if not HINT.search(observation):
        return False
    try:
        return _has_error(JSON.decode(observation))
    except (ValueError, RecursionError):
        return bool(REPORTED.match(observation) or raised(observation))


def _has_error(value: object) -> bool:
    """Look into the result of a call, or each of a list of results."""
    if isinstance(value, list):
        return any(map(_has_error, value))
    if isinstance(value, dict):
        return bool(value.get("error")) or any(_has_error(value.get(key)) for key in ("results", "response"))
    return isinstance(value, str) and bool(REPORTED.match(value))


def raised(text: str) -> str | None:
    """The exception that a traceback, or the last line of a text, ends in."""
    found = RAISED.findall(text if "Traceback" in text else text.strip().rpartition("\n")[2])
    return found[-1] if found else None


# ---- tools, texts, records ----


def tool_of(name: Any, description: Any, parameters: dict) -> dict:
    about = {"description": description} if isinstance(description, str) and description else {}
    return {"name": name, **about, "parameters": parameters}


def unlike(tools: list[dict], dropped: Counter) -> list[dict]:
    """The tools without repetitions; two that share a name only are refused."""
    seen: dict[Any, dict] = {}
    for tool in tools:
        if seen.setdefault(tool["name"], tool) != tool:
            raise Refused("two tools of one name", repr(tool["name"]))
    dropped["tools listed twice"] += len(tools) - len(seen)
    return [*seen.values()]


def outside(name: str, tools: list[dict]) -> Refused:
    """A call of no listed tool: nearly one (hyphens, case, cut names, glued-on brackets), or none at all."""

    def bare(text: str) -> str:
        return re.sub(r"[\W_]", "", text.split("(")[0]).lower()

    names = [bare(tool["name"]) for tool in tools]
    near = bare(name) and any(known.endswith(bare(name)) or known in bare(name) for known in names)
    return Refused(
        "call outside the tool list, nearly inside" if near else "call outside the tool list", name
    )


LEFTOVERS = re.compile(
    r"<functioncall>|<\|endoftext\|>|\[unused1[12]\]|\bNext: (?:executor|summarizer)\b"
    r"|^(?:USER|ASSISTANT|FUNCTION RESPONSE|SYSTEM):",
    re.MULTILINE,
)


# One of these stands in each of them, and looking for words is a hundred times as fast.
HINTS = (
    "<functioncall>",
    "<|endoftext|>",
    "[unused1",
    "Next: ",
    "USER:",
    "ASSISTANT:",
    "RESPONSE:",
    "SYSTEM:",
)


def said(text: str) -> str:
    """The text without white space around it, refused where it holds a source's marks or our own."""
    if [hint for hint in HINTS if hint in text] and (found := LEFTOVERS.search(text)):
        raise Refused("markup left in a text", found[0])
    return text.strip()


def record_of(
    domain: str, tools: list[dict], turns: list[dict], missing: list[str], dropped: Counter
) -> dict:
    """A record whose source names what the row lacked, what was left behind, which observations are faults.

    Source.convert adds the data set and the row's id. Raises Refused for a call outside the tool list that
    has a result; one that has none is left to verify.py, where another call does not make a result untrue.
    """
    names = {tool["name"] for tool in tools}
    for i, turn in enumerate(turns):
        unknown = [call["name"] for call in turn.get("calls", ()) if call["name"] not in names]
        followed = unknown and turns[i : end_of_query(turns, i)]
        if followed and any(turn["role"] == "observation" for turn in followed):
            raise outside(unknown[0], tools)
    seen = [(i, turn["content"]) for i, turn in enumerate(turns) if turn["role"] == "observation"]
    errors = [i for i, text in seen if is_error(text)]
    source = {"missing": missing, "dropped": {what: count for what, count in dropped.items() if count}}
    source |= {"errors": [f"trajectory.{i}" for i in errors]} if errors else {}
    return {**({"tools": tools} if tools else {}), "domain": domain, "trajectory": turns, "source": source}


def reason(turns: list[dict], missing: list[str], thought: str, following: str) -> None:
    """Append a reasoner turn; one without words is missing."""
    if not thought:
        missing.append(f"trajectory.{len(turns)}.content")
    turns.append({"role": "reasoner", "content": thought, "next": following})


def summarize(turns: list[dict], missing: list[str], answer: str) -> None:
    if not answer:
        missing.append(f"trajectory.{len(turns)}.content")
    turns.append({"role": "summarizer", "content": answer})


def end_of_query(turns: list[dict], i: int) -> int:
    """The number of the next user turn behind turn i, or of the end."""
    return next((j for j in range(i, len(turns)) if turns[j]["role"] == "user"), len(turns))
