r"""GSM8K and MATH: does the agent's answer equal the reference? Table 3.

    python evaluate.py math --data test.jsonl --python --output results/gsm8k.jsonl     or MATH's test file
    python evaluate.py score results/gsm8k.jsonl

The executor's Python is run in a sandbox; what it prints is the observation. The summarizer's text holds the
answer. As in the paper, ToRA's grader judges, its generosity and its blind spots included:

    extract    the last box, else what follows "he answer is", else the last output block, else a last number
    normalise  one spelling: no units, degrees, dollars, percent signs, blanks; \dfrac12, 1/2 -> \frac{1}{2}
    equal      numbers: within 1e-4, or a factor of 100 apart (percent); else as text without brackets; else
               tuples element by element; else by value: the same function of its symbols, or within 1e-3

That grader has sympy read both answers and simplify their difference; here formula.py computes them. What it
cannot read is compared as text only.

Paper silent: how long an episode may be. Here the reasoner and the executor take 4 rounds at most before the
summarizer (--max-turns 10), which then answers as well as it can; an episode that is cut short by another
limit has no answer, which is wrong.
"""

import math
import re
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent import run_episode, sampling
from cli import UserError, layout, parse_object
from data import numbered_lines
from engine.heldout import spread
from evaluation.tables import grouped, paper_cells, paper_note, share_cells
from formats.calls import JSON
from formats.formula import same_values, values_of
from formats.frames import Frame
from model import Transformer
from tools.sandbox import Sandbox

LONGEST = 400  # characters of an answer; a longer one is compared as text, as it stands

# ---- problems ----


@dataclass
class Problem:
    id: str  # the record's `idx` or `unique_id`, else its place in the file, from 0
    question: str
    answer: str  # the reference as it is written; `equal` normalises it
    level: str = ""  # MATH: "Level 1" to "Level 5"
    type: str = ""  # MATH: the subject, MATH-500's `subject`


def read_problems(path: str | Path) -> list[Problem]:
    """Read JSON Lines of GSM8K, MATH or MATH-500, as the keys say. Raises UserError: file, line, field."""
    return [_problem(line, i, f"{path}:{number}") for i, (number, line) in enumerate(numbered_lines(path))]


def _problem(line: bytes, index: int, where: str) -> Problem:
    wanted = "an object with `question` and `answer` (GSM8K) or `problem` and `solution` (MATH, MATH-500)"
    row = parse_object(line, where, wanted, JSON)
    level = _level(row, where) if "level" in row else ""
    key = "subject" if "subject" in row else "type"
    subject = _text(row, key, where) if key in row else ""
    if "question" in row:
        question, solution = _text(row, "question", where), _text(row, "answer", where)
        field, answer, marked = "answer", _behind_marks(solution), "a last line `#### 72`"
    elif "problem" in row and "solution" not in row and "answer" in row:
        question, solution = _text(row, "problem", where), _text(row, "answer", where)
        field, answer, marked = "answer", solution.strip(), "the answer alone"
    elif "problem" in row:
        question, solution = _text(row, "problem", where), _text(row, "solution", where)
        field, answer, marked = "solution", _last_box(solution), r"\boxed{...} with its braces closed"
    else:
        raise UserError(f"{where}: got {row!r:.60}; wanted {wanted}")
    if not answer:
        raise UserError(f"{where}: {field}: got ...{solution[-60:]!r}, wanted {marked}")
    name = row.get("idx", row.get("unique_id", index))
    return Problem(str(name), question, answer, level, subject)


def _level(row: dict, where: str) -> str:
    """ "Level 2", which MATH-500 writes as 2."""
    number = str(row["level"])
    return f"Level {number}" if number.isdigit() else _text(row, "level", where)


def _text(row: dict, field: str, where: str) -> str:
    value = row.get(field)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {field}: got {value!r:.60}, wanted text")
    return value


def _behind_marks(solution: str) -> str:
    _, marks, answer = solution.rpartition("####")
    return answer.strip() if marks else ""


def _last_box(solution: str) -> str:
    _, *boxes = re.split(r"\\boxed|\\fbox", solution)
    content = _box(boxes[-1]) if boxes else None
    return content.strip() if content else ""


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
    output = ""
    if "```output" in text:
        output = text.rpartition("```output")[2].split("```")[0].strip()
    if "boxed" in text:
        rest = text.rpartition("boxed")[2]
        answer = _box(rest)
        if answer is None:  # the model was cut off
            answer = rest[1:]
    elif "he answer is" in text:
        answer = text.rpartition("he answer is")[2].strip()
    elif output:
        answer = output
    else:
        numbers = re.findall(r"-?\d*\.?\d+", text.replace(",", ""))
        answer = numbers[-1] if numbers else ""
    first_line = answer.split("\n")[0]
    return normalise(first_line.removeprefix(":").removesuffix(".").removesuffix("/"))


REMOVED = (r"^{\circ}", r"^\circ", r"\$", "$", r"\text", r"x\in", r"\%", "%")


def normalise(answer: str) -> str:
    """One spelling for answers that mean the same. The steps and their order are the published ones."""
    if len(answer) > LONGEST:
        return answer
    text = answer.strip().replace("\n", "").rstrip(".")
    text = re.sub(r"\\[! ]", "", text)  # thin and backslashed spaces: 10,\!000\ m
    text = text.replace(r"\\", "\\").replace(r"\\", "\\")  # rows of a matrix
    text = re.sub(r"[td]frac", "frac", text)
    text = re.sub(r"\\left|\\right", "", text)
    number, mark, _ = text.partition(r"\text{")
    if mark and number.strip() and text.endswith("}"):  # a unit: 5\text{ miles}
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
    text = re.sub(r"(?<=\d)\.0+(?!\d)", "", text)  # 12.000
    if text.startswith("."):
        text = "0" + text
    if text.count("=") == 1 and text.index("=") <= 2:  # x = 5
        text = text.partition("=")[2]
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])\{", r"\\frac{\1}{", text)  # \frac1{23}
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)  # \frac12
    above, slash, below = text.partition("/")
    if slash and "/" not in below and _is_simple(above) and _is_simple(below):
        text = rf"\frac{{{above}}}{{{below}}}"
    return text


def _is_simple(text: str) -> bool:
    return bool(re.fullmatch(r"-?\d+", text)) or "sqrt" in text


# ---- equality ----


def equal(prediction: str, reference: str) -> bool:
    """Whether an answer counts as right. Both are normalised first; an empty answer is never right."""
    a, b = normalise(prediction), normalise(reference)
    if max(len(a), len(b)) > LONGEST:
        return a == b
    return _equal(a, b)


def _equal(prediction: str, reference: str) -> bool:
    got, wanted = _number(prediction), _number(reference)
    if got is not None and wanted is not None:
        return any(math.isclose(got, wanted * factor, rel_tol=1e-4) for factor in (1, 0.01, 100))
    if not prediction:
        return False
    if _same_text(prediction, reference) or _same_tuple(prediction, reference):
        return True
    return same_values(values_of(prediction), values_of(reference))


def _same_text(prediction: str, reference: str) -> bool:
    """Equal without brackets; but a prediction (1,2), which may be called 1,2, must not be called [1,2]."""
    brackets = _brackets(prediction)
    other = {"()": "[", "[]": "("}.get(brackets)  # what must not open the reference
    if other and not reference.startswith(other):
        prediction, reference = prediction.strip("[]()"), reference.strip("[]()")
    return re.sub(r"[{}()]", "", prediction) == re.sub(r"[{}()]", "", reference)


def _same_tuple(prediction: str, reference: str) -> bool:
    """Equal element by element, in the same brackets."""
    brackets = _brackets(prediction)
    if brackets not in ("()", "[]") or brackets != _brackets(reference):
        return False
    a, b = prediction[1:-1].split(","), reference[1:-1].split(",")
    return len(a) == len(b) and all(map(_equal, a, b))


def _brackets(text: str) -> str:
    return text[:1] + text[-1:]


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


# ---- the suite ----


def read(args: Namespace) -> list[Problem]:
    """--limit problems of the file, evenly spread. Raises UserError, also where no sandbox can be had."""
    with Sandbox(unsafe=args.unsafe_python):  # raises before the model is loaded
        return spread(read_problems(args.data), args.limit)


def play(model: Transformer, frame: Frame, args: Namespace, i: int, problem: Problem) -> Callable:
    """The play of problem i: a whole episode with the executor's code run."""

    def perform(speak: Callable) -> dict:
        with Sandbox(unsafe=args.unsafe_python) as python:  # in this thread, with which its child would die
            options = {"domain": "math", "python": python, "max_turns": args.max_turns, **sampling(args, i)}
            record = run_episode(model, frame, None, problem.question, speak=speak, **options)
        return {
            "id": problem.id,
            "category": "MATH" if problem.level or problem.type else "GSM8K",
            "level": problem.level,
            "type": problem.type,
            "record": record,
            "reference": problem.answer,
        }

    return perform


def judge(line: dict) -> dict:
    """answer: that of the summarizer, which speaks last. valid: whether it is right. reason: why not."""
    last, reference = line["record"]["trajectory"][-1], line["reference"]
    answer = extract(last["content"]) if last["role"] == "summarizer" else ""
    if equal(answer, reference):
        return {"answer": answer, "valid": True, "reason": ""}
    reason = f"got {answer!r:.60}, wanted {reference!r:.60}" if answer else "no answer"
    return {"answer": answer, "valid": False, "reason": reason}


def parts(line: dict) -> dict:
    """What a problem adds to the rows of compare.py: the verdict, to file, level and subject."""
    names = [line[key] for key in ("category", "level", "type") if line[key]]
    return {name: [(line["valid"], 1)] for name in names}


def table(header: dict, lines: list[dict]) -> str:
    """A row for each file, each level and each subject, with the paper's figures for the file."""
    rows = [["problems", "n", "right", "95 % interval", *paper_cells(header)]]
    for key in ("category", "level", "type"):
        for name, verdicts in sorted(grouped(lines, key).items()):
            if name:
                rows.append([name, *share_cells(verdicts), *paper_cells(header, name)])
    return layout(rows) + paper_note(header)
