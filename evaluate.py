"""The paper's numbers from a trained adapter: benchmarks that the agent plays, and held-out turns.

    python evaluate.py bfcl --data FOLDER --output results/bfcl.jsonl                 Table 2
    python evaluate.py math --data test.jsonl --python --output results/gsm8k.jsonl   Table 3; so is MATH
    python evaluate.py roles --data heldout.jsonl --output results/roles.jsonl        Fig. 4
    python evaluate.py stabletoolbench --data FOLDER --responses exchanges.jsonl --output results/dfs.jsonl
    python evaluate.py judge --answers results/dfs.jsonl --ids IDS --output results/dfs.pass.jsonl    Table 1
    python evaluate.py score results/bfcl.jsonl                                       its table once more
    python evaluate.py compare results/A.jsonl results/B.jsonl                        is B better than A?

`python evaluate.py bfcl --help` says what that suite measures and what the paper leaves open, and so do the
others. Base model and adapter are given as for agent.py; --adapter '' is the base alone, which computes what
an adapter does before training.

The result file is JSON Lines: a header with all that decides the results, then a line for each question in
the order of the data: the whole record as played, what came of it, the reference, the verdict. It holds no
times: the same command writes the same bytes, and goes on where a killed one stopped. (On a GPU, and in
bfloat16, two close tokens may change places with what else is in the batch.)
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from tqdm import tqdm

from agent import load, model_arguments, sampling_arguments
from cli import ArgumentParser, UserError, append, exclusive, number, open_file, printable, run
from engine.together import together
from evaluation import (
    bfcl,
    bfcl_questions,
    compare,
    maths,
    pass_rate,
    roles,
    solvable,
    stabletoolbench,
    win_rate,
)
from evaluation.results import encoded, file_faults, header_of, in_order, read_results, resume
from evaluation.toolbench_judge import FORMS, Style, read_prompts
from stages import process
from stages.endpoints import OPENAI, add_asking, add_model, open_endpoint
from tools.journal import Journal

# A suite is a module with five functions; each question becomes a line of the result file.
#   read(args) -> the questions; raises UserError
#   play(model, frame, args, i, question) -> a play for engine/together.py, which returns the line
#   judge(line) -> what of a line follows from the rest of it
#   table(header, lines) -> the text that is printed at the end
#   parts(line) -> what a line adds to the rows of evaluation/compare.py
SUITES = {"bfcl": bfcl, "math": maths, "roles": roles, "stabletoolbench": stabletoolbench}
# Of answers that a judge reads there are, in place of `play`:
#   decide(line, round, ask, style) -> what becomes of a line in one round
#   first_questions(line, args) -> what it is asked at least
JUDGED = {"pass": pass_rate, "win": win_rate}


def answer(args: Namespace) -> None:
    """Play the questions that the result file does not hold yet, and add a line for each."""
    suite = SUITES[args.suite]
    mend = "choose another --output"
    questions = suite.read(args)
    world = stabletoolbench.world(args) if suite is stabletoolbench else nullcontext()
    with exclusive(args.output, mend) as file, world as args.world:
        model, frame = load(args)
        header = header_of(args, questions, model, frame)
        with file_faults(args.output, mend):
            done = resume(file, args.output, header, SUITES)
        plays = (suite.play(model, frame, args, i, questions[i]) for i in range(done, len(questions)))
        with tqdm(total=len(questions), initial=done, unit="question", disable=None) as bar:
            lines = in_order(together(model, plays, args.batch), bar)
            for number, line in enumerate(lines, done):
                with file_faults(args.output, mend):
                    append(file, encoded({"number": number} | line | suite.judge(line)))


def judge(args: Namespace) -> None:
    """Ask a judge about the answers that the result file does not hold yet, and add a line for each."""
    mend, suite = "choose another --output", JUDGED["win" if args.against else "pass"]
    lines, about = suite.read(args)
    style = Style(args.judge_form, read_prompts(args.judge_prompts) if args.judge_prompts else None)
    with ExitStack() as stack:
        file = stack.enter_context(exclusive(args.output, mend))
        journal = stack.enter_context(Journal(args.journal or process.beside(args.output, "journal")))
        endpoint = open_endpoint(args, "", journal, stack)
        if args.dry_run:
            print(printable(solvable.preview(lines, suite, endpoint, style, args)), end="")
            return
        header = solvable.header_of(args, endpoint, style, lines, about)
        with file_faults(args.output, mend):
            done = resume(file, args.output, header, JUDGED)
        step = partial(solvable.asked, suite=suite, endpoint=endpoint, style=style, rounds=args.rounds)
        with tqdm(total=len(lines), initial=done, unit="query", disable=None) as bar:
            for number, line in enumerate(process.in_order(step, lines[done:], args.workers), done):
                with file_faults(args.output, mend):
                    append(file, encoded({"number": number} | line))
                bar.update()
        print(f"{endpoint.model}: {endpoint.usage}")


def score(path: Path) -> None:
    """Judge the lines of a result file once more and print the table. Raises UserError."""
    header, lines = read(path)
    suite = (SUITES | JUDGED)[header["suite"]]
    with damage(path):
        judged = [line | suite.judge(line) for line in lines]
        table = suite.table(header, judged) if judged else ""
        of = f"{len(lines)} of {header['questions']} questions"
        title = f"{header['model']}, adapter {header['adapter']}: {of}"
    print(printable(title))
    print(printable(table), end="")
    changed = sum(old != new for old, new in zip(lines, judged, strict=True))
    if changed:
        print(f"{changed} verdicts are not those in the file, which other code has judged")


def compare_files(paths: list[Path]) -> None:
    """Judge the lines of two result files once more and print how they differ. Raises UserError."""
    (header_a, a), (header_b, b) = map(read, paths)
    compare.check_same_questions(paths, [header_a, header_b], [a, b])
    solvable.check_same_judge(paths, [header_a, header_b])
    suite = (SUITES | JUDGED)[header_a["suite"]]
    with damage(" or ".join(map(str, paths))):
        a, b = ([line | suite.judge(line) for line in lines] for lines in (a, b))
        columns = bfcl.compared if suite is bfcl else None  # only BFCL's are more than shares
        table = compare.table(a, b, suite.parts, columns)
        print(printable(compare.heading(paths, [header_a, header_b]) + table), end="")


def read(path: Path) -> tuple[dict, list[dict]]:
    """Header and lines of a result file. Raises UserError."""
    with file_faults(path, "wanted a result file"):
        with open_file(path) as file:
            return read_results(path, file.read(), SUITES | JUDGED)


@contextmanager
def damage(where: Path | str) -> Iterator[None]:
    """Raise as a UserError what judging a line stumbles over."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{where}: damaged ({error!r}); make it again") from None


# ---- the command ----


def parse_args(argv: list[str] | None) -> Namespace:
    parser = ArgumentParser(prog="evaluate.py", description=__doc__)
    commands = parser.add_subparsers(dest="suite", required=True, metavar="SUITE")
    for name, suite in SUITES.items():
        command = commands.add_parser(name, description=suite.__doc__, help=suite.__doc__.split("\n")[0])
        add_arguments(command, name)
    command = commands.add_parser("judge", description=JUDGE, help=JUDGE.split("\n")[0])
    judge_arguments(command)
    command = commands.add_parser("score", help="Judge a result file once more and print its table.")
    command.add_argument("output", type=Path, metavar="FILE", help="results")
    about = compare.__doc__
    command = commands.add_parser(
        "compare", description=about, help="Hold two result files of a suite together."
    )
    command.add_argument("outputs", type=Path, nargs=2, metavar="FILE", help="results: A, B")
    args = parser.parse_args(argv)
    if args.suite == "math" and not (args.python or args.unsafe_python):
        parser.error("math: got no --python; wanted it, or --unsafe-python, to run the executor's code")
    if args.suite == "stabletoolbench" and not (args.server or args.responses):
        parser.error("stabletoolbench: got no --responses; wanted it, or --server, to answer the calls")
    if args.suite == "judge" and not args.model:
        parser.error("judge: got no --model; wanted the name of one")
    if args.suite == "judge" and args.as_published and not args.against:
        parser.error("judge: got --as-published without --against; wanted it for a win rate")
    return args


DATA = {
    "bfcl": "folder of the published files, or bfcl-eval: those of the installed package",
    "math": "JSON Lines of GSM8K or MATH",
    "roles": "trajectories, JSON Lines",
    "stabletoolbench": "folder solvable_queries of the published data",
}


JUDGE = """Solvable pass rate and win rate of StableToolBench (Table 1), by a judge at a chat endpoint.

    python evaluate.py judge --answers results/dfs.jsonl --ids test_query_ids --output dfs.pass.jsonl
    python evaluate.py judge --answers dfs.pass.jsonl --against cot.pass.jsonl --output dfs.win.jsonl

The first gives the pass rate of answers: a result file of `evaluate.py stabletoolbench`, or a folder of raw
or converted answers as published. The second holds two files of the first together: the win rate. All queries
of the id lists count. A stopped command is given again and asks only what has not been answered; labels,
votes, the judge's replies, its name and the date stay in the result."""


def judge_arguments(command: ArgumentParser) -> None:
    add = command.add_argument
    help = "answers; with --against, their pass rate"
    add("--answers", type=Path, required=True, metavar="PATH", help=help)
    add("--against", type=Path, metavar="FILE", help="pass rate of the reference's answers: the win rate")
    help = "id lists (test_query_ids/), files or folders: the queries that count"
    add("--ids", type=Path, nargs="+", default=[], metavar="PATH", help=help)
    add("--output", type=Path, required=True, metavar="FILE", help="results; goes on with those it holds")
    add("--rounds", type=number(int, 1, 100), default=3, metavar="N", help="how often each is judged")
    help = "the published prompts (template.txt), in place of ours"
    add("--judge-prompts", type=Path, metavar="FILE", help=help)
    help = "a function that the judge has to call, or JSON in its text"
    add("--judge-form", choices=FORMS, default="call", help=help)
    help = "win rate by what the published code does: see `evaluation/win_rate.py`"
    add("--as-published", action="store_true", help=help)
    add_model(command, "the judge", "", OPENAI, "there must be one")
    add_asking(command)
    command.set_defaults(temperature=0.2, max_tokens=1000)  # as published


def add_arguments(command: ArgumentParser, suite: str) -> None:
    """The flags of one suite."""
    add = command.add_argument
    add("--data", required=True, metavar="PATH", help=DATA[suite])
    add("--output", type=Path, required=True, metavar="FILE", help="results; goes on with those it holds")
    add("--limit", type=number(int, 0), default=0, metavar="N", help="of a category or file; 0: all")
    add("--batch", type=number(int, 1, 4096), default=16, metavar="N", help="questions at once")
    if suite == "bfcl":
        names = bfcl_questions.CATEGORIES
        add("--categories", nargs="+", choices=names, default=[*names], metavar="NAME", help="which")
    if suite == "math":
        add("--max-turns", type=number(int, 1), default=10, help="of roles: two a round, and two to end")
        add("--python", action="store_true", help="run the executor's Python, in a sandbox")
        add("--unsafe-python", action="store_true", help="run it even where bubblewrap is not installed")
    if suite == "stabletoolbench":
        names = stabletoolbench.GROUPS
        add("--method", choices=[*stabletoolbench.METHODS], default="dfs", help="one chain, or a tree search")
        add("--server", default="", metavar="URL", help="virtual API server, http://HOST:PORT/virtual")
        add(
            "--responses",
            type=Path,
            metavar="FILE",
            help="its answers so far, looked up first and filled; enough without --server",
        )
        add("--groups", nargs="+", choices=names, default=[*names], metavar="SET", help="which")
        add("--max-depth", type=number(int, 1, 200), default=12, help="nodes: thoughts, actions, inputs")
        add(
            "--second",
            choices=("prompt", "sample"),
            default="prompt",
            help="a node's second child: told what was tried, or drawn at temperature 0.7",
        )
        add("--raw", type=Path, metavar="DIR", help="write ToolBench's raw answer files there, too")
    model_arguments(command)
    if suite != "roles":
        sampling_arguments(command)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    if args.suite == "compare":
        compare_files(args.outputs)
        return
    if args.suite == "judge":
        judge(args)
    elif args.suite != "score":
        answer(args)
    if not getattr(args, "dry_run", 0):
        score(args.output)


if __name__ == "__main__":
    sys.exit(run(main))
