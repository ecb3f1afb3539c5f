"""The multi-role data pipeline (paper, section 3.3): from public data sets to the files that train.py takes.

Stages are subcommands, each from files to one JSON Lines file in the schema of data.py:

    convert    a public data set in its own form -> records, by rules alone
    complete   thoughts and summaries that records lack are asked of a model
    judge      a second model scores trajectories and steps; low scores are set aside
    verify     calls are held against tools, schemas, executions and the second model's own calls
    review     where these disagree, a person accepts, edits or drops the record, one at a time
    unify      without repetitions and test questions, split into train.jsonl and heldout.jsonl
    run        all of them

    python pipeline.py run apigen=xlam.json toolace=data.json --output made --dry-run 2    what would it cost?
    python pipeline.py run apigen=xlam.json toolace=data.json --output made
    python pipeline.py review made/review.jsonl      then `run` again, which merges the decisions

Every row ends in the output or, with its reason, in the file beside it (OUT.refused.jsonl); a table adds up.
Outputs are written whole. Answers of models are kept in a journal as they arrive: a command that was stopped,
whatever stopped it, is given again and asks only what has not been answered; the files are the same.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cli
import data
from sources.catalogue import SOURCES
from stages import complete, judge, review, unify, verify
from stages.convert import convert
from stages.preview import Requests, preview
from stages.process import Results, Tally, beside, finish, process, read_items, table
from tools.endpoint import Endpoint, read_key
from tools.journal import Journal
from tools.mock import Tools, read_responses, read_tools
from tools.sandbox import Sandbox


class Job(NamedTuple):
    """A stage that may ask."""

    stage: str
    step: Callable[..., Results]  # takes a record and `ask`, the endpoint's or None
    requests: Requests  # what it asks about a record, for a preview
    endpoint: Endpoint | None
    others: dict[str, Path]  # further files, as `process` takes them


def job_of(stage: str, args: argparse.Namespace, endpoint: Endpoint | None, reviewed: Path) -> Job:
    """reviewed: the file of rows that wait for a person, which only verify writes. Raises UserError."""
    model = endpoint.model if endpoint else ""
    if stage == "complete":
        return Job(stage, partial(complete.complete_row, model=model), complete.requests, endpoint, {})
    if stage == "judge":
        scores = {"overall": args.min_overall, "step": args.min_step}
        return Job(stage, partial(judge.judge_row, model=model, **scores), judge.requests, endpoint, {})
    python = None
    if args.python or args.unsafe_python:
        python = partial(Sandbox, wall=10, unsafe=args.unsafe_python)
        with python():  # raises where there can be none, before anything is asked
            pass
    responses = read_responses(args.responses) if args.responses else []
    environment = Tools(read_tools(args.tools), responses=responses) if args.tools else None
    decisions = review.read_decisions(decisions_of(reviewed))
    given = {"decisions": decisions, "environment": environment, "python": python}
    step = partial(verify.verify_row, model=model, **given)
    requests = partial(verify.requests, environment=environment)
    return Job(stage, step, requests, endpoint, {"review": reviewed})


def preview_of(job: Job, path: Path, shown: int = 0) -> str:
    if not job.endpoint:
        return "no model is asked"
    return preview(job.stage, job.requests, job.endpoint, path, shown)


def perform(job: Job, path: Path, output: Path, workers: int) -> Tally:
    """Tell the estimate, then do the job on the records of a file. Raises UserError."""
    total = sum(1 for _ in data.numbered_lines(path))
    if not job.endpoint:
        return process(job.stage, read_items(path), partial(job.step, ask=None), output, total, **job.others)
    print(preview_of(job, path), flush=True)
    step = partial(job.step, ask=job.endpoint.ask)
    return process(job.stage, read_items(path), step, output, total, workers, **job.others)


# ---- commands ----

COMPLETED, JUDGED, VERIFIED = "2-completed.jsonl", "3-judged.jsonl", "4-verified.jsonl"
TEMPORARY = re.compile(r"\.([1-4]-\w+(\.refused)?|review|train|heldout|unify\.refused)\.jsonl\.\d+\.tmp")


def convert_command(args: argparse.Namespace) -> None:
    apart(args.output, args.files)
    tally = convert([found for path in args.files for found in files_of(args.source, path)], args.output)
    print(table([tally]), end="")


def asking_command(args: argparse.Namespace) -> None:
    """complete, judge or verify."""
    apart(args.output, [args.file, *([args.journal] if args.journal else [])])
    journal_path = args.journal or beside(args.output, "journal")
    next(read_items(args.file))  # its faults come before anything is made
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(journal_path))
        endpoint = open_endpoint(args, "", journal, stack)
        job = job_of(args.stage, args, endpoint, beside(args.output, "review"))
        if args.dry_run:
            print(preview_of(job, args.file, args.dry_run))
            return
        tally = perform(job, args.file, args.output, args.workers)
        print(table([tally]), end="")
        finish([tally], [endpoint] if endpoint else [])


def review_command(args: argparse.Namespace) -> None:
    with open(0, errors="replace", closefd=False) as stdin:  # a key that is no UTF-8 ends no review
        review.review(args.file, decisions_of(args.file), stdin)


def unify_command(args: argparse.Namespace) -> None:
    for name in (unify.TRAIN, unify.HELD_OUT, unify.ASIDE):
        apart(args.output / f"{name}.jsonl", args.files)
    tally = unified(args, args.files, unify.read_evaluation(args.evaluation))
    print(table([tally]), end="")


def unified(args: argparse.Namespace, paths: list[Path], evaluation: unify.Evaluation) -> Tally:
    return unify.unify(paths, args.output, evaluation, args.seed, args.held_out, args.evaluation_names)


def run_command(args: argparse.Namespace) -> None:
    """All stages. What an earlier run did is done again, except for asking: so nothing can be out of date."""
    folder, inputs = args.output, [found for pair in args.inputs for found in files_of(*pair)]
    evaluation = unify.read_evaluation(args.evaluation)  # its faults come before anything is made
    for name, path, _ in inputs:  # and so do theirs
        next(iter(SOURCES[name].read(path)), None)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(args.journal or folder / "journal.jsonl"))
        for left in folder.glob(".*.[0-9]*.tmp"):  # by a run that was killed: nobody else has the journal
            if TEMPORARY.fullmatch(left.name):
                left.unlink()
        writer, second = (open_endpoint(args, prefix, journal, stack) for prefix in ("", "judge_"))
        jobs = [(job_of("complete", args, writer, folder / "review.jsonl"), COMPLETED)]
        jobs += [(job_of("judge", args, second, folder / "review.jsonl"), JUDGED)] if second else []
        jobs += [(job_of("verify", args, second, folder / "review.jsonl"), VERIFIED)]
        path = folder / "1-converted.jsonl"
        tallies = [convert(inputs, path)]
        if args.dry_run:  # what the later stages ask is estimated from records that are not yet complete
            print("\n".join(preview_of(job, path, args.dry_run) for job, _ in jobs if job.endpoint))
            return
        for job, name in jobs:
            if tallies[-1].total("rows out"):
                tallies.append(perform(job, path, folder / name, args.workers))
                path = folder / name
        if tallies[-1].total("rows out"):
            tallies.append(unified(args, [path], evaluation))
        report(tallies, folder)
        finish(tallies, [endpoint for endpoint in (writer, second) if endpoint])
    if not tallies[-1].total(unify.TRAIN):
        raise cli.UserError(f"{folder}: no row is left to train on; {folder / 'report.txt'} says why")


def report(tallies: list[Tally], folder: Path) -> None:
    """Print the table, and write it and its numbers."""
    counts: dict = {tally.stage: {} for tally in tallies}
    for tally in tallies:
        for (dataset, what), number in sorted(tally.counts.items()):
            counts[tally.stage].setdefault(dataset, {})[what] = number
    text = table(tallies)
    for name, content in (("report.txt", text), ("report.json", json.dumps(counts, indent=1) + "\n")):
        cli.write_whole(folder / name, lambda path, content=content: path.write_text(content, "utf-8"))
    print(text, end="")


def open_endpoint(
    args: argparse.Namespace, prefix: str, journal: Journal, stack: ExitStack
) -> Endpoint | None:
    """The endpoint that flags with this prefix describe; None where the model is ''. Raises UserError."""
    flags = {
        name.removeprefix(prefix): value for name, value in vars(args).items() if name.startswith(prefix)
    }
    if not flags["model"]:
        return None
    prices = (flags["price_in"], flags["price_out"])
    options = {"max_tokens": args.max_tokens, "workers": args.workers, "rate": args.rate, "tries": args.tries}
    options["temperature"] = flags["temperature"]
    options |= {"backoff": args.backoff, "read": args.timeout, "total": args.timeout}
    options |= {"prices": prices if any(prices) else None}
    key = read_key(flags["key_variable"])
    return stack.enter_context(Endpoint(flags["base_url"], flags["model"], journal, key, **options))


def apart(output: Path, inputs: list[Path]) -> None:
    """Raises UserError for an output that is a folder or one of the inputs."""
    if output.is_dir():
        raise cli.UserError(f"--output {output} is a folder; name a file")
    if output.resolve() in [path.resolve() for path in inputs]:
        raise cli.UserError(f"{output} is to be written, but is one of the inputs; choose another --output")


def files_of(source: str, path: Path) -> list[tuple[str, Path, str]]:
    """The file; of a folder (ToolBench's answer trees are one file each) all below, named as seen from it."""
    if not path.is_dir():
        return [(source, path, path.name)]
    found = [(source, file, str(file.relative_to(path))) for file in sorted(path.rglob("*.json*"))]
    if not found:
        raise cli.UserError(f"{path}: holds no .json or .jsonl file; name the data set's file or folder")
    return found


def decisions_of(reviewed: Path) -> Path:
    """review.jsonl -> decisions.jsonl, verified.review.jsonl -> verified.decisions.jsonl"""
    if "review" not in reviewed.name:
        raise cli.UserError(f"{reviewed}: wanted review.jsonl of run, or OUT.review.jsonl of verify")
    return reviewed.with_name(reviewed.name.replace("review", "decisions"))


# ---- flags ----

WRITER = ("https://api.openai.com/v1", "gpt-4o", "OPENAI_API_KEY")
SECOND = ("https://api.deepseek.com/v1", "deepseek-chat", "DEEPSEEK_API_KEY")
NO_TEXTS, NO_MODEL = "'': none, rows that lack a text are set aside", "'': none, rules alone"
ABOUT = {
    "convert": "A public data set in its own form -> records, by rules alone.",
    "complete": "Thoughts and summaries that records lack are asked of a model; nothing else is changed.",
    "judge": "A second model scores trajectories and their steps; those with low scores are set aside.",
    "verify": (
        "Calls are held against the tools on offer and their schemas, by running them, and against the calls "
        "that a second model makes. Where these differ, records wait in OUT.review.jsonl for `review`."
    ),
    "review": "A person accepts, edits or drops what `verify` put in doubt; `verify` or `run` merges that.",
    "unify": "Records -> DIR/train.jsonl, DIR/heldout.jsonl: no repetitions, split by function names.",
    "run": "All stages: public data sets -> DIR/train.jsonl, DIR/heldout.jsonl, DIR/report.txt.",
}


def source_and_file(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path or name not in SOURCES:
        wanted = f"SOURCE=FILE, SOURCE one of {', '.join(SOURCES)}"
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")
    return name, Path(path)


def add_model(
    parser: argparse.ArgumentParser, title: str, prefix: str, defaults: tuple, without: str
) -> None:
    """without: what happens with an empty name."""
    add = parser.add_argument_group(title).add_argument
    price = {"type": cli.number(float, 0), "default": 0.0, "metavar": "P"}
    add(f"--{prefix}base-url", default=defaults[0], metavar="URL", help="of an OpenAI-compatible server")
    add(f"--{prefix}model", default=defaults[1], metavar="NAME", help=f"its name there; {without}")
    help = "environment variable that holds the key; may be unset for a server that wants none"
    add(f"--{prefix}key-variable", default=defaults[2], metavar="VAR", help=help)
    help = "for some models it must be 1"
    add(f"--{prefix}temperature", type=cli.number(float, 0, 2), default=0.0, metavar="T", help=help)
    add(f"--{prefix}price-in", **price, help="of a million tokens of prompts, to tell the cost")
    add(f"--{prefix}price-out", **price, help="of a million tokens of answers")


def add_asking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("asking").add_argument
    help = "show the first N prompts and what it would cost, ask nothing; 0: go on"
    add("--dry-run", type=cli.number(int, 0), default=0, metavar="N", help=help)
    add("--workers", type=cli.number(int, 1), default=16, metavar="N", help="rows at once")
    add("--rate", type=cli.number(float, 0), default=0.0, metavar="R", help="requests a minute; 0: no limit")
    add("--timeout", type=cli.number(float, 0.01), default=180.0, metavar="S", help="of one try, in seconds")
    help = "of a request that fails for a time (429, 5xx, no reply)"
    add("--tries", type=cli.number(int, 1), default=8, metavar="N", help=help)
    help = "before the second try, in seconds; doubled before each further one"
    add("--backoff", type=cli.number(float, 0), default=1.0, metavar="S", help=help)
    add("--max-tokens", type=cli.number(int, 1), default=4096, metavar="N", help="of one answer")
    help = "answers so far, JSON Lines; without it, a file beside the output"
    add("--journal", type=Path, metavar="FILE", help=help)


def add_judging(parser: argparse.ArgumentParser) -> None:
    add, score = parser.add_argument_group("judging").add_argument, cli.number(int, 1, 10)
    help = "score of a trajectory, 1 to 10, under which it is set aside"
    add("--min-overall", type=score, metavar="S", default=7, help=help)
    add("--min-step", type=score, metavar="S", default=6, help="score of each thought and summary, likewise")


def add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running calls and code").add_argument
    add("--tools", metavar="FILE", help="schemas of functions that can be run, as agent.py takes them")
    add("--responses", metavar="FILE", help="recorded results of these functions, likewise")
    flag = {"action": "store_true", "default": False}
    add("--python", **flag, help="run the code of maths rows, in a sandbox")
    add("--unsafe-python", **flag, help="run it even where bubblewrap is not installed")


def add_splitting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("splitting").add_argument
    help = "files or folders of BFCL, GSM8K, MATH, StableToolBench, whose questions must not occur"
    add("--evaluation", type=Path, nargs="+", default=[], metavar="PATH", help=help)
    help = "of BFCL's functions, those that must not occur by name: of its executable sets, all, none"
    add("--evaluation-names", choices=unify.NAMES, default="executable", help=help)
    help = "share of function names, and of rows without functions, that are held out"
    add("--held-out", type=cli.number(float, 0, 1), default=0.02, metavar="X", help=help)
    add("--seed", type=int, default=0, metavar="N", help="of the order and the split")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(prog="pipeline.py", description=__doc__)
    parsers = parser.add_subparsers(title="stages", dest="stage", required=True, metavar="STAGE")
    stages = {}
    for name, about in ABOUT.items():
        options = {"help": about, "description": about, "argument_default": argparse.SUPPRESS}
        stages[name] = parsers.add_parser(name, **options)
        stages[name].set_defaults(command=COMMANDS.get(name, asking_command))
    add = stages["convert"].add_argument
    add("files", type=Path, nargs="+", metavar="FILE", help="as published; of a folder, all in it")
    add("--source", required=True, choices=SOURCES, help="the form they are in")
    help = f"a data set's file or folder; SOURCE is one of {', '.join(SOURCES)}"
    stages["run"].add_argument("inputs", type=source_and_file, nargs="+", metavar="SOURCE=FILE", help=help)
    help = "review.jsonl of run, OUT.review.jsonl of verify"
    stages["review"].add_argument("file", type=Path, metavar="FILE", help=help)
    stages["unify"].add_argument("files", type=Path, nargs="+", metavar="FILE", help="records, JSON Lines")
    for name in ("complete", "judge", "verify"):
        stages[name].add_argument("file", type=Path, metavar="FILE", help="records, JSON Lines")
    for name in ("convert", "complete", "judge", "verify"):
        add = stages[name].add_argument
        add("--output", type=Path, required=True, metavar="OUT", help="JSON Lines file to write")
    for name in ("unify", "run"):
        add = stages[name].add_argument
        add("--output", type=Path, required=True, metavar="DIR", help="folder to write")
    for name in ("complete", "run"):
        add_model(stages[name], "the model that completes", "", WRITER, NO_TEXTS)
    add_model(stages["judge"], "the second model", "", SECOND, "there must be one")
    add_model(stages["verify"], "the second model", "", SECOND, NO_MODEL)
    add_model(stages["run"], "the second model, which judges and verifies", "judge-", SECOND, NO_MODEL)
    takers = {
        "complete": [add_asking],
        "judge": [add_asking, add_judging],
        "verify": [add_asking, add_running],
    }
    takers |= {"unify": [add_splitting], "run": [add_asking, add_judging, add_running, add_splitting]}
    for name, adders in takers.items():
        for adder in adders:
            adder(stages[name])
    absent = argparse.Namespace(journal=None, tools=None, responses=None)  # else --help shows None
    args = parser.parse_args(argv, absent)
    if args.stage == "judge" and not args.model:
        parser.error("judge: got no --model; wanted the name of one")
    if args.responses and not args.tools:
        parser.error("--responses: got no --tools; wanted the schemas of the recorded functions")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    args.command(args)


COMMANDS = {"convert": convert_command, "review": review_command, "unify": unify_command, "run": run_command}

if __name__ == "__main__":
    sys.exit(cli.run(main))
