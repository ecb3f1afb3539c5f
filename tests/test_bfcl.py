"""evaluation/bfcl.py: questions as records, and the leaderboard's columns by hand."""

import pytest
from bfcl_cases import ROOT, published, question

import data
from evaluation import bfcl
from evaluation.bfcl_questions import EXEC, LIVE, NON_LIVE, RELEVANCE

# ---- records ----


def said(*messages: str) -> dict:
    """The record of messages that begin with s, u or a, for their role."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    asked = question("live_irrelevance", [], None)
    asked.messages = [{"role": roles[message[0]], "content": message[1:]} for message in messages]
    record = bfcl.record(asked)
    data.check_record(record, "record")
    return record


def test_record():
    record = said("sBe kind.", "uHi.")
    assert record["system"] == "Be kind." and record["trajectory"] == [{"role": "user", "content": "Hi."}]
    assert record["source"] == {"dataset": "bfcl", "category": "live_irrelevance", "id": "live_irrelevance_0"}
    assert "system" not in said("uHi.")
    assert said("uHi.", "u")["trajectory"] == [{"role": "user", "content": "Hi."}]


def test_record_of_a_dialogue():
    assert said("u1", "a2", "u3", "u4")["trajectory"] == [
        {"role": "user", "content": "1"},
        {"role": "reasoner", "content": "", "next": "summarizer"},
        {"role": "summarizer", "content": "2"},
        {"role": "user", "content": "3\n\n4"},
    ]
    turns = [(turn["role"], turn["content"]) for turn in said("a1", "a2")["trajectory"]]
    assert turns == [("user", ""), ("reasoner", ""), ("summarizer", "1\n\n2"), ("user", "")]


def test_every_published_question_becomes_a_record():
    frame = data.load_frame(ROOT / "tiny")
    for category, read in published().items():
        for index, asked in enumerate(read):
            record = bfcl.record(asked)
            data.check_record(record, f"{category} {index}")
            if index % 10 == 0:
                assert data.render(record, frame).input_ids[-1] == frame.end


# ---- columns ----


def share(right: int, n: int) -> list[bool]:
    return [True] * right + [False] * (n - right)


SCORES = {
    "simple_python": share(8, 10),
    "simple_java": share(1, 2),
    "simple_javascript": share(1, 5),  # mean 0.5
    "multiple": share(9, 10),
    "parallel": share(3, 5),
    "parallel_multiple": share(2, 5),
    "live_simple": share(1, 2),
    "live_multiple": share(5, 6),
    "live_parallel": share(0, 1),
    "live_parallel_multiple": share(0, 1),
    "live_relevance": share(17, 18),
    "irrelevance": share(1, 2),
    "live_irrelevance": share(10, 10),
    "exec_simple": [True, None, False, None],
    "exec_multiple": share(1, 1),
    "exec_parallel": share(0, 2),
    "exec_parallel_multiple": share(1, 2),
    "rest": [None] * 70,
}


def test_columns_by_hand():
    table = bfcl.columns(SCORES)
    assert [*table] == ["Non-live AST", "Non-live Exec", "Live AST", "Relevance", "Irrelevance", "Average"]
    accuracies = {name: column.accuracy for name, column in table.items()}
    assert accuracies == pytest.approx(
        {
            "Non-live AST": (0.5 + 0.9 + 0.6 + 0.4) / 4,
            "Non-live Exec": (0.5 + 1 + 0 + 0.5) / 4,
            "Live AST": 6 / 10,
            "Relevance": 17 / 18,
            "Irrelevance": 0.75,
            "Average": (0.6 + 0.5 + 0.6 + 17 / 18) / 4,
        }
    )
    assert [column.n for column in table.values()] == [37, 7, 10, 18, 12, 72]
    assert all(0 <= column.low <= column.accuracy <= column.high <= 1 for column in table.values())
    with_rest = bfcl.columns(SCORES | {"rest": share(1, 1)})["Non-live Exec"]
    assert with_rest.accuracy == pytest.approx(((0.5 + 1) / 2 + 1 + 0 + 0.5) / 4)


@pytest.mark.parametrize("missing", [*NON_LIVE, *LIVE, *EXEC, *RELEVANCE])
def test_a_category_that_was_not_run_leaves_its_column_empty(missing):
    table = bfcl.columns({name: scores for name, scores in SCORES.items() if name != missing})
    assert table == bfcl.columns(SCORES | {missing: [None, None]})
    empty = [name for name, column in table.items() if column is None]
    if "irrelevance" in missing:
        assert empty == ["Irrelevance"]
    else:
        assert len(empty) == 2 and empty[1] == "Average"


def test_a_misspelt_category_is_no_empty_column():
    with pytest.raises(ValueError, match="live_simpel"):
        bfcl.columns({"live_simpel": [True]})
