"""answers.py: which answers are the same, where a reference is found, what is asked where there is none."""

import io
import json

import pytest
from test_code import math
from test_complete import Model

from cli import UserError
from stages.answers import final_answer, read_references, same_answer
from stages.review import decided, read_decisions, review
from stages.verify import requests, verify, verify_row


@pytest.mark.parametrize(
    "text, answer",
    (
        (r"So it is \boxed{\frac{1}{2}}, not \boxed{7}.", "7"),
        (r"It is \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        ("He has 3 dogs and 1,200.5 cats.", "1,200.5"),
        ("At -4 degrees.", "-4"),
        (r"Cut off: \boxed{12", "12"),
        ("Nobody knows.", ""),
    ),
)
def test_final_answer(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    "one, other, same",
    (
        ("5", "5.0", True),
        ("5", "0.05", False),
        ("1000", "1001", False),
        ("1,000", "1000", True),
        (r"\$18", "18", True),
        (r"18\text{ dollars}", "18", True),
        (r"\dfrac{7}{25}", "7/25", True),
        ("0.28", r"\frac{7}{25}", True),
        ("0.33", "1/3", True),
        ("0.34", "1/3", False),
        ("-0.2222", "-2/9", True),
        ("x = 5", "5", True),
        ("50\\%", "50", True),
        ("2x+3", "3+2x", True),
        ("2x+3", "3-2x", False),
        (r"(1,2)", "(1, 2)", True),
        ("(1,2)", "12", False),
        ("", "", False),
        ("no", "yes", False),
    ),
)
def test_same_answer(one, other, same):
    assert same_answer(one, other) == same == same_answer(other, one)


def files(folder):
    gsm8k, maths = folder / "train.jsonl", folder / "algebra"
    gsm8k.write_text(json.dumps({"question": "How  many?", "answer": "2 + 3 = 5\n#### 5"}) + "\n")
    maths.mkdir()
    (maths / "1.json").write_text(
        json.dumps([{"problem": "Which?", "solution": r"It is \boxed{\frac{1}{2}}."}])
    )
    return [gsm8k, maths]


def test_references_of_published_files(tmp_path):
    paths = files(tmp_path)
    assert read_references([*paths, *paths]) == {"howmany?": "5", "which?": r"\frac{1}{2}"}
    (tmp_path / "500.jsonl").write_text('{"problem": "Which?", "answer": "5", "unique_id": "test/1.json"}\n')
    assert read_references([tmp_path / "500.jsonl"]) == {"which?": "5"}
    assert read_references([]) == {}
    (tmp_path / "other.jsonl").write_text('{"question": "How many?", "answer": "5"}\n')
    with pytest.raises(UserError, match="other.jsonl: holds no question with its answer"):
        read_references([tmp_path / "other.jsonl"])


def test_the_answer_is_the_references():
    """Then no model is asked."""
    model, record = Model("nothing is asked"), math(("x", "5"))
    assert verify(record, model, references={"howmany?": "5"}) == ("pass", record, [])
    verdict = verify(record, model, references={"howmany?": "6"})
    assert verdict.verdict == "review" and verdict.faults == [
        {
            "path": "trajectory.5.content",
            "kind": "another answer than the reference",
            "detail": 'the row says "5", the other "6"',
            "other": None,
        }
    ]
    own = record | {"source": {"reference": 6}}
    assert verify(own, model, references={"howmany?": "5"}).verdict == "review"
    assert not model.asked and not [*requests(record, references={"howmany?": "5"})]
    assert verify(record).verdict == "pass"


@pytest.mark.parametrize(
    "answer, kind",
    (
        ({"answer": "5"}, None),
        ({"answer": 5.0}, None),
        ({"answer": "6"}, "second model: another answer"),
        ({"answer": True}, "second model: no answer in the answer"),
        ({"answer": " "}, "second model: no answer in the answer"),
        ("It is 5.", "second model: answer is not JSON"),
    ),
)
def test_a_second_models_answer_where_there_is_no_reference(answer, kind):
    record = math(("x", "5"))
    model = Model(answer)
    verdict = verify(record, model, references={"another?": "6"})
    assert [fault["kind"] for fault in verdict.faults] == ([kind] if kind else [])
    assert verdict.verdict == ("review" if kind else "pass")
    asked = model.asked[0]
    assert asked == [*requests(record)][0]
    assert "How many?" in asked[1]["content"] and "It is 5." not in asked[1]["content"]


def row() -> dict:
    record = math(("x", "5")) | {"source": {"dataset": "mathcoder"}}
    options = {"ask": None, "model": "", "environment": None, "python": None}
    ((name, found),) = verify_row(record, decisions={}, references={"howmany?": "6"}, **options)
    assert name == "review"
    return found


@pytest.mark.parametrize(
    "typed, outcome, answer",
    (
        ("a\n", "accepted", "It is 5."),
        ("e\n", "edited", "It is 6."),
        ("d\n", "dropped in review", "It is 5."),
    ),
)
def test_a_person_decides_on_an_answer(typed, outcome, answer, tmp_path, monkeypatch):
    monkeypatch.setenv("EDITOR", "sed -i s/5/6/")
    monkeypatch.delenv("VISUAL", raising=False)
    out = io.StringIO()
    (tmp_path / "review.jsonl").write_text(json.dumps(row()) + "\n")
    review(tmp_path / "review.jsonl", tmp_path / "decisions.jsonl", io.StringIO("o\n" + typed), out)
    assert "It is 5." in out.getvalue() and 'the other "6"' in out.getvalue()
    assert "There are no other calls" in out.getvalue()
    record, found = decided(row(), read_decisions(tmp_path / "decisions.jsonl"))
    assert found == outcome and record["trajectory"][5]["content"] == answer
    assert record["trajectory"][:5] == row()["record"]["trajectory"][:5]


@pytest.mark.parametrize(
    "path, new",
    (("trajectory.2.content", "print(6)"), ("trajectory.5.content", " "), ("trajectory.5.calls", [])),
)
def test_decisions_that_do_not_fit(path, new):
    found = row()
    with pytest.raises(UserError, match="remove its line"):
        decided(found, {found["id"]: {"id": found["id"], "decision": "change", "calls": {path: new}}})
