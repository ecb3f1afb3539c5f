"""unify.py: what must hold of the two files whatever the rows are, on invented rows that share functions.

The naive twin of the split is `functions` below: all names of a file, by another way than unify's.
"""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

import data
from cli import UserError
from stages import unify
from stages.unify import Evaluation, read_evaluation

NOTHING = Evaluation(set(), set(), set())
NAMES = [f"get_{thing}" for thing in "sun moon tide wind fog hail snow dew".split()]
NAMES += [f"find_{thing}_for_atlas" for thing in "road river town hill".split()]


def tool(name: str) -> dict:
    return {"name": name, "description": "", "parameters": {"type": "object", "properties": {"x": {}}}}


def record(i: int, offered: list[str], called: list[str], query: str = "", x: object = 0) -> dict:
    calls = [{"name": name, "arguments": {"x": x}} for name in called]
    turns = [{"role": "user", "content": query or f"This is question number {i}."}]
    if called:
        turns.append({"role": "reasoner", "content": "Look.", "next": "executor"})
        turns.append({"role": "executor", "calls": calls})
    turns.append({"role": "reasoner", "content": "Done.", "next": "summarizer"})
    turns.append({"role": "summarizer", "content": "So be it."})
    source = {"dataset": f"set-{i % 3}", "index": i}
    return {"tools": [tool(name) for name in offered], "trajectory": turns, "source": source}


def maths(i: int, query: str, code: str) -> dict:
    turns = [{"role": "user", "content": query}, {"role": "reasoner", "content": "Add.", "next": "executor"}]
    turns += [{"role": "executor", "content": code}, {"role": "observation", "content": "2"}]
    turns += [{"role": "reasoner", "content": "Done.", "next": "summarizer"}]
    turns += [{"role": "summarizer", "content": "2"}]
    return {"domain": "math", "trajectory": turns, "source": {"dataset": "maths", "index": i}}


def invented(count: int = 400) -> list[dict]:
    chance, rows = random.Random(0), []
    for i in range(count):
        offered = chance.sample(NAMES, chance.randint(1, 3))
        rows.append(record(i, offered, chance.sample(offered, chance.randint(0, min(2, len(offered))))))
    return rows + [
        maths(i, f"How much is {i // 2} and one, exactly?", f"print({i})") for i in range(count // 4)
    ]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def split(folder: Path, *files: list[dict], evaluation: Evaluation = NOTHING, **options):
    """Unify; return counts over all data sets, and the rows of train, held-out and set aside."""
    folder.mkdir(exist_ok=True)
    paths = [write_lines(folder / f"in{i}.jsonl", rows) for i, rows in enumerate(files)]
    tally = unify.unify(paths, folder, evaluation, hide=True, **options)
    total = Counter()
    for (_, what), count in tally.counts.items():
        total[what] += count
    names = (unify.TRAIN, unify.HELD_OUT, unify.ASIDE)
    return total, *(read_lines(folder / f"{name}.jsonl") for name in names)


def functions(rows: list[dict]) -> set[str]:
    return {name for name in NAMES if any(f'"name": "{name}"' in json.dumps(row) for row in rows)}


@pytest.mark.parametrize("seed", range(4))
def test_every_row_ends_once_and_held_out_functions_are_unseen(tmp_path, seed):
    rows = invented()
    counts, train, held_out, aside = split(tmp_path, rows, seed=seed, share=0.3)
    assert counts["rows in"] == len(rows) == len(train) + len(held_out) + len(aside)
    places = Counter((row["source"]["dataset"], row["source"]["index"]) for row in train + held_out + aside)
    assert set(places.values()) == {1} and train and held_out
    data.read_records(tmp_path / "train.jsonl")
    called = {
        call["name"] for row in held_out for turn in row["trajectory"] for call in turn.get("calls", ())
    }
    assert called and not called & functions(train)
    atlas = [name for name in NAMES if name.endswith("_for_atlas")]
    assert not set(atlas) & called or not set(atlas) & functions(train)  # one tool is one side
    queries = [
        {row["trajectory"][0]["content"] for row in rows if "tools" not in row} for rows in (train, held_out)
    ]
    assert all(queries) and not queries[0] & queries[1]
    assert {row["reason"] for row in aside} <= {"between train and held-out", "same query and calls"}


def test_held_out_functions_on_offer_leave_the_list(tmp_path):
    """Only from rows that call others, and whose texts do not speak of them."""
    seed = next(
        seed for seed in range(99) if unify.held_out({"get_sun", "get_moon"}, seed, 0.5) == {"get_sun"}
    )
    offered = ["get_sun", "get_moon"]
    rows = [record(0, offered, ["get_moon"]), record(1, offered, ["get_sun"]), record(2, offered, offered)]
    rows += [record(3, offered, ["get_moon"], "Not get_sun, please: the other one."), record(4, offered, [])]
    rows += [record(5, ["get_sun"], [])]
    counts, train, held_out, aside = split(tmp_path, rows, seed=seed, share=0.5)
    index = [[row["source"]["index"] for row in found] for found in (train, held_out, aside)]
    assert [*map(sorted, index)] == [[0, 4], [1, 5], [2, 3]]
    for row in train:
        assert row == rows[row["source"]["index"]] | {"tools": [tool("get_moon")]}
    assert all(row in rows for row in held_out) and counts["refused: between train and held-out"] == 2
    assert counts["kept: rows without the held-out functions that they offered"] == 2


def test_order_of_input_and_number_of_files_do_not_matter(tmp_path):
    """Not even where equal rows differ in their source alone."""
    rows = invented(100) + invented(50)
    for row in rows[-50:]:
        row["source"]["index"] += 1000
    _, *one = split(tmp_path / "one", rows)
    shuffled = random.Random(1).sample(rows, len(rows))
    _, *two = split(tmp_path / "two", shuffled[:20], shuffled[20:])
    assert one == two
    _, *other = split(tmp_path / "other", rows, seed=1)
    assert other[0] != one[0] and [row["source"] for row in one[0]] != sorted(
        (row["source"] for row in one[0]), key=lambda source: source["index"]
    )


def test_repetitions(tmp_path):
    first = record(0, NAMES[:1], NAMES[:1], query="Is the sun up?")
    again = json.loads(json.dumps(first)) | {"source": {"dataset": "set-0", "index": 5}}
    reworded = record(1, NAMES[:2], NAMES[:1], query="is THE  sun up?")
    other = record(2, NAMES[:1], NAMES[:1], query="Is the sun up?", x=1)
    counts, train, _, aside = split(tmp_path, [first, again, reworded, other], share=0.0)
    assert (
        len(train) == 2
        and counts["refused: same query and calls"] + counts["refused: same as another row"] == 2
    )
    assert other in train and {row["stage"] for row in aside} == {"unify"}
    counts, train, *_ = split(tmp_path, [first, again], share=0.0)
    assert counts["refused: same as another row"] == 1 and len(train) == 1


def test_no_call_rows_with_other_functions_on_offer_are_no_repetitions(tmp_path):
    rows = [record(i, offered, [], "Is the sun up?") for i, offered in enumerate([NAMES[:1], NAMES[1:3]])]
    again = record(2, [NAMES[2], NAMES[1]], [], "Is the sun up?")
    counts, train, *_ = split(tmp_path, [*rows, again], share=0.0)
    assert len(train) == 2 and counts["refused: same query and calls"] == 1


def dialogue(i: int, sky: str, answer: str, thought: str, end: str) -> dict:
    """Two rounds with a call each; what was seen and said before the last call differs, or does not."""
    made = record(i, NAMES[:1], NAMES[:1], query="Is the sun up?")
    first = made["trajectory"]
    first.insert(3, {"role": "observation", "content": sky})
    first[-1] = {"role": "summarizer", "content": answer}
    second = json.loads(json.dumps(first))
    second[0]["content"], second[1]["content"] = "And now?", thought
    second[-1]["content"] = end
    return made | {"trajectory": first + second}


def test_dialogues_that_differ_before_the_last_call_are_no_repetitions(tmp_path):
    rows = [
        dialogue(0, "yes", "It is.", "Look.", "Still."),
        dialogue(1, "no", "It is.", "Look.", "Still."),
        dialogue(2, "yes", "Indeed.", "Look.", "Still."),
    ]
    again = dialogue(3, "yes", "It is.", "Look again.", "It still is.")
    assert len(split(tmp_path, rows, share=0.0)[1]) == 3
    counts, train, *_ = split(tmp_path, [*rows, again], share=0.0)
    assert len(train) == 3 and counts["refused: same query and calls"] == 1


def evaluation_files(folder: Path) -> Path:
    folder.mkdir()
    question = {"id": "x", "question": [[{"role": "user", "content": "What is the hypotenuse of 3 and 4?"}]]}
    (folder / "possible_answer").mkdir()
    write_lines(folder / "possible_answer" / "BFCL_v4_multiple.json", [{"id": "x", "ground_truth": []}])
    write_lines(folder / "BFCL_v4_multiple.json", [question | {"function": [{"name": "math.hypot"}]}])
    greeting = {"id": "y", "question": [[{"role": "user", "content": "Yes, please."}]]}
    write_lines(folder / "BFCL_v4_exec_simple.json", [greeting | {"function": [{"name": "get_sun"}]}])
    write_lines(folder / "gsm8k.jsonl", [{"question": "How many eggs has Janet got?", "answer": "#### 3"}])
    write_lines(
        folder / "math.jsonl", [{"problem": "Compute $1+1$, and prove it.", "solution": "\\boxed{2}"}]
    )
    query = {"query": "List all films of the year 1999.", "query_id": 1, "api_list": []}
    (folder / "G1_tool.json").write_text(json.dumps([query]))
    return folder


def test_evaluation_sets_are_kept_out(tmp_path):
    found = read_evaluation([evaluation_files(tmp_path / "sets")])
    assert len(found.queries) == 4 and found[1:3] == ({"get_sun"}, {"math_hypot"})
    queries = [
        "what is the hypotenuse of 3 and 4 ?",
        "How many eggs has Janet got?",
        "Compute $1+1$, and prove it.",
    ]
    queries += ["List all films of the year “1999”."]
    rows = [record(i, ["f"], ["f"], query) for i, query in enumerate(queries)]
    rows += [record(4, ["get_sun", "g"], ["g"]), record(5, ["math_hypot"], ["math_hypot"])]
    rows += [record(6, ["f"], ["f"], "Yes, please.")]
    counts, train, _, aside = split(tmp_path, rows, evaluation=found, share=0.0)
    assert (
        counts["refused: query of an evaluation set"] == 4
        and counts["refused: function of an evaluation set"] == 1
    )
    assert sorted(row["source"]["index"] for row in train) == [5, 6]
    assert counts["kept: rows with a function named as one of BFCL's"] == 1
    for names, kept in (("all", [6]), ("none", [4, 5, 6])):
        _, train, *_ = split(tmp_path, rows, evaluation=found, share=0.0, names=names)
        assert sorted(row["source"]["index"] for row in train) == kept


def test_a_full_stop_does_not_move_a_row_without_functions(tmp_path):
    rows = [maths(i, f"How much is {i // 2} and one" + "." * (i % 2), f"print({i})") for i in range(60)]
    _, train, held_out, _ = split(tmp_path, rows, share=0.5)
    sides = [{row["source"]["index"] // 2 for row in found} for found in (train, held_out)]
    assert all(sides) and not sides[0] & sides[1] and len(train + held_out) == 60


def test_hidden_questions_and_near_misses_are_told(tmp_path):
    found = read_evaluation([evaluation_files(tmp_path / "sets")])
    hidden = "Question: what is the hypotenuse, of 3 and 4 -- answer with a number alone"
    near = "What is the hypotenuse of 5 and 12?"
    rows = [record(0, ["f"], ["f"], hidden), record(1, ["f"], ["f"], near), record(2, ["f"], ["f"])]
    counts, train, _, aside = split(tmp_path, rows, evaluation=found, share=0.0)
    (line,) = aside
    question = {"question": "What is the hypotenuse of 3 and 4?"}
    assert line == {"stage": "unify", "reason": "query of an evaluation set", "score": 1.0} | question | {
        "source": rows[0]["source"]
    }
    assert len(train) == 2 and counts["kept: rows near a question of an evaluation set"] == 1
    (line,) = read_lines(tmp_path / "unify.near.jsonl")
    assert line == {"score": 0.5, "queries": [near], "source": rows[1]["source"]} | question


def test_functions_by_last_part_and_parameters(tmp_path):
    found = read_evaluation([evaluation_files(tmp_path / "sets")])
    found.functions.add("get_sun", tool("Sky_2_GetSun"))
    rows = [record(0, ["GetSun"], []), record(1, ["sun.get_sun"], []), record(2, ["get_sunset"], [])]
    counts, train, *_ = split(tmp_path, rows, evaluation=found, share=0.0)
    assert [row["source"]["index"] for row in train] == [2]
    assert counts["refused: function of an evaluation set"] == 2


def test_tools_as_openai_wraps_them(tmp_path):
    """A row that loses a function on offer is written bare."""
    seed = next(
        seed for seed in range(99) if unify.held_out({"get_sun", "get_moon"}, seed, 0.5) == {"get_sun"}
    )
    row = record(0, ["get_sun", "get_moon"], ["get_moon"])
    wrapped = row | {
        "tools": [{"type": "function", "function": tool | {"strict": True}} for tool in row["tools"]]
    }
    _, train, *_ = split(tmp_path, [wrapped], seed=seed, share=0.5)
    assert train == [row | {"tools": [tool("get_moon")]}]


def test_evaluation_against_nothing_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[{")
    write_lines(tmp_path / "answers.jsonl", [{"id": "x", "ground_truth": []}])
    cases = {
        "empty": "no question",
        "broken.json": "row 0 cannot be read",
        "answers.jsonl": "no question",
        "absent": "cannot",
    }
    for name, words in cases.items():
        with pytest.raises(UserError, match=words):
            read_evaluation([tmp_path / name])


def test_faulty_row_names_file_and_line_and_writes_nothing(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [record(0, ["f"], ["f"]), {"trajectory": []}])
    with pytest.raises(UserError, match="rows.jsonl:2: trajectory"):
        unify.unify([path], tmp_path / "out", NOTHING, hide=True)
    assert not (tmp_path / "out").exists()


def indices(rows: list[dict]) -> list[tuple]:
    return [(row["source"]["dataset"], row["source"]["index"]) for row in rows]


def test_a_sample_is_the_first_rows_of_the_whole(tmp_path):
    """Its twin: the file without --sample, cut. Held-out rows and repetitions stay as they are."""
    rows = invented() + invented(50)
    whole_counts, whole, held_out, aside = split(tmp_path / "whole", rows, share=0.2)
    counts, train, held, left = split(tmp_path / "one", rows, share=0.2, sample=60)
    assert train == whole[:60] and held == held_out
    out = [row for row in left if row["reason"] == "not in the sample"]
    assert sorted(indices(out)) == sorted(indices(whole[60:])) and len(left) - len(out) == len(aside)
    assert counts["refused: not in the sample"] == len(whole) - 60 and counts["rows in"] == len(rows)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert split(tmp_path / "two", shuffled, share=0.2, sample=60)[1:3] == (train, held)
    _, other, *_ = split(tmp_path / "other", rows, share=0.2, sample=60, seed=1)
    assert indices(other) != indices(train)
    assert split(tmp_path / "all", rows, share=0.2, sample=10_000) == (whole_counts, whole, held_out, aside)


def test_a_sample_of_each_source(tmp_path):
    rows = invented()
    _, whole, *_ = split(tmp_path / "whole", rows, share=0.0)
    _, train, *_ = split(tmp_path / "each", rows, share=0.0, sample=110, per_source=True)
    counts = Counter(dataset for dataset, _ in indices(train))
    assert counts == {"set-0": 110, "set-1": 110, "set-2": 110, "maths": 100}
    for dataset in counts:
        first = [row for row in whole if row["source"]["dataset"] == dataset][:110]
        assert [row for row in train if row["source"]["dataset"] == dataset] == first
