"""schemas.py: types word by word, defaults and enums, the shapes of parameters."""

from collections import Counter

import pytest

from sources.rows import Refused
from sources.schemas import parameters_of, read_type, schema_of

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
    "given", [[], {"city": {"type": "string"}}, {"properties": []}, {"properties": {"a": "str"}}]
)
def test_parameters_of_another_shape_are_refused(given):
    with pytest.raises(Refused):
        parameters_of(given, Counter())
