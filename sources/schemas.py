"""Types in a data set's own words -> JSON Schema, in which records have them.

Paper silent on it. A type that JSON Schema cannot say (Callable, np.ndarray, a date) is left out and its
words go to the description: without a type no right call is refused, and the model still reads what is
wanted. What JSON Schema has (anyOf, const, $ref ...) stays; OpenAPI's nullable, argparse's choices and lists
of items are put into its words; whatever else a parameter says is dropped and counted.
"""

import ast
import re
from collections import Counter
from functools import lru_cache
from typing import Any

from formats.calls import check_value
from sources.rows import Refused, literal, literal_value, read_expression

TYPES = {  # names in small letters
    **dict.fromkeys(("string", "str", "char"), "string"),
    **dict.fromkeys(("integer", "int", "long"), "integer"),
    **dict.fromkeys(("number", "float", "double"), "number"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("array", "list", "tuple", "sequence", "arraylist", "iterable"), "array"),
    **dict.fromkeys(("object", "dict", "mapping", "hashmap"), "object"),
    **dict.fromkeys(("null", "none"), "null"),
}
SAID = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}
DEFAULT = re.compile(r"defaults?\b\s*(?:is|to|=|:)?\s*(.+)", re.DOTALL | re.IGNORECASE)
# What JSON Schema says of a value beside its type, by what stands there.
PLAIN = {  # a text, a number, a truth
    *("format", "pattern", "title", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("multipleOf", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "minContains"),
    *("maxContains", "minProperties", "maxProperties", "deprecated", "readOnly", "writeOnly"),
    *("contentEncoding", "contentMediaType", "$ref", "$id", "$schema", "$anchor", "$comment"),
}
LISTS = {"examples"}
ONE_SCHEMA = {
    *("items", "additionalProperties", "unevaluatedProperties", "unevaluatedItems", "contains"),
    *("propertyNames", "not", "if", "then", "else"),
}
SCHEMAS = {"anyOf", "oneOf", "allOf", "prefixItems"}  # a list of them
NAMED_SCHEMAS = {"$defs", "definitions", "patternProperties", "dependentSchemas"}  # by name
READ = {"type", "description", "properties", "required", "optional", "enum", "choices", "default", "nullable"}
FORMS = {"description": str, "properties": dict, "nullable": bool | str}  # other ones are dropped
READ |= {"const", "example_value"}  # the latter: of ToolBench, read there
OF_AN_OBJECT = {"strict", "dependentRequired"} | READ | PLAIN | LISTS | ONE_SCHEMA | SCHEMAS | NAMED_SCHEMAS


def parameters_of(spec: Any, dropped: Counter, outer: Any = None) -> dict:
    """The schema of a function's arguments, or of an object, from one that has properties.

    outer: a `required` list beside the schema, which counts where there is none inside.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("properties", {}), dict):
        raise Refused("parameters that are no object", repr(spec))
    flat = spec and all(isinstance(inner, dict) for inner in spec.values())
    if "properties" not in spec and (flat or set(spec) - OF_AN_OBJECT):
        raise Refused("parameters without properties", ", ".join(spec))
    given = spec.get("properties", {})
    properties = {name: inner_schema(inner, dropped) for name, inner in given.items()}
    listed = spec["required"] if isinstance(spec.get("required"), list) else outer
    required = [name for name in listed or () if isinstance(name, str) and name in properties]
    dropped["required names without a parameter"] += len(listed or ()) - len(required)
    required += [name for name, inner in given.items() if says_required(inner) and name not in required]
    out = {"type": "object", "properties": properties, "required": required}
    if isinstance(spec.get("description"), str) and spec["description"]:
        out["description"] = spec["description"]
    return out | further(spec, dropped)


def is_schema(parameters: dict) -> bool:
    """Whether this is the schema of an object, and not a flat map {parameter: {"type", ...}}."""
    properties, kind = parameters.get("properties"), parameters.get("type")
    if isinstance(properties, dict) and not isinstance(kind, dict):
        return all(isinstance(inner, dict | bool) for inner in properties.values())
    return isinstance(kind, str) and TYPES.get(kind.lower()) == "object"


def says_required(spec: Any) -> bool | None:
    """What a parameter itself says: whether it is required, or nothing."""
    if not isinstance(spec, dict):
        return None
    for key, meaning in (("required", True), ("optional", False)):
        value = str(spec.get(key)).lower()  # a few write "True", or 1
        if value in SAID:
            return SAID[value] is meaning
    return None


def schema_of(spec: Any, dropped: Counter) -> dict:
    """One parameter in JSON Schema's words; what does not fit its type (default, enum) is dropped."""
    if not isinstance(spec, dict):
        raise Refused("tool parameter that is no object", repr(spec))
    for key, kind in FORMS.items():
        if not isinstance(spec.get(key), kind | None):
            dropped["words of another form"] += 1
    words = words_of(spec.get("type") or "any")
    known, _, default = read_type(words)
    out = dict(known or {})
    text = spec["description"] if isinstance(spec.get("description"), str) else ""
    if known is None:
        text = f"{text} (type: {words})".lstrip()
    if text:
        out["description"] = text
    if isinstance(spec.get("properties"), dict):
        out = parameters_of(spec, dropped) | ({"description": text} if text else {})
    else:
        out |= further(spec, dropped)
        if isinstance(spec.get("required"), list):
            out["required"] = [name for name in spec["required"] if isinstance(name, str)]
    nullable = str(spec.get("nullable")).lower() == "true"
    if nullable and "type" in out and not fits(None, {"type": out["type"]}):
        out["type"] = [*([out["type"]] if isinstance(out["type"], str) else out["type"]), "null"]
    add_enum(out, spec.get("enum") or spec.get("choices"), dropped)
    if "const" in spec and fits(spec["const"], out):
        out["const"] = spec["const"]
    elif "const" in spec:
        dropped["constants that do not fit their type"] += 1
    if "default" in spec:
        add_default(out, spec["default"], dropped)
    elif default is not None:
        add_default(out, default, dropped)
    return out


def further(spec: dict, dropped: Counter) -> dict:
    """What a schema says beside type, properties and values; counted is what JSON Schema does not have."""
    out = {}
    for key, value in spec.items():
        if key == "items" and isinstance(value, list):  # until 2019 the word for prefixItems
            out["prefixItems"] = [inner_schema(inner, dropped) for inner in value]
        elif key == "items" and value is False:  # a tuple has no more; a record's items are an object
            out["maxItems"] = len(spec.get("prefixItems") or ())
        elif key == "additionalProperties" and isinstance(value, bool):
            out[key] = value
        elif key in PLAIN and isinstance(value, str | int | float):
            out[key] = value
        elif key in LISTS and isinstance(value, list):
            out[key] = value
        elif key == "dependentRequired" and isinstance(value, dict):
            out[key] = value
        elif key in ONE_SCHEMA and isinstance(value, dict | bool):
            out[key] = inner_schema(value, dropped)
        elif key in SCHEMAS and isinstance(value, list):
            out[key] = [inner_schema(inner, dropped) for inner in value]
        elif key in NAMED_SCHEMAS and isinstance(value, dict):
            out[key] = {name: inner_schema(inner, dropped) for name, inner in value.items()}
        elif key not in READ:
            dropped["words that JSON Schema does not have"] += 1
    return out


def inner_schema(spec: Any, dropped: Counter) -> dict:
    """`schema_of`, also of JSON Schema's shortest: true for anything, false for nothing."""
    if isinstance(spec, bool):
        return {} if spec else {"not": {}}
    return schema_of(spec, dropped)


def words_of(given: Any) -> str:
    """A type as text: a list of types is a union."""
    return " | ".join(map(str, given)) if isinstance(given, list) else str(given)


def add_enum(schema: dict, enum: Any, dropped: Counter) -> None:
    """Add the values that a parameter may have, where all of them fit its type."""
    if not enum:
        return
    if isinstance(enum, list) and all(fits(value, schema) for value in enum):
        schema["enum"] = enum
    else:
        dropped["enums that do not fit their type"] += 1


def add_default(schema: dict, default: Any, dropped: Counter) -> None:
    """Add a default that fits the type; null where it does not fit says that there is none."""
    if fits(default, schema):
        schema["default"] = default
    elif default is not None:
        dropped["defaults that do not fit their type"] += 1


def fits(value: Any, schema: dict) -> bool:
    """Whether a value is one of a schema's, as far as check_value reads it and to one of anyOf's."""
    try:
        check_value(value, schema)
    except ValueError:
        return False
    choices = schema.get("anyOf") or schema.get("oneOf")
    return not choices or any(fits(value, choice) for choice in choices)


@lru_cache(maxsize=4096)
def read_type(words: str) -> tuple[dict | None, bool, Any]:
    """`List[int], optional, default 3` -> its schema, whether it says optional, the default.

    The schema, not to be changed, is None where JSON Schema has no such type.
    """
    first, *rest = outer_parts(words)
    optional = "optional" in words.lower()
    default = None
    for part in rest:
        if found := DEFAULT.match(part):
            try:
                default = literal(found[1])
            except ValueError:
                default = found[1] if re.fullmatch(r"\w+", found[1]) else None
    try:
        return read_expression(first, annotation), optional, default
    except ValueError:
        return None, optional, default


def outer_parts(words: str) -> list[str]:
    """The text split at the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in words:
        depth += (letter in "[({") - (letter in "])}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def annotation(node: ast.AST) -> dict:
    """A Python annotation as a schema. Raises ValueError for one that has none."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return union([annotation(node.left), annotation(node.right)])
    if isinstance(node, ast.Constant) and node.value is None:
        return {"type": "null"}
    if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "typing":
        return named(node.attr)
    if isinstance(node, ast.Name):
        return named(node.id)
    if isinstance(node, ast.Subscript):
        name = ast.unparse(node.value).removeprefix("typing.").lower()
        return generic(name, node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice])
    raise ValueError("no type")


def named(name: str) -> dict:
    """A type by its name. Raises ValueError."""
    name = name.lower()
    if name == "any":
        return {}
    if name == "set":
        return {"type": "array", "uniqueItems": True}
    if name not in TYPES:
        raise ValueError(f"no JSON type: {name}")
    return {"type": TYPES[name]}


def generic(name: str, parts: list[ast.AST]) -> dict:
    """name[part, part]. Raises ValueError."""
    if name == "union":
        return union([annotation(part) for part in parts])
    if name == "optional":
        return union([annotation(part) for part in parts] + [{"type": "null"}])
    if name == "literal":
        return {"enum": [literal_value(part) for part in parts]}
    out = named(name)
    if not parts:  # Tuple[()]
        raise ValueError("nothing in the brackets")
    if out.get("type") == "object":
        if len(parts) == 2:
            out["additionalProperties"] = annotation(parts[1])
        return out
    if out.get("type") != "array":
        raise ValueError("no such generic type")
    inner = [part for part in parts if not is_dots(part)]
    if items := union([annotation(part) for part in inner]):
        out["items"] = items
    if name == "tuple" and not is_dots(parts[-1]):
        out |= {"minItems": len(parts), "maxItems": len(parts)}
    return out


def is_dots(node: ast.AST) -> bool:
    """The ... of Tuple[int, ...]"""
    return isinstance(node, ast.Constant) and node.value is ...


def union(parts: list[dict]) -> dict:
    """One schema for any of several: their types side by side, as calls.check_value reads no anyOf."""
    different = [part for i, part in enumerate(parts) if part not in parts[:i]]
    if len(different) == 1:
        return different[0]
    if {} in different:
        return {}
    if any("enum" in part for part in different):
        raise ValueError("a union of values")
    types: list[str] = []
    for part in different:
        for name in [part["type"]] if isinstance(part["type"], str) else part["type"]:
            if name not in types:
                types.append(name)
    if "number" in types and "integer" in types:
        types.remove("integer")
    out: dict = {"type": types[0] if len(types) == 1 else types}
    for kind in ("array", "object"):  # what is inside can be said if only one of them has it
        inside = [part for part in different if kind in part["type"]]
        if len(inside) == 1:
            out |= {key: value for key, value in inside[0].items() if key != "type"}
    return out
