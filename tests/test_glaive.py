"""glaive.py: small rows with every quirk, and real calls, of which it is known which are broken."""

import json
from pathlib import Path

import pytest
from turns import answered, calling, converted, missing, refused, seen, user

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
        calling("text_sms")[0] | {"content": "Sure."},
        calling("text_sms", to="me")[1],
        *seen('{"error": "x"}'),
        *calling("text_sms", to="me"),
        *seen("{}"),
        *answered("Sent."),
    ]
    empty = {"type": "object", "properties": {}, "required": []}
    assert record["tools"] == [TOOLS[0], TOOLS[1] | {"parameters": empty}]
    assert record["source"] == {
        "dataset": "glaive",
        "missing": missing(1, 7, 10),
        "dropped": {"small talk at the end": 1},
        "errors": ["trajectory.6"],
    }


def test_glaive_words_in_turns_of_their_own_before_a_call():
    """They are the thought that leads to it, and as many turns as there are."""
    record = converted("glaive", chat("u Hi", "a Sure.", "a ", f"a One moment. {TO[2:]}", "f {}", "a Sent."))
    thought, called, *rest = record["trajectory"][1:]
    assert thought == {"role": "reasoner", "content": "Sure.\n\nOne moment.", "next": "executor"}
    assert called == calling("text_sms", to="me")[1] and rest == [*seen("{}"), *answered("Sent.")]
    assert record["source"]["missing"] == missing(4)
    wrapped = GLAIVE + json.dumps({"type": "function", "function": TOOLS[0]})
    assert converted("glaive", chat("u Hi", TO, system=wrapped))["tools"] == [TOOLS[0]]


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


def test_glaive_as_mirrors_have_it():
    """Arguments as JSON text, functions in a list."""
    plain = converted("glaive", chat("u Go", functioncall("""'{"to": "me"}'""")))
    text = json.dumps(json.dumps({"to": "me"}))
    assert converted("glaive", chat("u Go", functioncall(text))) == plain
    tools = GLAIVE + json.dumps(TOOLS)
    assert converted("glaive", chat("u Go", functioncall(text), system=tools)) == plain


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
    ("arguments that cannot be read", chat("u Go", functioncall('"me"'))),
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


FRAGMENTS = Path(__file__).parents[2] / "shared/data/glaive/glaive_call_fragments.jsonl"


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
