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

import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from agent import load, model_arguments, sampling_arguments
from cli import ArgumentParser, UserError, number, run
from engine.together import together
from evaluation import bfcl_questions
from evaluation.bfcl import judge_bfcl, play_bfcl, read_bfcl, table_bfcl
from evaluation.maths import judge_math, play_math, read_math, table_math
from evaluation.results import encoded, header_of, in_order, read_results, resume, told
from evaluation.roles import judge_roles, play_roles, read_roles, table_roles

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


def answer(args: Namespace) -> None:
    """Play what the file does not hold yet."""
    suite, mend = SUITES[args.suite], "free space, or choose another --output"
    questions = suite.read(args)
    model, frame = load(args)
    header = header_of(args, questions, model)
    with told(args.output, mend):
        done = resume(args.output, header, SUITES)
    plays = (suite.play(model, frame, args, i, questions[i]) for i in range(done, len(questions)))
    with tqdm(total=len(questions), initial=done, unit="question", disable=None) as bar:
        for line in in_order(together(model, plays, args.batch), bar):
            with told(args.output, mend), open(args.output, "ab") as file:
                file.write(encoded(line | suite.judge(line)))


def score(path: Path) -> None:
    """Judge the outputs in a file anew and print the table."""
    with told(path, "wanted a result file"):
        header, lines = read_results(path, path.read_bytes(), SUITES)
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
            names = {
                "choices": bfcl_questions.CATEGORIES,
                "default": [*bfcl_questions.CATEGORIES],
                "metavar": "NAME",
            }
            add("--categories", nargs="+", **names, help="which")
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
    score(args.output)


if __name__ == "__main__":
    sys.exit(run(main))
