"""rules.py, thoughts.py: what the templates say, in which situation; nothing but the record decides."""

import json
import random
import re
from collections import Counter

import pytest
from test_complete import WEATHER, make, math, short

from data import check_record
from sources.rows import Refused
from stages import rules
from stages.asking import quoted
from stages.process import process, read_items

PATHS = tuple(f"trajectory.{i}.content" for i in (1, 4, 5))


def unfinished(record: dict) -> dict:
    """The record with all its thoughts and summaries missing."""
    missing = []
    for i, turn in enumerate(record["trajectory"]):
        if turn["role"] in ("reasoner", "summarizer"):
            turn["content"] = ""
            missing.append(f"trajectory.{i}.content")
    return record | {"source": {"dataset": "apigen", "missing": missing}}


def asked(n: int, *roles: str, observation: str = '{"sky": "rain"}') -> dict:
    """A record of another query for each n."""
    record = unfinished(short(*roles, observation=observation))
    record["trajectory"][0]["content"] = f"How is the weather in town {n}?"
    return json.loads(json.dumps(record))


def texts(record: dict) -> list[str]:
    filled = rules.fill(record)
    check_record(filled, "test")
    return [filled["trajectory"][int(path.split(".")[1])]["content"] for path in record["source"]["missing"]]


def all_texts(*roles: str, observation: str = '{"sky": "rain"}', count: int = 120) -> list[list[str]]:
    return [texts(asked(n, *roles, observation=observation)) for n in range(count)]


def test_fills_and_marks_what_is_missing_and_nothing_else():
    record = make()
    before = json.dumps(record)
    ((name, filled),) = rules.fill_row(json.loads(before))
    assert name == "out" and filled["source"]["completed_by"] == "rules"
    assert filled["source"]["completed"] == list(PATHS)
    assert filled["source"]["missing"] == ["tools.parameters.required"]
    for i, turn in enumerate(record["trajectory"]):
        assert (filled["trajectory"][i] == turn) == (i in (0, 2, 3))
    whole = make(missing=())
    assert rules.fill_row(whole) == [("out", whole)] and "completed_by" not in whole["source"]


def test_a_text_that_is_there_is_not_overwritten():
    record = make()
    record["trajectory"][1]["content"] = "I need get_weather."
    with pytest.raises(Refused, match="nothing is missing"):
        rules.fill(record)


def test_thoughts_name_the_function_and_most_leave_the_values_to_the_executor():
    thoughts = [found[0] for found in all_texts("reasoner", "executor", "observation")]
    assert all("get_weather" in thought for thought in thoughts) and len(set(thoughts)) == 9
    with_values = [thought for thought in thoughts if "Bali" in thought]
    assert 0 < len(with_values) <= len(thoughts) / 2
    assert any("(weather of a city)" in thought for thought in thoughts)
    assert any("the city, which the conversation gives" in thought for thought in thoughts)


@pytest.mark.parametrize(
    "calls, words",
    (
        ([("get_weather", {"city": "Bali"}), ("get_weather", {"city": "Rome"})], "once|2|one call"),
        ([("get_weather", {"city": "Bali"}), ("set_unit", {"unit": "C"})], "get_weather .*set_unit"),
    ),
)
def test_several_calls(calls, words):
    """At least half of the wordings are about the why, whatever the number of calls."""
    record = asked(0, "reasoner", "executor")
    record["tools"] = [*record["tools"], {"name": "set_unit", "description": "Choose a unit."}]
    record["trajectory"][2]["calls"] = [{"name": name, "arguments": given} for name, given in calls]
    options = rules.wordings(record, 1)
    assert all(re.search(words, option) for option in options)
    assert sum("Bali" not in option for option in options) * 2 >= len(options)


def test_values_that_are_too_long_are_not_said():
    record = asked(0, "reasoner", "executor")
    record["trajectory"][2]["calls"][0]["arguments"]["city"] = "x" * 100
    assert len(rules.wordings(record, 1)) == 6 and "xxx" not in "".join(rules.wordings(record, 1))
    assert "xxx" not in "".join(rules.wordings(record, 4))


def test_a_description_that_could_be_taken_for_a_turn_is_left_out():
    record = asked(0, "reasoner", "executor")
    record["tools"] = [WEATHER | {"description": "Weather. Next: executor"}]
    assert "next: executor" not in "".join(texts(record)).lower()
    record["tools"] = [WEATHER | {"description": "Next: executor"}]
    for n in range(30):
        record["trajectory"][0]["content"] = f"And in town {n}?"
        assert "next: executor" not in "".join(texts(record)).lower()


@pytest.mark.parametrize(
    "observation, thought, summary",
    (
        ('{"sky": "rain", "air_pressure": 1013}', "get_weather", "sky rain; air pressure 1013"),
        ("Rain all day.", "get_weather", "Rain all day."),
        ("[]", "nothing", "nothing|no result"),
        ('{"error": "no such city"}', "error|failed", "reported an error|failed"),
    ),
)
def test_after_an_observation(observation, thought, summary):
    found = all_texts("reasoner", "executor", "observation", observation=observation, count=30)
    assert all(re.search(thought, reason) and re.search(summary, told) for _, reason, told in found)
    assert len({reason for _, reason, _ in found}) > 1 < len({told for *_, told in found})


@pytest.mark.parametrize(
    "observation, words",
    (
        ("{}", "There is an answer from get_weather, but the request is not finished. "),
        ("Error: no such city", "get_weather reported an error, so another attempt is due. "),
    ),
)
def test_a_thought_behind_an_observation_says_what_came(observation, words):
    record = asked(0, "reasoner", "executor", "observation", "reasoner", "executor", observation=observation)
    assert texts(record)[1].startswith(words) and not texts(record)[0].startswith(words)


def test_given_up_after_an_error():
    found = all_texts("reasoner", "executor", "observation", observation="Error: no such city", count=20)
    assert all(re.search("no other way|give this up|would not help", thought) for _, thought, _ in found)


def test_a_result_that_ends_in_a_question():
    record = short("reasoner", "executor", "observation", summary="It rains. Shall I book?")
    for n in range(20):
        record["trajectory"][0]["content"] = f"Weather in town {n}?"
        record["trajectory"][4]["content"] = ""
        record["source"] = {"missing": ["trajectory.4.content"]}
        assert re.search("how to go on|decide on|question to the user", texts(record)[0])


@pytest.mark.parametrize(
    "output, words",
    (
        ("10", "The output so far is not the answer yet. "),
        ("NameError: x", "The code failed and has to be mended. "),
    ),
)
def test_a_plan_behind_an_output(output, words):
    record = math(output)
    record["trajectory"][4:4] = [dict(turn) for turn in record["trajectory"][1:4]]
    record["trajectory"][6]["content"] = "50"
    record = unfinished(record)
    assert texts(record)[1].startswith(words) and not texts(record)[0].startswith(words)


def test_a_long_result_is_refused():
    with pytest.raises(Refused, match="only a model can write"):
        rules.fill(asked(0, "reasoner", "executor", "observation", observation="rain " * 80))


def test_without_an_observation_no_result_is_claimed():
    found = all_texts("reasoner", "executor", count=60)
    assert all("get_weather" in told for *_, told in found)
    assert 0 < sum("Bali" in told for *_, told in found) < 60


def test_none_fits():
    found = all_texts(count=60)
    assert {"get_weather" in thought for thought, _ in found} == {True, False}
    assert all(re.search("sorry|cannot|no fitting|no function", told, re.IGNORECASE) for _, told in found)
    assert len({told for _, told in found}) == 5


@pytest.mark.parametrize("thought", ("I know that without a call.",))
def test_a_thought_of_the_data_may_lead_anywhere(thought):
    record = asked(0)
    record["trajectory"][1]["content"] = thought
    record["source"]["missing"] = ["trajectory.2.content"]
    with pytest.raises(Refused, match="only a model can write"):
        rules.fill(record)


@pytest.mark.parametrize(
    "reply, words",
    (
        ("Which city?", "missing|not said|know more|not complete"),
        ("Please provide the city", "missing|not said|know more|not complete"),
        ("Do you want the forecast?", "agree|decide|certain"),
        ("Confirm: Bali, today.", "agree|decide|certain"),
        ("Is there anything else?", "more|further"),
        ("How can I help you?", "not yet said|no request|still open"),
        ("You're welcome, goodbye!", "friendly|polite|comes to its end"),
        ("Fine.", "directly|No function|does not take a call"),
    ),
)
def test_a_reply_without_a_call(reply, words):
    record = short(summary=reply)
    for n in range(12):
        record["trajectory"][0]["content"] = f"And now {n}?"
        record["source"] = {"missing": ["trajectory.1.content"]}
        assert re.search(words, texts(record)[0])


def test_a_reply_from_earlier_results():
    record = short("reasoner", "executor", "observation", summary="Rain.")
    record["trajectory"] += short(summary="It was rain.")["trajectory"]
    record["trajectory"][7]["content"] = ""
    record["source"] = {"missing": ["trajectory.7.content"]}
    assert re.search("earlier results|found before|call anything again", texts(record)[0])


def problem(code: str, n: int = 0) -> dict:
    record = math("50")
    record["trajectory"][0]["content"] = f"Of 60 eggs in box {n} 10 are put aside. How many are left?"
    record["trajectory"][2]["content"] = code
    return json.loads(json.dumps(unfinished(record)))


def test_plans_name_operations_or_formulas_and_compute_nothing():
    code = "left_eggs = 60 - 10\nhalf = left_eggs / 2\nprint(half)"
    plans = {texts(problem(code, n))[0] for n in range(60)}
    assert len(plans) > 20  # the problems differ by their numbers
    formulas = [plan for plan in plans if "(60 - 10)" in plan]
    assert 0 < len(formulas) < len(plans)
    assert all("(left eggs / 2)" in plan for plan in formulas)
    assert all("subtract" in plan and "divide" in plan for plan in plans - set(formulas))
    twice = "a = 2 * 10\nb = a * 80\nprint(b)"
    assert any("first multiply and finally multiply again" in plan.lower() for plan in wordings_of(twice))


def wordings_of(code: str) -> list[str]:
    return rules.wordings(problem(code), 1)


@pytest.mark.parametrize(
    "code, words",
    (
        ("from sympy import symbols\nx = symbols('x')\nprint(x)", "sympy"),
        ("def f(x):\n    return x\nprint(f(1))", "Python|print"),
        ("print(60 - 10)", "Python|print"),
        ("x = = 1", "Python|print"),
    ),
)
def test_plans_of_other_code(code, words):
    assert all(re.search(words, plan) for plan in wordings_of(code))


def test_the_answer_to_a_problem():
    assert texts(problem("print(50)"))[2] in [
        f"{words} \\boxed{{50}}." for words in ("The answer is", "The result is", "It is")
    ]


def test_another_script_is_refused():
    record = asked(0, "reasoner", "executor")
    record["trajectory"][0]["content"] = "巴厘岛天气如何？"
    with pytest.raises(Refused, match="not English"):
        rules.fill(record)
    record["trajectory"][0]["content"] = "Wie ist das Wetter in Köln?"  # told by the script alone
    assert texts(record)


def test_neither_order_nor_workers_nor_place_matter(tmp_path):
    rows = [asked(n, "reasoner", "executor", "observation") for n in range(40)]
    rows += [problem("a = 60 - 10\nprint(a)", n) for n in range(40)]
    written = []
    for name, order, workers in (("one", rows, 0), ("two", random.Random(1).sample(rows, len(rows)), 3)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in order))
        process("complete", read_items(path), rules.fill_row, tmp_path / f"{name}.out.jsonl", workers=workers)
        lines = (tmp_path / f"{name}.out.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [r["trajectory"][0] for r in records] == [r["trajectory"][0] for r in order]
        written.append(Counter(quoted(record["trajectory"]) for record in records))
    assert written[0] == written[1]
