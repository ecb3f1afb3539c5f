"""A person at the terminal, played by a text: what is shown, what is kept, and what a torn file loses."""

import io
import json
import os
import sys

import pytest
from test_complete import Model
from test_verify import BALI, ROME, UNIT, make

from cli import UserError
from data import check_record
from stages.complete import complete
from stages.review import decided, read_decisions, read_rows, review, review_row

PATH = "trajectory.2.calls"


def fault(path: str = PATH, other: list | None = None, kind: str = "second model: other arguments") -> dict:
    return {"path": path, "kind": kind, "detail": "why", "other": other}


def rows_file(folder, *rows: dict):
    path = folder / "review.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def row(city: str = "Bali", other: list | None = None, observation: str | None = "rain", **source) -> dict:
    call = {"name": "get_weather", "arguments": {"city": city}}
    return review_row(
        make(([call], observation), source={"dataset": "apigen"} | source), [fault(other=other)]
    )


def play(folder, typed: str, *rows: dict, out=None):
    """(counts, what was shown, the decisions)"""
    out = out or io.StringIO()
    path, decisions = rows_file(folder, *rows), folder / "decisions.jsonl"
    counts = review(path, decisions, io.StringIO(typed), out)
    return counts, out.getvalue(), read_decisions(decisions)


def outcomes(rows, decisions) -> list[str]:
    return [decided(row, decisions)[1] for row in rows]


def test_the_five_answers(tmp_path):
    rows = [row(city, [ROME]) for city in ("a", "b", "c", "d", "e")]
    counts, shown, decisions = play(tmp_path, "a\no\nD\n s \nq\n", *rows)
    assert counts == {"accept": 1, "change": 1, "drop": 1, "skip": 1}
    assert [decisions[r["id"]]["decision"] for r in rows[:3]] == ["accept", "change", "drop"]
    assert len(decisions) == 3 and "3 rows decided" in shown
    merged = [decided(row, decisions) for row in rows]
    assert [outcome for _, outcome in merged] == [
        "accepted",
        "edited",
        "dropped in review",
        "undecided",
        "undecided",
    ]
    assert merged[0][0] == rows[0]["record"]
    assert merged[1][0]["trajectory"][2]["calls"] == [ROME]
    assert merged[1][0]["source"]["edited"] == [PATH]
    check_record(merged[1][0], "merged")
    assert rows[1]["record"]["trajectory"][2]["calls"][0]["arguments"] == {"city": "b"}


def test_resumes(tmp_path):
    rows = [row(city, [ROME]) for city in ("a", "b", "c")]
    play(tmp_path, "a\n", *rows)  # the end of the input quits
    counts, shown, decisions = play(tmp_path, "d\n", *rows)
    assert counts == {"drop": 1} and "1 of 2" in shown and 'city = "a"' not in shown
    counts, _, decisions = play(tmp_path, "s\n", *rows)
    assert counts == {"skip": 1} and len(decisions) == 2
    counts, shown, decisions = play(tmp_path, "o\n", *rows)
    assert len(decisions) == 3
    counts, shown, _ = play(tmp_path, "", *rows)
    assert not counts and "---" not in shown


def test_the_same_row_twice_is_asked_once(tmp_path):
    counts, _, decisions = play(tmp_path, "a\nd\n", row(), row())
    assert counts == {"accept": 1}
    assert outcomes([row(), row()], decisions) == ["accepted", "accepted"]


@pytest.mark.parametrize("torn", (b'{"id": "x", "deci', b"\xff\xfe", b'{"id": "x", "decision": "drop"}'))
def test_a_torn_last_line(tmp_path, torn):
    rows = [row(city) for city in ("a", "b")]
    play(tmp_path, "a\n", *rows)
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    assert len(read_decisions(path)) == 1
    _, _, decisions = play(tmp_path, "d\n", *rows)
    assert outcomes(rows, decisions) == ["accepted", "dropped in review"]
    assert path.read_bytes().count(b"\n") == 2 and torn not in path.read_bytes()


@pytest.mark.parametrize(
    "line",
    (
        b"{}",
        b"[]",
        b'{"id": "x", "decision": "burn"}',
        b'{"id": "x", "decision": "change"}',
        b'{"id": ["x"], "decision": "drop"}',
        b'{"id": "x", "decision": "change", "calls": []}',
        b'{"id": "x", "decision": ["drop"]}',
        b"\xff",
    ),
)
def test_a_broken_decision_is_told(tmp_path, line):
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(line + b'\n{"id": "x", "decision": "drop"}\n')
    with pytest.raises(UserError, match="decisions.jsonl:1: .*(remove|wanted)"):
        read_decisions(path)


def test_the_later_decision_counts(tmp_path):
    path = tmp_path / "decisions.jsonl"
    path.write_text('{"id": "x", "decision": "drop"}\n{"id": "x", "decision": "accept"}\n')
    assert read_decisions(path)["x"]["decision"] == "accept"


@pytest.mark.parametrize(
    "calls",
    (
        {PATH: [{"name": "nothing", "arguments": {}}]},
        {PATH: []},
        {PATH: "x"},
        {"trajectory.1.calls": [BALI]},
        {"trajectory.99.calls": [BALI]},
        {"x": [BALI]},
    ),
)
def test_changes_that_cannot_be(calls):
    one = row()
    with pytest.raises(UserError, match="decision on row"):
        decided(one, {one["id"]: {"id": one["id"], "decision": "change", "calls": calls}})


def test_no_other_calls_to_take(tmp_path):
    counts, shown, _ = play(tmp_path, "o\na\n", row())
    assert "no other calls" in shown and "(there is none)" in shown and counts == {"accept": 1}
    counts, shown, _ = play(tmp_path, "o\n", row("x", []))
    assert "no call" in shown and not counts


def test_help_for_what_is_no_answer(tmp_path):
    _, shown, _ = play(tmp_path, "\n?\nyes\na\n", row())
    assert shown.count("drop the row") == 3


def test_several_steps_in_one_row(tmp_path):
    record = make(([BALI], "rain"), ([BALI], "sun"))
    one = review_row(record, [fault(other=[ROME]), fault("trajectory.5.calls", [ROME])])
    counts, _, decisions = play(tmp_path, "a\n", one)  # one step answered is no decision
    assert not counts and not decisions
    _, _, decisions = play(tmp_path, "a\no\n", one)
    assert decisions[one["id"]]["calls"] == {"trajectory.5.calls": [ROME]}
    merged, _ = decided(one, decisions)
    assert merged["trajectory"][2]["calls"] == [BALI] and merged["trajectory"][5]["calls"] == [ROME]


def test_other_that_equals_the_row_is_accepted(tmp_path):
    _, _, decisions = play(tmp_path, "o\n", row("Bali", [BALI]))
    assert [d["decision"] for d in decisions.values()] == ["accept"]


def test_changed_rows_lack_the_texts_written_for_the_old_calls(tmp_path):
    record = make(([BALI], None))
    record["source"]["completed"] = ["trajectory.1.content", "trajectory.4.content"]
    one = review_row(record, [fault(other=[ROME])])
    _, _, decisions = play(tmp_path, "o\n", one)
    merged, _ = decided(one, decisions)
    assert merged["source"]["missing"] == ["trajectory.1.content", "trajectory.4.content"]
    texts = {"trajectory.1.content": "I need get_weather.", "trajectory.4.content": [ROME]}
    done = complete(merged, Model(texts))
    assert done["trajectory"][4]["content"] == 'Action: get_weather Arguments: {"city": "Rome"}'


# ---- what is shown ----


def test_what_a_person_sees(tmp_path):
    _, shown, _ = play(tmp_path, "", row("Bali", [ROME], file="xlam.json", index=7))
    for text in (
        "1 of 1",
        "apigen xlam.json 7",
        "Weather in Bali?",
        "Weather of a city.",
        "I see.",
        "why",
        "rain",
    ):
        assert text in shown
    assert '-     city = "Bali"' in shown and '+     city = "Rome"' in shown and "  get_weather" in shown
    assert "it belongs to the row's calls" in shown
    assert UNIT["description"] not in shown and "set_unit" in shown
    assert "\033" not in shown


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    text = "\x1b]0;title\x07\x1b[2J\r\u202egnp\x9b31m\nthe row's    forged"
    call = {"name": "get_weather", "arguments": {"city": text, "x\ny": 1}}
    record = make(([call], text), thought=text, source={"dataset": text})
    record["trajectory"][0]["content"] = text
    record["tools"][0] = record["tools"][0] | {"description": text}
    one = review_row(record, [fault(other=[BALI]) | {"detail": text}])
    _, shown, _ = play(tmp_path, "", one)
    assert not any(c in shown for c in "\x1b\x07\r\u202e\x9b")
    labels = [line[:9] for line in shown.split("\n") if line.startswith("the row's")]
    assert len(labels) == 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_on_a_terminal_only(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\033[31m" in play(tmp_path, "", row(), out=Terminal())[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in play(tmp_path, "", row(), out=Terminal())[1]


def test_long_texts_are_cut(tmp_path):
    _, shown, _ = play(tmp_path, "", row("x" * 100_000))
    assert len(shown) < 10_000 and "characters left out" in shown


# ---- edit ----


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Makes $EDITOR a program that puts the next of some texts in place of the file's."""

    def use(*texts: str) -> None:
        script = tmp_path / "editor.py"
        lines = [
            "import sys, pathlib",
            f"texts = {list(texts)!r}",
            f"n = pathlib.Path({str(tmp_path / 'n')!r})",
        ]
        lines += ["i = int(n.read_text()) if n.exists() else 0", "n.write_text(str(i + 1))"]
        lines += ["pathlib.Path(sys.argv[1]).write_text(texts[i], 'utf-8')"]
        script.write_text("\n".join(lines), "utf-8")
        monkeypatch.setenv("EDITOR", f'"{sys.executable}" "{script}"')
        monkeypatch.delenv("VISUAL", raising=False)

    return use


def test_edit(tmp_path, editor):
    editor(json.dumps([ROME]))
    one = row()
    counts, _, decisions = play(tmp_path, "e\n", one)
    assert decisions[one["id"]]["calls"] == {PATH: [ROME]} and counts == {"change": 1}


def test_edit_is_checked_and_asked_again(tmp_path, editor):
    wrong = {"name": "get_weather", "arguments": {"city": 5}}
    editor("[", "[]", json.dumps([wrong]), json.dumps([{"name": "x", "arguments": {}}]), json.dumps([ROME]))
    one = row()
    _, shown, decisions = play(tmp_path, "e\n" * 5, one)
    assert shown.count("not taken") == 4
    assert decisions[one["id"]]["calls"] == {PATH: [ROME]}


def test_an_edit_that_changes_nothing_decides_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.delenv("VISUAL", raising=False)
    counts, shown, _ = play(tmp_path, "e\n", row())
    assert "Nothing has changed" in shown and not counts


@pytest.mark.parametrize("command", ("no-such-editor-anywhere", "false", "'"))
def test_an_editor_that_fails_decides_nothing(tmp_path, monkeypatch, command):
    monkeypatch.setenv("EDITOR", command)
    monkeypatch.delenv("VISUAL", raising=False)
    counts, shown, _ = play(tmp_path, "e\n", row())
    assert "$EDITOR" in shown and not counts


# ---- files ----


def test_an_empty_review_file(tmp_path):
    counts, _, decisions = play(tmp_path, "")
    assert not counts and not decisions


@pytest.mark.parametrize(
    "text", ('{"id": "x"}\n', "[]\n", '{"id": "x", "faults": [], "record": {}}\n', "x\n")
)
def test_a_wrong_review_file(tmp_path, text):
    path = tmp_path / "review.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="review.jsonl:1"):
        list(read_rows(path))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_rows(tmp_path / "none"))


def test_decisions_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="cannot be used"):
        review(rows_file(tmp_path, row()), tmp_path / "review.jsonl" / "d", io.StringIO(), io.StringIO())


def test_each_decision_is_on_the_disk_before_the_next_question(tmp_path, monkeypatch):
    rows, sizes, synced = [row(city) for city in ("a", "b")], [], []
    monkeypatch.setattr(os, "fsync", synced.append)

    class Typist(io.StringIO):
        def readline(self) -> str:
            sizes.append(os.path.getsize(tmp_path / "decisions.jsonl"))
            return super().readline()

    review(rows_file(tmp_path, *rows), tmp_path / "decisions.jsonl", Typist("a\nd\n"), io.StringIO())
    assert sizes[0] == 0 < sizes[1] and len(synced) == 2


def test_ids():
    assert row()["id"] == row()["id"] and row("a")["id"] != row("b")["id"]
    assert row("a", [ROME])["id"] != row("a", [BALI])["id"]
