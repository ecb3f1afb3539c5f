"""code.py: code of maths rows with sandboxes that answer as the case wants, and one with a real sandbox."""

from contextlib import contextmanager

import pytest
from test_complete import Model
from test_verify import kinds

from stages.asking import AGAIN
from stages.code import same_output
from stages.verify import verify
from tools.sandbox import EMPTY, Sandbox


def math(*blocks: tuple[str, str | None]) -> dict:
    turns = [{"role": "user", "content": "How many?"}]
    for code, observation in blocks:
        turns.append({"role": "reasoner", "content": "So.", "next": "executor"})
        turns.append({"role": "executor", "content": code})
        turns += [{"role": "observation", "content": observation}] if observation is not None else []
    turns.append({"role": "reasoner", "content": "So.", "next": "summarizer"})
    turns.append({"role": "summarizer", "content": "It is 5."})
    return {"domain": "math", "trajectory": turns}


class Box:
    """Stands for a sandbox: gives outputs in order, keeps the code."""

    def __init__(self, *outputs: str):
        self.outputs, self.output, self.ran, self.entered = list(outputs), 400, [], 0

    def run(self, code: str) -> str:
        self.ran.append(code)
        return self.outputs[len(self.ran) - 1]

    @contextmanager
    def __call__(self):
        self.entered += 1
        yield self


def test_code_is_run_only_where_asked():
    record = math(("x = 5", ""), ("x", "5"))
    assert verify(record).verdict == "pass"
    box = Box(EMPTY, "5")
    verdict = verify(record, ask=Model({"answer": 5}), python=box)
    assert verdict.verdict == "pass" and verdict.record is record
    assert box.ran == ["x = 5", "x"] and box.entered == 1


@pytest.mark.parametrize(
    "code, got, observed, kind",
    (
        (" \n", None, "5", "empty code"),
        ("x", "6", "5", "code that gives another output"),
        ("x", EMPTY, "5", "code that gives another output"),
        ("x", "NameError: name 'x' is not defined", "5", "code that fails"),
        ("x", "NameError: name 'x' is not defined", None, "code that fails"),
        ("x", "5", "NameError: name 'x' is not defined", "code that gives another output"),
        ("x", "NameError: a", "ValueError: a", "code that fails"),
        ("x", "NameError: a", "\x1b[31mNameError\x1b[0m: b", None),
        ("x", "5", None, None),
        ("x", "1\n[stopped after 5 s; the state was lost]", "1", "code that has to be stopped"),
        (
            "x",
            "ModuleNotFoundError: No module named 'sympy'",
            "5",
            "code that needs a module not installed here: sympy",
        ),
        ("x", "ModuleNotFoundError: No module named 'q'", "ModuleNotFoundError: No module named 'q'", None),
    ),
)
def test_code(code, got, observed, kind):
    verdict = verify(math((code, observed)), python=Box(got))
    assert kinds(verdict) == ([kind] if kind else [])
    assert verdict.verdict == ("refused" if kind else "pass")


def test_fences_are_no_code():
    """They stay in the record; a fence without code is empty code."""
    record, box = math(("```python\nx = 5\n```", ""), ("So:\n```\nx\n```\nThat is it.", "5")), Box(EMPTY, "5")
    assert verify(record, python=box) == ("pass", record, []) and box.ran == ["x = 5", "x"]
    assert kinds(verify(math(("```py\n\n```", None)))) == ["empty code"]


def test_long_output_is_cut_on_both_sides():
    text = "7" * 1000
    assert (
        verify(
            math(("x", text)), python=Box(f"{'7' * 200}...[600 characters left out]...{'7' * 200}")
        ).verdict
        == "pass"
    )


@pytest.mark.parametrize(
    "got, observed, same",
    (
        ("0.30000000000000004", "0.3", True),
        ("[1, 2]", "[1,2]\n", True),
        ("1 2", "12", False),
        ("1.0", "1", True),
        ("5", "0.05", False),
        ("-5", "5", False),
        ("x**2 - 4", "x**2 - 5", False),
        ("1" * 400 + "2", "1" * 400 + "3", False),
        ("1e-10", "1.0e-10", True),
        ("(y**2, 9)", "(y**2, 9)", True),
        ("", EMPTY, True),
        ("3.1416", "3.14159265", False),
        ("#", "5", False),
    ),
)
def test_same_output(got, observed, same):
    assert same_output(got, observed) == same


def test_in_a_real_sandbox():
    record = math(("x = 2\nx + 1", "3"), ("print(x / 3)", "0.6666666666666667"), ("y", "NameError: y"))

    def python():
        return Sandbox(wall=120, cpu=60, unsafe=True)

    assert verify(record, python=python) == ("pass", record, [])
    record["trajectory"][3]["content"] = "4"
    assert kinds(verify(record, python=python)) == ["code that gives another output"]


# ---- faulty code is asked for anew ----


class Interpreter:
    """Stands for a sandbox: the output of each code, by its text."""

    output = 400

    def __init__(self, **outputs: str):
        self.outputs = outputs

    def run(self, code: str) -> str:
        return self.outputs.get(code, "NameError: no such code")

    @contextmanager
    def __call__(self):
        yield self


def test_faulty_code_is_asked_for_anew():
    record = math(("good", "4"), ("bad", "5"))
    python = Interpreter(good="4", bad="6", worse="7", mended="5")
    model = Model({"code": "worse"}, {"code": "mended"}, {"answer": "5"})
    verdict = verify(record, model, python=python)
    assert verdict.verdict == "pass" and verdict.record["source"]["corrected"] == ["trajectory.5.content"]
    assert [turn["content"] for turn in verdict.record["trajectory"] if turn["role"] == "executor"] == [
        "good",
        "mended",
    ]
    assert record["trajectory"][5]["content"] == "bad" and model.temperatures == [0, AGAIN, 0]
    first = model.asked[0][1]["content"]
    assert "code that gives another output" in first and '"bad"' in first and '"good"' in first
    assert "It is 5." not in first and "got '7'" in model.asked[1][-1]["content"]


def test_each_faulty_step_is_asked_for():
    record = math((" ", "4"), ("bad", "5"))
    python = Interpreter(good="4", bad="6", mended="5")
    model = Model({"code": "good"}, {"code": "mended"}, {"answer": "5"})
    verdict = verify(record, model, python=python)
    assert verdict.record["source"]["corrected"] == ["trajectory.2.content", "trajectory.5.content"]


def test_completed_thoughts_round_new_code_are_written_again():
    completed = ["trajectory.1.content"]
    record = math(("bad", "5")) | {"source": {"completed": completed, "missing": []}}
    model = Model({"code": "mended"}, {completed[0]: "First, count. Finally, print it."}, {"answer": 5})
    verdict = verify(record, model, python=Interpreter(mended="5"))
    assert verdict.record["trajectory"][1]["content"] == "First, count. Finally, print it."
    assert verdict.record["source"]["rewritten"] == completed and "So." not in model.asked[0][1]["content"]


@pytest.mark.parametrize("answer", ({"code": "bad"}, {"code": ""}, {"code": 5}, "print(5)"))
def test_code_that_stays_faulty_is_refused(answer):
    verdict = verify(math(("bad", "5")), Model(answer), python=Interpreter(bad="6"))
    assert (verdict.verdict, kinds(verdict)) == ("refused", ["code that gives another output"])
    assert "asked for anew" in verdict.faults[0]["detail"]


def test_without_a_sandbox_no_code_is_asked_for():
    model = Model({"code": "mended"})
    assert kinds(verify(math((" ", "5")), model)) == ["empty code"] and not model.asked
