r"""GSM8K and MATH: the test files, the answer in a model's text, and whether it equals the reference.

    problems = read_problems("test.jsonl")
    equal(extract(r"... so the answer is $\boxed{\frac12}$."), problems[0].answer)

The paper judges with ToRA's grader, and so do we, its generosity and its blind spots included:

    extract    the last box, else what follows "he answer is", else the last output block, else a last number
    normalise  one spelling: no units, degrees, dollars, percent signs, blanks; \dfrac12, 1/2 -> \frac{1}{2}
    equal      numbers: within 1e-4, or a factor of 100 apart (percent); else as text without brackets; else
               tuples element by element; else by value: the same function of its symbols, or within 1e-3

That grader has sympy read both answers and simplify their difference. Here a formula is computed while it is
read, with random complex numbers for its symbols: two that agree at a few such points are the same function.
No text is run as code and no number outgrows a float, so the work is bounded by the length of the text and no
verdict hangs on a clock. What cannot be read, or exceeds 1e308, is compared as text only.
"""

import math
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent import run_episode, sampling
from cli import UserError
from data import numbered_lines
from engine.heldout import spread
from evaluation.formula import _equal_values, _values
from evaluation.tables import grouped, layout, paper_cells, share_cells
from formats.calls import JSON
from formats.frames import Frame
from model import Transformer
from tools.sandbox import Sandbox

LONGEST = 400  # characters of an answer; a longer one is compared as text, as it stands

# ---- problems ----


@dataclass
class Problem:
    id: str  # the record's `idx`, else its place in the file, from 0
    question: str
    answer: str  # the reference as it is written; `equal` normalises it
    level: str = ""  # MATH: "Level 1" to "Level 5"
    type: str = ""  # MATH: the subject


def read_problems(path: str | Path) -> list[Problem]:
    """Read a JSON Lines file of GSM8K or MATH, as its keys say. Raises UserError: file, line, field."""
    return [_problem(line, i, f"{path}:{number}") for i, (number, line) in enumerate(numbered_lines(path))]


def _problem(line: bytes, index: int, where: str) -> Problem:
    try:
        record = JSON.decode(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON in UTF-8 ({error}); wanted one whole object per line") from None
    keys = record.keys() if isinstance(record, dict) else set()
    if not keys & {"question", "problem"}:
        wanted = "`question` and `answer` (GSM8K) or `problem` and `solution` (MATH)"
        raise UserError(f"{where}: got {record!r:.60}, wanted an object with {wanted}")
    question, solution = ("question", "answer") if "question" in keys else ("problem", "solution")
    for key in (question, solution, *sorted(keys & {"level", "type"})):
        if not isinstance(record.get(key), str) or not record[key].strip():
            raise UserError(f"{where}: {key}: got {record.get(key)!r:.60}, wanted text")
    answer = (_behind_marks if question == "question" else _last_box)(record[solution])
    if not answer:
        wanted = "a last line `#### 72`" if question == "question" else r"\boxed{...} with its braces closed"
        raise UserError(f"{where}: {solution}: got ...{record[solution][-60:]!r}, wanted {wanted}")
    id = str(record.get("idx", index))
    return Problem(id, record[question], answer, record.get("level", ""), record.get("type", ""))


def _behind_marks(solution: str) -> str:
    _, marks, answer = solution.rpartition("####")
    return answer.strip() if marks else ""


def _last_box(solution: str) -> str:
    _, *boxes = re.split(r"\\boxed|\\fbox", solution)
    return (_box(boxes[-1]) or "").strip() if boxes else ""


def _box(rest: str) -> str | None:
    r"""What is in a box, from what follows `\boxed`: braces, or text up to a dollar. None: never closed."""
    if not rest.startswith("{"):
        return rest.split("$")[0].strip()
    depth = 0
    for i, letter in enumerate(rest):
        depth += (letter == "{") - (letter == "}")
        if not depth:
            return rest[1:i]
    return None


# ---- from a model's text to an answer ----


def extract(text: str) -> str:
    """The answer in a model's text, normalised; "" if there is none."""
    output = text.rpartition("```output")[2].split("```")[0].strip() if "```output" in text else ""
    if "boxed" in text:
        rest = text.rpartition("boxed")[2]
        answer = _box(rest)
        answer = rest[1:] if answer is None else answer  # the model was cut off
    elif "he answer is" in text:
        answer = text.rpartition("he answer is")[2].strip()
    elif output:
        answer = output
    else:
        answer = (re.findall(r"-?\d*\.?\d+", text.replace(",", "")) or [""])[-1]
    return normalise(answer.split("\n")[0].removeprefix(":").removesuffix(".").removesuffix("/"))


REMOVED = (r"^{\circ}", r"^\circ", r"\$", "$", r"\text", r"x\in", r"\%", "%")


def normalise(answer: str) -> str:
    """One spelling for answers that mean the same. The steps and their order are the published ones."""
    if len(answer) > LONGEST:
        return answer
    text = answer.strip().replace("\n", "").rstrip(".")
    text = re.sub(r"\\[! ]", "", text)
    text = text.replace(r"\\", "\\").replace(r"\\", "\\")
    text = re.sub(r"[td]frac", "frac", text)
    text = re.sub(r"\\left|\\right", "", text)
    number, unit, _ = text.partition(r"\text{")
    if unit and number.strip() and text.endswith("}"):
        text = number
    text = text.strip()
    for mark in REMOVED:
        text = text.replace(mark, "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = text.replace(r"\cdot", "").replace("infinity", r"\infty")
    if r"\infty" not in text:
        text = text.replace("inf", r"\infty")
    text = text.replace("and", "").replace(r"\mathbf", "")
    text = re.sub(r"\\mbox{.*?}", "", text)
    if "i" not in text:
        text = text.replace("j", "i")  # as Python writes the imaginary unit
    text = re.sub(r"(?<=\d)\.0+(?!\d)", "", text)
    text = "0" + text if text.startswith(".") else text
    if text.count("=") == 1 and text.index("=") <= 2:
        text = text.partition("=")[2]
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    above, slash, below = text.partition("/")
    if slash and "/" not in below and _is_simple(above) and _is_simple(below):
        text = rf"\frac{{{above}}}{{{below}}}"
    return text


def _is_simple(text: str) -> bool:
    return bool(re.fullmatch(r"-?\d+", text)) or "sqrt" in text


# ---- equality ----


def equal(prediction: str, reference: str) -> bool:
    """Whether an answer counts as right. Both are normalised first; an empty answer never is right."""
    a, b = normalise(prediction), normalise(reference)
    return _equal(a, b) if max(len(a), len(b)) <= LONGEST else a == b


def _equal(prediction: str, reference: str) -> bool:
    got, wanted = _number(prediction), _number(reference)
    if got is not None and wanted is not None:
        return any(math.isclose(got, wanted * factor, rel_tol=1e-4) for factor in (1, 0.01, 100))
    if not prediction:
        return False
    brackets = prediction[0] + prediction[-1]
    is_tuple = brackets in ("()", "[]")
    # (1,2) may be called 1,2 but not [1,2]
    ends = "[]()" if is_tuple and not reference.startswith("[" if brackets == "()" else "(") else ""
    if _bare(prediction, ends) == _bare(reference, ends):
        return True
    if is_tuple and brackets == reference[:1] + reference[-1:]:
        a, b = prediction[1:-1].split(","), reference[1:-1].split(",")
        if len(a) == len(b) and all(map(_equal, a, b)):
            return True
    return _equal_values(_values(prediction), _values(reference))


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _bare(text: str, ends: str) -> str:
    return re.sub(r"[{}()]", "", text.strip(ends) if ends else text)


# ---- GSM8K and MATH ----


def read_math(args: Namespace) -> list[Problem]:
    with Sandbox(unsafe=args.unsafe_python):  # raises where there can be none, before the model is loaded
        return spread(read_problems(args.data), args.limit)


def play_math(model: Transformer, frame: Frame, args: Namespace, i: int, problem: Problem) -> Callable:
    def play(speak: Callable) -> dict:
        with Sandbox(unsafe=args.unsafe_python) as python:  # in this thread, with which its child would die
            options = {"domain": "math", "python": python, "max_turns": args.max_turns, **sampling(args, i)}
            record = run_episode(model, frame, None, problem.question, speak=speak, **options)
        line = {"id": problem.id, "category": "MATH" if problem.level or problem.type else "GSM8K"}
        line |= {"level": problem.level, "type": problem.type, "record": record}
        return line | {"reference": problem.answer}

    return play


def judge_math(line: dict) -> dict:
    last, reference = line["record"]["trajectory"][-1], line["reference"]
    answer = extract(last["content"]) if last["role"] == "summarizer" else ""
    valid = equal(answer, reference)
    fault = f"got {answer!r:.60}, wanted {reference!r:.60}" if answer else "no answer"
    return {"answer": answer, "valid": valid, "reason": "" if valid else fault}


def table_math(header: dict, lines: list[dict]) -> str:
    rows = [["problems", "n", "right", "95 % interval", *paper_cells(header)]]
    for key in ("category", "level", "type"):
        for name, verdicts in sorted(grouped(lines, key).items()):
            rows += [[name, *share_cells(verdicts), *paper_cells(header, name)]] if name else []
    return layout(rows)
