"""evaluation/maths.py against the published grader's verdicts, and its rules one by one.

test_formula.py has the reader of formulas, test_evaluate.py plays the suite.
"""

import json
from pathlib import Path

import pytest

from cli import UserError
from evaluation.maths import LONGEST, equal, extract, judge, normalise, read_problems

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {"gsm8k/test_index_mod5_is0": 264, "gsm8k/train_first60": 60, "math/test_sample": 105}
SOLUTION = {"problem": "?", "level": "Level 1", "type": "Algebra"}


def staged(name: str) -> Path:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"no {name}.jsonl in {DATA}")
    return path


def records(name: str) -> list[dict]:
    return [json.loads(line) for line in staged(name).read_text("utf-8").splitlines()]


def written(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- what was published ----


def test_verdicts_are_the_published_ones():
    pairs = records("math/grader_pairs")
    assert len(pairs) == 136
    for pair in pairs:
        assert equal(pair["prediction"], pair["reference"]) == pair["equal"], pair["id"]
        assert equal(pair["prediction"], pair["reference_raw"]) == pair["equal"], pair["id"]


def test_answers_are_found_where_the_published_grader_finds_them():
    pairs = [pair for pair in records("math/grader_pairs") if pair["extraction_reproduces"]]
    assert pairs
    for pair in pairs:
        assert extract(pair["prediction_text_tail"]) == pair["prediction"], pair["id"]
    for output in records("math/tora_gsm8k_outputs_raw"):
        assert [extract(code) for code in output["code"]] == output["pred"], output["idx"]


@pytest.mark.parametrize("name", FILES)
def test_every_staged_reference_equals_itself(name):
    problems = read_problems(staged(name))
    assert len(problems) == len({problem.id for problem in problems}) == FILES[name]
    for problem in problems:
        assert equal(problem.answer, problem.answer), problem
        assert extract(rf"So it is $\boxed{{{problem.answer}}}$.") == normalise(problem.answer)
        assert normalise(normalise(problem.answer)) == normalise(problem.answer)


# ---- problems ----


def test_problems_of_both_files(tmp_path):
    gsm8k = {"question": "How many?", "answer": "4+2=<<4+2=6>>6\n#### 6,250"}
    path = written(tmp_path / "gsm8k.jsonl", gsm8k, gsm8k)
    assert [(p.id, p.question, p.answer, p.level) for p in read_problems(path)] == [
        ("0", "How many?", "6,250", ""),
        ("1", "How many?", "6,250", ""),
    ]
    (problem,) = read_problems(
        written(tmp_path / "math.jsonl", SOLUTION | {"solution": r"\boxed{5}", "idx": 38})
    )
    assert (problem.id, problem.answer, problem.level, problem.type) == ("38", "5", "Level 1", "Algebra")


def test_problems_as_math_500_has_them(tmp_path):
    row = {
        "problem": "?",
        "answer": "5",
        "subject": "Algebra",
        "level": 2,
        "unique_id": "test/algebra/1.json",
    }
    rows = [row | {"solution": r"So $\boxed{5}$."}, row, row | {"level": "2"}]
    for problem in read_problems(written(tmp_path / "test.jsonl", *rows)):
        assert (problem.id, problem.answer) == ("test/algebra/1.json", "5")
        assert (problem.level, problem.type) == ("Level 2", "Algebra")


@pytest.mark.parametrize(
    "solution, answer",
    [
        (r"$\boxed{1}$ or rather $\boxed{\frac{1}{2}}.$", r"\frac{1}{2}"),
        (r"so $x=\boxed 5$.", "5"),
        (r"$\fbox{a{b}c}$ {", "a{b}c"),
        ("\\boxed{\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}}", "\\begin{pmatrix}\n1 \\\\ 2\n\\end{pmatrix}"),
    ],
)
def test_the_last_box_is_the_reference(tmp_path, solution, answer):
    (problem,) = read_problems(written(tmp_path / "math.jsonl", SOLUTION | {"solution": solution}))
    assert problem.answer == answer


@pytest.mark.parametrize(
    "line, fault",
    [
        ("{", "not JSON"),
        ("[1]", "wanted an object with `question`"),
        ('{"text": "?"}', "wanted an object with `question`"),
        ('{"question": "?"}', "answer: got None, wanted text"),
        ('{"question": "?", "answer": "72"}', "wanted a last line `#### 72`"),
        ('{"question": "?", "answer": "72 ####"}', "wanted a last line `#### 72`"),
        ('{"problem": " ", "solution": "x"}', "problem: got ' ', wanted text"),
        ('{"problem": "?", "solution": "5"}', "wanted .*boxed"),
        (r'{"problem": "?", "solution": "\\boxed{5"}', "wanted .*boxed"),
        ('{"problem": "?", "solution": "x", "level": true}', "level: got True, wanted text"),
        ('{"problem": "?", "answer": 5}', "answer: got 5, wanted text"),
    ],
)
def test_a_fault_names_file_and_line(tmp_path, line, fault):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": "?", "answer": "#### 1"}) + f"\n\n{line}\n")
    with pytest.raises(UserError, match=rf"test\.jsonl:3: .*{fault}"):
        read_problems(path)


# ---- extraction and normalisation ----


@pytest.mark.parametrize(
    "text, answer",
    [
        (r"\boxed{1}, no: $\boxed{\frac{1}{2}}$, he answer is 3", r"\frac{1}{2}"),
        (r"the box \boxed 7$ and 8", "7"),
        (r"cut off: \boxed{\frac{1}{2", r"\frac{1}{2"),
        ("\\boxed{\nx}", ""),
        ("The answer is: 42.\nSo 43.", "42"),
        ("```output\n1\n```\n```output\n2.50\n3\n```\nThat is 4", "2.50"),
        ("```output\n```\nThat is 1,234", "1234"),
        ("From -3 to -4.5 degrees", "-4.5"),
        ("no idea", ""),
        ("", ""),
    ],
)
def test_extraction(text, answer):
    assert extract(text) == answer


@pytest.mark.parametrize(
    "answer, normal",
    [
        (" 5. ", "5"),
        (r"10,\!000\ m", "10,000m"),
        (r"\tfrac{1}{2}+\dfrac{1}{2}", r"\frac{1}{2}+\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        (r"1 \\ 2", r"1\2"),
        (r"5\text{ miles}", "5"),
        (r"\text{even}", "{even}"),
        (r"90^\circ", "90"),
        (r"90^{\circ}", "90"),
        (r"\$18.90", "18.90"),
        (r"50\%", "50"),
        (r"2\cdot3", "23"),
        (r"5\mbox{ cm}", "5"),
        (r"\mathbf{v}", "{v}"),
        ("1 and 2", "12"),
        (r"x \in [1,2]", r"x\in[1,2]"),
        (r"x\in[1,2]", "[1,2]"),
        (".5", "0.5"),
        ("{.5}", "{0.5}"),
        ("12.000", "12"),
        ("12.0x+3.00", "12x+3"),
        ("12.050", "12.050"),
        ("x = 5", "5"),
        ("AB = 5", "AB=5"),
        ("a=b=5", "a=b=5"),
        ("(-inf, inf)", r"(-\infty,\infty)"),
        ("(-inf, infinity)", r"(-inf,\infty)"),
        ("inf", r"\infty"),
        ("3+2j", "3+2i"),
        ("ij", "ij"),
        (r"\sqrt3+\sqrt12", r"\sqrt{3}+\sqrt{12}"),
        (r"\frac12x+\frac1{23}", r"\frac{1}{2}x+\frac{1}{23}"),
        ("-1/20", r"\frac{-1}{20}"),
        (r"\sqrt{3}/2", r"\frac{\sqrt{3}}{2}"),
        ("x/2", "x/2"),
        ("1/2/3", "1/2/3"),
    ],
)
def test_normalisation(answer, normal):
    assert normalise(answer) == normal


# ---- equality ----

SAME = [
    ("65960", "65,960"),
    ("1.00009", "1"),
    ("5", "0.05"),
    (r"50\%", "0.5"),
    (r"0.5", r"50\%"),
    ("1,2", "(1,2)"),
    ("(1,2)", "1,2"),
    ("[1,2]", "1,2"),
    ("(0.5,2)", r"(\frac{1}{2},2.0)"),
    ("(100,x)", "(1,x)"),
    (r"(\text{even})", "even"),
    ("1.732", r"\sqrt{3}"),
    ("0.867", r"\frac{13}{15}"),
    ("3.999999", "4"),
    ("2516_{8}", "2516_8"),
    (r"\frac\pi9", r"\frac{\pi}{9}"),
    ("(a+5)(b+2)", "ab+5b+2a+10"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
    (r"\frac{11+9a}{20}", "0.55+0.45a"),
    (r"2^{\frac{1}{3}}", r"\sqrt[3]{2}"),
    (r"\frac{\sqrt{2}}2", r"\frac{1}{\sqrt{2}}"),
    (r"7\pi", r"\pi7"),
    (r"3\times4", "3x4"),
    (r"\log_2 8", "3"),
    (r"\frac{\ln 8}{\ln 2}", "3"),
    (r"1-\cos^2 (x)", r"\sin^{2}(x)"),
    (r"\tan^{-1}(1)", "0.7854"),
    (r"\binom{5}{2}", "10"),
    ("5!", "120"),
    ("|x-1|", "|1-x|"),
    ("x(x+1)", "x(1+x)"),
    ("9i+6", "6+9j"),
    ("(1+5**0.5)/2", r"\frac{1+\sqrt{5}}{2}"),
    (r"+\infty", r"\infty"),
    ("-2,1", "-21"),  # a comma in a number counts for nothing
    ("x,1", "x,3"),  # elsewhere reading stops at it
    ("2^-1", "2"),  # and at what is no exponent
    ("4210_5", "42105"),  # Python's float takes it for one number
]
DIFFERENT = [
    ("", ""),
    ("", "16"),
    ("1.001", "1"),
    ("5", "0.005"),
    ("(1,2)", "[1,2]"),
    ("[1,2]", "(1,2)"),
    ("(2,1)", "(1,2)"),
    ("(1,2,3)", "(1,2)"),
    ("1,-2", "-2,1"),
    ("{1,2}", "{1,0.02}"),
    ("37.70", r"12\pi"),
    ("-0.524", r"-\frac{\pi}{6}"),
    ("144{m}^3", "144^3"),
    ("4_9", "40_9"),
    ("2.718", "e"),
    ("2i", r"\sqrt{-4}"),
    ("x^2+x", "x(x+1)"),
    ("x", r"\sqrt{x^2}"),
    ("0.333x", r"\frac{x}{3}"),
    ("x=5", "y=6"),
    ("2x+y=5", "2x+y=6"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\3\end{pmatrix}"),
    (r"(-\infty,2)\cup(2,3)\cup(3,\infty)", r"(-\infty,2)\cup(3,\infty)"),
    (r"\infty", r"-\infty"),
    (r"\frac{1}{0}", "0"),
    ("{(C)Plane}", "{(C)}"),
]


@pytest.mark.parametrize(
    "verdict, prediction, reference", [(True, *p) for p in SAME] + [(False, *p) for p in DIFFERENT]
)
def test_equality(verdict, prediction, reference):
    assert equal(prediction, reference) == verdict


@pytest.mark.parametrize("role, valid", [("summarizer", True), ("executor", False), ("reasoner", False)])
def test_only_the_summarizer_answers(role, valid):
    """An episode that met a limit may end in another role's turn."""
    line = {"record": {"trajectory": [{"role": role, "content": r"\boxed{4}"}]}, "reference": "4"}
    assert judge(line)["valid"] is valid
    assert judge(line)["answer"] == ("4" if valid else "")


def test_values_of_formulas_may_differ_by_a_thousandth():
    """As in ToRA's grader."""
    assert equal(r"\sqrt{2}", "1.415")  # by 0.6 thousandths
    assert not equal(r"\sqrt{2}", "1.42")  # by 4


def test_what_is_too_long_is_compared_as_text():
    assert equal("x" * (LONGEST + 1), "x" * (LONGEST + 1))
    assert not equal("x" * (LONGEST + 1) + "y", "y" + "x" * (LONGEST + 1))
