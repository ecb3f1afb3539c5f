"""Types in a data set's own words -> JSON Schema."""

import ast
import re
from collections import Counter
from copy import deepcopy
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from formats.calls import check_value
from sources.rows import Refused, _parsed, _plain, literal

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
