"""apigen.py: small rows with every quirk."""

import json

import pytest
from turns import answered, converted, missing, refused, think, user


def apigen_row(calls: object, offered: object, **more) -> dict:
    return {"id": 3, "query": "Rain?", "answers": json.dumps(calls), "tools": json.dumps(offered)} | more


def sky(**parameters) -> dict:
    """A tool with parameters in APIGen's flat form."""
    return {"name": "sky", "description": "The sky.", "parameters": parameters}


CITY = {"description": "The city.", "type": "str", "default": "Oslo"}
ASK = {"name": "sky", "arguments": {"type": "Bali"}}


def test_apigen():
    day = {"description": "", "type": "int, optional", "default": "1"}
    record = converted("apigen", apigen_row([ASK, ASK], [sky(type=CITY, day=day)]))
    first = [user("Rain?"), think("executor"), {"role": "executor", "calls": [ASK, ASK]}]
    assert record["trajectory"] == first + answered()
    assert record["tools"][0]["parameters"] == {
        "type": "object",
        "properties": {
            "type": {"type": "string", "description": "The city.", "default": "Oslo"},
            "day": {"type": "integer"},
        },
        "required": ["type"],
    }
    assert record["domain"] == "bfcl"
    assert record["source"] == {
        "dataset": "apigen",
        "missing": missing(1, 3, 4),
        "dropped": {"defaults that do not fit their type": 1},
        "id": 3,
    }


def required(calls: list, **parameters) -> list[str]:
    return converted("apigen", apigen_row(calls, [sky(**parameters)]))["tools"][0]["parameters"]["required"]


def test_apigen_required_is_what_does_not_say_optional():
    """A default alone makes no parameter optional, unless a call leaves it out."""
    other = {"type": "str", "default": "x"}
    assert required([ASK], type=CITY, unit={"type": "str, optional"}) == ["type"]
    assert required([{"name": "sky", "arguments": {"a": "1", "b": "2"}}], a=other, b=other) == ["a", "b"]
    assert required([ASK], type=CITY, unit=other) == ["type"]
    assert required([ASK], type=CITY, unit={"type": "str"}) == ["type", "unit"]  # verifying is not our part
    both = [ASK, {"name": "sky", "arguments": {"type": "Rome", "unit": "F"}}]
    assert required(both, type=CITY, unit=other) == ["type"]


def test_apigen_a_call_of_another_function_leaves_nothing_out():
    """It has no parameters of this one."""
    other = {"name": "sea", "description": "", "parameters": {"type": {"type": "str"}}}
    calls = [ASK, {"name": "sea", "arguments": {"type": "calm"}}]
    unit = {"type": "str", "default": "C"}
    asked = [{"name": "sky", "arguments": {"type": "Bali", "unit": "F"}}, calls[1]]
    for given, wanted in ((calls, ["type"]), (asked, ["type", "unit"])):
        record = converted("apigen", apigen_row(given, [sky(type=CITY, unit=unit), other]))
        assert record["tools"][0]["parameters"]["required"] == wanted


def test_apigen_a_parameter_says_itself_whether_it_is_required():
    said = {"type": "str", "required": False}
    assert required([ASK], type=CITY, unit=said) == ["type"]
    assert required([ASK], type=CITY, unit=said | {"required": "false"}) == ["type"]
    assert required([ASK], type=CITY, unit={"type": "str", "optional": True}) == ["type"]
    assert required([ASK], type=CITY, unit={"type": "str, optional", "required": True}) == ["type", "unit"]


OBJECT = {"properties": {"type": {"type": "string"}, "unit": {"type": "str", "required": True}}}
SCHEMAS = [  # parameters as mirrors have them, and the names that are required
    (OBJECT, ["unit"]),
    (OBJECT | {"type": "object", "required": ["type"]}, ["type", "unit"]),
    (OBJECT | {"type": "dict"}, ["unit"]),
    ({"type": "object"}, []),
    ({"properties": {}}, []),
    ({"type": "object", "additionalProperties": False}, []),
    # flat maps whose parameters are called as JSON Schema's words are
    ({"properties": {"type": "dict", "description": "All."}}, ["properties"]),
    ({"properties": {"type": "str"}, "type": {"type": "str"}}, ["properties", "type"]),
    ({"properties": {"items": {"type": "str"}}, "type": {"type": "str"}}, ["properties", "type"]),
]


@pytest.mark.parametrize(("parameters", "names"), SCHEMAS)
def test_apigen_parameters_as_a_schema(parameters, names):
    (tool,) = converted("apigen", apigen_row([], [sky(**parameters)]))["tools"]
    assert tool["parameters"]["required"] == names
    properties = parameters.get("properties", {})
    flat = names[:1] == ["properties"]
    assert [*tool["parameters"]["properties"]] == [*(parameters if flat else properties)]


def test_apigen_in_openais_form():
    plain = converted("apigen", apigen_row([ASK], [sky(type=CITY)]))
    wrapped = {"type": "function", "function": sky(type=CITY) | {"strict": True}}
    (bare,) = converted("apigen", apigen_row([], [{"type": "function", "function": {"name": "now"}}]))[
        "tools"
    ]
    assert bare["parameters"] == {"type": "object", "properties": {}, "required": []}
    call = {"id": "1", "type": "function", "function": ASK | {"arguments": json.dumps(ASK["arguments"])}}
    assert converted("apigen", apigen_row([call], [wrapped])) == plain
    assert converted("apigen", apigen_row([ASK | {"arguments": '{"type": "Bali"}'}], [wrapped])) == plain


def test_apigen_parameters_as_text_null_and_required_beside_a_flat_map():
    schema = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
    plain = converted("apigen", apigen_row([ASK], [sky() | {"parameters": schema}]))
    assert converted("apigen", apigen_row([ASK], [sky() | {"parameters": json.dumps(schema)}])) == plain
    nothing = ASK | {"arguments": {}}
    (tool,) = converted("apigen", apigen_row([nothing], [sky() | {"parameters": None}]))["tools"]
    assert tool["parameters"] == {"type": "object", "properties": {}, "required": []}
    beside = sky(type={"type": "str"}, unit={"type": "str"}) | {"required": ["type", "x"]}
    (tool,) = converted("apigen", apigen_row([ASK], [beside]))["tools"]
    assert tool["parameters"]["required"] == ["type"]


def test_apigen_filler_default_of_a_required_parameter_goes():
    city, unit = {"type": "str", "default": ""}, {"type": "str, optional", "default": ""}
    record = converted("apigen", apigen_row([ASK], [sky(type=city, unit=unit)]))
    assert record["tools"][0]["parameters"]["properties"] == {
        "type": {"type": "string"},
        "unit": {"type": "string", "default": ""},
    }


def test_apigen_without_an_answer_and_without_text():
    record = converted("apigen", apigen_row([], [sky(type=CITY)]))
    assert record["trajectory"] == [user("Rain?"), *answered()]
    assert record["source"]["missing"] == missing(1, 2)
    parsed = apigen_row([], []) | {"answers": [ASK], "tools": [sky(type=CITY)]}
    assert converted("apigen", parsed) == converted("apigen", apigen_row([ASK], [sky(type=CITY)]))


def test_apigen_tools_listed_twice():
    record = converted("apigen", apigen_row([ASK], [sky(type=CITY)] * 2))
    assert len(record["tools"]) == 1 and record["source"]["dropped"]["tools listed twice"] == 1
    assert refused("apigen", apigen_row([ASK], [sky(type=CITY), sky()])) == "two tools of one name"


APIGEN_REFUSALS = [
    ("answers that cannot be read", apigen_row([], [sky()], answers="[{")),
    (
        "answers that cannot be read",
        apigen_row([], [sky()], answers='[{"name": "sky", "arguments": {"a": NaN}}]'),
    ),
    ("answers that cannot be read", apigen_row([], [sky()], answers='[{"name": "sky", "name": "x"}]')),
    ("answers of another type", apigen_row({}, [sky()])),
    ("tools of another type", apigen_row([], [sky()], tools=None)),
    ("not a valid record", apigen_row([ASK | {"name": "two\nlines"}], [sky()])),
    ("tool parameter that is no object", apigen_row([ASK], [sky(type="str")])),
    ("arguments that cannot be read", apigen_row([ASK | {"arguments": "{"}], [sky()])),
    ("arguments of another type", apigen_row([ASK | {"arguments": "[]"}], [sky()])),
    ("not the source's shape", apigen_row([ASK | {"arguments": None}], [sky()])),
    ("parameters without properties", apigen_row([ASK], [sky(type="object", city={"type": "str"})])),
    ("not the source's shape", apigen_row([ASK], [{"name": "sky"}])),
    ("not the source's shape", apigen_row([ASK], [sky()], query=None)),
    ("not the source's shape", [1]),
    ("empty turn", apigen_row([ASK], [sky()], query=" ")),
    ("not a valid record", apigen_row([], [sky()], query="\ud83d")),
    ("not a valid record", apigen_row([ASK | {"name": "a\nb"}], [sky() | {"name": "a\nb"}])),
]


@pytest.mark.parametrize(("reason", "row"), APIGEN_REFUSALS)
def test_apigen_refused(reason, row):
    assert refused("apigen", row) == reason
