"""Rows of any data set: read one by one from a file of any size, and refused with a reason to count by.

    for row in read_rows(Path("data.json")): ...

apigen.py, toolace.py, glaive.py, toolbench.py and maths.py hold the rules by which rows become records. A
rule takes what it can read without a guess and refuses the rest of the rows. What stands inside texts, JSON
or Python literals, is read here too.
"""

import ast
import codecs
import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cli import UserError, open_file
from formats.calls import JSON


class Refused(Exception):
    """Why one row becomes no record: a reason to count by, without data in it, and what this row had."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def field(row: Any, key: str, kind: type) -> Any:
    """row[key], refusing the row where it is absent or of another type."""
    got = "nothing"
    if isinstance(row, dict) and key in row:
        if isinstance(row[key], kind):
            return row[key]
        got = type(row[key]).__name__
    raise Refused("not the source's shape", f"{key}: got {got}, wanted {kind.__name__}")


# ---- rows of a file ----

BLOCK = 1 << 20  # bytes read at a time
LONGEST = 1 << 26  # characters of a row; what goes on for longer is a torn file
SPACE = re.compile(r"[ \t\r\n]*")  # JSON's
GAP = re.compile(r"\s*")  # any white space, inside texts
# For what holds no calls, faster than formats.calls.JSON: of a key that stands twice the last counts, as
# elsewhere; NaN and half characters are left for check_record to refuse.
ROW = json.JSONDecoder(strict=False)


class Stream:
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
        with open_file(path) as file:
            stream = Stream(file)
            first = stream.peek()
            if not first:
                raise ValueError("the file is empty")
            if first not in ("[", "{"):
                raise ValueError("got no [ or {")
            for value in array_values(stream) if first == "[" else line_values(stream):
                yield value
                index += 1
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name the data set's file") from None
    except (ValueError, RecursionError) as fault:
        wanted = "wanted a JSON array or JSON Lines in UTF-8, whole and unpacked"
        raise UserError(f"{path}: row {index} cannot be read ({fault}); {wanted}") from None


def array_values(stream: Stream) -> Iterator[Any]:
    """The values of a JSON array. Raises ValueError."""
    stream.at += 1
    if stream.peek() == "]":
        mark = "]"
    else:
        yield stream.value()
        mark = stream.peek()
    while mark == ",":
        stream.at += 1
        stream.peek()
        yield stream.value()
        mark = stream.peek()
    if not mark:
        raise ValueError("the array has no end")
    if mark != "]":
        raise ValueError(f"got {mark!r}, wanted , or ]")
    stream.at += 1
    if stream.peek():
        raise ValueError(f"{stream.peek()!r} behind the array")


def line_values(stream: Stream) -> Iterator[Any]:
    """The values of JSON Lines, or of objects over several lines. Raises ValueError."""
    while stream.peek():
        yield stream.value()


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
    return read_expression(text, literal_value)


def read_expression(text: str, read: Callable[[ast.AST], Any]) -> Any:
    """What `read` makes of the expression that the text is; any fault is a ValueError."""
    if DEEP.search(text):
        raise ValueError("nested too deeply")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes such as \d
            return read(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as fault:
        raise ValueError(f"no Python expression ({fault})") from None


def literal_value(node: ast.AST) -> Any:
    """`literal`, of a parsed expression. Raises ValueError."""
    if isinstance(node, ast.Constant) and type(node.value) in (str, int, float, bool, type(None)):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [literal_value(inner) for inner in node.elts]
    if isinstance(node, ast.Dict):
        keys = [literal_value(key) if key else None for key in node.keys]
        if not all(isinstance(key, str) for key in keys) or len(set(keys)) < len(keys):
            raise ValueError("keys that are not text, or stand twice")
        return dict(zip(keys, map(literal_value, node.values), strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = literal_value(node.operand)
        if type(value) in (int, float):
            return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.Name) and node.id in NAMES:
        return NAMES[node.id]
    raise ValueError(f"no plain value ({type(node).__name__})")
