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
            suite.decide(line, number, recorder, style)
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
    """All that decides the results, and when they were made. about: whose answers they are.

    Raises UserError where the labels that a win rate is made of are those of another judge.
    """
    code = [path for pattern in CODE for path in sorted(ROOT.glob(pattern))]
    judge = {
        "judge": endpoint.model,
        "judge_temperature": args.temperature,
        "judge_form": style.form,
        "judge_prompts": style.prompts or "ours",
    }
    if args.against and not args.as_published:
        check_same_judge([args.answers, "this command"], [about["labels_by"], judge])
    return {
        "suite": "win" if args.against else "pass",
        **about,
        **judge,
        "judge_url": endpoint.base_url,
        "judge_max_tokens": args.max_tokens,
        "as_published": args.as_published,
        "rounds": args.rounds,
        "date": begun(args.output),
        "questions": len(lines),
        "data": hashed([[line["category"], line["id"]] for line in lines]),
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


JUDGE = ("judge", "judge_temperature", "judge_form", "judge_prompts")


def check_same_judge(places: list[Path | str], headers: list[dict]) -> None:
    """Raises UserError where two result files have different judges, or win rates different references."""
    a, b = headers
    for key in (*JUDGE, "as_published", "reference"):
        if a.get(key) != b.get(key):
            got = f"{places[1]}: {key}: got {b.get(key)!r:.80}, {places[0]} has {a.get(key)!r:.80}"
            raise UserError(f"{got}; what different judges say cannot be compared: let one judge both")


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
            share = (
                f"{self.column.accuracy:.1%}".rstrip("%") + f" ± {100 * statistics.pstdev(self.rounds):.1f}"
            )
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
    places = {name: place for place, name in enumerate(SETS)}
    names = sorted(found, key=lambda name: places.get(name, len(SETS)))
    return {name: found[name] for name in names}


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

# base model -> method -> its rows, of the base alone and of MoRAgent, as printed: pass and win of each set in
# turn, then of the average
TABLE_1 = {
    "llama-3.2-1b-instruct": {
        "CoT": (
            "14.4 23.3 10.1 15.8 12.2 15.0 3.9 11.3 5.9 11.3 8.2 13.1 9.1 15.0",
            "54.9 40.5 58.2 38.0 53.1 39.9 38.1 34.0 42.6 41.1 47.9 29.5 49.1 37.2",
        ),
        "DFS": (
            "11.7 20.8 11.3 17.1 14.6 18.3 8.5 9.4 2.3 12.9 11.5 11.5 10.0 15.0",
            "54.6 44.8 45.5 32.9 53.2 40.5 46.8 36.8 68.2 46.8 58.8 39.4 54.5 40.2",
        ),
    },
    "phi-3.5-mini-instruct": {
        "CoT": (
            "29.7 30.7 37.9 30.4 36 34.6 20.9 17.0 26.7 25.0 17.8 15.8 28.2 25.6",
            "51.8 47.2 54.4 38.6 55.4 51.0 48.1 33.0 55.0 45.2 62.3 42.6 54.5 42.9",
        ),
        "DFS": (
            "46.4 35.0 50.6 30.4 51.1 49.0 39.9 30.2 41.5 27.4 37.6 32.8 44.5 34.1",
            "55.9 48.5 56.6 41.1 60.9 47.1 55.4 44.3 59.7 48.4 63.6 50.8 58.7 46.7",
        ),
    },
}
PAPERS_REFERENCE = "1106"  # GPT-3.5-1106, with CoT


def paper_figures(header: dict) -> dict[str, list[str]]:
    """Two cells for each set and the average: the base alone, MoRAgent; nothing without a counterpart."""
    printed = TABLE_1.get(header["model"].lower(), {}).get(header["method"])
    if not printed or PAPERS_REFERENCE not in header.get("reference", PAPERS_REFERENCE):
        return {}
    first = 0 if header["suite"] == "pass" else 1
    base, ours = (figures.split()[first::2] for figures in printed)
    return {name: [f"{base[i]}%", f"{ours[i]}%"] for i, name in enumerate([*SETS, "Average"])}


def with_paper(header: dict, rows: list[Row], table: list[list[str]]) -> str:
    """Put the paper's figures beside rows of whole sets; return how they differ. table: heads, then rows."""
    figures = paper_figures(header)
    whole = [row.name for row in rows if row.name in SETS and row.column.n == SETS[row.name][1]]
    if len(whole) == len(SETS):
        whole.append("Average")
    if not figures or not whole:
        return ""
    table[0] += ["paper: base", "paper: MoRAgent"]
    for row, cells in zip(rows, table[1:], strict=True):
        cells += figures[row.name] if row.name in whole else []
    return (
        "the paper (Table 1) names neither judge nor limits nor the state of the server; some of its\n"
        "figures fit no denominator of these sets: it may have left out queries without an answer\n"
    )
