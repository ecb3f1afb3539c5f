"""Solvable pass rate: the share of queries that a judge calls solved, a half for those it is unsure about.

Of each query the judge labels the answer in several rounds. A run that does not end in a final answer is
Unsolved without asking. The rate is the mean over rounds, with the deviation (of the population) over them.
"""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cli import UserError, layout, open_file, read_object
from evaluation import solvable
from evaluation.results import file_faults, read_results
from evaluation.solvable import Row, agreement, average, by_set, label, remarks, with_paper
from evaluation.tables import wilson
from evaluation.toolbench_answers import converted
from evaluation.toolbench_judge import SOLVED, UNSOLVED, UNSURE, AskJudge, Question, Style, replayed

SCORES = {SOLVED: 1.0, UNSURE: 0.5}  # of a label; every other: 0


# ---- answers ----


class Answers(NamedTuple):
    """Who answered, how, and what: by set and id, in ToolEval's form."""

    model: str
    adapter: str
    method: str  # CoT or DFS
    items: dict[tuple[str, str], dict]


def read(args: Namespace) -> tuple[list[dict], dict]:
    """A line for each query of the id lists, and whose answers they are. Raises UserError."""
    if not args.ids:
        raise UserError("judge: got no --ids; wanted the id lists (test_query_ids/) whose queries count")
    answers, queries = read_answers(args.answers), read_ids(args.ids)
    if not any(query in answers.items for query in queries):
        raise UserError(f"{args.answers}: answers no query of --ids; wanted id lists of the same sets")
    lines = [
        {"id": name, "category": group, "answer": answers.items.get((group, name))} for group, name in queries
    ]
    return lines, {"model": answers.model, "adapter": answers.adapter, "method": answers.method}


def read_ids(paths: list[Path]) -> list[tuple[str, str]]:
    """Set and id of each query of the lists: files G1_tool.json, or folders of them. Raises UserError."""
    wanted = 'an id list of StableToolBench, {"588": 0, ...}'
    files = []
    for path in paths:
        files += sorted(path.glob("*.json")) if path.is_dir() else [path]
    found = [(file.stem, name) for file in files for name in read_object(file, wanted)]
    if len(set(found)) < len(found) or not found:
        raise UserError(f"--ids: got {len(found)} ids, {len(set(found))} different; wanted each query once")
    return found


def read_answers(path: Path) -> Answers:
    """Answers of a result file of evaluate.py, or of a folder of files as published. Raises UserError."""
    found = {}
    try:
        header, pairs = published_answers(path) if path.is_dir() else own_answers(path)
        for (group, name), item in pairs:
            if (group, name) in found:
                raise UserError(f"{path}: query {name} of {group} is answered twice; wanted one method")
            found[group, name] = checked(item)
        methods = sorted({item["answer"]["method"][:3] for item in found.values()})
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f"{path}: damaged, or no answers of StableToolBench ({error!r})") from None
    if len(methods) != 1:
        raise UserError(f"{path}: got answers of {' and '.join(methods) or 'no method'}; wanted one method")
    return Answers(header["model"], header["adapter"], methods[0], found)


Pairs = Iterator[tuple[tuple[str, str], dict]]


def own_answers(path: Path) -> tuple[dict, Pairs]:
    """Header of a result file, and the answers of its lines that have one. Raises UserError."""
    with file_faults(path, "wanted a result file, or a folder of answers as published"):
        with open_file(path) as file:
            header, lines = read_results(path, file.read(), ["stabletoolbench"])
    if len(lines) != header["questions"]:
        got = f"{path}: got {len(lines)} of {header['questions']} queries"
        raise UserError(f"{got}; finish it by the command that made it")
    return header, (((line["group"], str(line["id"])), line["answer"]) for line in lines if line["answer"])


def published_answers(folder: Path) -> tuple[dict, Pairs]:
    """The same of a folder of converted files G1_tool.json, or of raw ones G1_tool/588_CoT@1.json."""

    def pairs() -> Pairs:
        for file in sorted(folder.rglob("*.json")):
            value = read_object(file, "answers as StableToolBench writes them")
            if "answer_generation" in value:
                yield (file.parent.name, file.name.partition("_")[0]), converted(value)
            else:
                yield from (((file.stem, name), item) for name, item in value.items())

    return {"model": folder.resolve().name, "adapter": "-"}, pairs()


def checked(item: dict) -> dict:
    """What is judged of an answer. Raises KeyError or TypeError where it is not in ToolEval's form."""
    solvable.is_finished(item["answer"])
    if not isinstance(item["answer"]["final_answer"], str):
        raise TypeError("final_answer is no text")
    return {name: item[name] for name in ("query", "available_tools", "answer")}


# ---- a query ----


def decide(line: dict, number: int, ask: AskJudge, style: Style) -> str | None:
    """The label of one round, which is numbered from 0; of a query without an answer Unsolved."""
    return label(line["answer"], ask, style) if line["answer"] else UNSOLVED


def first_questions(line: dict, args: Namespace) -> list[tuple[Question, dict]]:
    return solvable.first_questions(line["answer"]) if line["answer"] else []


def judge(line: dict) -> dict:
    """The label of each round, from the judge's replies."""
    rounds = enumerate(line["replies"])
    return {"labels": [decide(line, number, replayed(replies), Style()) for number, replies in rounds]}


def parts(line: dict) -> dict[str, list[tuple[float, float]]]:
    """What a line adds to the rows of evaluation/compare.py: its mean score over rounds."""
    score = (sum(scores(line)) / len(line["labels"]), 1.0)
    return {line["category"]: [score], "All queries": [score]}


def scores(line: dict) -> list[float]:
    return [SCORES.get(found, 0.0) for found in line["labels"]]


# ---- the table ----


def table(header: dict, lines: list[dict]) -> str:
    """Pass rates of the sets, ours and as published, beside the paper's; whether rounds agree."""
    sets = by_set(lines)
    rows = [row_of(name, of_set) for name, of_set in sets.items()]
    cells = [["", "queries", "pass rate", "95 % interval", "played", "published"]]
    for row, of_set in zip(rows, sets.values(), strict=True):
        answered = [line for line in of_set if line["answer"]]
        rate = f"{row_of('', answered).column.accuracy:.1%}" if answered else "-"
        cells.append([*row.cells(), str(len(answered)), rate])
    if len(rows) > 1:
        rows.append(average(rows))
        cells.append([*rows[-1].cells(), str(sum(bool(line["answer"]) for line in lines)), ""])
    note = with_paper(header, rows, cells)
    judged = [line["labels"] for line in lines if any(line["replies"])]
    lost = sum(labels.count(None) for labels in judged)
    note += "published: without the queries that have no answer, as the published code counts\n"
    return layout(cells) + note + agreement(judged) + remarks(header, lines, lost)


def row_of(name: str, lines: list[dict]) -> Row:
    by_round = [sum(of_round) / len(lines) for of_round in zip(*map(scores, lines), strict=True)]
    return Row(name, wilson(sum(by_round) / len(by_round) * len(lines), len(lines)), by_round)
