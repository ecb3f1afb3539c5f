"""Values of source text: BFCL writes calls in Python, and some arguments in Java and JavaScript.

    parse_call("f.g(1, a=1/6)")                                   # ("f.g", [1], {"a": 0.1666...})
    source_value("new int[]{1, 2}", "Array", "integer", "java")   # [1, 2]

The text comes from files and from models, so nothing is run. Python is parsed by `ast`, and only arithmetic
on numbers is worked out. Java and JavaScript values are read by patterns, type by type, with the same blind
spots as the leaderboard's own reader: a comma always separates elements, a bracket always closes. Lengths and
numbers are bounded, so that a model's runaway text fails at once.
"""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable
from typing import Any

# ---- Python source: calls and arithmetic ----

MAX_TEXT = 4000  # characters of one text that is parsed: bounds its nesting, and what patterns cost
MAX_BITS = 10_000  # of an integer on the way


def parse_call(text: str) -> tuple[str, list, dict]:
    """`f.g(1, a=1/6)` -> ("f.g", [1], {"a": 0.1666...}). ValueError for all but literals and arithmetic."""
    node = _parse(text)
    if not isinstance(node, ast.Call) or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError(f"got {text!r:.60}, wanted a call such as f(a=1)")
    try:
        positional = [evaluate(value, {}) for value in node.args]
        keywords = {keyword.arg: evaluate(keyword.value, {}) for keyword in node.keywords}
        return _dotted(node.func), positional, keywords
    except (ArithmeticError, TypeError, RecursionError) as error:
        raise ValueError(f"got {text!r:.60} ({error}), wanted literals and arithmetic") from None


def parse_lambda(text: str) -> Callable[[float], float]:
    """The function that `lambda x: 3*x**2` is. Raises ValueError unless it is one argument and arithmetic."""
    node = _parse(text)
    arguments = node.args if isinstance(node, ast.Lambda) else None
    if not arguments or len(arguments.args) != 1 or ast.unparse(arguments) != arguments.args[0].arg:
        raise ValueError(f"got {text!r:.60}, wanted a lambda of one argument")
    return lambda x: evaluate(node.body, {arguments.args[0].arg: x})


def _parse(text: str) -> ast.expr:
    if len(text) > MAX_TEXT:
        raise ValueError(f"got {len(text)} characters, wanted at most {MAX_TEXT}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes such as \d
            return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"got {text!r:.60}, wanted a Python expression ({error})") from None


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    if isinstance(node, ast.Name):
        return node.id
    raise ValueError(f"got {type(node).__name__}, wanted a name")


def evaluate(node: ast.expr, variables: dict[str, float]) -> Any:
    """The value of literals, + - * / **, abs, pow, math.NAME and `variables`. Raises ValueError otherwise."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List):
        return [evaluate(item, variables) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(evaluate(item, variables) for item in node.elts)
    if isinstance(node, ast.Dict):
        keys = [evaluate(key, variables) for key in node.keys]
        values = [evaluate(value, variables) for value in node.values]
        return dict(zip(keys, values, strict=True))
    if isinstance(node, ast.Name) and node.id in variables:
        return variables[node.id]
    if isinstance(node, ast.UnaryOp) and type(node.op) in SIGNS:
        return SIGNS[type(node.op)](_number(evaluate(node.operand, variables)))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left = _number(evaluate(node.left, variables))
        right = _number(evaluate(node.right, variables))
        return OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Attribute) and _dotted(node) in CONSTANTS:
        return CONSTANTS[_dotted(node)]
    if isinstance(node, ast.Call) and not node.keywords and _dotted(node.func) in MATH:
        arguments = [_number(evaluate(argument, variables)) for argument in node.args]
        return MATH[_dotted(node.func)](*arguments)
    raise ValueError(f"{type(node).__name__} is not arithmetic")


def _number(value: Any) -> float:
    if not isinstance(value, int | float | complex):  # "a" * 10**9 would fill the memory
        raise ValueError(f"{value!r:.60} is not a number")
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise OverflowError(f"an integer of more than {MAX_BITS} bits")
    return value


def power(base: float, exponent: float) -> float:
    """base ** exponent. Raises OverflowError before an integer grows beyond MAX_BITS."""
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > MAX_BITS:
        raise OverflowError(f"an integer of more than {MAX_BITS} bits")
    return base**exponent


SIGNS = {ast.USub: operator.neg, ast.UAdd: operator.pos}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: power,
}
CONSTANTS = {"math.pi": math.pi, "math.e": math.e}
MATH = {
    "abs": abs,
    "pow": power,
    "math.sqrt": math.sqrt,
    "math.exp": math.exp,
    "math.log": math.log,
    "math.log10": math.log10,
    "math.sin": math.sin,
    "math.cos": math.cos,
    "math.tan": math.tan,
}


# ---- Java and JavaScript source: one value of a declared type ----
# What does not look like its type stays text, and then fails the type check.

INTEGER = (r"-?\d+$", int)
NUMBERS = {  # the pattern of a number, and what converts it
    "java": {
        "byte": INTEGER,
        "short": INTEGER,
        "integer": INTEGER,
        "long": (r"-?\d+[lL]$", lambda text: int(text.strip()[:-1])),
        "float": (r"-?\d+(\.\d+)?([eE][+-]?\d+)?[fF]$", lambda text: float(text.strip()[:-1])),
        "double": (r"-?\d+(\.\d+)?([eE][+-]?\d+)?$", float),
    },
    "javascript": {
        "integer": INTEGER,
        "float": (r"-?\d+(\.\d+)?$", float),  # no exponent
        "Bigint": (r"-?\d+n$", lambda text: int(text.strip()[:-1])),
    },
}


def source_value(text: str, kind: str | None, inner: str | None, language: str) -> Any:
    """The value that `text` writes in "java" or "javascript", declared as `kind` (a list: of `inner`)."""
    if len(text) > MAX_TEXT:
        return text
    if kind in NUMBERS[language]:
        pattern, convert = NUMBERS[language][kind]
        return _converted(text, convert) if re.match(pattern, text) else text
    if kind in ("boolean", "Boolean"):
        return {"true": True, "false": False}.get(text, text)
    if kind in READERS[language]:
        return READERS[language][kind](text, inner)
    return text


def java_array(text: str, inner: str | None) -> Any:
    """new T[]{a, b}. Strings in it keep their quotes, as in the official reader: they are never right."""
    found = re.search(r"new\s+\w+\[\]\s*\{(.*?)\}", text)
    if not found:
        return text
    return [_java_element(item.strip(), inner) for item in found[1].split(",") if item.strip()]


def java_array_list(text: str, inner: str | None) -> Any:
    """new ArrayList<>(Arrays.asList(a, b)), or new ArrayList<>() {{ add(a); add(b); }}."""
    head = r"new\s+ArrayList<\w*>\("
    if found := re.search(head + r"Arrays\.asList\((.+?)\)\)", text):
        items = found[1].split(",")
    elif found := re.search(head + r"\)\s*\{\{(.+?)\}\}", text, re.DOTALL):
        items = re.findall(r"add\((.+?)\)", found[1])
    elif re.search(head + r"\)", text):
        items = []
    else:
        return text
    if inner in ("char", "String"):
        return [item.strip()[1:-1] for item in items]  # the quotes
    return [_java_element(item.strip(), inner) for item in items]


def _java_element(text: str, inner: str | None) -> Any:
    return source_value(text, inner, None, "java") if inner else guessed(text, '"', suffixes=True)


def java_map(text: str, inner: str | None) -> Any:
    """new HashMap<>() {{ put("a", 1); put("b", "c"); }}, up to the first closing brace."""
    if found := re.search(r"new\s+HashMap<.*?>\s*\(\)\s*\{(.*?)\}", text, re.DOTALL):
        values = {}
        for part in found[1].split('put("')[1:]:
            if put := re.match(r'(.*?)",\s*(.*?)\)', part):
                values[put[1]] = guessed(put[2].strip(), '"', suffixes=True)
        return values
    return {} if re.search(r"new\s+HashMap<.*?>\s*\(\)", text) else text


def javascript_array(text: str, inner: str | None) -> Any:
    """[a, b] or new Array(a, b); of lists, two levels deep: [[a], [b]]."""
    text = text.strip()
    lists = r"\[[^\]\n]*\]\s*(?:,\s*\[[^\]\n]*\]\s*)*"
    if found := re.match(rf"\[\s*({lists})\]|new\s+Array\(\s*({lists})\)", text):
        rows = re.findall(r"\[([^\]]*)\]", found[1] or found[2])
        return [[guessed(item.strip(), "\"'") for item in row.strip().split(",")] for row in rows]
    found = re.match(r"\[(.*?)\]|new\s+Array\((.*?)\)", text)
    if not found:
        return text
    listed = (found[1] or found[2] or "").strip()
    items = [item.strip() for item in listed.split(",")] if listed else []
    if inner is None:
        return [guessed(item, "\"'") for item in items]
    return [source_value(item, inner, None, "javascript") for item in items]


def javascript_dict(text: str, inner: str | None) -> Any:
    """{a: 1, "b": [1, 2]}, up to the first closing brace."""
    found = re.match(r"\{(.*?)\}", text.strip())
    if not found:
        return text.strip()
    values = {}
    for key, value in re.findall(r"([^:]+):\s*(.*?)(?:,\s*(?=[^,]+:)|$)", found[1]):
        key, value = key.strip().strip("'\""), value.strip()
        if value.startswith("[") and value.endswith("]"):
            values[key] = javascript_array(value, None)
        else:
            values[key] = guessed(value.strip("'\"").strip(), "\"'")
    return values


def javascript_string(text: str, inner: str | None) -> str:
    return unquoted(text, "\"'")


READERS = {
    "java": {"Array": java_array, "ArrayList": java_array_list, "HashMap": java_map},
    "javascript": {"array": javascript_array, "dict": javascript_dict, "String": javascript_string},
}


def guessed(text: str, quotes: str, suffixes: bool = False) -> Any:
    """A value without a declared type. suffixes: 5L and 1.5f are numbers."""
    if text in ("true", "false"):
        return text == "true"
    if unquoted(text, quotes) != text:
        return unquoted(text, quotes)
    found = []
    if suffixes:
        found += [source_value(text, "long", None, "java"), source_value(text, "float", None, "java")]
    found += [_converted(text, int), _converted(text, float)]
    for value in found:
        if type(value) is not str:
            return value
    return text


def unquoted(text: str, quotes: str) -> str:
    """Without a pair of these quotes around it."""
    if text and text[0] == text[-1] and text[0] in quotes:
        return text[1:-1]
    return text


def _converted(text: str, convert: Callable) -> Any:
    try:
        return convert(text)
    except ValueError:  # also integers of thousands of digits
        return text
