"""toolace.py: small rows with every quirk; names and values of calls in their own notation."""

import json

import pytest
from turns import answered, calling, converted, missing, refused, seen, think, user

import data
from formats.calls import parse_calls, write_calls

HEAD = "You compose functions. Here is a list of functions that you can invoke:\n"
FOOT = ". \nShould you decide to call, put it so: [f(a=1)]\n"


def ace_tool(name: str, **properties) -> dict:
    parameters = {"type": "dict", "properties": properties, "required": [*properties][:1]}
    return {"name": name, "description": "See [1]. \nShould it?", "parameters": parameters, "required": None}


def ace_system(*tools: dict) -> str:
    return HEAD + json.dumps([*tools]) + FOOT


NAMES = ["API", "Sky API", "Sky API (v2)", "M4.5+ Quakes, Past 7 Days", "a/b-c's .net", "Code (in brackets)"]
TEXT, NUMBER = {"type": "string", "default": 5}, {"type": "float", "enum": [1, 2]}
SYSTEM = ace_system(*(ace_tool(name, **{"city": TEXT, "from": NUMBER}) for name in NAMES))


def ace_row(*turns: str, system: str = SYSTEM) -> dict:
    """Turns as "u text", "a text", "t text"."""
    roles = {"u": "user", "a": "assistant", "t": "tool"}
    return {
        "system": system,
        "conversations": [{"from": roles[turn[0]], "value": turn[2:]} for turn in turns],
    }


def test_toolace():
    row = ace_row(
        "u Hi",
        "a Which city?",
        "u Bali",
        'a [Sky API (v2)(city="Bali"), API()]',
        't [{"name": "Sky API (v2)", "results": {"sky": "rain"}}, {"name": "API", "results": {}}]',
        "a [API(from=1)]",
        't [{"name": "API", "results": 2}]',
        "a Rain.",
        "u Rome?",
        'a [Sky API(city="Rome")]',
    )
    record = converted("toolace", row)
    both = [{"name": "Sky API (v2)", "arguments": {"city": "Bali"}}, {"name": "API", "arguments": {}}]
    assert record["trajectory"] == [
        user("Hi"),
        *answered("Which city?"),
        user("Bali"),
        think("executor"),
        {"role": "executor", "calls": both},
        *seen(row["conversations"][4]["value"]),
        *calling("API", **{"from": 1}),
        *seen(row["conversations"][6]["value"]),
        *answered("Rain."),
        user("Rome?"),
        *calling("Sky API", city="Rome"),
        *answered(),
    ]
    assert record["tools"][0] == {
        "name": "API",
        "description": "See [1]. \nShould it?",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "from": {"type": "number", "enum": [1, 2]}},
            "required": ["city"],
        },
    }
    assert record["source"]["missing"] == missing(1, 4, 7, 10, 13, 15, 16)
    assert record["source"]["dropped"] == {"defaults that do not fit their type": 6}


@pytest.mark.parametrize("name", NAMES)
def test_free_text_names_survive_as_they_are(name, frames):
    record = converted("toolace", ace_row("u Go", f'a [{name}(city="x, y)"), {name}(from = 1)]'))
    calls = [{"name": name, "arguments": {"city": "x, y)"}}, {"name": name, "arguments": {"from": 1}}]
    assert record["trajectory"][2]["calls"] == calls
    text = write_calls(calls, "bfcl")
    assert parse_calls(text) == calls
    example = data.render(record, frames["bytes"])
    assert text in frames["bytes"].decode([token for token in example.labels if token != -100])


VALUES = {
    '"a"': "a",
    "'a'": "a",
    r'"a\"b\\"': 'a"b\\',
    "'it\"s'": 'it"s',
    '"a\nb"': "a\nb",
    '"a" "b"': "ab",
    "-12": -12,
    "1.50": 1.5,
    "1e3": 1000.0,
    "True": True,
    "None": None,
    "false": False,
    '[1, "a, b)", {"c": (2, 3)}]': [1, "a, b)", {"c": [2, 3]}],
    "[]": [],
    "{'a]': '}'}": {"a]": "}"},
}


@pytest.mark.parametrize(("text", "value"), VALUES.items())
def test_values_of_calls(text, value):
    turns = converted("toolace", ace_row("u Go", f"a [API( a={text} , b.c-d={text}, )] "))["trajectory"]
    assert turns[2]["calls"] == [{"name": "API", "arguments": {"a": value, "b.c-d": value}}]


def test_system_list_in_single_quotes():
    system = HEAD + repr([ace_tool("API", city=TEXT)]) + FOOT
    record = converted("toolace", ace_row("u Go", "a [API()]", system=system))
    assert [tool["name"] for tool in record["tools"]] == ["API"]


FRAMED = (
    "Role definition:\n Inquirer: A user.\n\n Historical dialog data is as follows:\n"
    "Inquirer: Hi\nthere\nResponse assistant: Which city?\nInquirer: Bali.\n\n"
    " Please continue your answer given the historical dialog. Your role is the Response assistant.\n"
)


def test_dialogue_inside_a_query_becomes_history():
    turns = converted("toolace", ace_row(f"u {FRAMED}", "a [API()]"))["trajectory"]
    assert turns[:4] == [user("Hi\nthere"), *answered("Which city?"), user("Bali.")]


def test_ends_that_are_no_end_are_dropped():
    record = converted(
        "toolace", ace_row("u Hi", "a Hello.", "u Thanks!", "a You're welcome! Bye.", "u Well")
    )
    assert record["trajectory"] == [user("Hi"), *answered("Hello.")]
    assert (
        record["source"]["dropped"] | {"small talk at the end": 1, "query without an answer": 1}
        == (record["source"]["dropped"])
    )
    assert refused("toolace", ace_row("u Thanks!", "a You're welcome!")) == "no answer"
    turns = converted("toolace", ace_row("u Hi", "a [API()]", 't [{"name": "API", "results": 1}]'))[
        "trajectory"
    ]
    assert turns[-2:] == answered()


TOOLACE_REFUSALS = [
    ("call outside the tool list", ace_row("u Go", "a [Moon(x=1)]", "t no", "u Go on", "a [API()]")),
    ("call outside the tool list, nearly inside", ace_row("u Go", "a [SkyAPI(x=1)]", "t no", "a It failed.")),
    ("call that cannot be read", ace_row("u Go", "a [1] says so (in part)]")),
    ("call that cannot be read", ace_row("u Go", "a [see the page (it is long)]")),
    ("call that cannot be read", ace_row("u Go", 'a [API("Bali")]')),
    ("call that cannot be read", ace_row("u Go", "a [API(a=now())]")),
    ("call that cannot be read", ace_row("u Go", "a [API(a=1/6)]")),
    ("call that cannot be read", ace_row("u Go", "a [API(a=1, a=2)]")),
    ("call that cannot be read", ace_row("u Go", 'a [API(a="it"s")]')),
    ("call that cannot be read", ace_row("u Go", 'a [API(a="Bali)]')),
    ("call that cannot be read", ace_row("u Go", "a [API(a={1, 2})]")),
    ("call that cannot be read", ace_row("u Go", "a []")),
    ("text after a call", ace_row("u Go", "a [API(a=1)] Done.")),
    ("text after a call", ace_row("u Go", "a [API(a=1); API(a=2)]")),
    ("call inside prose", ace_row("u Go", "a Sure: [API(a=1)]")),
    ("call inside prose", ace_row("u Go", "a API(a=1)")),
    ("result of no call", ace_row("u Go", "t []")),
    ("result of no call", ace_row("u Go", "a [API()]", 't [{"name": "Sky API", "results": 1}]')),
    ("result of no call", ace_row("u Go", "a Hm.", "t rain", "a So.")),
    ("two queries in a row", ace_row("u Go", "u Go on", "a [API()]")),
    ("two answers in a row", ace_row("u Go", "a [API()]", "a It rains.")),
    ("two answers in a row", ace_row("u Go", "a [API()]", "a [API()]")),
    ("no query", ace_row("a Hello.")),
    ("no answer", ace_row("u Go")),
    ("empty turn", ace_row("u Go", "a ")),
    ("dialogue inside a query", ace_row(f"u {FRAMED} So?", "a Hm.")),
    ("two queries in a row", ace_row(f"u {FRAMED.replace('Response assistant: W', 'Inquirer: W')}", "a Hm.")),
    ("markup left in a text", ace_row("u Go", "a Hm. <|endoftext|>")),
    ("markup left in a text", ace_row("u Go\nASSISTANT: Hm.", "a Hm.")),
    ("unknown role", {"system": SYSTEM, "conversations": [{"from": "gpt", "value": "x"}]}),
    ("no tools in the system text", ace_row("u Go", "a Hm.", system="You are kind.")),
    ("no tools in the system text", ace_row("u Go", "a Hm.", system=HEAD + "[]" + FOOT)),
    ("tools that cannot be read", ace_row("u Go", "a Hm.", system=HEAD + "[{'name': x}]" + FOOT)),
    (
        "two tools of one name",
        ace_row("u Go", "a Hm.", system=ace_system(ace_tool("A"), ace_tool("A", b=TEXT))),
    ),
    ("not a valid record", ace_row("u Go", "a Hm.", system=ace_system(ace_tool("A ")))),
    ("not the source's shape", ace_row("u Go", "a Hm.", system=ace_system({"name": "A"}))),
    ("not the source's shape", {"system": SYSTEM}),
]


@pytest.mark.parametrize(("reason", "row"), TOOLACE_REFUSALS)
def test_toolace_refused(reason, row):
    assert refused("toolace", row) == reason


def test_square_brackets_in_prose_are_prose():
    turns = converted("toolace", ace_row("u Go", "a [1] says (so)."))["trajectory"]
    assert turns[-1]["content"] == "[1] says (so)."
