"""The Berkeley Function-Calling Leaderboard, all of it that needs no model: files, checks, columns.

    questions = read_questions(FOLDER, "live_multiple")   # or "bfcl-eval": the data of the installed package
    valid, reason = check(questions[0], [{"name": "f", "arguments": {"a": 1}}])
    columns({"live_multiple": [valid, ...], ...})["Live AST"]

Three ways to be right, by category:

    simple, multiple, parallel ...   the calls agree with tables of acceptable values (the "AST" check)
    exec_...                         the calls, run, give the results that the reference calls give
    relevance, irrelevance           there is a call, there is none; which one does not matter

The check follows the published grader to its oddities, each named where it is. A prediction that could not be
read as calls is None: right for irrelevance alone. Not run here: REST, and questions that ask a web service.
"""

from argparse import Namespace
from collections.abc import Callable

from agent import Episode, sampling
from engine.heldout import spread
from evaluation import bfcl_check, bfcl_questions
from evaluation.bfcl_questions import CATEGORIES, EXEC, LIVE, Question
from evaluation.tables import (
    Column,
    column_cells,
    grouped,
    layout,
    mean,
    not_run,
    paper_cells,
    share_cells,
    wilson,
)
from formats.frames import Frame
from model import Transformer
from tools.mock import Tools


def record(question: Question) -> dict:
    """The question as an unfinished record of data.py, which ends where the reasoner's turn begins.

    System messages become the record's system text. Of a longer dialogue (live_irrelevance), what the
    assistant said becomes a summarizer turn, behind a reasoner turn without a thought that names it. Messages
    of one side in a row are joined; where the user should have spoken and did not, an empty turn stands.
    """
    trajectory, system = [], []
    for message in [*question.messages, {"role": "user", "content": ""}]:
        role, content = message["role"], message["content"]
        last = trajectory[-1]["role"] if trajectory else None
        if role == "system":
            system.append(content)
        elif last == ("user" if role == "user" else "summarizer"):
            trajectory[-1]["content"] += f"\n\n{content}" if content else ""
        elif role == "user":
            trajectory.append({"role": "user", "content": content})
        else:
            trajectory += [] if last else [{"role": "user", "content": ""}]
            trajectory.append({"role": "reasoner", "content": "", "next": "summarizer"})
            trajectory.append({"role": "summarizer", "content": content})
    source = {"dataset": "bfcl", "category": question.category, "id": question.id}
    made = {"tools": question.tools, "domain": "bfcl", "trajectory": trajectory, "source": source}
    return made | ({"system": "\n\n".join(system)} if system else {}) | {"exit_status": "question"}


def columns(verdicts: dict[str, list[bool | None]]) -> dict[str, Column | None]:
    """The leaderboard's columns from the verdicts of each category; None where one that it needs was not run.

    Questions whose verdict is None were not run, and count nowhere. REST cannot be run here: without it the
    simple half of "Non-live Exec" is exec_simple alone, where the leaderboard takes the mean of both.
    """
    for category in set(verdicts) - set(CATEGORIES):
        raise ValueError(f"category {category!r}: unknown, wanted one of {', '.join(CATEGORIES)}")

    def over(*categories: str) -> Column | None:
        judged = [[v for v in verdicts.get(category, ()) if v is not None] for category in categories]
        return wilson(sum(map(sum, judged)), sum(map(len, judged))) if all(judged) else None

    simple = mean([over("simple_python"), over("simple_java"), over("simple_javascript")])
    exec_simple = mean([over("exec_simple"), over("rest")]) if over("rest") else over("exec_simple")
    table = {
        "Non-live AST": mean([simple, over("multiple"), over("parallel"), over("parallel_multiple")]),
        "Non-live Exec": mean([exec_simple, *map(over, EXEC[1:])]),
        "Live AST": over(*LIVE),  # weighted by number of questions, so all of them together
        "Relevance": over("live_relevance"),
        "Irrelevance": mean([over("irrelevance"), over("live_irrelevance")]),
    }
    return table | {"Average": mean([*table.values()][:4])}  # the paper's, of the columns that it reports


# ---- BFCL ----


def read_bfcl(args: Namespace) -> list[Question]:
    of_category = (
        bfcl_questions.read_questions(args.data, category) for category in dict.fromkeys(args.categories)
    )
    return [question for questions in of_category for question in spread(questions, args.limit)]


class FirstAction(Episode):
    """Ends with the first executor turn, whose calls nobody answers, or where the summarizer's would begin.

    exit_status: called, unreadable (the calls), no_call, or a limit's as in agent.py.
    """

    def follow(self, turns: list[dict]) -> None:
        """Append what was said before the query."""
        for turn in turns:
            self._settle(turn, len(self.ids), [])

    def _run(self) -> str:
        turn, _, status = self._take_turn("reasoner")
        if status or turn["next"] == "summarizer":
            return status or "no_call"
        _, fault, status = self._take_turn("executor")
        return status or ("unreadable" if fault else "called")


def play_bfcl(model: Transformer, frame: Frame, args: Namespace, i: int, question: Question) -> Callable:
    asked = record(question)
    *history, query = asked["trajectory"]
    options = {"domain": asked["domain"], "system": asked.get("system"), **sampling(args, i)}

    def play(speak: Callable) -> dict:
        record = asked
        if not bfcl_check.not_run(question):
            episode = FirstAction(model, frame, Tools(question.tools), speak=speak, **options)
            episode.follow(history)
            episode.user(query["content"])
            record = episode.record | {"source": asked["source"]}
        line = {"id": question.id, "category": question.category, "record": record}
        line["calls"] = [] if record["exit_status"] == "no_call" else record["trajectory"][-1].get("calls")
        return line | {"functions": question.functions, "answer": question.answer}

    return play


def question_of(line: dict) -> Question:
    tools, functions = line["record"]["tools"], line["functions"]
    return Question(line["id"], line["category"], [], tools, functions, line["answer"])


def judge_bfcl(line: dict) -> dict:
    valid, reason = bfcl_check.check(question_of(line), line["calls"])
    return {"valid": valid, "reason": reason}


def table_bfcl(header: dict, lines: list[dict]) -> str:
    verdicts = grouped(lines, "category")
    rows = [["category", "n", "right", "95 % interval"]]
    rows += [[name, *share_cells(of_category)] for name, of_category in verdicts.items()]
    by_column = [["column", "n", "right", "95 % interval", *paper_cells(header)]]
    for name, column in columns(verdicts).items():
        by_column.append([name, *column_cells(column), *paper_cells(header, name)])
    return f"{layout(rows)}{not_run(lines)}\n{layout(by_column)}"
