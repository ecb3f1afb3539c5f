"""engine/heldout.py: turns written by a trained model and by scripts.

The naive twin of write_turns generates every token and keeps no cache.
"""

import itertools
from argparse import Namespace
from collections import Counter
from collections.abc import Callable

import pytest
import test_train
from test_train import adapted, make_record

import data
import mor
from engine import heldout
from engine.adapter import load_adapter
from engine.dataset import HeldOut
from engine.devices import Processes
from engine.generation import generate
from engine.heldout import count_turns, evaluate, holds, per_role, progress, retrace, write_turns
from engine.inference import for_inference
from engine.loss import token_losses
from formats.calls import write_calls
from formats.frames import Frame, load_frame
from model import Transformer

# fixtures: a random model, the same trained until it writes a trajectory right, all of it in one thread
base, overfitted, one_thread = test_train.base, test_train.overfitted, test_train.one_thread


def naive_turns(model: Transformer, record: dict, frame: Frame) -> Counter:
    """What write_turns gets right, with every token generated and no cache kept."""
    turns, counts = record["trajectory"], Counter()
    history = data.render_prompt(record, frame)
    for i, turn in enumerate(turns):
        if turn["role"] == "reasoner":
            own = data.parse_turn("reasoner", naive_turn(model, history, turn, frame), "bfcl")
            counts.update(reasoner_turns=1, next_role=own["next"] == turn["next"])
            if own["next"] == "executor" and "calls" in turns[i + 1]:
                after = data.Example(list(history.input_ids), list(history.labels), list(history.role_ids))
                after.extend(data.render_turn(own, frame, "bfcl"))
                text = naive_turn(model, after, turns[i + 1], frame)
                counts["exact_own"] += holds(text, turns[i + 1]["calls"])
        elif "calls" in turn:
            text = naive_turn(model, history, turn, frame)
            counts.update(executor_turns=1, exact=holds(text, turn["calls"]))
        history.extend(data.render_turn(turn, frame, "bfcl"))
    return counts


def naive_turn(model: Transformer, history: data.Example, turn: dict, frame: Frame) -> str:
    """What the model writes in place of a turn; "" where it finds no end."""
    header = data.render_header(turn["role"], frame)
    ids, role_ids = history.input_ids + header.input_ids, history.role_ids + header.role_ids
    length = len(data.render_turn(turn, frame, "bfcl").input_ids) - len(header.input_ids)
    options = {"role": role_ids[-1], "max_new_tokens": 2 * length + 16, "stop_ids": frame.stop_ids}
    spoken = list(generate(model, ids, role_ids=role_ids, **options))
    return frame.decode(spoken[:-1]) if spoken[-1] in frame.stop_ids else ""


def right_turns(model: Transformer, record: dict, frame: Frame, speak: Callable = generate) -> Counter:
    return count_turns(record, write_turns(model, retrace(model, record, frame), frame, speak))


def test_written_turns_are_those_generated_token_by_token(overfitted, base):
    """On what the model has learned, on what it half knows, and with a model that knows nothing."""
    model, frame = overfitted[0], load_frame(base)
    half = [make_record(1) | {"system": "You can call functions."}, make_record(4), make_record(7)]
    half[0]["trajectory"][0]["content"] = "Run 1. Please!"
    found = [right_turns(model, record, frame) for record in half]
    assert found == [naive_turns(model, record, frame) for record in half]
    assert 0 < sum(counts["next_role"] for counts in found)
    assert any(counts["exact"] < counts["executor_turns"] for counts in found)
    untrained, record = adapted(base).eval(), make_record(4)
    assert right_turns(untrained, record, frame) == naive_turns(untrained, record, frame)
    counts = right_turns(model, make_record(0), frame, lambda *_, **__: pytest.fail("it was retraced"))
    assert counts == Counter(reasoner_turns=2, next_role=2, executor_turns=1, exact=1, exact_own=1)


def test_evaluation_reads_all_and_writes_what_is_chosen(overfitted, base):
    """In both forms of the model."""
    frame, records = load_frame(base), [make_record(i) for i in (0, 1, 4, 7, 3)]
    examples = [data.render(record, frame) for record in records]
    held_out = [HeldOut(e, len(e.input_ids), 0, r) for e, r in zip(examples, records, strict=True)]
    model, args = overfitted[0], Namespace(tokens_per_batch=700, eval_limit=3)
    sums = token_losses(model, examples)[1].tolist()
    counts = sum((naive_turns(model, records[i], frame) for i in (0, 1, 3)), Counter())
    inference = Transformer.from_pretrained(base)
    load_adapter(inference, overfitted[1])
    for form in (model, for_inference(inference)):
        found = evaluate(form, held_out, frame, args, Processes())
        assert found["n"] == 5
        assert found["loss"] == pytest.approx(sum(row[0] for row in sums) / sum(row[2] for row in sums), 1e-4)
        assert {name: found[name] for name in per_role(sums)} == pytest.approx(per_role(sums), 1e-4)
        assert found["executor_exact"] == counts["exact"] / counts["executor_turns"]
        assert found["executor_exact_own"] == counts["exact_own"] / counts["executor_turns"]
        assert found["next_role_accuracy"] == counts["next_role"] / counts["reasoner_turns"]
        assert (found["executor_turns"], found["reasoner_turns"]) == (3, 6)
    assert 0 < counts["exact"] < counts["executor_turns"]


def said_in_pipe(seconds: float, total: int, at_once: int, monkeypatch, capsys) -> list[str]:
    """What `progress` prints when each result takes so many seconds."""
    clock = itertools.count()
    monkeypatch.setattr(heldout.time, "perf_counter", lambda: seconds * next(clock))
    assert list(progress(range(total), "read", total, at_once, Processes())) == [*range(total)]
    return capsys.readouterr().out.splitlines()


def test_progress_in_a_pipe(monkeypatch, capsys):
    """With the time that is left, seldom where there are many results, and nothing about five seconds."""
    wanted = ["read: 1 of 4, 3.0 min left", "read: 2 of 4, 2.0 min left", "read: 3 of 4, 1.0 min left"]
    assert said_in_pipe(60, 4, 0, monkeypatch, capsys) == wanted
    assert said_in_pipe(60, 32, 16, monkeypatch, capsys)[0] == "read: 1 of 32, 2.6 min left"
    assert 15 < len(said_in_pipe(1, 1000, 0, monkeypatch, capsys)) <= 25
    assert said_in_pipe(0.04, 100, 0, monkeypatch, capsys) == []


SPELLED_DIFFERENTLY = "Action: get_4 Arguments: {{'n': 4.0}} Action: get_4 Action-Input: {{'n': 5}}"


@pytest.mark.parametrize(
    "written, exact, exact_own, next_role",
    [
        ({}, 1, 1, 2),
        ({"executor": "{1}, {0}"}, 1, 1, 2),  # the order is free
        ({"executor": SPELLED_DIFFERENTLY}, 1, 1, 2),
        ({"executor": "{0}"}, 0, 0, 2),  # a call is missing
        ({"executor": "{0}, {1}, {1}"}, 0, 0, 2),  # one too many
        ({"executor": "Action: get_4 Arguments: {{'n': '4'}}, {1}"}, 0, 0, 2),  # a string is no number
        ({"executor": "I cannot"}, 0, 0, 2),
        ({"executor": "{0}, {1}", "endless": ["reasoner", "executor"]}, 0, 0, 0),  # no end of turn
        ({"executor": "{0}, {1}", "endless": ["executor"]}, 0, 0, 2),
        ({"endless": ["reasoner"]}, 1, 0, 0),
        ({"reasoner": "Something else. Next: executor"}, 1, 1, 1),
        ({"reasoner": "Next: summarizer"}, 1, 0, 1),
        ({"reasoner": "No role named."}, 1, 0, 0),
    ],
)
def test_what_counts_as_right(base, written, exact, exact_own, next_role):
    """And every turn continues a rendered trajectory, on a cache that holds nothing but its beginning."""
    frame, record = load_frame(base), make_record(4)
    turns, own = record["trajectory"], {"role": "reasoner", "content": "Something else.", "next": "executor"}
    trajectories = [[turns[0], turn, *turns[2:]] for turn in (turns[1], own)]
    reference, with_own = (data.render(record | {"trajectory": each}, frame) for each in trajectories)
    texts = {role: [] for role in mor.ROLES}
    for turn in turns[1:]:
        ids = data.render_turn(turn, frame, "bfcl").input_ids[len(frame.headers[turn["role"]]) : -1]
        texts.setdefault(turn["role"], []).append(frame.decode(ids))
    calls = [write_calls([call], "bfcl") for call in turns[2]["calls"]]
    reasoner = reversed(texts["reasoner"])  # the last turn is written first
    valid = len(reference.input_ids)  # so much of the cache holds the reference

    def script(model, input_ids, *, role_ids, role, max_new_tokens, cache, **_):
        nonlocal valid
        name, n = mor.ROLES[role], len(input_ids)
        assert input_ids[-len(frame.headers[name]) :] == frame.headers[name]  # the model had nothing right
        rendered = next(each for each in (reference, with_own) if each.input_ids[:n] == input_ids)
        assert rendered.role_ids[:n] == role_ids
        kept = min(cache.length, n - 1)  # as generate does
        assert kept <= valid and reference.input_ids[:kept] == input_ids[:kept]
        valid, cache.length = kept, n + 1
        text = written.get(name, next(reasoner) if name == "reasoner" else "{0}, {1}")
        ids = frame.encode(text.format(*calls) if name == "executor" else text)
        longest = max(len(frame.encode(text)) for text in texts[name])
        assert len(ids) < max_new_tokens <= 2 * (longest + 1) + 16
        yield from ids if name in written.get("endless", []) else [*ids, frame.end]

    counts = right_turns(Transformer.from_pretrained(base), record, frame, script)
    assert (counts["exact"], counts["exact_own"], counts["next_role"]) == (exact, exact_own, next_role)


def test_a_reference_that_decoding_spoils_is_right():
    """A tokenizer may be unable to give back a character; then no text spells the calls of the record."""
    record, spoiled = make_record(1), 'Action: get_1 Arguments: {"n": �}'
    assert not holds(spoiled, record["trajectory"][2]["calls"])
    line = {"turn": 2, "role": "executor", "text": spoiled, "reference": spoiled, "ended": True}
    assert count_turns(record, [line])["exact"] == 1
    assert count_turns(record, [line | {"ended": False}])["exact"] == 0


def test_table_shows_first_and_last():
    rows = []
    for step in (0, 1, 2):
        shares = {"executor_exact": step / 4, "executor_exact_own": None, "next_role_accuracy": 1.0}
        rows.append({"step": step, "set": "my own", "eval": {"n": 3, "loss": 1.0, **shares}})
    head, first, last = (line.split("  ") for line in heldout.table(rows).splitlines())
    columns = "step n executor_exact executor_exact_own next_role_accuracy loss".split()
    assert [cell.strip() for cell in head if cell] == ["held-out set", *columns]
    assert [cell.strip() for cell in first if cell] == ["my own", "0", "3", "0.0%", "-", "100.0%", "1.0000"]
    assert [cell.strip() for cell in last if cell] == ["my own", "2", "3", "50.0%", "-", "100.0%", "1.0000"]


def test_a_limit_is_spread_evenly():
    assert heldout.spread(range(10), 3) == [0, 3, 6]
    assert heldout.spread(range(10), 0) == heldout.spread(range(10), 99) == [*range(10)]
