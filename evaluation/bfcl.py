"""The Berkeley Function-Calling Leaderboard (BFCL): does the agent call the right functions? Table 2.

    python evaluate.py bfcl --data FOLDER --output results/bfcl.jsonl      or --data bfcl-eval
    python evaluate.py score results/bfcl.jsonl

A question is played up to the calls of the first executor turn; there the episode ends, and nobody answers
the calls. There are three ways to be right, by category:

    simple, multiple, parallel ...   the calls agree with tables of acceptable values (the "AST" check)
    exec_...                         the calls, run, give the results that the reference calls give
    relevance, irrelevance           there is a call, there is none; which one does not matter

The published grader is followed to its oddities (bfcl_check.py). Not run here: REST, and questions that ask
a web service. The last table has the leaderboard's columns with the paper's figures beside them.

Paper silent: which turn counts. Calls that cannot be read are wrong, except for irrelevance, which wants
none; a reasoner that names the summarizer makes none.
"""

from argparse import Namespace
from collections.abc import Callable

from agent import Episode, sampling
from cli import layout
from engine.heldout import spread
from evaluation import bfcl_check
from evaluation.bfcl_questions import CATEGORIES, EXEC, LIVE, Question, read_questions
from evaluation.tables import (
    Column,
    column_cells,
    grouped,
    mean,
    paper_cells,
    paper_note,
    reasons_not_run,
    share_cells,
    wilson,
)
from formats.frames import Frame
from model import Transformer
from tools.mock import Tools

# ---- the questions ----


def read(args: Namespace) -> list[Question]:
    """Of each category of --categories --limit questions, evenly spread. Raises UserError."""
    questions = []
    for category in dict.fromkeys(args.categories):
        questions += spread(read_questions(args.data, category), args.limit)
    return questions


def record(question: Question) -> dict:
    """The question as an unfinished record of data.py, which ends where the reasoner's turn begins.

    System messages become the record's system text. Of a longer dialogue (live_irrelevance), what the
    assistant said becomes a summarizer turn, after a reasoner turn without a thought that names it. Messages
    of one side in a row are joined; where the user should have spoken and did not, an empty turn stands.
    """
    trajectory, system = [], []
    for message in question.messages:
        content = message["content"]
        if message["role"] == "system":
            system.append(content)
            continue
        role = "user" if message["role"] == "user" else "summarizer"
        last = trajectory[-1]["role"] if trajectory else None
        if role == last:
            trajectory[-1]["content"] += f"\n\n{content}" if content else ""
            continue
        if role == "summarizer":
            if last is None:
                trajectory.append({"role": "user", "content": ""})
            trajectory.append({"role": "reasoner", "content": "", "next": "summarizer"})
        trajectory.append({"role": role, "content": content})
    if not trajectory or trajectory[-1]["role"] != "user":
        trajectory.append({"role": "user", "content": ""})

    source = {"dataset": "bfcl", "category": question.category, "id": question.id}
    made = {"tools": question.tools, "domain": "bfcl", "trajectory": trajectory, "source": source}
    if system:
        made["system"] = "\n\n".join(system)
    made["exit_status"] = "question"
    return made


# ---- an episode ----


class FirstAction(Episode):
    """Ends with the first executor turn, whose calls nobody answers, or where the summarizer's would begin.

    exit_status: called, unreadable (the calls), no_call, or a limit's as in agent.py.
    """

    def _run(self) -> str:
        turn, _, limit = self._take_turn("reasoner")
        if limit:
            return limit
        if turn["next"] == "summarizer":
            return "no_call"
        _, fault, limit = self._take_turn("executor")
        if limit:
            return limit
        return "unreadable" if fault else "called"


def play(model: Transformer, frame: Frame, args: Namespace, i: int, question: Question) -> Callable:
    """The play of question i; one that is not run here becomes a line without a word said."""
    asked = record(question)
    *history, query = asked["trajectory"]
    options = {"domain": asked["domain"], "system": asked.get("system"), **sampling(args, i)}

    def perform(speak: Callable) -> dict:
        played = asked
        if not bfcl_check.not_run(question):
            episode = FirstAction(model, frame, Tools(question.tools), speak=speak, **options)
            episode.follow(history)
            episode.user(query["content"])
            played = episode.record | {"source": asked["source"]}
        no_call = played["exit_status"] == "no_call"
        return {
            "id": question.id,
            "category": question.category,
            "record": played,
            "calls": [] if no_call else played["trajectory"][-1].get("calls"),  # None: not readable
            "functions": question.functions,
            "answer": question.answer,
        }

    return perform


# ---- verdicts ----


def judge(line: dict) -> dict:
    """valid: True, False, or None for a question that is not run. reason: what is wrong."""
    tools, functions = line["record"]["tools"], line["functions"]
    question = Question(line["id"], line["category"], [], tools, functions, line["answer"])
    valid, reason = bfcl_check.check(question, line["calls"])
    return {"valid": valid, "reason": reason}


def columns(verdicts: dict[str, list[bool | None]]) -> dict[str, Column | None]:
    """The leaderboard's columns from the verdicts of each category; None where one that it needs was not run.

    Questions whose verdict is None were not run, and count nowhere.
    """
    for category in set(verdicts) - set(CATEGORIES):
        raise ValueError(f"category {category!r}: unknown, wanted one of {', '.join(CATEGORIES)}")

    def over(*categories: str) -> Column | None:
        """All questions of these categories together."""
        together = []
        for category in categories:
            judged = [verdict for verdict in verdicts.get(category, ()) if verdict is not None]
            if not judged:
                return None
            together += judged
        return wilson(sum(together), len(together))

    return leaderboard(over, mean)


def leaderboard(over: Callable, mean: Callable) -> dict:
    """Its columns: over(*categories) is the accuracy on their questions together, None where one was not run.

    mean([...]) of such values is None where one of them is. REST cannot be run here: without it the simple
    half of "Non-live Exec" is exec_simple alone, where the leaderboard takes the mean of both.
    """
    simple = mean([over("simple_python"), over("simple_java"), over("simple_javascript")])
    exec_simple, rest = over("exec_simple"), over("rest")
    if rest is not None:
        exec_simple = mean([exec_simple, rest])
    found = {
        "Non-live AST": mean([simple, over("multiple"), over("parallel"), over("parallel_multiple")]),
        "Non-live Exec": mean([exec_simple, *map(over, EXEC[1:])]),
        "Live AST": over(*LIVE),  # weighted by number of questions, so all of them together
        "Relevance": over("live_relevance"),
        "Irrelevance": mean([over("irrelevance"), over("live_irrelevance")]),
    }
    reported = ("Non-live AST", "Non-live Exec", "Live AST", "Relevance")
    return found | {"Average": mean([found[name] for name in reported])}  # the paper's


def compared(over: Callable, mean: Callable) -> dict:
    """The columns for compare.py. A few questions of relevance make the average wide: it is also without."""
    found = leaderboard(over, mean)
    without = mean([found[name] for name in ("Non-live AST", "Non-live Exec", "Live AST")])
    return found | {"Average without relevance": without}


def parts(line: dict) -> dict:
    """What a question adds to the rows of compare.py: the verdict, to its category's."""
    return {} if line["valid"] is None else {line["category"]: [(line["valid"], 1)]}


def table(header: dict, lines: list[dict]) -> str:
    """A row for each category, and a row for each column of the leaderboard with the paper's figures."""
    verdicts = grouped(lines, "category")
    by_category = [["category", "n", "right", "95 % interval"]]
    for name, of_category in verdicts.items():
        by_category.append([name, *share_cells(of_category)])
    by_column = [["column", "n", "right", "95 % interval", *paper_cells(header)]]
    for name, column in columns(verdicts).items():
        by_column.append([name, *column_cells(column), *paper_cells(header, name)])
    return f"{layout(by_category)}{reasons_not_run(lines)}\n{layout(by_column)}{paper_note(header)}"
