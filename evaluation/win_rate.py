"""Solvable win rate: the share of queries on which a judge prefers the candidate's answer to the reference's.

Each round has a vote: an answer wins over none; Solved wins over Unsolved, by the majority of the labels
that the pass rate has; all else the judge compares, in an order that alternates from round to round. A query
is won with more votes than the reference has; as many are a tie, which is not won.

With --as-published, what the published code does: labels are asked for anew in each round, one Solved wins,
then one Unsure, all else is compared, and which answer stands first is drawn.
"""

import hashlib
import random
from argparse import Namespace
from collections import Counter
from pathlib import Path

from cli import UserError, layout, open_file
from evaluation import solvable
from evaluation.results import file_faults, read_results
from evaluation.solvable import (
    JUDGE,
    Row,
    agreement,
    average,
    by_set,
    check_same_judge,
    label_of_text,
    remarks,
    with_paper,
)
from evaluation.tables import wilson
from evaluation.toolbench_judge import (
    BETTER,
    SOLVED,
    TASK,
    UNSOLVED,
    UNSURE,
    AskJudge,
    Question,
    Style,
    replayed,
    verdict,
)

CANDIDATE, REFERENCE = "candidate", "reference"
SIDES = (CANDIDATE, REFERENCE)
LONGEST_ANSWER = 1000  # characters of a final answer that are compared, as published


# ---- two files of the pass rate ----


def read(args: Namespace) -> tuple[list[dict], dict]:
    """A line for each query, and whose answers they are. Raises UserError."""
    paths = [args.answers, args.against]
    (of_candidate, candidates), (of_reference, references) = map(read_judged, paths)
    if not args.as_published:  # which uses no labels
        check_same_judge(paths, [of_candidate, of_reference])
    if of_candidate["data"] != of_reference["data"]:
        raise UserError(
            f"{paths[0]} and {paths[1]}: got different queries; wanted two files with the same --ids"
        )
    pairs = zip(candidates, references, strict=True)
    lines = [paired(*pair) | {"as_published": args.as_published} for pair in pairs]
    about = {name: of_candidate[name] for name in ("model", "adapter", "method")}
    about["reference"] = f"{of_reference['model']} {of_reference['method']}"
    about["reference_answers"] = of_reference["answers"]
    return lines, about | {"labels_by": {name: of_candidate[name] for name in JUDGE}}


def read_judged(path: Path) -> tuple[dict, list[dict]]:
    """Header and lines of a whole file of the pass rate. Raises UserError."""
    mend = "make it first, by evaluate.py judge without --against"
    with file_faults(path, mend):
        with open_file(path) as file:
            header, lines = read_results(path, file.read(), ["pass", "win", "stabletoolbench"])
    if header["suite"] != "pass" or len(lines) != header["questions"]:
        got = f"{len(lines)} of {header['questions']} lines of {header['suite']!r}"
        raise UserError(f"{path}: got {got}, wanted a whole file of the pass rate; {mend}")
    return header, lines


def paired(candidate: dict, reference: dict) -> dict:
    lines = {CANDIDATE: candidate, REFERENCE: reference}
    return {
        "id": candidate["id"],
        "category": candidate["category"],
        "answers": {side: line["answer"] for side, line in lines.items()},
        "labels": {side: majority(line["labels"]) for side, line in lines.items()},
    }


def majority(labels: list[str | None]) -> str | None:
    """The most frequent label; None where two are."""
    (found, count), *others = Counter(labels).most_common(2)
    return None if others and others[0][1] == count else found


# ---- a vote ----


def decide(line: dict, number: int, ask: AskJudge, style: Style) -> str | None:
    """The side that wins a round, which is numbered from 0; None for neither."""
    vote = decide_as_published if line["as_published"] else decide_by_labels
    return vote(line, number, ask, style)


def decide_by_labels(line: dict, number: int, ask: AskJudge, style: Style) -> str | None:
    """A vote as it is meant: the judge compares what the labels do not settle."""
    answers, labels = line["answers"], line["labels"]
    answered = [side for side in SIDES if answers[side]]
    if len(answered) < 2:
        return answered[0] if answered else None
    if {*labels.values()} == {SOLVED, UNSOLVED}:
        return CANDIDATE if labels[CANDIDATE] == SOLVED else REFERENCE
    return None if are_same(answers) else better(line, order(line, number), ask, style)


def decide_as_published(line: dict, number: int, ask: AskJudge, style: Style) -> str | None:
    """A vote as the published code makes it; its chance is drawn from the query and the round."""
    answers = line["answers"]
    for side, other in ((CANDIDATE, REFERENCE), (REFERENCE, CANDIDATE)):
        if not answers[other]:
            return side
    chance = random.Random(f"{line['category']}/{line['id']}/{number}")
    sides = chance.sample(SIDES, 2)
    labels = {side: label_of_text(answers[side], ask, style) for side in sides}
    if None in labels.values():
        return None
    for wanted in (SOLVED, UNSURE):
        if [*labels.values()].count(wanted) == 1:
            return next(side for side in sides if labels[side] == wanted)
    if SOLVED not in labels.values():
        task = {name: answers[REFERENCE][name] for name in ("query", "available_tools")}
        verdict(TASK, {"task": task}, ask, style)  # its answer is not used
    return chance.choice(sides) if are_same(answers) else better(line, sides, ask, style)


def better(line: dict, sides: list[str], ask: AskJudge, style: Style) -> str | None:
    """The side that the judge prefers; sides: in the order in which it sees them."""
    found = verdict(BETTER, compared(line, sides), ask, style)
    return None if found is None else sides[found]


def compared(line: dict, sides: list[str]) -> dict:
    """What the judge sees of two answers: as published, without the method, the final answers cut."""
    shown = {"query": line["answers"][REFERENCE]["query"]}
    for number, side in enumerate(sides):
        answer = dict(line["answers"][side]["answer"])
        answer.pop("method")
        answer["final_answer"] = answer["final_answer"][:LONGEST_ANSWER]
        shown[f"answer_{number}"] = answer
    return shown


def order(line: dict, number: int) -> list[str]:
    """Which side the judge sees first: by the query, and the other way round in every second round."""
    query = f"{line['category']}/{line['id']}".encode()
    first = hashlib.sha256(query).digest()[0] + number
    return [*SIDES] if first % 2 == 0 else [*reversed(SIDES)]


def are_same(answers: dict[str, dict]) -> bool:
    """Whether both sides did and said the same."""
    a, b = (answers[side]["answer"] for side in SIDES)
    return a["final_answer"] == b["final_answer"] and a["answer_details"] == b["answer_details"]


# ---- a query ----


def first_questions(line: dict, args: Namespace) -> list[tuple[Question, dict]]:
    """What is asked at least in the first round, for an estimate."""
    if not all(line["answers"].values()):
        return []
    if args.as_published:
        return [pair for side in SIDES for pair in solvable.first_questions(line["answers"][side])]
    if {*line["labels"].values()} == {SOLVED, UNSOLVED} or are_same(line["answers"]):
        return []
    return [(BETTER, compared(line, order(line, 0)))]


def judge(line: dict) -> dict:
    """The vote of each round, from the judge's replies."""
    rounds = enumerate(line["replies"])
    return {"votes": [decide(line, number, replayed(replies), Style()) for number, replies in rounds]}


def lead(line: dict) -> int:
    """Votes for the candidate less those for the reference."""
    return line["votes"].count(CANDIDATE) - line["votes"].count(REFERENCE)


def parts(line: dict) -> dict[str, list[tuple[float, float]]]:
    """What a line adds to the rows of evaluation/compare.py."""
    return {name: [(lead(line) > 0, 1)] for name in (line["category"], "All queries")}


# ---- the table ----


def table(header: dict, lines: list[dict]) -> str:
    """Win rates of the sets, ties apart, beside the paper's; whether rounds agree."""
    sets = by_set(lines)
    rows = [row_of(name, of_set) for name, of_set in sets.items()]
    cells = [["", "queries", "win rate", "95 % interval", "won", "ties", "lost"]]
    for row, of_set in zip(rows, sets.values(), strict=True):
        cells.append([*row.cells(), *counted(of_set)])
    if len(rows) > 1:
        rows.append(average(rows))
        cells.append([*rows[-1].cells(), *counted(lines)])
    note = with_paper(header, rows, cells)
    judged = [line["votes"] for line in lines if any(line["replies"])]
    lost = sum(votes.count(None) for votes in judged)
    note += f"against {header['reference']}; the paper's reference is GPT-3.5-1106 CoT\n"
    return layout(cells) + note + agreement(judged) + remarks(header, lines, lost)


def row_of(name: str, lines: list[dict]) -> Row:
    column = wilson(sum(lead(line) > 0 for line in lines), len(lines))
    return Row(name, column, [column.accuracy])


def counted(lines: list[dict]) -> list[str]:
    """How many queries are won, tied and lost."""
    leads = [lead(line) for line in lines]
    found = (sum(lead > 0 for lead in leads), leads.count(0), sum(lead < 0 for lead in leads))
    return [str(number) for number in found]
