"""schemas.py: types word by word, defaults and enums, the shapes of parameters."""

from collections import Counter

import pytest

from sources.rows import Refused
from sources.schemas import parameters_of, read_type, says_required, schema_of

INTEGERS = {"type": "array", "items": {"type": "integer"}}
TYPES = {
    "str": {"type": "string"},
    "STRING": {"type": "string"},
    "float, optional": {"type": "number"},
    "bool": {"type": "boolean"},
    "dict": {"type": "object"},
    "Dict[str, float]": {"type": "object", "additionalProperties": {"type": "number"}},
    "List": {"type": "array"},
    "List[int]": INTEGERS,
    "typing.List[int]": INTEGERS,
    "list[list[str]]": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    "List[Union[int, float]]": {"type": "array", "items": {"type": "number"}},
    "List[Union[int, str]], optional": {"type": "array", "items": {"type": ["integer", "string"]}},
    "Tuple[float, float]": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "Tuple[int, ...]": INTEGERS,
    "set": {"type": "array", "uniqueItems": True},
    "Set[int]": INTEGERS | {"uniqueItems": True},
    "Optional[int]": {"type": ["integer", "null"]},
    "int | None": {"type": ["integer", "null"]},
    "Union[List[int], int]": {"type": ["array", "integer"], "items": {"type": "integer"}},
    "Union[List[int], List[str]]": {"type": "array"},
    "Union[int, Any]": {},
    "Literal['a', 'b']": {"enum": ["a", "b"]},
    "any": {},
    "int, default=100": {"type": "integer"},
}


@pytest.mark.parametrize(("words", "schema"), TYPES.items(), ids=TYPES)
def test_type_words(words, schema):
    assert read_type(words)[0] == schema


@pytest.mark.parametrize(
    "words",
    [
        "Callable[[float], float]",
        "Callable",
        "np.ndarray",
        "datetime",
        "array<int>",
        "a b",
        "List[Foo]",
        "Tuple[()]",
    ],
)
def test_type_that_json_schema_cannot_say_goes_to_the_description(words):
    assert schema_of({"type": words, "description": "What."}, Counter()) == {
        "description": f"What. (type: {words})"
    }


def test_words_behind_the_type():
    assert read_type("str, optional, default 'London, UK'")[1:] == (
        True,
        None,
    )  # the comma in the quotes splits
    assert read_type("str, optional, default 'London'")[1:] == (True, "London")
    assert read_type("int, default=100")[1:] == (False, 100)
    assert read_type("List[int], optional, default [1, 2]")[1:] == (True, [1, 2])
    assert read_type("int")[1:] == (False, None)
    assert schema_of({"type": "int, default=100"}, Counter())["default"] == 100
    assert "default" not in schema_of({"type": "int, default='x'"}, Counter())


def test_default_and_enum_stay_only_where_they_fit():
    dropped = Counter()
    assert schema_of({"type": "int", "default": "400"}, dropped) == {"type": "integer"}
    assert schema_of({"type": "int", "default": 0.7}, dropped) == {"type": "integer"}
    assert schema_of({"type": "List[int]", "default": "static"}, dropped)["type"] == "array"
    assert schema_of({"type": "string", "enum": ["a", 1]}, dropped) == {"type": "string"}
    assert schema_of({"type": "string", "enum": ["a"], "default": "b"}, dropped)["enum"] == ["a"]
    assert dropped == {"defaults that do not fit their type": 4, "enums that do not fit their type": 1}
    assert schema_of({"type": "integer", "enum": [1, 2], "default": 2}, Counter())["default"] == 2


NULLABLE = {"anyOf": [{"type": "str"}, {"type": "null"}]}
KEPT = [  # given, wanted
    (NULLABLE | {"default": None}, {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}),
    ({"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}),
    ({"type": "str", "const": "x"}, {"type": "string", "const": "x"}),
    ({"type": "int", "nullable": True, "default": None}, {"type": ["integer", "null"], "default": None}),
    ({"type": "str", "nullable": False}, {"type": "string"}),
    ({"nullable": True}, {}),
    (
        {"type": "array", "items": [{"type": "int"}, True]},
        {"type": "array", "prefixItems": [{"type": "integer"}, {}]},
    ),
    (
        {"type": "dict", "additionalProperties": {"type": "float"}},
        {"type": "object", "additionalProperties": {"type": "number"}},
    ),
    ({"type": "str", "choices": ["a", "b"]}, {"type": "string", "enum": ["a", "b"]}),
    (
        {"oneOf": [{"type": "int"}], "not": {"const": 3}},
        {"oneOf": [{"type": "integer"}], "not": {"const": 3}},
    ),
    ({"type": "str", "default": None}, {"type": "string"}),
    ({"type": "number", "exclusiveMinimum": 0, "title": "N"},) * 2,
    ({"type": "object", "required": ["b"], "dependentRequired": {"b": ["c"]}},) * 2,
    ({"type": "str", "nullable": "true"}, {"type": ["string", "null"]}),
]


@pytest.mark.parametrize(("given", "wanted"), KEPT)
def test_what_json_schema_has_is_kept(given, wanted):
    dropped = Counter()
    assert schema_of(given, dropped) == wanted and not dropped.total()
    inside = {"type": "object", "properties": {"a": given}, "required": []}
    assert parameters_of(inside, dropped)["properties"]["a"] == wanted and not dropped.total()


def test_what_json_schema_has_not_is_counted():
    dropped = Counter()
    assert schema_of({"type": "str", "widget": "slider", "minLength": None}, dropped) == {"type": "string"}
    assert dropped == {"words that JSON Schema does not have": 2}
    assert schema_of({"type": "array", "properties": [], "description": ["a"]}, dropped) == {"type": "array"}
    assert dropped["words of another form"] == 2
    assert schema_of({"type": "int", "const": "x"}, dropped) == {"type": "integer"}
    assert schema_of(NULLABLE | {"default": 3}, dropped).keys() == {"anyOf"}
    assert dropped["constants that do not fit their type"] == 1
    assert dropped["defaults that do not fit their type"] == 1


def test_what_stands_beside_the_properties_stays():
    given = {
        "properties": {},
        "$defs": {"A": {"type": "int"}},
        "additionalProperties": False,
        "description": "All.",
    }
    wanted = {"type": "object", "properties": {}, "required": [], "$defs": {"A": {"type": "integer"}}}
    wanted |= {"additionalProperties": False, "description": "All."}
    assert parameters_of(given, Counter()) == wanted
    assert parameters_of({"type": "object", "additionalProperties": False}, Counter())["properties"] == {}


def test_a_parameter_may_be_anything_or_nothing():
    given = parameters_of({"properties": {"a": True, "b": False}}, Counter())["properties"]
    assert given == {"a": {}, "b": {"not": {}}}


@pytest.mark.parametrize(("value", "wanted"), [(1, True), ("0", False), ("yes", True), ("maybe", None)])
def test_how_a_parameter_says_whether_it_is_required(value, wanted):
    assert says_required({"required": value}) is wanted
    assert says_required({"optional": value}) is (None if wanted is None else not wanted)


def test_nested_schema():
    given = {
        "type": "dict",
        "properties": {
            "a": {"type": "float", "required": True},
            "b": {"type": "array", "items": {"type": "str"}},
        },
        "required": ["b", "c"],
    }
    dropped = Counter()
    assert schema_of(given, dropped) == {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {"type": "string"}}},
        "required": ["b", "a"],
    }
    assert dropped["required names without a parameter"] == 1


def test_required_beside_the_schema_counts_only_without_one_inside():
    given = {"type": "dict", "properties": {"a": {}, "b": {}}}
    assert parameters_of(given, Counter(), ["a"])["required"] == ["a"]
    assert parameters_of(given | {"required": ["b"]}, Counter(), ["a"])["required"] == ["b"]
    assert parameters_of(given, Counter(), None)["required"] == []


@pytest.mark.parametrize(
    "given",
    [
        [],
        {"city": {"type": "string"}},
        {"title": {"type": "string"}},
        {"properties": []},
        {"properties": {"a": "str"}},
    ],
)
def test_parameters_of_another_shape_are_refused(given):
    with pytest.raises(Refused):
        parameters_of(given, Counter())
