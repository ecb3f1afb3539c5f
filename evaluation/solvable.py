"""StableToolBench's solvable pass rate and win rate: what both share.

Six sets of queries. An id list says which queries there are, and all of them count: a query without an answer
is unsolved. (The published code leaves it out of the denominator; that rate stands beside ours.)
"""

import datetime
import hashlib
import json
import statistics
from argparse import Namespace
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from cli import UserError
from evaluation.results import CODE, ROOT, digest
from evaluation.tables import Column, column_cells, mean
from evaluation.toolbench_judge import (
    ANSWER,
    RUN,
    UNSOLVED,
    UNSURE,
    AskJudge,
    Question,
    Recorder,
    Style,
    request,
    verdict,
)
from stages.preview import estimate
from tools.endpoint import Endpoint, Message, Unanswered

# set -> its name in the paper, its number of queries; in the order of the paper's Table 1
SETS = {
    "G1_instruction": ("I1-Inst", 163),
    "G1_tool": ("I1-Tool", 158),
    "G1_category": ("I1-Cat", 153),
    "G2_instruction": ("I2-Inst", 106),
    "G2_category": ("I2-Cat", 124),
    "G3_instruction": ("I3-Inst", 61),
}
FEW = 50  # queries under which a rate says nothing
GIVEN_UP = "give_up_and_restart"


# ---- is a query solved? ----


def label(item: dict, ask: AskJudge, style: Style) -> str | None:
    """Solved, Unsolved or Unsure, as the pass rate counts it; None where the judge gives no verdict.

    item: {"query", "available_tools", "answer"} in ToolEval's form.
    """
    return label_of_text(item, ask, style) if is_finished(item["answer"]) else UNSOLVED


def label_of_text(item: dict, ask: AskJudge, style: Style) -> str | None:
    """The same, of a run that need not end in a call of Finish: the win rate's, as published."""
    query, answer = item["query"], item["answer"]
    if not answer["final_answer"] or GIVEN_UP in answer["final_answer"]:
        return UNSOLVED
    found = verdict(ANSWER, {"query": query, "answer": answer["final_answer"]}, ask, style)
    if found == UNSURE:
        found = verdict(RUN, {"query": query, "answer": answer}, ask, style)
    return found


def is_finished(answer: dict) -> bool:
    """Whether the last call of a run is Finish."""
    last, steps = None, answer["answer_details"]
    while steps:
        step = steps[-1]
        last = step["message"] if step["role"] == "tool" else last
        steps = step["next"]
    return bool(last) and last["name"] == "Finish"


def first_questions(item: dict) -> list[tuple[Question, dict]]:
    """What `label` asks first, if anything: for an estimate."""
    final = item["answer"]["final_answer"]
    asks = is_finished(item["answer"]) and final and GIVEN_UP not in final
    return [(ANSWER, {"query": item["query"], "answer": final})] if asks else []


# ---- asking about all queries ----


def asked(line: dict, suite: ModuleType, endpoint: Endpoint, style: Style, rounds: int) -> dict:
    """The line with the judge's replies in each round, and what follows from them. Raises UserError."""
    replies = []
    for number in range(rounds):
        recorder = Recorder(partial(endpoint.ask, sample=number))
        try:
            suite.ask(line, number, recorder, style)
        except Unanswered as error:
            where = f"query {line['id']} of {line['category']}, round {number + 1}"
            raise UserError(f"{where}: {error}; run again: what is answered is kept") from None
        replies.append(recorder.replies)
    line = line | {"replies": replies}
    return line | suite.judge(line)


def preview(lines: list[dict], suite: ModuleType, endpoint: Endpoint, style: Style, args: Namespace) -> str:
    """The first prompts, and an estimate of what the judge is asked at least, and its cost."""
    asks = [pair for line in lines for pair in suite.first_questions(line, args)]
    prompts = [request(question, record, style) for question, record in asks]
    shown = [spelled(number, prompt) for number, prompt in enumerate(prompts[: args.dry_run], 1)]
    usage = estimate(prompts, 100, endpoint.usage.prices, args.rounds)
    return "".join(shown) + f"{endpoint.model} at {endpoint.base_url} will be asked at least: {usage}\n"


def spelled(number: int, prompt: list[Message]) -> str:
    texts = [f"[{message['role']}] {message['content']}\n" for message in prompt]
    return f"--- prompt {number}\n" + "".join(texts)


# ---- the header ----


def header_of(args: Namespace, endpoint: Endpoint, style: Style, lines: list[dict], about: dict) -> dict:
    """All that decides the results, and when they were made. about: whose answers they are."""
    code = [path for pattern in (*CODE, "stages/*.py") for path in sorted(ROOT.glob(pattern))]
    queries = [[line["category"], line["id"]] for line in lines]
    return {
        "suite": "win" if args.against else "pass",
        **about,
        "judge": endpoint.model,
        "judge_url": endpoint.base_url,
        "judge_temperature": args.temperature,
        "judge_max_tokens": args.max_tokens,
        "judge_form": style.form,
        "judge_prompts": style.prompts or "ours",
        "as_published": args.as_published,
        "rounds": args.rounds,
        "date": begun(args.output),
        "questions": len(lines),
        "data": hashed(queries),
        "answers": hashed(lines),
        "code": digest(code),
    }


def hashed(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def begun(path: Path) -> str:
    """The day on which a result file was begun; today, where there is none yet."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return json.loads(path.read_bytes().partition(b"\n")[0])["header"]["date"]
    return datetime.date.today().isoformat()


JUDGE = ("judge", "judge_prompts", "judge_form", "judge_temperature", "as_published", "reference")


def check_same_judge(paths: list[Path], headers: list[dict]) -> None:
    """Raises UserError where two result files have different judges, or win rates different references."""
    a, b = headers
    for key in JUDGE:
        if a.get(key) != b.get(key):
            got = f"{paths[1]}: {key}: got {b.get(key)!r:.80}, {paths[0]} has {a.get(key)!r:.80}"
            raise UserError(f"{got}; rates of different judges cannot be compared: let one judge both")


# ---- tables ----


class Row(NamedTuple):
    """A rate of one set, or the plain mean of several."""

    name: str
    column: Column  # over rounds
    rounds: list[float]  # the rate of each round; of a rate without rounds, one

    def cells(self) -> list[str]:
        """Set, queries, rate with the deviation over rounds (of the population), interval."""
        n, share, interval = column_cells(self.column)
        if len(self.rounds) > 1:
            share = f"{self.column.accuracy:.1%}".rstrip("%") + f" ± {100 * statistics.pstdev(self.rounds):.1f}"
        return [self.name, n, share, interval]


def average(rows: list[Row]) -> Row:
    """The plain mean over sets, as published, whatever their sizes."""
    by_round = [statistics.fmean(rates) for rates in zip(*(row.rounds for row in rows), strict=True)]
    return Row("Average", mean([row.column for row in rows]), by_round)


def by_set(lines: list[dict]) -> dict[str, list[dict]]:
    """The lines of each set, in the paper's order; sets that it does not have come last."""
    found: dict[str, list[dict]] = {}
    for line in lines:
        found.setdefault(line["category"], []).append(line)
    order = [*SETS]
    return dict(sorted(found.items(), key=lambda pair: order.index(pair[0]) if pair[0] in SETS else 9))


def agreement(rounds: list[list]) -> str:
    """How far the rounds of a judge agree. rounds: verdicts by query, of those that it was asked about."""
    if not rounds or len(rounds[0]) < 2:
        return ""
    same = sum(len(set(verdicts)) == 1 for verdicts in rounds)
    pairs = [a == b for verdicts in rounds for i, a in enumerate(verdicts) for b in verdicts[:i]]
    return (
        f"rounds agree on {same} of {len(rounds)} queries that the judge was asked about; "
        f"{sum(pairs) / len(pairs):.1%} of pairs of rounds do\n"
    )


def remarks(header: dict, lines: list[dict], lost: int) -> str:
    """Judge, calls, verdicts that are lost, and whether the queries are too few."""
    calls = sum(len(replies) for line in lines for replies in line["replies"])
    text = f"judged by {header['judge']}, {header['date']}, {header['rounds']} rounds, {calls:,} calls\n"
    if lost:
        text += f"{lost} times the judge gave no verdict: counted as {UNSOLVED}, or as no vote\n"
    if len(lines) < FEW:
        text += f"{len(lines)} queries say nothing: see the intervals\n"
    return text


# ---- the paper's Table 1 ----

# base model -> measure and method -> the base alone, MoRAgent; of each the six sets and their average
TABLE_1 = {
    "llama-3.2-1b-instruct": {
        ("pass", "CoT"): ((14.4, 10.1, 12.2, 3.9, 5.9, 8.2, 9.1), (54.9, 58.2, 53.1, 38.1, 42.6, 47.9, 49.1)),
        ("pass", "DFS"): ((11.7, 11.3, 14.6, 8.5, 2.3, 11.5, 10.0), (54.6, 45.5, 53.2, 46.8, 68.2, 58.8, 54.5)),
        ("win", "CoT"): ((23.3, 15.8, 15.0, 11.3, 11.3, 13.1, 15.0), (40.5, 38.0, 39.9, 34.0, 41.1, 29.5, 37.2)),
        ("win", "DFS"): ((20.8, 17.1, 18.3, 9.4, 12.9, 11.5, 15.0), (44.8, 32.9, 40.5, 36.8, 46.8, 39.4, 40.2)),
    },
    "phi-3.5-mini-instruct": {
        ("pass", "CoT"): ((29.7, 37.9, 36.0, 20.9, 26.7, 17.8, 28.2), (51.8, 54.4, 55.4, 48.1, 55.0, 62.3, 54.5)),
        ("pass", "DFS"): ((46.4, 50.6, 51.1, 39.9, 41.5, 37.6, 44.5), (55.9, 56.6, 60.9, 55.4, 59.7, 63.6, 58.7)),
        ("win", "CoT"): ((30.7, 30.4, 34.6, 17.0, 25.0, 15.8, 25.6), (47.2, 38.6, 51.0, 33.0, 45.2, 42.6, 42.9)),
        ("win", "DFS"): ((35.0, 30.4, 49.0, 30.2, 27.4, 32.8, 34.1), (48.5, 41.1, 47.1, 44.3, 48.4, 50.8, 46.7)),
    },
}  # fmt: skip
PAPERS_REFERENCE = "1106"  # GPT-3.5-1106, with CoT


def paper_figures(header: dict) -> dict[str, list[str]] | None:
    """Cells by set, under "" the heads; None where the paper has nothing to compare with."""
    figures = TABLE_1.get(header["model"].lower(), {}).get((header["suite"], header["method"]))
    of_reference = header["suite"] == "pass" or PAPERS_REFERENCE in header["reference"]
    if figures is None or not of_reference:
        return None
    pairs = zip(*figures, strict=True)
    cells = [[f"{figure:.1f}%" for figure in pair] for pair in pairs]
    return {"": ["paper: base", "paper: MoRAgent"]} | dict(zip([*SETS, "Average"], cells, strict=True))


def with_paper(header: dict, rows: list[Row], table: list[list[str]]) -> str:
    """Put the paper's figures beside rows of whole sets; return how they differ. table: heads, then rows."""
    figures = paper_figures(header)
    whole = [row.name for row in rows if row.name in SETS and row.column.n == SETS[row.name][1]]
    if len(whole) == len(SETS):
        whole.append("Average")
    if figures is None or not whole:
        return ""
    table[0] += figures[""]
    for row, cells in zip(rows, table[1:], strict=True):
        cells += figures[row.name] if row.name in whole else []
    return (
        "the paper (Table 1) names neither its judge nor the limits of the search nor the state of the server;\n"
        "some of its figures fit no denominator of these sets: it may have left out what has no answer\n"
    )
