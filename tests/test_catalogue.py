"""catalogue.py: files of another form, rows that verify has to judge; then all real samples, counted.

The real samples' twin is what they are known to hold: their number of rows, and why each refused one is.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
from test_apigen import ASK, apigen_row, sky
from test_glaive import chat, functioncall
from test_toolace import ace_row
from turns import converted, missing

import data
from cli import UserError
from formats.calls import parse_calls, same_calls, write_calls
from formats.frames import load_frame
from sources.catalogue import SOURCES
from sources.rows import Refused
from stages.verify import verify

SHARED = Path(__file__).parents[2] / "shared/data"
TINY = Path(__file__).parents[1] / "tiny"


def test_a_row_nested_too_deeply_is_refused():
    schema = {"type": "object", "properties": {}}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema}, "required": []}
    with pytest.raises(Refused, match="nested too deeply|not a valid record"):
        SOURCES["apigen"].convert(
            {"query": "Go", "answers": [ASK], "tools": [sky() | {"parameters": schema}]}
        )


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
