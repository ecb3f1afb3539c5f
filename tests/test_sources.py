"""sources.py: small rows of APIGen, ToolACE and glaive with every quirk; then all real samples, counted.

The real samples' twin is what they are known to hold: their number of rows, and why each refused one is.
"""

import copy
import json
from collections import Counter
from pathlib import Path

import pytest

import data
from cli import UserError
from formats.calls import parse_calls, same_calls, write_calls
from formats.frames import load_frame
from sources.catalogue import SOURCES
from sources.rows import Refused
from stages.verify import verify

SHARED = Path(__file__).parents[2] / "shared/data"
TINY = Path(__file__).parents[1] / "tiny"


def converted(source: str, row: object) -> dict:
    return SOURCES[source].convert(copy.deepcopy(row))


def refused(source: str, row: object) -> str:
    with pytest.raises(Refused) as caught:
        SOURCES[source].convert(copy.deepcopy(row))
    return caught.value.reason


def think(following: str) -> dict:
    return {"role": "reasoner", "content": "", "next": following}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def calling(name: str, **arguments) -> list[dict]:
    return [think("executor"), {"role": "executor", "calls": [{"name": name, "arguments": arguments}]}]


def answered(text: str = "") -> list[dict]:
    return [think("summarizer"), {"role": "summarizer", "content": text}]


def seen(text: str) -> list[dict]:
    return [{"role": "observation", "content": text}]


def missing(*indices: int) -> list[str]:
    return [f"trajectory.{i}.content" for i in indices]


# ---- APIGen ----


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
    ("not the source's shape", apigen_row([ASK | {"arguments": "{}"}], [sky()])),
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


# ---- ToolACE ----

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


# ---- glaive ----

GLAIVE = (
    "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
)
TOOLS = [
    {
        "name": "text_sms",
        "description": "Text.",
        "parameters": {
            "type": "object",
            "properties": {"to": {"type": "string", "format": "uri"}},
            "required": ["to"],
        },
    },
    {"name": "rate", "description": "Rates.", "parameters": {}},
]
OBJECTS = GLAIVE + "\n\n".join(json.dumps(tool, indent=4) for tool in TOOLS) + "\n\n"


def chat(*turns: str, system: str = OBJECTS) -> dict:
    """Turns as "u text", "a text", "f text"; the assistant's get their end mark."""
    names = {"u": "USER", "a": "ASSISTANT", "f": "FUNCTION RESPONSE"}
    ends = {"a": " <|endoftext|>"}
    return {
        "system": system,
        "chat": "".join(f"{names[t[0]]}: {t[2:]}{ends.get(t[0], '')}\n\n\n" for t in turns),
    }


def functioncall(arguments: str, name: str = "text_sms") -> str:
    return f'a <functioncall> {{"name": "{name}", "arguments": {arguments}}}'


TO = functioncall("""'{"to": "me"}'""")


def test_glaive():
    row = chat(
        "u Hi",
        "a Whom?",
        "u Me",
        f"a Sure.\n{TO[2:]}",
        'f {"error": "x"}',
        TO,
        "f {}",
        "a Sent.",
        "u Ta",
        "a You're welcome!",
    )
    record = converted("glaive", row)
    assert record["trajectory"] == [
        user("Hi"),
        *answered("Whom?"),
        user("Me"),
        *calling("text_sms", to="me"),
        *seen('{"error": "x"}'),
        *calling("text_sms", to="me"),
        *seen("{}"),
        *answered("Sent."),
    ]
    empty = {"type": "object", "properties": {}, "required": []}
    assert record["tools"] == [TOOLS[0], TOOLS[1] | {"parameters": empty}]
    assert record["source"] == {
        "dataset": "glaive",
        "missing": missing(1, 4, 7, 10),
        "dropped": {"words before a call": 1, "small talk at the end": 1},
        "errors": ["trajectory.6"],
    }


ARGUMENTS = {
    """'{"to": "me"}'""": {"to": "me"},
    """'{\n  "to": "me"\n}'""": {"to": "me"},
    """'{"to": "let's, it's 'us'"}'""": {"to": "let's, it's 'us'"},
    r"""'{"to": "life\'s \\ \n"}'""": {"to": "life's \\ \n"},
    "{}": {},
    '{\n "to": "me"\n}': {"to": "me"},
}


@pytest.mark.parametrize(("text", "value"), ARGUMENTS.items())
def test_glaive_arguments(text, value):
    assert converted("glaive", chat("u Go", functioncall(text)))["trajectory"][1:] == [
        *calling("text_sms", **value),
        *answered(),
    ]


def test_glaive_ends():
    assert converted("glaive", chat("u Go", TO, "f 1"))["trajectory"][-2:] == answered()
    record = converted("glaive", chat("u Go", "a No.", "u Please"))
    assert record["trajectory"] == [user("Go"), *answered("No.")]
    assert record["source"]["dropped"] == {"query without an answer": 1}


OTHER_FORM = "call in another form"
MARKUP = "markup left in a text"
GLAIVE_REFUSALS = [
    ("arguments that cannot be read", chat("u Go", functioncall("""'{"to": [70001, Infinity]}'"""))),
    ("arguments that cannot be read", chat("u Go", functioncall("""'{"to": [User data]}'"""))),
    ("arguments that cannot be read", chat("u Go", functioncall(r"""'{"to": "a\\'b" c"}'"""))),
    ("arguments that are no JSON object", chat("u Go", functioncall("'[5, 10]'"))),
    (OTHER_FORM, chat("u Go", functioncall("null"))),
    (OTHER_FORM, chat("u Go", 'a <functioncall> {"name": "text_sms", "parameters": {}}')),
    (OTHER_FORM, chat("u Go", functioncall("""'{"to": \"""")[:-1])),
    (OTHER_FORM, chat("u Go", TO + "}")),
    (OTHER_FORM, chat("u Go", TO + " Sent.")),
    ("arguments that cannot be read", chat("u Go", TO + TO[2:])),
    (OTHER_FORM, chat("u Go", 'a Sure.\nAI to= text_sms: {"to": "me"}')),
    ("two answers in a row", chat("u AI?", "a News on", "a \n1. [AI] is")),
    (MARKUP, chat("u Go", TO, 'f {"title": "Big in \nASSISTANT: Top"} <|endoftext|>', "a So.")),
    (MARKUP, chat('u The book "\nASSISTANT: A Modern" <|endoftext|>', "a So.")),
    (MARKUP, chat("u Go <functioncall>", "a So.")),
    (
        "call outside the tool list, nearly inside",
        chat("u Go", functioncall("{}", "text-sms"), "f no", "a So."),
    ),
    ("call outside the tool list", chat("u Go", functioncall("{}", "moon"), "f no", "a So.")),
    (
        "two tools of one name",
        chat(
            "u Go",
            "a No.",
            system=OBJECTS + json.dumps({"name": "rate", "parameters": TOOLS[0]["parameters"]}),
        ),
    ),
    (
        "no tools in the system text",
        chat(
            "u Go",
            "a No.",
            system="SYSTEM: You are a helpful assistant, with no access to external functions.\n\n",
        ),
    ),
    ("tools that cannot be read", chat("u Go", "a No.", system=OBJECTS + "So.")),
    ("result of no call", chat("u Go", "f {}", "a So.")),
    ("two queries in a row", chat("u Go", "u On", "a So.")),
    ("no query", chat("a So.")),
    ("no answer", chat("u Go")),
    ("empty turn", chat("u Go", "a ")),
    ("answer without its end mark", {"system": OBJECTS, "chat": "USER: Go\n\n\nASSISTANT: It is"}),
    ("chat without turn markers", {"system": OBJECTS, "chat": "Go"}),
    ("chat without turn markers", {"system": OBJECTS, "chat": ""}),
    ("not the source's shape", {"system": OBJECTS}),
]


@pytest.mark.parametrize(("reason", "row"), GLAIVE_REFUSALS)
def test_glaive_refused(reason, row):
    assert refused("glaive", row) == reason


# ---- files ----


def test_file_of_another_form_is_told(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([chat("u Go", "a No.")]))
    assert len(list(SOURCES["glaive"].read(tmp_path / "rows.json"))) == 1
    with pytest.raises(
        UserError, match="rows have system, chat, those of toolace have conversations, system; check --source"
    ):
        list(SOURCES["toolace"].read(tmp_path / "rows.json"))
    (tmp_path / "rows.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="rows have int"):
        list(SOURCES["glaive"].read(tmp_path / "rows.json"))


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("apigen", apigen_row([ASK, ASK | {"name": "moon"}], [sky()])),
        ("toolace", ace_row("u Go", 'a [moon(a=["x"]), API()]')),
        ("toolace", ace_row("u Go", "a [moon(x=1)]", "u And now?", "a [API()]", "t rain", "a Rain.")),
        ("glaive", chat("u Go", functioncall("{}", "moon"), "u Stop", "a I stop.")),
    ],
)
def test_calls_outside_the_list_without_a_result_are_for_verify(source, row):
    record = converted(source, row)
    assert "moon" in [call["name"] for call in record["trajectory"][2]["calls"]]
    verdict = verify(record)
    assert verdict.verdict == "refused" and verdict.faults[0]["kind"] == "function not on offer"


def test_one_broken_row_does_not_stop_a_file(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([{"id": 1}, chat("u Go", "a No.")]))
    assert len(list(SOURCES["glaive"].read(tmp_path / "rows.json"))) == 2


# By source and file: rows in, records out, refused by reason
EARLIER = "an earlier step of its query"
GAVE_UP, OUTSIDE = "gave up", "call outside the tool list"
REAL: dict[tuple[str, str], dict[str, int]] = {
    ("toolbench-trees", "toolbench/answer_trees"): {
        "in": 15,
        "out": 8,
        GAVE_UP: 4,
        "no final answer": 2,
        f"{OUTSIDE}, nearly inside": 1,
    },
    ("toolbench-trees", "stabletoolbench/run_example/answer"): {"in": 6, "out": 5, "no final answer": 1},
    ("toolbench-conversations", "toolbench/toolllama_conversation_real.json"): {"in": 1, EARLIER: 1},
    ("toolbench-conversations", "toolbench/toolllama_conversations_derived.json"): {
        "in": 50,
        "out": 8,
        EARLIER: 37,
        GAVE_UP: 4,
        f"{OUTSIDE}, nearly inside": 1,
    },
    ("toolbench-messages", "toolbench/train_messages_0830_reduced.json"): {"in": 20, "out": 14, GAVE_UP: 6},
    ("apigen", "apigen/xlam_verbatim_rows.json"): {"in": 14, "out": 14},
    ("apigen", "apigen/xlam_reconstructed_rows.json"): {"in": 120, "out": 119, "two tools of one name": 1},
    ("toolace", "toolace/toolace_rows_rebuilt.json"): {
        "in": 95,
        "out": 92,
        "empty turn": 2,
        "call that cannot be read": 1,
    },
    ("glaive", "glaive/glaive_raw_rows.json"): {"in": 13, "out": 12, "no tools in the system text": 1},
    ("glaive", "glaive/glaive_rows_rebuilt.json"): {"in": 52, "out": 52},
    ("mathcoder", "mathgenie/mathcoder_trajectories.jsonl"): {
        "in": 91,
        "out": 56,
        "wrong by the authors' verdict": 35,
    },
    ("mathcoder", "mathgenie/lce_training_form_derived.jsonl"): {"in": 36, "out": 36},
    ("mathcoder", "mathgenie/prompt_records_svamp.jsonl"): {"in": 10, "no solution": 10},
}


@pytest.mark.parametrize(("source", "name"), REAL, ids=[name for _, name in REAL])
def test_real_samples(source, name):
    if not (SHARED / name).exists():
        pytest.skip("needs the samples beside the repository")
    frame, counts = load_frame(TINY), Counter()
    for row in SOURCES[source].read(SHARED / name):
        counts["in"] += 1
        try:
            record = SOURCES[source].convert(row)
        except Refused as refused:
            counts[refused.reason] += 1
        else:
            counts["out"] += 1
            data.check_record(record, name)
            example = data.render(record, frame)
            assert len(example.input_ids) == len(example.labels) == len(example.role_ids)
            empty = [i for i, turn in enumerate(record["trajectory"]) if turn.get("content") == ""]
            speaks = [i for i in empty if record["trajectory"][i]["role"] in ("reasoner", "summarizer")]
            assert [p for p in record["source"]["missing"] if p.startswith("traj")] == missing(*speaks)
            for turn in record["trajectory"]:
                if "calls" in turn:
                    text = write_calls(turn["calls"], record["domain"])
                    assert parse_calls(text) == turn["calls"] and same_calls(parse_calls(text), turn["calls"])
    assert dict(counts) == REAL[source, name]


FRAGMENTS = SHARED / "glaive/glaive_call_fragments.jsonl"


@pytest.mark.skipif(not FRAGMENTS.exists(), reason="needs the samples beside the repository")
def test_real_glaive_calls():
    """Refused are those that are known to be broken, but for the apostrophe with a backslash."""
    for line in FRAGMENTS.read_text("utf-8").splitlines():
        fragment = json.loads(line)
        text = fragment["text_between_functioncall_and_endoftext"]
        tools = [{"name": json.loads("{" + text.split(",")[0].strip(" {") + "}")["name"], "parameters": {}}]
        row = chat("u Go", f"a <functioncall>{text}", system=GLAIVE + json.dumps(tools[0]))
        if fragment["usable"] or fragment["why_not"].endswith("(repairable)"):
            converted("glaive", row)
        else:
            refused("glaive", row)
