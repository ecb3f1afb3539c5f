r"""Final answers of maths rows, held against the data set's reference or a second model's answer (for
`verify`).

The paper compares outputs of another model with what executors do, and has a person look where they differ
(section 3.3, fault 3). A reference is the row's own (source.reference) or that of the question in a file of
GSM8K or MATH as published. Where there is none, a second model is asked for its answer.

Answers are equal if they are the same formula (formats/formula.py) or one is the other, rounded as it is
written. That is stricter than the grader of evaluation/maths.py, which takes 5 for 0.05.
"""

import re
from pathlib import Path

from cli import UserError
from formats.formula import same, values_of
from sources.rows import read_rows
from stages.asking import DATA, Fault, consult, quoted, read_object, shown
from stages.edits import source_of
from stages.unify import files_in, plain
from tools.endpoint import Ask, Message

NUMBER = re.compile(r"-?(?:\d[\d,]*)?\.?\d+")
DRESS = re.compile(r"\\(?:text|mbox|mathrm)\{[^}]*\}|\\left|\\right|\\[!,;% ]|\\?[$%°]|\^\{?\\circ\}?")
FORM = '{"answer": "..."}: the bare number or formula, without words and units'
EXAMPLE = quoted({"answer": r"\frac{3}{4}"})
SOLVER = f"""\
You solve a problem of mathematics.

{DATA}

Answer with one JSON object and nothing else, {FORM}."""


def read_references(paths: list[Path]) -> dict[str, str]:
    """Answers by question, of files and folders of GSM8K and MATH as published. Raises UserError."""
    references: dict[str, str] = {}
    for path in paths:
        rows = (row for file in files_in(path) for row in read_rows(file))
        pairs = [pair for row in rows if isinstance(row, dict) and (pair := question_and_answer(row))]
        references.update((plain(question), answer) for question, answer in pairs)
        if not pairs:
            wanted = "wanted files of GSM8K (question, answer) or MATH (problem, solution)"
            raise UserError(f"--references {path}: holds no question with its answer; {wanted}")
    return references


def question_and_answer(row: dict) -> tuple[str, str] | None:
    """What a row of GSM8K (behind the marks ####), MATH (in its last box) or MATH-500 asks and answers."""
    question, answer = row.get("question"), row.get("answer")
    if isinstance(question, str) and isinstance(answer, str) and "####" in answer:
        return question, answer.rpartition("####")[2].strip()
    problem, solution = row.get("problem"), row.get("solution")
    if isinstance(problem, str) and isinstance(solution, str) and (found := last_box(solution)):
        return problem, found
    if isinstance(problem, str) and isinstance(answer, str) and answer.strip():  # MATH-500
        return problem, answer.strip()
    return None


def last_box(text: str) -> str:
    r"""What stands in the last \boxed{}; "" where there is none, or it is never closed."""
    _, mark, rest = text.rpartition(r"\boxed{")
    depth = 1
    for i, letter in enumerate(rest if mark else ""):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return rest[:i].strip()
    return ""


def final_answer(text: str) -> str:
    """The answer that a summary gives: what is in its last box, or its last number."""
    if box := last_box(text):
        return box
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else ""


def bare(answer: str) -> str:
    r"""An answer without units, signs of money and space, and without what it is the value of: x = 5."""
    text = DRESS.sub("", answer.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac"))
    text = text.strip().rstrip(".").replace(" ", "")
    name, sign, value = text.partition("=")
    text = value if sign and len(name) < 3 else text
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)


def same_answer(one: str, other: str) -> bool:
    """Whether two answers are the same formula, or the same number but for rounding."""
    one, other = bare(one), bare(other)
    if not one or not other:
        return False
    if one == other:
        return True
    values, others = values_of(one), values_of(other)
    if values is None or others is None:
        return False
    if all(map(same, values, others)):
        return True
    return is_rounded(one, others[0]) or is_rounded(other, values[0])


def is_rounded(written: str, value: complex) -> bool:
    """Whether a number with decimals is the value, rounded to as many."""
    found = re.fullmatch(r"-?\d*\.(\d+)", written)
    if not found or value.imag:
        return False
    return abs(float(written) - value.real) <= 0.500001 * 10 ** -len(found[1])


# ---- a row's answer and the other ----


def reference_of(record: dict, references: dict[str, str]) -> str:
    """The answer that the data set gives; "" if none is known."""
    own = source_of(record).get("reference")
    query = next(turn["content"] for turn in record["trajectory"] if turn["role"] == "user")
    return str(own) if own is not None else references.get(plain(query), "")


def answer_request(record: dict) -> list[Message]:
    """The messages that ask for the answer to the row's problem; they show nothing of its solution."""
    asked = f"The problem:\n{shown(record, {0: record['trajectory'][0]})}\n\nAnswer with {FORM}."
    return [{"role": "system", "content": SOLVER}, {"role": "user", "content": asked}]


def read_answer(answer: str) -> str:
    """Raises Fault."""
    found = read_object(answer, ["answer"])["answer"]
    if isinstance(found, int | float) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not found.strip():
        raise Fault(
            "no answer in the answer", f'"answer" is {quoted(found)[:60]}, wanted a number or formula'
        )
    return found


def answer_fault(record: dict, references: dict[str, str], ask: Ask | None) -> dict | None:
    """The fault of a row whose final answer is not the reference's, nor else the second model's.

    Raises Refused where the second model gives none.
    """
    at = len(record["trajectory"]) - 1
    got = final_answer(record["trajectory"][at]["content"])
    kind, wanted = "another answer than the reference", reference_of(record, references)
    if not wanted:
        if not ask:
            return None
        kind = "second model: another answer"
        wanted = consult(ask, answer_request(record), read_answer, "second model", EXAMPLE)
    if same_answer(got, wanted):
        return None
    detail = f"the row says {quoted(got)[:100]}, the other {quoted(wanted)[:100]}"
    return {"path": f"trajectory.{at}.content", "kind": kind, "detail": detail, "other": None}
