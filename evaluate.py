"""The paper's numbers from a trained adapter: benchmarks that the agent plays, and held-out turns.

    python evaluate.py bfcl --data FOLDER --output results/bfcl.jsonl                 Table 2
    python evaluate.py math --data test.jsonl --python --output results/gsm8k.jsonl   Table 3; so is MATH
    python evaluate.py roles --data heldout.jsonl --output results/roles.jsonl        Fig. 4
    python evaluate.py score results/bfcl.jsonl                                       its table once more

Base model and adapter are given as for agent.py; --adapter '' is the base alone, which computes what an
adapter does before training.

    bfcl     The calls of the first executor turn count, and there the episode ends. Calls that cannot be read
             are wrong; a reasoner that names the summarizer makes none.
    math     The executor's Python is run, 4 rounds at most before the summarizer, whose last box counts.
    roles    Every turn is written, greedily, from the reference history. Paper silent: the Levenshtein
             accuracy is 1 - edit distance / length of the longer text, the mean over turns. It counts
             characters, as tokens would make base models incomparable.

The result file is JSON Lines: a header with all that decides the results, then a question a line in the order
of the data: the whole record as played, what came of it, the reference, the verdict. It holds no times: the
same command writes the same bytes and goes on where a killed one was. (On a GPU, and in bfloat16, two close
tokens may change places with what else is in the batch.)
"""

import hashlib
import json
import os
import platform
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import tokenizers
import torch
from tqdm import tqdm

import answers
import bfcl
import data
from agent import Episode, Tools, load, model_arguments, run_episode, sampling_arguments, together
from answers import Problem
from bfcl import Column, Question, wilson
from checkpoint import tensor_files
from cli import ArgumentParser, UserError, number, run
from frames import Frame
from loss import token_losses
from model import Transformer, checkpoint_folder
from mor import CONFIG, ROLES, WEIGHTS
from sandbox import Sandbox
from turns import count_turns, retrace, share, spread, write_turns

# What the paper reports, in percent: the base alone, and MoRAgent.
COLUMNS = ("Non-live AST", "Non-live Exec", "Live AST", "Relevance", "Average")
TABLE_2 = {
    "llama-3.2-1b-instruct": ((21.9, 75.2), (19.2, 80.0), (29.8, 60.7), (38.9, 94.4), (27.5, 77.6)),
    "phi-3.5-mini-instruct": ((69.0, 83.0), (57.3, 78.2), (58.2, 72.7), (72.2, 94.4), (64.2, 82.1)),
    "openpangu-embedded-1b": ((23.0, 76.9), (23.9, 72.9), (31.5, 64.7), (16.7, 94.4), (23.8, 77.2)),
}
TABLE_3 = {"qwen2.5-coder-1.5b": {"GSM8K": (54.7, 68.5), "MATH": (23.5, 45.5)}}  # the base with packages
PAPER = TABLE_3 | {name: dict(zip(COLUMNS, row, strict=True)) for name, row in TABLE_2.items()}


def sampling(args: Namespace, i: int) -> dict:
    """Options of the i-th question's episode."""
    names = ("max_new_tokens", "temperature", "top_p")
    return {name: getattr(args, name) for name in names} | {"seed": args.seed + i}


# ---- BFCL ----


def read_bfcl(args: Namespace) -> list[Question]:
    of_category = (bfcl.read_questions(args.data, category) for category in dict.fromkeys(args.categories))
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
    asked = bfcl.record(question)
    *history, query = asked["trajectory"]
    options = {"domain": asked["domain"], "system": asked.get("system"), **sampling(args, i)}

    def play(speak: Callable) -> dict:
        record = asked
        if not bfcl.not_run(question):
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
    valid, reason = bfcl.check(question_of(line), line["calls"])
    return {"valid": valid, "reason": reason}


def table_bfcl(header: dict, lines: list[dict]) -> str:
    verdicts = grouped(lines, "category")
    rows = [["category", "n", "right", "95 % interval"]]
    rows += [[name, *share_cells(of_category)] for name, of_category in verdicts.items()]
    columns = [["column", "n", "right", "95 % interval", *paper_cells(header)]]
    for name, column in bfcl.columns(verdicts).items():
        columns.append([name, *column_cells(column), *paper_cells(header, name)])
    return f"{layout(rows)}{not_run(lines)}\n{layout(columns)}"


# ---- GSM8K and MATH ----


def read_math(args: Namespace) -> list[Problem]:
    with Sandbox(unsafe=args.unsafe_python):  # raises where there can be none, before the model is loaded
        return spread(answers.read_problems(args.data), args.limit)


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
    answer = answers.extract(last["content"]) if last["role"] == "summarizer" else ""
    valid = answers.equal(answer, reference)
    fault = f"got {answer!r:.60}, wanted {reference!r:.60}" if answer else "no answer"
    return {"answer": answer, "valid": valid, "reason": "" if valid else fault}


def table_math(header: dict, lines: list[dict]) -> str:
    rows = [["problems", "n", "right", "95 % interval", *paper_cells(header)]]
    for key in ("category", "level", "type"):
        for name, verdicts in sorted(grouped(lines, key).items()):
            rows += [[name, *share_cells(verdicts), *paper_cells(header, name)]] if name else []
    return layout(rows)


# ---- roles: turns against their references ----


def similarity(a: str, b: str) -> float:
    """Levenshtein accuracy of one turn; of two empty texts 1."""
    return 1 - distance(a, b) / max(len(a), len(b), 1)


def distance(a: str, b: str) -> int:
    """Levenshtein's edit distance by Myers' bit vectors: a row of the table in a dozen operations.

    Row j holds the distances of b[:j] from a[:0], a[:1], ... Bit i of up (down) says that entry i + 1 is one
    more (less) than entry i; of more and less, that it is so against the same entry of the row before.
    """
    if not a:
        return len(b)
    places, full, last = {}, (1 << len(a)) - 1, len(a) - 1
    for i, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << i
    up, down, result = full, 0, len(a)
    for letter in b:
        equal = places.get(letter, 0)
        same = ((equal & up) + up ^ up | equal | down) & full  # entry i + 1 is entry i of the row before
        more, less = down | full & ~(same | up), same & up
        result += (more >> last) - (less >> last)
        more, less = (more << 1 | 1) & full, less << 1 & full
        up, down = less | full & ~(same | more), same & more
    return result


def read_roles(args: Namespace) -> list[tuple[int, dict]]:
    """Records, each with its number in the file."""
    return spread(enumerate(data.read_records(args.data), 1), args.limit)


def play_roles(model: Transformer, frame: Frame, args: Namespace, i: int, question: tuple) -> Callable:
    id, record = question
    line = {"id": id, "category": data.domain_of(record), "record": record, "reason": ""}
    example, positions = data.render(record, frame), model.config.max_position_embeddings
    if len(example.input_ids) > positions:
        reason = f"not run: longer than the model's {positions} positions"
        return lambda speak: line | {"sums": [[0.0] * 4] * 3, "turns": [], "reason": reason}
    with torch.no_grad():
        sums = token_losses(model, [example])[1].tolist()
    read = retrace(model, record, frame)
    return lambda speak: line | {"sums": sums, "turns": write_turns(model, read, frame, speak, every=True)}


def judge_roles(line: dict) -> dict:
    similarities = [similarity(turn["text"], turn["reference"]) for turn in line["turns"]]
    return {"levenshtein": similarities, "counts": dict(count_turns(line["record"], line["turns"]))}


def table_roles(header: dict, lines: list[dict]) -> str:
    sums = torch.tensor([line["sums"] for line in lines], dtype=torch.float64).sum(dim=0)  # [3, 4]
    sums = torch.cat((sums, sums.sum(dim=0, keepdim=True))).tolist()
    rows = [["role", "turns", "loss", "token accuracy", "Levenshtein accuracy"]]
    for role, (loss, hits, supervised, _) in zip((*ROLES, "all"), sums, strict=True):
        pairs = [pair for line in lines for pair in zip(line["turns"], line["levenshtein"], strict=True)]
        near = [value for turn, value in pairs if role in (turn["role"], "all")]
        shares = share(loss, supervised), share(hits, supervised), share(sum(near), len(near))
        figures = zip(shares, (".4f", ".1%", ".1%"), strict=True)
        rows.append([role, str(len(near)), *("-" if x is None else format(x, form) for x, form in figures)])
    counts = sum((Counter(line["counts"]) for line in lines), Counter())
    right = [["turns right", "n", "right", "95 % interval"]]
    for name, key, turns in (
        ("next role", "next_role", "reasoner_turns"),
        ("calls", "exact", "executor_turns"),
        ("calls after own words", "exact_own", "executor_turns"),
    ):
        right.append([name, *column_cells(wilson(counts[key], counts[turns]) if counts[turns] else None)])
    return f"{layout(rows)}{not_run(lines)}\n{layout(right)}"


# ---- tables ----


def grouped(lines: list[dict], key: str) -> dict[str, list[bool | None]]:
    """The verdicts by a value of their lines."""
    verdicts = {}
    for line in lines:
        verdicts.setdefault(line[key], []).append(line["valid"])
    return verdicts


def share_cells(verdicts: list[bool | None]) -> list[str]:
    judged = [verdict for verdict in verdicts if verdict is not None]
    return column_cells(wilson(sum(judged), len(judged)) if judged else None)


def column_cells(column: Column | None) -> list[str]:
    if column is None:
        return ["0", "-", "-"]
    return [str(column.n), f"{column.accuracy:.1%}", f"{column.low:.1%} to {column.high:.1%}"]


def paper_cells(header: dict, name: str | None = None) -> list[str]:
    """The paper's figures of one row for this base model, if it has any; without a name the row's head."""
    rows = next((rows for base, rows in PAPER.items() if header["model"].lower().startswith(base)), None)
    if name is None:
        return ["paper: base", "paper: MoRAgent"] if rows else []
    return [f"{figure:.1f}%" for figure in (rows or {}).get(name, ())]


def not_run(lines: list[dict]) -> str:
    """A line for each reason not to run a question."""
    reasons = Counter(line["reason"] for line in lines if line["reason"].startswith("not run"))
    return "".join(f"{count} {reason}\n" for reason, count in sorted(reasons.items()))


def layout(rows: list[list[str]]) -> str:
    """Cells in columns, the first on the left, the others on the right."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    out = ""
    for first, *others in rows:
        padded = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=False))
        out += "  ".join([first.ljust(widths[0]), *padded]) + "\n"
    return out


# ---- the result file ----


class Suite(NamedTuple):
    """What a benchmark is made of; each question becomes a line of the result file."""

    read: Callable[[Namespace], list]  # the questions; raises UserError
    play: Callable[..., Callable]  # model, frame, args, i, question -> a play of agent.together: a line
    judge: Callable[[dict], dict]  # what of a line follows from the rest of it
    table: Callable[[dict, list[dict]], str]  # header, lines -> text


SUITES = {
    "bfcl": Suite(read_bfcl, play_bfcl, judge_bfcl, table_bfcl),
    "math": Suite(read_math, play_math, judge_math, table_math),
    "roles": Suite(read_roles, play_roles, judge_roles, table_roles),
}
SETTINGS = ("categories", "limit", "max_turns", "max_new_tokens", "temperature", "top_p", "seed")
SETTINGS += ("unsafe_python",)
SOURCES = ("agent", "answers", "bfcl", "bfcl_functions", "calls", "checkpoint", "cli", "data", "evaluate")
SOURCES += ("frames", "generation", "inference", "loss", "model", "mor", "sandbox", "sandbox_child", "turns")


def header_of(args: Namespace, questions: list, model: Transformer) -> dict:
    """All that decides the results of a run."""
    base, adapter, weight = checkpoint_folder(args.model), Path(args.adapter), model.model.norm.weight
    name = Path(args.model).resolve().name if os.path.isdir(args.model) else args.model.rpartition("/")[2]
    header = {"suite": args.suite, "model": name}
    header |= {name: getattr(args, name) for name in SETTINGS if hasattr(args, name)}
    header |= {"dtype": str(weight.dtype).removeprefix("torch."), "device": weight.device.type}
    header |= {"python": platform.python_version(), "torch": torch.__version__}
    header |= {"tokenizers": tokenizers.__version__, "questions": len(questions)}
    header["data"] = hashlib.sha256(json.dumps(questions, default=vars).encode()).hexdigest()[:16]
    files = sorted({"config.json", "tokenizer.json", *tensor_files(base).values()})
    header["base"] = digest(base / file for file in files)
    header["adapter"] = digest([adapter / CONFIG, adapter / WEIGHTS]) if args.adapter else "none"
    return header | {"code": digest(Path(__file__).with_name(f"{name}.py") for name in SOURCES)}


def digest(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(f"{path.name} {os.fstat(file.fileno()).st_size}\n".encode())
            while block := file.read(1 << 24):
                whole.update(block)
    return whole.hexdigest()[:16]


def encoded(value: dict) -> bytes:
    """A line of the file. Half characters, which UTF-8 cannot hold, stay escapes of JSON."""
    return (json.dumps(value, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_results(path: Path, content: bytes) -> tuple[dict, list[dict]]:
    """Header and lines in what a result file holds, a half-written last line left out. Raises UserError."""
    try:
        header, *lines = map(json.loads, content.split(b"\n")[:-1])
        if header["header"]["suite"] in SUITES:
            return header["header"], lines
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: no result file of evaluate.py, or damaged; name another, or remove it")


def resume(path: Path, header: dict) -> int:
    """Make a file ready to take a line more; return how many it has. Raises UserError if of another run."""
    first = encoded({"header": header})
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    if first.startswith(content):  # nothing, or killed before the header was whole
        path.write_bytes(first)
        return 0
    before, lines = read_results(path, content)
    for name, value in json.loads(first)["header"].items():
        if before.get(name) != value:
            got = f"{path}: {name}: got {value!r:.80}, the file was made with {before.get(name)!r:.80}"
            raise UserError(f"{got}; go on with that, or choose another --output")
    os.truncate(path, content.rfind(b"\n") + 1)
    return len(lines)


def in_order(numbered: Iterator[tuple[int, dict]], bar: tqdm) -> Iterator[dict]:
    """What comes with the numbers 0, 1, 2, ... in any order, in that order."""
    waiting, following = {}, 0
    for i, line in numbered:
        bar.update()
        waiting[i] = line
        while following in waiting:
            yield waiting.pop(following)
            following += 1


@contextmanager
def told(path: Path, mend: str) -> Iterator[None]:
    """Makes a UserError of what the system says about a file."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {mend}") from None


def answer(args: Namespace) -> None:
    """Play what the file does not hold yet."""
    suite, mend = SUITES[args.suite], "free space, or choose another --output"
    questions = suite.read(args)
    model, frame = load(args)
    header = header_of(args, questions, model)
    with told(args.output, mend):
        done = resume(args.output, header)
    plays = (suite.play(model, frame, args, i, questions[i]) for i in range(done, len(questions)))
    with tqdm(total=len(questions), initial=done, unit="question", disable=None) as bar:
        for line in in_order(together(model, plays, args.batch), bar):
            with told(args.output, mend), open(args.output, "ab") as file:
                file.write(encoded(line | suite.judge(line)))


def score(path: Path, harness: Path | None) -> None:
    """Judge the outputs in a file anew and print the table. harness: a folder for BFCL's own scorer."""
    with told(path, "wanted a result file"):
        header, lines = read_results(path, path.read_bytes())
    suite = SUITES[header["suite"]]
    try:
        judged = [line | suite.judge(line) for line in lines]
        table = suite.table(header, judged) if judged else ""
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error!r}); make it anew") from None
    print(f"{header['model']}, adapter {header['adapter']}: {len(lines)} of {header['questions']} questions")
    print(table, end="")
    if changed := sum(old != new for old, new in zip(lines, judged, strict=True)):
        print(f"{changed} verdicts are not those in the file, which other code has judged")
    for category in dict.fromkeys(line["category"] for line in judged) if harness else ():
        of_category = [line for line in judged if line["category"] == category]
        questions, calls = map(question_of, of_category), [line["calls"] for line in of_category]
        print(bfcl.write_results(harness, header["model"], [*questions], calls))


# ---- the command ----


def parse_args(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(prog="evaluate.py", description=__doc__)
    suites = parser.add_subparsers(dest="suite", required=True, metavar="SUITE")
    wanted = {"bfcl": "folder of the published files, or bfcl-eval: those of the installed package"}
    wanted |= {"math": "JSON Lines of GSM8K or MATH", "roles": "trajectories, JSON Lines"}
    for name, text in wanted.items():
        suite = suites.add_parser(name)
        add = suite.add_argument
        add("--data", required=True, metavar="PATH", help=text)
        add("--output", type=Path, required=True, metavar="FILE", help="results; goes on with those it holds")
        add("--limit", type=number(int, 0), default=0, metavar="N", help="of a category or file; 0: all")
        add("--batch", type=number(int, 1), default=16, metavar="N", help="questions at once")
        if name == "bfcl":
            names = {"choices": bfcl.CATEGORIES, "default": [*bfcl.CATEGORIES], "metavar": "NAME"}
            add("--categories", nargs="+", **names, help="which")
            add("--harness", type=Path, metavar="DIR", help="write results for BFCL's own scorer, too")
        if name == "math":
            add("--max-turns", type=number(int, 1), default=10, help="of roles: two a round, and two to end")
            add("--python", action="store_true", help="run the executor's Python, in a sandbox")
            add("--unsafe-python", action="store_true", help="run it even where bubblewrap is not installed")
        model_arguments(suite)
        if name != "roles":
            sampling_arguments(suite)
    suite = suites.add_parser("score")
    suite.add_argument("output", type=Path, metavar="FILE", help="results")
    args = parser.parse_args(argv)
    if args.suite == "math" and not (args.python or args.unsafe_python):
        parser.error("math: got no --python; wanted it, or --unsafe-python, to run the executor's code")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    if args.suite != "score":
        answer(args)
    score(args.output, getattr(args, "harness", None))


if __name__ == "__main__":
    sys.exit(run(main))
