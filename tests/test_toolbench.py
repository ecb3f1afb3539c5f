"""toolbench.py: one run told in the three forms gives one trajectory; then each form's quirks and refusals.

The real samples' twin is `spoken`: all the words and calls of a row in order, which its record must keep.
"""

import copy
import json
from pathlib import Path

import pytest
from turns import converted, refused

import data
import pipeline
from cli import UserError, run
from sources.catalogue import SOURCES
from sources.rows import Refused
from sources.toolbench import SEARCH_PROMPT, gave_up

REAL = Path(__file__).parents[2] / "shared/data/toolbench"
SEARCH = SEARCH_PROMPT + ", all previous trails failed."
QUERY, FAILED = "Rain in Bali?", '{"error": "Timeout error...", "response": ""}'
GIVEN = '{"return_type": "give_answer", "final_answer": "Rain."}'
UP = '{"return_type": "give_up_and_restart"}'

TURNS = [
    {"role": "user", "content": QUERY},
    {"role": "reasoner", "content": "The sky will tell.\nAsk for Bali.", "next": "executor"},
    {"role": "executor", "calls": [{"name": "sky_for_weather", "arguments": {"city": "Bali"}}]},
    {"role": "observation", "content": FAILED},
    {"role": "reasoner", "content": "", "next": "executor"},
    {"role": "executor", "calls": [{"name": "sky_for_weather", "arguments": {"city": "Bali", "day": 1}}]},
    {"role": "observation", "content": " rain\n"},
    {"role": "reasoner", "content": "It is answered.", "next": "summarizer"},
    {"role": "summarizer", "content": "Rain."},
]
CITY = {"type": "string", "description": "In English, or not"}
TOOL = {
    "name": "sky_for_weather",
    "description": "The sky.",
    "parameters": {
        "type": "object",
        "properties": {"city": CITY, "day": {"type": "integer"}},
        "required": [],
    },
}


def put(where: str, value: object):
    """A change of a row: the value at a dotted path replaced."""

    def change(row: dict) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in where.split(".")]
        for key in parents:
            row = row[key]
        row[last] = value

    return change


def refusal(source: str, row: dict, change) -> str:
    """The reason for which the changed row is refused."""
    row = copy.deepcopy(row)
    change(row)
    return refused(source, row)


# ---- the later messages ----


def call(name: str, arguments: str, thought: str | None = None) -> dict:
    return {"role": "assistant", "content": thought, "function_call": {"name": name, "arguments": arguments}}


def answer(text: str = "Rain.", thought: str | None = "It is answered.") -> dict:
    return call("Finish", json.dumps({"return_type": "give_answer", "final_answer": text}), thought)


ROW = {
    "tools": [
        {
            "Name": "sky_for_weather",
            "function": "The sky.",
            "input": {"city": "string, In English, or not", "day": "integer, "},
        },
        {"Name": "Finish", "function": "Ends.", "input": {}},
    ],
    "instruction": QUERY,
    "chains": [
        {"role": "system", "content": "You are AutoGPT."},
        {"role": "user", "content": "\nRain in Bali?\nBegin!\n"},
        {"role": "assistant", "content": "The sky will tell. "},
        {"role": "user", "content": SEARCH, "valid": True},
        call("sky_for_weather", '{\n "city": "Bali"}', "Ask for Bali."),
        {"role": "function", "name": "sky_for_weather", "content": FAILED},
        call("sky_for_weather", '{"city": "Bali", "day": 1}'),
        {"role": "function", "name": "sky_for_weather", "content": " rain\n"},
        answer(),
    ],
}


def test_messages():
    assert converted("toolbench-messages", ROW) == {
        "tools": [TOOL],
        "domain": "toolbench",
        "trajectory": TURNS,
        "source": {
            "dataset": "toolbench-messages",
            "missing": ["tools.parameters.required", "trajectory.4.content"],
            "dropped": {"system prompt": 1, "search prompt": 1},
            "errors": ["trajectory.3"],
        },
    }


@pytest.mark.parametrize("thought", ['I call "Finish" now.', "Time to call Finish.", SEARCH])
def test_thought_that_speaks_of_the_search_is_missing(thought):
    row = copy.deepcopy(ROW)
    row["chains"][-1]["content"] = thought
    record = converted("toolbench-messages", row)
    assert record["trajectory"][-2:] == [{"role": "reasoner", "content": "", "next": "summarizer"}, TURNS[-1]]
    assert record["source"]["missing"][-1] == "trajectory.7.content"
    assert record["source"]["dropped"]["thought that speaks of the search"] == 1


def test_same_tool_twice_is_one():
    row = copy.deepcopy(ROW)
    row["tools"].append(row["tools"][0])
    record = converted("toolbench-messages", row)
    assert record["tools"] == [TOOL] and record["source"]["dropped"]["tools listed twice"] == 1


def test_single_quotes_are_read():
    row = copy.deepcopy(ROW)
    row["chains"][4]["function_call"]["arguments"] = "{'city': 'Bali'}"
    assert converted("toolbench-messages", row)["trajectory"] == TURNS


def chain(*messages: dict):
    """A change of the row: its messages after the query replaced."""
    return lambda row: row.update(chains=row["chains"][:2] + list(messages))


SKY = call("sky_for_weather", '{"city": "Bali"}', "Look.")
SEEN = {"role": "function", "name": "sky_for_weather", "content": "rain"}
NO_OBJECT = "arguments that are no JSON object"
SCAFFOLD = "search scaffolding in a text"


def sky(arguments: str):
    return chain(call("sky_for_weather", arguments), SEEN, answer())


REFUSALS = [
    ("gave up", chain(SKY, SEEN, call("Finish", UP, "No."))),
    ("no final answer", chain(SKY, SEEN)),
    ("no final answer", chain(SKY, SEEN, {"role": "assistant", "content": "It will rain."})),
    ("no final answer", chain(SKY, SEEN, call("Finish", '{"return_type": "give_answer"}'))),
    ("no final answer", chain(SKY, SEEN, answer(" "))),
    ("no final answer", put("chains", [])),
    ("call outside the tool list", chain(call("moon", "{}"), SEEN, answer())),
    ("call outside the tool list", chain(call("invalid_hallucination_function_name", "{}"), SEEN, answer())),
    ("call outside the tool list, nearly inside", chain(call("weather", "{}"), SEEN, answer())),
    ("call outside the tool list, nearly inside", chain(call("sky-for-weather", "{}"), SEEN, answer())),
    ("call outside the tool list, nearly inside", chain(call("sky_for_weather({", "{}"), SEEN, answer())),
    (NO_OBJECT, sky('{"city": now()}')),
    (NO_OBJECT, sky('["Bali"]')),
    (NO_OBJECT, sky('{"day": NaN}')),
    (NO_OBJECT, sky('{"day": 1, "day": 2}')),
    (NO_OBJECT, sky("{'day': 1, 'day': 2}")),
    (NO_OBJECT, sky('{"city": "Ba')),
    ("text after the arguments", sky('{"city": "Bali"} so')),
    ("not a valid record", sky('{"day": 1e999}')),
    ("not a valid record", sky('{"city": "\\ud83d"}')),  # half of an emoji, cut in the middle
    ("two tools of one name", lambda row: row["tools"].append(row["tools"][0] | {"function": "Else."})),
    ("unknown role", chain({"role": "tool", "content": ""}, answer())),
    ("call without a result", chain(SKY, answer())),
    ("result of no call", chain(SEEN, answer())),
    ("result of no call", chain(SKY, SEEN, SEEN, answer())),
    ("result of no call", chain(SKY, SEEN | {"name": "moon"}, answer())),
    ("goes on after the final answer", chain(SKY, SEEN, answer(), SKY)),
    ("user message that is not the query", chain(SKY, SEEN, {"role": "user", "content": "So?"}, answer())),
    ("user message that is not the query", put("instruction", "Rain in Rome?")),
    (SCAFFOLD, chain(SKY, SEEN, answer("The Finish function is called."))),
    (SCAFFOLD, chain(SKY, SEEN, answer("mento-carlo-action-value is 0"))),
    (SCAFFOLD, put("instruction", SEARCH)),
    ("markup left in a text", chain(SKY, SEEN, answer("Rain. <|endoftext|>"))),
    ("tool parameter of no known type", put("tools.0.input.day", "tuple, Days")),
    ("tool parameter of no known type", put("tools.0.input.day", {"type": "integer"})),
    ("not the source's shape", put("tools", {})),
    ("not the source's shape", put("tools.0", "sky")),
    ("not the source's shape", put("tools.0.input", None)),
    ("not the source's shape", put("chains.1", "hello")),
    ("not the source's shape", put("chains.1.content", 5)),
    ("not the source's shape", put("chains.4.function_call", [])),
    ("not the source's shape", put("chains.4.function_call", {"name": "sky_for_weather"})),
    ("not the source's shape", lambda row: row.pop("instruction")),
    ("not the source's shape", lambda row: row.clear()),
]


@pytest.mark.parametrize(("reason", "change"), REFUSALS)
def test_messages_refused(reason, change):
    assert refusal("toolbench-messages", ROW, change) == reason


# ---- trees and conversations of the same run ----

FUNCTIONS = [
    {
        "name": "sky_for_weather",
        "description": "The sky.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": CITY | {"example_value": "Bali"},
                "day": {"type": "integer", "example_value": "1"},
            },
            "required": ["city"],
            "optional": ["day"],
        },
    },
    {
        "name": "Finish",
        "description": "Ends.",
        "parameters": {"type": "object", "properties": {"return_type": {"type": "string"}}, "required": []},
    },
]
EXAMPLE = {"city": CITY | {"examples": ["Bali"]}, "day": {"type": "integer"}}
FULL = TOOL | {"parameters": {"type": "object", "properties": EXAMPLE, "required": ["city"]}}


def node(kind: str, text: str, *children: dict, **more) -> dict:
    return {"node_type": kind, "description": text, "children": list(children), **more}


def step(thought: str, name: str, arguments: str, observation: str, *children: dict, code: int = 0) -> dict:
    inner = node("Action Input", arguments, *children, observation=observation, observation_code=code)
    action = node("Action", name, inner)
    return node("Thought", thought, action) if thought else action


DONE = step(
    "It is answered.", "Finish", GIVEN, '{"response":"successfully giving the final answer."}', code=3
)
LOST = step("Try the moon.", "moon", "{}", '{"error": "No such function name: moon", "response": ""}', code=1)
SECOND = step("", "sky_for_weather", '{"city": "Bali", "day": 1}', " rain\n", LOST, DONE)
FIRST = step("Ask for Bali.", "sky_for_weather", '{"city": "Bali"}', FAILED, LOST, SECOND, code=5)
GENERATION = {"valid_data": True, "finish_type": "give_answer", "final_answer": GIVEN, "function": FUNCTIONS}
TREE = {
    "win": True,
    "tree": {"tree": node("Action Input", "", LOST, node("Thought", "The sky will tell. ", FIRST))},
    "answer_generation": GENERATION | {"query": QUERY, "train_messages": [], "chain": []},
}


def test_tree():
    record = converted("toolbench-trees", TREE)
    assert (record["tools"], record["trajectory"]) == ([FULL], TURNS)
    source = {"dataset": "toolbench-trees", "missing": ["trajectory.4.content"], "dropped": {}}
    assert record["source"] == source | {"errors": ["trajectory.3"]}


def path_nodes(root: dict) -> list[dict]:
    """The nodes down to the answer, as a CoT run lists them."""
    nodes = []
    while root["children"]:
        root = root["children"][-1]
        nodes.append({key: value for key, value in root.items() if key != "children"})
    return nodes


def test_cot_run():
    row = {key: value for key, value in TREE.items() if key != "tree"}
    nodes = path_nodes(TREE["tree"]["tree"])
    row |= {"try_count": 2, "trys": [{"chain": nodes[:3], "win": False}, {"chain": nodes, "win": False}]}
    row["answer_generation"] = {k: v for k, v in row["answer_generation"].items() if k != "finish_type"}
    assert converted("toolbench-trees", row)["trajectory"] == TURNS


LEFT = step("It failed.", "Finish", UP, '{"response":"chose to give up and restart"}', code=4)
LATER = step("", "sky_for_weather", '{"city": "Bali", "day": 1}', " rain\n", LEFT)
GAVE_UP_TREE = {
    "win": False,
    "tree": {
        "tree": node(
            "Action Input",
            "",
            step("Ask for Bali.", "sky_for_weather", '{"city": "Bali"}', FAILED, LATER, LEFT),
        )
    },
    "answer_generation": TREE["answer_generation"] | {"finish_type": "give_up", "final_answer": UP},
}

TREE_REFUSALS = [
    ("gave up", lambda row: row.update(GAVE_UP_TREE)),
    ("no path to the final answer", put("answer_generation.final_answer", UP)),
    ("no final answer", put("win", False)),
    ("no final answer", put("answer_generation.valid_data", False)),
    ("no final answer", put("answer_generation.final_answer", None)),
    ("no path to the final answer", put("answer_generation.final_answer", GIVEN.replace("Rain", "Sun"))),
    ("no path to the final answer", put("tree.tree.children", [LOST])),
    ("not the source's shape", put("tree", {})),
    ("not the source's shape", put("tree.tree.children", [5])),
    ("not the source's shape", put("answer_generation.function", {})),
    (
        "action and input do not alternate",
        put("tree.tree.children", [node("Action", "sky_for_weather", DONE)]),
    ),
    ("unknown node", put("tree.tree.children", [node("Note", "x", DONE)])),
]


@pytest.mark.parametrize(("reason", "change"), TREE_REFUSALS)
def test_tree_refused(reason, change):
    assert refusal("toolbench-trees", TREE, change) == reason


def test_call_of_an_unlisted_tool_on_the_way_is_refused():
    moon = step("", "moon", "{}", '{"error": "No such function name: moon", "response": ""}', DONE, code=1)
    assert refusal("toolbench-trees", TREE, put("tree.tree.children", [moon])) == "call outside the tool list"


def test_folder_of_trees(tmp_path):
    (tmp_path / "G1").mkdir()
    (tmp_path / "G1" / "2_DFS.json").write_text(json.dumps(TREE, indent=1))
    (tmp_path / "G1" / "1_DFS.json").write_text(json.dumps(TREE))
    rows = list(SOURCES["toolbench-trees"].read(tmp_path))
    assert [converted("toolbench-trees", row)["source"]["id"] for row in rows] == [
        "G1/1_DFS.json",
        "G1/2_DFS.json",
    ]
    assert list(SOURCES["toolbench-trees"].read(tmp_path / "G1" / "1_DFS.json")) == [TREE]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no \\*.json file"):
        list(SOURCES["toolbench-trees"].read(tmp_path / "none"))


SYSTEM = f"You are AutoGPT. Specifically, you have access to the following APIs: {FUNCTIONS!r}"
TALK = [
    ("system", SYSTEM),
    ("user", "\nRain in Bali?\nBegin!\n"),
    (
        "assistant",
        "\nThought: The sky will tell.\nThought: Ask for Bali.\n"
        'Action: sky_for_weather\nAction Input: {\n  "city": "Bali"\n}',
    ),
    ("function", FAILED),
    ("user", SEARCH),
    ("assistant", '\nThought: \nAction: sky_for_weather\nArguments: {"city": "Bali", "day": 1}'),
    ("function", " rain\n"),
    ("assistant", f"\nThought: It is answered.\nAction: Finish\nAction Input: {GIVEN}"),
]


def talk(turns: list[tuple[str, str]]) -> dict:
    return {
        "id": "Step 9: Rain in Bali?",
        "conversations": [{"from": role, "value": text} for role, text in turns],
    }


def test_conversation():
    lists = {"from": [role for role, _ in TALK], "value": [text for _, text in TALK]}
    for row in (talk(TALK), {"id": "Step 9: Rain in Bali?", "conversations": lists}):
        record = converted("toolbench-conversations", row)
        assert (record["tools"], record["trajectory"]) == ([FULL], TURNS)
        assert record["source"] == {
            "dataset": "toolbench-conversations",
            "missing": ["trajectory.4.content"],
            "dropped": {"system prompt": 1, "search prompt": 1},
            "errors": ["trajectory.3"],
            "id": "Step 9: Rain in Bali?",
        }


def last(text: str) -> dict:
    return talk([*TALK[:-1], ("assistant", text)])


def second(text: str) -> dict:
    return talk([*TALK[:2], ("assistant", text), *TALK[3:]])


NAMED = "Action: sky_for_weather\nAction Input: {}"
TALK_REFUSALS = [
    ("an earlier step of its query", talk(TALK[:3])),
    ("an earlier step of its query", talk(TALK[:6])),
    ("gave up", last(f"\nThought: \nAction: Finish\nAction Input: {UP}")),
    (NO_OBJECT, last(f"\nThought: \nAction: Finish\nAction Input: {GIVEN[:-5]}")),
    ("step without action and input", second("\nThought: I will ask.")),
    ("several actions in one step", second(f'\nThought: \nAction: 1. Call the "x" function\n{NAMED}')),
    ("several actions in one step", second(f"\nThought: \n{NAMED}\n{NAMED}")),
    (
        "call outside the tool list, nearly inside",
        second("\nThought: \nAction: sky_for_weather({\nAction Input: {}"),
    ),
    (NO_OBJECT, second('\nThought: \nAction: sky_for_weather\nAction Input: {"day": Date.now()}')),
    ("text after the arguments", second(f"\nThought: \n{NAMED} done")),
    ("goes on after the final answer", talk([*TALK[:2], TALK[-1], *TALK[3:]])),
    ("tools that cannot be read", talk([("system", SYSTEM[:-1]), *TALK[1:]])),
    ("not the source's shape", talk([("system", "You are AutoGPT."), *TALK[1:]])),
    ("not the source's shape", talk(TALK[1:])),
    ("not the source's shape", talk(TALK[:2])),
    ("not the source's shape", {"id": "", "conversations": {"from": ["user"], "value": []}}),
    ("not the source's shape", {"id": "", "conversations": "x"}),
]


@pytest.mark.parametrize(("reason", "row"), TALK_REFUSALS)
def test_conversation_refused(reason, row):
    assert refused("toolbench-conversations", row) == reason


# ---- giving up ----

ENDS = {
    "toolbench-messages": put("chains.8", call("Finish", UP, "It failed.")),
    "toolbench-trees": lambda row: row.update(GAVE_UP_TREE),
    "toolbench-conversations": put(
        "conversations.7.value", f"\nThought: It failed.\nAction: Finish\nAction Input: {UP}"
    ),
}
ROWS = {"toolbench-messages": ROW, "toolbench-trees": TREE, "toolbench-conversations": talk(TALK)}


@pytest.mark.parametrize("source", ENDS)
def test_a_run_that_gave_up_is_kept_if_asked_for(source):
    """The thought is the reasoner's, who names the summarizer; that says the phrase of ToolBench's prompt."""
    row = copy.deepcopy(ROWS[source])
    ENDS[source](row)
    assert refused(source, row) == "gave up"
    record = SOURCES[source].convert(row, "keep")
    assert record["trajectory"][-2:] == [
        {"role": "reasoner", "content": "It failed.", "next": "summarizer"},
        {"role": "summarizer", "content": "I give up and restart."},
    ]
    calls = [turn["calls"] for turn in record["trajectory"] if "calls" in turn]
    assert calls == [turn["calls"] for turn in TURNS if "calls" in turn], "of the first path that gave up"
    answered = SOURCES[source].convert(copy.deepcopy(ROWS[source]), "keep")
    assert answered == converted(source, ROWS[source])


def test_give_ups_on_the_command_line(tmp_path):
    row = copy.deepcopy(ROW)
    ENDS["toolbench-messages"](row)
    (tmp_path / "rows.json").write_text(json.dumps([ROW, row]))
    for flags, count in (([], 1), (["--give-ups", "refuse"], 1), (["--give-ups", "keep"], 2)):
        argv = ["convert", "--source", "toolbench-messages", "--output", str(tmp_path / "out.jsonl")]
        assert run(pipeline.main, [*argv, *flags, str(tmp_path / "rows.json")]) == 0
        assert len(data.read_records(tmp_path / "out.jsonl")) == count
    no_models = ["--model", "", "--judge-model", "", "--output", str(tmp_path / "made"), "--give-ups", "keep"]
    assert run(pipeline.main, ["run", f"toolbench-messages={tmp_path / 'rows.json'}", *no_models]) == 2
    assert len(data.read_records(tmp_path / "made" / pipeline.CONVERTED)) == 2, "texts are missing, but here"


# ---- real samples ----


def spoken(messages: list[dict]) -> list[str]:
    """The words and calls of ToolBench's own messages, in order, whoever will say them."""
    parts = []
    for message in messages:
        if message["role"] in ("assistant", "function"):
            parts += [message["content"].strip()] if (message.get("content") or "").strip() else []
            if (call := message.get("function_call")) and call["name"] != "Finish":
                parts += [call["name"], json.dumps(json.loads(call["arguments"]))]
            elif call:
                parts += [json.loads(call["arguments"])["final_answer"].strip()]
    return parts


def kept(record: dict) -> list[str]:
    parts = []
    for turn in record["trajectory"][1:]:
        parts += [turn["content"].strip()] if turn.get("content") else []
        for call in turn.get("calls", []):
            parts += [call["name"], json.dumps(call["arguments"])]
    return parts


def trial(source: str, path: Path, give_ups: str = "refuse") -> list[tuple[dict, dict]]:
    """The rows of a file that become a record, each with it."""
    pairs = []
    for row in SOURCES[source].read(path):
        try:
            pairs += [(row, SOURCES[source].convert(row, give_ups))]
        except Refused:
            continue
    return pairs


@pytest.mark.skipif(not REAL.exists(), reason="needs the ToolBench samples beside the repository")
def test_real_samples_keep_every_word():
    """Later messages and trees against ToolBench's own messages; the conversations were made of the trees."""
    rows = trial("toolbench-messages", REAL / "train_messages_0830_reduced.json")
    for row, record in rows:
        assert "\n".join(kept(record)) == "\n".join(spoken(row["chains"]))
    trees = trial("toolbench-trees", REAL / "answer_trees")
    for row, record in trees:
        if not record["source"]["dropped"]:
            assert "\n".join(kept(record)) == "\n".join(
                spoken(row["answer_generation"]["train_messages"][-1])
            )
    talks = trial("toolbench-conversations", REAL / "toolllama_conversations_derived.json")
    told = {record["trajectory"][0]["content"]: record for _, record in talks}
    for _, record in trees:
        other = told[record["trajectory"][0]["content"]]
        assert [t.get("calls") for t in record["trajectory"]] == [t.get("calls") for t in other["trajectory"]]
        assert record["tools"] == other["tools"]
    assert rows and trees and len(talks) == len(told) == len(trees)


@pytest.mark.skipif(not REAL.exists(), reason="needs the ToolBench samples beside the repository")
def test_real_samples_that_gave_up():
    """ToolBench drew one of a tree's paths for its conversations; ours, the first, is it in three of four."""
    names = ("answer_trees", "toolllama_conversations_derived.json", "train_messages_0830_reduced.json")
    sources = ("toolbench-trees", "toolbench-conversations", "toolbench-messages")
    runs = []
    for source, name in zip(sources, names, strict=True):
        records = [record for _, record in trial(source, REAL / name, "keep")]
        runs.append([record for record in records if gave_up(record)])
    trees, talks, later = runs
    assert (len(trees), len(talks), len(later)) == (4, 4, 6)
    told = {record["trajectory"][0]["content"]: record["trajectory"] for record in talks}
    same = 0
    for tree in trees:
        other = told[tree["trajectory"][0]["content"]]
        same += [turn.get("calls") for turn in tree["trajectory"]] == [turn.get("calls") for turn in other]
    assert same == 3
