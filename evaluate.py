"""The paper's numbers from a trained adapter: benchmarks that the agent plays, and held-out turns.

    python evaluate.py bfcl --data FOLDER --output results/bfcl.jsonl                 Table 2
    python evaluate.py math --data test.jsonl --python --output results/gsm8k.jsonl   Table 3; so is MATH
    python evaluate.py roles --data heldout.jsonl --output results/roles.jsonl        Fig. 4
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
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from agent import load, model_arguments, sampling_arguments
from cli import ArgumentParser, UserError, append, exclusive, number, open_file, printable, run
from engine.together import together
from evaluation import bfcl, bfcl_questions, compare, maths, roles
from evaluation.results import encoded, file_faults, header_of, in_order, read_results, resume

# A suite is a module with five functions; each question becomes a line of the result file.
#   read(args) -> the questions; raises UserError
#   play(model, frame, args, i, question) -> a play for engine/together.py, which returns the line
#   judge(line) -> what of a line follows from the rest of it
#   table(header, lines) -> the text that is printed at the end
#   parts(line) -> what a line adds to the rows of evaluation/compare.py
SUITES = {"bfcl": bfcl, "math": maths, "roles": roles}


def answer(args: Namespace) -> None:
    """Play the questions that the result file does not hold yet, and add a line for each."""
    suite = SUITES[args.suite]
    mend = "choose another --output"
    questions = suite.read(args)
    with exclusive(args.output, mend) as file:
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


def score(path: Path) -> None:
    """Judge the lines of a result file once more and print the table. Raises UserError."""
    header, lines = read(path)
    suite = SUITES[header["suite"]]
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
    suite = SUITES[header_a["suite"]]
    with damage(" or ".join(map(str, paths))):
        a, b = ([line | suite.judge(line) for line in lines] for lines in (a, b))
        columns = bfcl.compared if suite is bfcl else None  # only BFCL's are more than shares
        table = compare.table(a, b, suite.parts, columns)
        print(printable(compare.heading(paths, [header_a, header_b]) + table), end="")


def read(path: Path) -> tuple[dict, list[dict]]:
    """Header and lines of a result file. Raises UserError."""
    with file_faults(path, "wanted a result file"):
        with open_file(path) as file:
            return read_results(path, file.read(), SUITES)


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
    return args


DATA = {
    "bfcl": "folder of the published files, or bfcl-eval: those of the installed package",
    "math": "JSON Lines of GSM8K or MATH",
    "roles": "trajectories, JSON Lines",
}


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
    model_arguments(command)
    if suite != "roles":
        sampling_arguments(command)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    if args.suite == "compare":
        compare_files(args.outputs)
        return
    if args.suite != "score":
        answer(args)
    score(args.output)


if __name__ == "__main__":
    sys.exit(run(main))
