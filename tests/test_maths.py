"""maths.py: a small row of each form and quirk. Code made to print is run, and prints what a notebook did."""

import contextlib
import io

import pytest
from turns import converted, refused

from sources.maths import plain_traceback, printing, unfenced

PROBLEM = "What is 2 + 3, squared?"
RED = "\x1b[38;5;241m"
TRACEBACK = (
    "--------- NameError                         Traceback (most recent call last) Cell In[1], line 1\n"
    f"----> 1 b {RED}= a\n NameError: name 'a' is not defined"
)
BLOCKS = [
    ("text", "First the sum."),
    ("code", "a = 2 + 3\r\na"),
    ("execution", "5"),
    ("text", "Now the square."),
    ("code", "b = c**2\nb"),
    ("execution", TRACEBACK.replace("'a'", "'c'")),
    ("code", "b = a**2\nb, a"),
    ("execution", "(25, 5)"),
    ("text", "It is \\(\\boxed{25}\\)."),
]
TURNS = [
    {"role": "user", "content": PROBLEM},
    {"role": "reasoner", "content": "First the sum.", "next": "executor"},
    {"role": "executor", "content": "a = 2 + 3\nprint(a)"},
    {"role": "observation", "content": "5"},
    {"role": "reasoner", "content": "Now the square.", "next": "executor"},
    {"role": "executor", "content": "b = c**2\nprint(b)"},
    {"role": "observation", "content": "NameError: name 'c' is not defined"},
    {"role": "reasoner", "content": "", "next": "executor"},
    {"role": "executor", "content": "b = a**2\nprint((b, a))"},
    {"role": "observation", "content": "(25, 5)"},
    {"role": "reasoner", "content": "", "next": "summarizer"},
    {"role": "summarizer", "content": "It is \\(\\boxed{25}\\)."},
]


def training_row(blocks=BLOCKS) -> dict:
    def text(role: str, words: str) -> dict:
        return {"role": role, "content": [{"type": "text", "content": words}]}

    said = [{"type": kind, "content": content} for kind, content in blocks]
    return {
        "messages": [
            text("system", "Solve it."),
            text("user", PROBLEM),
            {"role": "assistant", "content": said},
        ]
    }


def run_row(blocks=(*BLOCKS, ("text", "25")), verdict="correct") -> dict:
    said = [{"role": kind, "content": content} for kind, content in blocks]
    asked = [{"role": "system", "content": "Solve it."}, {"role": "user", "content": PROBLEM}]
    record = {
        "id": 7,
        "messages": training_row()["messages"][:2],
        "debug_result": asked + said,
        "completion": "25",
    }
    return {"set": "x", "authors_verdict": verdict, "record": record}


def test_training_form():
    record = converted("mathcoder", training_row())
    assert record["trajectory"] == TURNS and record["domain"] == "math" and "tools" not in record
    assert record["source"] == {
        "dataset": "mathcoder",
        "missing": ["trajectory.7.content", "trajectory.10.content"],
        "dropped": {"system prompt": 1},
        "errors": ["trajectory.6"],
    }


@pytest.mark.parametrize("verdict", ["correct", None])
def test_run_form_drops_the_bare_answer(verdict):
    for row in (run_row(verdict=verdict), run_row()["record"]):
        record = converted("mathcoder", row)
        assert record["trajectory"] == TURNS
        assert record["source"]["dropped"] == {"system prompt": 1, "bare answer behind the final text": 1}
        assert record["source"]["id"] == 7


def test_bare_answer_alone_stays():
    record = converted("mathcoder", run_row([("code", "25"), ("execution", "25"), ("text", "25")]))
    assert record["trajectory"][-1]["content"] == "25"


def test_solution_without_code():
    turns = converted("mathcoder", training_row([("text", "By heart."), ("text", "25")]))["trajectory"]
    assert turns[1:] == [
        {"role": "reasoner", "content": "", "next": "summarizer"},
        {"role": "summarizer", "content": "By heart.\n\n25"},
    ]


REFUSALS = [
    ("wrong by the authors' verdict", run_row(verdict="wrong")),
    ("no final text", run_row(BLOCKS[:-1])),
    ("no final text", training_row([*BLOCKS[:-1], ("text", " ")])),
    ("no solution", {"messages": training_row()["messages"][:2]}),
    ("code and executions do not alternate", training_row(BLOCKS[:2] + BLOCKS[3:])),
    ("code and executions do not alternate", training_row([BLOCKS[0], BLOCKS[2]])),
    ("code and executions do not alternate", training_row([BLOCKS[1], BLOCKS[1], BLOCKS[2]])),
    ("unknown block", training_row([("image", "x")])),
    (
        "code of comments alone",
        training_row([("code", "# nothing"), ("execution", "<empty_execution>"), BLOCKS[-1]]),
    ),
    ("code that is not Python", training_row([("code", "!pip list"), ("execution", "pip"), BLOCKS[-1]])),
    ("not one query before the solution", {"messages": training_row()["messages"][2:]}),
    ("prompt that is not one text", {"messages": [{"role": "user", "content": []}]}),
    ("markup left in a text", training_row([("text", "Go. <|endoftext|>")])),
    ("not the source's shape", {"messages": "x"}),
    ("not the source's shape", {"messages": [{"role": "user", "content": "x"}]}),
]


@pytest.mark.parametrize(("reason", "row"), REFUSALS)
def test_refused(reason, row):
    assert refused("mathcoder", row) == reason


SHOWN = {
    "a = 1\na": ("1", "a = 1\nprint(a)"),
    "1, 2": ("(1, 2)", "print((1, 2))"),
    "(1, 2)": ("(1, 2)", "print((1, 2))"),
    "(1), (2)": ("(1, 2)", "print(((1), (2)))"),
    "(\n    1\n    + 2\n)  # three": ("3", "print((\n    1\n    + 2\n))  # three"),
    "x = 'é'; len(x)": ("1", "x = 'é'; print(len(x))"),
    "'é' + 'a'": ("'éa'", "print(repr('é' + 'a'))"),
    "from fractions import Fraction\nFraction(1, 3)": (
        "Fraction(1, 3)",
        "from fractions import Fraction\nprint(repr(Fraction(1, 3)))",
    ),
    "print(1)": ("1", "print(1)"),
    "print(1)\n2": ("1\n2", "print(1)\nprint(2)"),
    "sorted(i for i in [2, 1])": ("[1, 2]", "print(sorted(i for i in [2, 1]))"),
}


@pytest.mark.parametrize(("code", "shown", "wanted"), [(c, *rest) for c, rest in SHOWN.items()])
def test_last_expression_is_printed(code, shown, wanted):
    assert printing(code, shown) == wanted
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(wanted, {})
    assert printed.getvalue() == shown + "\n"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("a = [1]\na.append(2)", "<empty_execution>"),
        ("a = [1]\nprint(a)\na.append(2)", "[1]"),  # a print behind would say None
        ("a = 1", "1"),
        ("a = (", "SyntaxError: '(' was never closed"),
    ],
)
def test_other_code_stays(code, shown):
    assert printing(code, shown) == code


FENCES = [
    ("```py\na = 1\n```", "a = 1\n"),
    ("```python\na = 1\n```\n", "a = 1\n"),
    ("\n``` Python\r\na = 1\n```", "a = 1\n"),
    ("```\na = 1", "a = 1"),
    ("```py\na = 1\n```\nThen:\n```py\nb = a\n```", "a = 1\nb = a\n"),
    ("a = '```'", "a = '```'"),
    ("~~~python title=x\na = 1\n~~~", "a = 1\n"),
    ("Here it is:\n````{python}\na = 1\n````\nDone.", "a = 1\n"),
    ("1.\n   ```python\n   if 1:\n     a = 1\n   ```", "if 1:\n  a = 1\n"),
    ('a = """\n```\n"""', 'a = """\n```\n"""'),
]


@pytest.mark.parametrize(("code", "wanted"), FENCES)
def test_fences_round_code_go(code, wanted):
    assert unfenced(code) == wanted
    row = training_row([("text", "So:"), ("code", code), ("execution", ""), ("text", "1")])
    assert converted("mathcoder", row)["trajectory"][2]["content"] == wanted.strip("\n")


def test_an_unclosed_fence_costs_no_square():
    text = "```" + " " * 300_000 + "x y"
    assert unfenced(text) == text


def test_tracebacks():
    assert plain_traceback("5") == "5" and plain_traceback("a\nb\n") == "a\nb\n"
    assert plain_traceback(TRACEBACK) == "NameError: name 'a' is not defined"
    assert plain_traceback("12\n" + TRACEBACK) == "12\nNameError: name 'a' is not defined"
    syntax = "Cell In[3], line 2\n    a = (1))\n           ^\nSyntaxError: unmatched ')'"
    assert plain_traceback(syntax) == "SyntaxError: unmatched ')'"
    two = TRACEBACK + "\n\nDuring handling of it:\n\n---- NameError      Traceback (most recent call last)\n"
    assert plain_traceback(two + "NameError: b\n is not there") == "NameError: b is not there"
