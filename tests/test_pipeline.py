"""pipeline.py: a small row of every shape, the refusals one by one, and the real sample where it is at hand.

The converter's twin is `spoken` below: all the words and calls of a row in order, which its record must keep.
"""

import copy
import gzip
import json
from pathlib import Path

import pytest

import cli
import data
import pipeline
from calls import write_calls
from frames import load_frame

SHARED = Path(__file__).parents[2] / "shared"
REAL = SHARED / "data/toolbench/train_messages_0830_reduced.json"
LLAMA = SHARED / "models/Llama-3.2-1B-Instruct"


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
    "instruction": "Rain in Bali?",
    "chains": [
        {"role": "system", "content": "You are AutoGPT."},
        {"role": "user", "content": "\nRain in Bali?\nBegin!\n"},
        {"role": "assistant", "content": "The sky will tell. "},
        {"role": "user", "content": pipeline.SEARCH_PROMPT + ", all previous trails failed.", "valid": True},
        call("sky_for_weather", '{\n "city": "Bali"}', "Ask for Bali."),
        {"role": "function", "name": "sky_for_weather", "content": '{"error": "Timeout..."}'},
        call("sky_for_weather", '{"city": "Bali", "day": 1}'),
        {"role": "function", "name": "sky_for_weather", "content": " rain\n"},
        answer(),
    ],
}
RECORD = {
    "tools": [
        {
            "name": "sky_for_weather",
            "description": "The sky.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "In English, or not"},
                    "day": {"type": "integer"},
                },
                "required": [],
            },
        }
    ],
    "domain": "toolbench",
    "trajectory": [
        {"role": "user", "content": "Rain in Bali?"},
        {"role": "reasoner", "content": "The sky will tell.\nAsk for Bali.", "next": "executor"},
        {"role": "executor", "calls": [{"name": "sky_for_weather", "arguments": {"city": "Bali"}}]},
        {"role": "observation", "content": '{"error": "Timeout..."}'},
        {"role": "reasoner", "content": "", "next": "executor"},
        {"role": "executor", "calls": [{"name": "sky_for_weather", "arguments": {"city": "Bali", "day": 1}}]},
        {"role": "observation", "content": " rain\n"},
        {"role": "reasoner", "content": "It is answered.", "next": "summarizer"},
        {"role": "summarizer", "content": "Rain."},
    ],
    "source": {
        "dataset": "toolbench-messages",
        "missing": ["tools.parameters.required", "trajectory.4.content"],
        "dropped": {"system prompt": 1, "search prompt": 1},
        "file": "rows.json",
        "index": 0,
    },
}


def run(folder: Path, rows: object, name: str = "rows.json") -> tuple[int, list[dict] | None]:
    """Convert `rows`; return the exit code and the records written, None when there is no file."""
    (folder / name).write_text(rows if isinstance(rows, str) else json.dumps(rows))
    output = folder / "out.jsonl"
    argv = ["convert", "--source", "toolbench-messages", "--output", str(output), str(folder / name)]
    code = cli.run(pipeline.main, argv)
    return code, [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else None


def test_row_becomes_record(tmp_path, capsys):
    code, records = run(tmp_path, [ROW])
    assert (code, records) == (0, [RECORD])
    assert data.read_records(tmp_path / "out.jsonl") == [RECORD]
    table = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    assert table == [
        ["1", "rows in"],
        ["1", "rows out"],
        ["2", "kept: calls"],
        ["3", "kept: reasoner steps"],
        ["1", "kept: reasoner steps with an empty thought"],
    ]


def chain(*messages: dict):
    """A change of the row: its messages after the query replaced."""
    return lambda row: row.update(chains=row["chains"][:2] + list(messages))


def put(where: str, value: object):
    """A change of the row: the value at a dotted path replaced."""

    def change(row: dict) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in where.split(".")]
        for key in parents:
            row = row[key]
        row[last] = value

    return change


SKY = call("sky_for_weather", '{"city": "Bali"}', "Look.")
SEEN = {"role": "function", "name": "sky_for_weather", "content": "rain"}
SURROGATE = '{"city": "\\ud83d"}'  # half of an emoji, cut in the middle
REFUSALS = [
    ("gave up", chain(SKY, SEEN, call("Finish", '{"return_type": "give_up_and_restart"}', "No."))),
    ("no final answer", chain(SKY, SEEN)),
    ("no final answer", chain(SKY, SEEN, {"role": "assistant", "content": "It will rain."})),
    ("no final answer", chain(SKY, SEEN, call("Finish", '{"return_type": "give_answer"}'))),
    ("no final answer", chain(SKY, SEEN, answer(" "))),
    ("no final answer", put("chains", [])),
    ("call outside the tool list", chain(call("sky", "{}"), SEEN, answer())),
    ("arguments that are no JSON object", chain(call("sky_for_weather", '{"city": now()}'), SEEN, answer())),
    ("arguments that are no JSON object", chain(call("sky_for_weather", '["Bali"]'), SEEN, answer())),
    ("arguments that are no JSON object", chain(call("sky_for_weather", '{"day": NaN}'), SEEN, answer())),
    (
        "arguments that are no JSON object",
        chain(call("sky_for_weather", '{"day": 1, "day": 2}'), SEEN, answer()),
    ),
    ("not a valid record", chain(call("sky_for_weather", '{"day": 1e999}'), SEEN, answer())),
    ("not a valid record", chain(call("sky_for_weather", SURROGATE), SEEN, answer())),
    ("not a valid record", lambda row: row["tools"].append(row["tools"][0])),
    ("unknown role", chain({"role": "tool", "content": ""}, answer())),
    ("call without a result", chain(SKY, answer())),
    ("result of no call", chain(SEEN, answer())),
    ("result of no call", chain(SKY, SEEN, SEEN, answer())),
    ("result of no call", chain(SKY, SEEN | {"name": "moon"}, answer())),
    ("goes on after the final answer", chain(SKY, SEEN, answer(), SKY)),
    ("user message that is not the query", chain(SKY, SEEN, {"role": "user", "content": "So?"}, answer())),
    ("user message that is not the query", put("instruction", "Rain in Rome?")),
    ("search scaffolding in a text", chain(SKY, SEEN, answer(thought='I call "Finish" now.'))),
    ("search scaffolding in a text", chain(SKY, SEEN, answer("mento-carlo-action-value is 0"))),
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


@pytest.mark.parametrize(("reason", "change"), REFUSALS, ids=[reason for reason, _ in REFUSALS])
def test_refused_row_is_counted_and_the_rest_kept(tmp_path, capsys, reason, change):
    bad = copy.deepcopy(ROW)
    change(bad)
    code, records = run(tmp_path, [bad, ROW])
    assert code == 0 and [record["source"]["index"] for record in records] == [1]
    table = capsys.readouterr().out
    assert f"refused: {reason} " in table and "(first: rows.json row 0" in table


def test_schema_faults_are_counted_not_refused(tmp_path, capsys):
    """The API answered such calls; whether to mend or drop them is for a later stage to say."""
    row = copy.deepcopy(ROW)
    row["chains"][4]["function_call"]["arguments"] = '{"city": 7}'
    assert run(tmp_path, [row])[0] == 0
    assert "1  kept: calls that break their schema" in capsys.readouterr().out


def test_several_files_keep_their_names(tmp_path):
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps([ROW, ROW]))
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    argv = ["convert", *files, "--source", "toolbench-messages", "--output", str(tmp_path / "out.jsonl")]
    assert cli.run(pipeline.main, argv) == 0
    sources = [record["source"] for record in data.read_records(tmp_path / "out.jsonl")]
    assert [f"{s['file']} {s['index']}" for s in sources] == ["a.json 0", "a.json 1", "b.json 0", "b.json 1"]


USER_ERRORS = {
    "not JSON": ("[{", "not JSON"),
    "NaN": ("[NaN]", "no row can be converted"),
    "deep nesting": ("[" * 200_000, "not JSON"),
    "object": ('{"tools": []}', "wanted an array"),
    "no rows": ("[]", "no row can be converted"),
    "other source": ('[{"id": "Step 1", "conversations": []}]', "no row can be converted"),
}


@pytest.mark.parametrize(("text", "words"), USER_ERRORS.values(), ids=USER_ERRORS)
def test_unusable_input_is_one_line_and_leaves_the_output(tmp_path, capsys, text, words):
    (tmp_path / "out.jsonl").write_text("{}\n")
    assert run(tmp_path, text) == (2, [{}])
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "rows.json" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "rows.json"]


def test_unusable_paths(tmp_path, capsys):
    good, binary = tmp_path / "rows.json", tmp_path / "rows.gz"
    good.write_text(json.dumps([ROW]))
    (tmp_path / "folder").mkdir()
    binary.write_bytes(gzip.compress(good.read_bytes()))
    cases = [
        (tmp_path / "absent.json", tmp_path / "out.jsonl", "cannot be read"),
        (tmp_path, tmp_path / "out.jsonl", "cannot be read"),
        (binary, tmp_path / "out.jsonl", "not JSON in UTF-8"),
        (good, tmp_path / "x" / ".." / "rows.json", "is one of the inputs"),
        (good, tmp_path / "folder", "cannot be written"),
    ]
    for path, output, words in cases:
        argv = ["convert", "--source", "toolbench-messages", "--output", str(output), str(path)]
        assert cli.run(pipeline.main, argv) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error
    assert json.loads(good.read_text()) == [ROW]


def spoken(row: dict) -> list[str]:
    """The words and calls of a row's assistant and functions, in order, whoever will say them."""
    parts = []
    for message in row["chains"]:
        if message["role"] in ("assistant", "function"):
            parts += [message["content"].strip()] if (message["content"] or "").strip() else []
            if (call := message.get("function_call")) and call["name"] != "Finish":
                parts += [call["name"], json.dumps(json.loads(call["arguments"]))]
            elif call:
                parts += [json.loads(call["arguments"])["final_answer"].strip()]
    return parts


@pytest.mark.skipif(not REAL.exists(), reason="needs the ToolBench sample beside the repository")
def test_real_sample_keeps_every_word_and_renders(tmp_path, capsys):
    """20 real rows: 6 give up, 14 keep their thoughts, calls, results and answer; all render and train."""
    rows = json.loads(REAL.read_text())
    code, records = run(tmp_path, rows)
    assert code == 0 and len(records) == 14
    assert "6  refused: gave up" in capsys.readouterr().out
    for record in records:
        kept = []
        for turn in record["trajectory"][1:]:
            kept += [turn["content"].strip()] if turn.get("content") else []
            for call in turn.get("calls", []):
                kept += [call["name"], json.dumps(call["arguments"])]
        assert "\n".join(kept) == "\n".join(spoken(rows[record["source"]["index"]]))
    if not LLAMA.exists():
        pytest.skip("needs the Llama tokenizer beside the repository to render")
    (tmp_path / "config.json").write_bytes((LLAMA / "config.json").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((LLAMA / "tokenizer.json.gz").read_bytes()))
    frame = load_frame(tmp_path)
    for record in data.read_records(tmp_path / "out.jsonl"):
        example = data.render(record, frame)
        assert len(example.input_ids) == len(example.labels) == len(example.role_ids)
        trained = frame.decode([token for token in example.labels if token != -100])
        for turn in record["trajectory"]:
            if turn["role"] == "executor":
                assert write_calls(turn["calls"], "toolbench") in trained
            elif turn["role"] == "observation" and len(turn["content"]) > 99:
                assert turn["content"] not in trained
            elif turn["role"] == "summarizer":
                assert turn["content"] in trained
