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
import os
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cli
import data
from sources.catalogue import SOURCES
from stages import answers, complete, judge, review, rules, unify, verify
from stages.convert import convert
from stages.endpoints import DEEPSEEK, OPENAI, add_asking, add_model, open_endpoint
from stages.preview import Requests, preview
from stages.process import HELD_OUT, TRAIN, Results, Tally, beside, finish, process, read_items, table
from tools.endpoint import Endpoint
from tools.journal import Journal
from tools.mock import Tools, read_responses, read_tools
from tools.sandbox import Sandbox

CONVERTED, COMPLETED, JUDGED = "1-converted.jsonl", "2-completed.jsonl", "3-judged.jsonl"  # in run's folder
VERIFIED, REVIEW = "4-verified.jsonl", "review.jsonl"
TEMPORARY = re.compile(
    r"\.([1-4]-\w+(\.refused)?|review|train|heldout|unify\.(refused|near))\.jsonl(\.\d+)?\.tmp"
)


# ---- commands ----


def run_command(args: argparse.Namespace) -> None:
    """All stages. What an earlier run did is done again, except for asking: so nothing can be out of date."""
    folder = args.output
    inputs = [found for source, path in args.inputs for found in files_of(source, path)]
    evaluation = unify.read_evaluation(args.evaluation)  # its faults come before anything is made
    for source, path, _ in inputs:  # and so do theirs
        next(iter(SOURCES[source].read(path)), None)
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(args.journal or folder / "journal.jsonl"))
        remove_temporaries(folder)  # nobody else has the journal: they are of a run that was killed
        writer = None if args.rules else open_endpoint(args, "", journal, stack)
        second = open_endpoint(args, "judge_", journal, stack)
        jobs = [(complete_job(args, writer), folder / COMPLETED)]
        if second:
            jobs.append((judge_job(args, second), folder / JUDGED))
        jobs.append((verify_job(args, second, folder / REVIEW), folder / VERIFIED))
        tallies = [convert(inputs, folder / CONVERTED, args.give_ups)]
        if args.dry_run:  # what the later stages ask is estimated from records that are not yet complete
            for job, _ in jobs:
                if job.endpoint:
                    print(preview(job.stage, job.requests, job.endpoint, folder / CONVERTED, args.dry_run))
            return
        tallies += perform_all(jobs, folder / CONVERTED, args.workers)
        if tallies[-1].total("rows out"):
            tallies.append(unified(args, [folder / VERIFIED], evaluation))
        report(tallies, folder)
        finish(tallies, [endpoint for endpoint in (writer, second) if endpoint])
    if not tallies[-1].total(TRAIN):
        raise cli.UserError(f"{folder}: no row is left to train on; {folder / 'report.txt'} says why")


def convert_command(args: argparse.Namespace) -> None:
    """Rows of files of one form -> OUT."""
    apart(args.output, args.files)
    inputs = [found for path in args.files for found in files_of(args.source, path)]
    tally = convert(inputs, args.output, args.give_ups)
    print(table([tally]), end="")


def complete_command(args: argparse.Namespace) -> None:
    ask_about_records(args, partial(complete_job, args))


def judge_command(args: argparse.Namespace) -> None:
    if not args.model:
        raise cli.UserError("judge: got no --model; wanted the name of one")
    ask_about_records(args, partial(judge_job, args))


def verify_command(args: argparse.Namespace) -> None:
    ask_about_records(args, partial(verify_job, args, reviewed=beside(args.output, "review")))


def ask_about_records(args: argparse.Namespace, job_of: Callable[[Endpoint | None], "Job"]) -> None:
    """A stage that may ask, alone."""
    apart(args.output, [args.file, args.journal] if args.journal else [args.file])
    next(read_items(args.file))  # its faults come before anything is made
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(args.journal or beside(args.output, "journal")))
        endpoint = None if args.rules else open_endpoint(args, "", journal, stack)
        job = job_of(endpoint)
        if args.dry_run and not endpoint:
            print("no model is asked")
        elif args.dry_run:
            print(preview(job.stage, job.requests, endpoint, args.file, args.dry_run))
        else:
            tally = perform(job, args.file, args.output, args.workers)
            print(table([tally]), end="")
            finish([tally], [endpoint] if endpoint else [])


def review_command(args: argparse.Namespace) -> None:
    """Ask a person about the rows of a review file."""
    with open(0, errors="replace", closefd=False) as stdin:  # a key that is no UTF-8 ends no review
        review.review(args.file, decisions_of(args.file), stdin)


def unify_command(args: argparse.Namespace) -> None:
    """Files of records -> train.jsonl, heldout.jsonl in DIR."""
    for name in (TRAIN, HELD_OUT, unify.ASIDE, unify.NEAR):
        apart(args.output / f"{name}.jsonl", args.files)
    tally = unified(args, args.files, unify.read_evaluation(args.evaluation))
    print(table([tally]), end="")


def unified(args: argparse.Namespace, paths: list[Path], evaluation: unify.Evaluation) -> Tally:
    split = (args.seed, args.held_out, args.evaluation_names, args.sample, args.per_source)
    return unify.unify(paths, args.output, evaluation, *split)


# ---- stages that may ask ----


class Job(NamedTuple):
    """What a stage does with each record of a file."""

    stage: str
    step: Callable[[dict], Results]
    requests: Requests  # what it asks about a record, for a preview
    endpoint: Endpoint | None
    others: dict[str, Path] = {}  # further files, as `process` takes them


def complete_job(args: argparse.Namespace, endpoint: Endpoint | None) -> Job:
    if args.rules:
        return Job("complete", rules.fill_row, complete.requests, None)
    step = partial(complete.complete_row, **asking(endpoint))
    return Job("complete", step, complete.requests, endpoint)


def judge_job(args: argparse.Namespace, endpoint: Endpoint) -> Job:
    step = partial(judge.judge_row, **asking(endpoint), overall=args.min_overall, step=args.min_step)
    return Job("judge", step, judge.requests, endpoint)


def verify_job(args: argparse.Namespace, endpoint: Endpoint | None, reviewed: Path) -> Job:
    """reviewed: the file of rows that wait for a person. Raises UserError."""
    environment, references = read_environment(args), answers.read_references(args.references)
    step = partial(
        verify.verify_row,
        **asking(endpoint),
        decisions=review.read_decisions(decisions_of(reviewed)),
        environment=environment,
        python=python_of(args),
        references=references,
    )
    requests = partial(verify.requests, environment=environment, references=references)
    return Job("verify", step, requests, endpoint, {"review": reviewed})


def asking(endpoint: Endpoint | None) -> dict:
    """What steps take of an endpoint."""
    return {"ask": endpoint.ask, "model": endpoint.model} if endpoint else {"ask": None, "model": ""}


def read_environment(args: argparse.Namespace) -> Tools | None:
    """The functions that can be run. Raises UserError."""
    if not args.tools:
        return None
    responses = read_responses(args.responses) if args.responses else []
    return Tools(read_tools(args.tools), responses=responses)


def python_of(args: argparse.Namespace) -> Callable[[], Sandbox] | None:
    """What makes a sandbox. Raises UserError where there can be none, before anything is asked."""
    if not args.python and not args.unsafe_python:
        return None
    python = partial(Sandbox, wall=10, unsafe=args.unsafe_python)
    with python():
        return python


def perform(job: Job, path: Path, output: Path, workers: int) -> Tally:
    """Tell the estimate, then do the job on the records of a file. Raises UserError."""
    total = sum(1 for _ in data.numbered_lines(path))
    if job.endpoint:
        print(preview(job.stage, job.requests, job.endpoint, path), flush=True)
    else:
        workers = 0
    return process(job.stage, read_items(path), job.step, output, total, workers, **job.others)


def perform_all(jobs: list[tuple[Job, Path]], path: Path, workers: int) -> list[Tally]:
    """One job after the other, on what the one before it has left, as long as that is anything."""
    tallies = []
    for job, output in jobs:
        tallies.append(perform(job, path, output, workers))
        path = output
        if not tallies[-1].total("rows out"):
            break
    return tallies


# ---- files ----


def report(tallies: list[Tally], folder: Path) -> None:
    """Print the table, and write it and its numbers."""
    counts: dict = {tally.stage: {} for tally in tallies}
    for tally in tallies:
        for (dataset, what), number in sorted(tally.counts.items()):
            counts[tally.stage].setdefault(dataset, {})[what] = number
    text, numbers = table(tallies), json.dumps(counts, indent=1) + "\n"
    cli.write_whole(folder / "report.txt", lambda path: path.write_text(text, "utf-8"))
    cli.write_whole(folder / "report.json", lambda path: path.write_text(numbers, "utf-8"))
    print(text, end="")


def remove_temporaries(folder: Path) -> None:
    """Remove the unfinished files of a run."""
    for left in folder.glob(".*.jsonl*.tmp"):
        if TEMPORARY.fullmatch(left.name):
            left.unlink()


def apart(output: Path, inputs: list[Path]) -> None:
    """Raises UserError for an output that is a folder or one of the inputs."""
    if output.is_dir():
        raise cli.UserError(f"--output {output} is a folder; name a file")
    if os.path.realpath(output) in map(os.path.realpath, inputs):  # resolve() raises for a loop of links
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

NO_TEXTS, NO_MODEL = "'': none, rows that lack a text are set aside", "'': none, rules alone"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.ArgumentParser(prog="pipeline.py", description=__doc__)
    stages = parser.add_subparsers(title="stages", dest="stage", required=True, metavar="STAGE")

    about = "A public data set in its own form -> records, by rules alone."
    stage = add_stage(stages, "convert", convert_command, about)
    help = "as published; of a folder, all in it"
    stage.add_argument("files", type=Path, nargs="+", metavar="FILE", help=help)
    stage.add_argument("--source", required=True, choices=SOURCES, help="the form they are in")
    add_give_ups(stage)
    add_output_file(stage)

    about = "Thoughts and summaries that records lack are asked of a model; nothing else is changed."
    stage = add_stage(stages, "complete", complete_command, about)
    add_records(stage)
    add_output_file(stage)
    add_rules(stage)
    add_model(stage, "the model that completes", "", OPENAI, NO_TEXTS)
    add_asking(stage)

    about = "A second model scores trajectories and their steps; those with low scores are set aside."
    stage = add_stage(stages, "judge", judge_command, about)
    add_records(stage)
    add_output_file(stage)
    add_model(stage, "the second model", "", DEEPSEEK, "there must be one")
    add_asking(stage)
    add_judging(stage)

    about = (
        "Calls are held against the tools on offer and their schemas, by running them, and against the calls "
        "that a second model makes. Where these differ, records wait in OUT.review.jsonl for `review`."
    )
    stage = add_stage(stages, "verify", verify_command, about)
    add_records(stage)
    add_output_file(stage)
    add_model(stage, "the second model", "", DEEPSEEK, NO_MODEL)
    add_asking(stage)
    add_running(stage)

    about = "A person accepts, edits or drops what `verify` put in doubt; `verify` or `run` merges that."
    stage = add_stage(stages, "review", review_command, about)
    help = "review.jsonl of run, OUT.review.jsonl of verify"
    stage.add_argument("file", type=Path, metavar="FILE", help=help)

    about = "Records -> DIR/train.jsonl, DIR/heldout.jsonl: no repetitions, split by function names."
    stage = add_stage(stages, "unify", unify_command, about)
    stage.add_argument("files", type=Path, nargs="+", metavar="FILE", help="records, JSON Lines")
    add_output_folder(stage)
    add_splitting(stage)

    about = "All stages: public data sets -> DIR/train.jsonl, DIR/heldout.jsonl, DIR/report.txt."
    stage = add_stage(stages, "run", run_command, about)
    help = f"a data set's file or folder; SOURCE is one of {', '.join(SOURCES)}"
    stage.add_argument("inputs", type=source_and_file, nargs="+", metavar="SOURCE=FILE", help=help)
    add_give_ups(stage)
    add_output_folder(stage)
    add_rules(stage)
    add_model(stage, "the model that completes", "", OPENAI, NO_TEXTS)
    add_model(stage, "the second model, which judges and verifies", "judge-", DEEPSEEK, NO_MODEL)
    add_asking(stage)
    add_judging(stage)
    add_running(stage)
    add_splitting(stage)

    absent = argparse.Namespace(journal=None, tools=None, responses=None, sample=0, per_source=False)
    absent.rules = False
    args = parser.parse_args(argv, absent)
    if args.responses and not args.tools:
        parser.error("--responses: got no --tools; wanted the schemas of the recorded functions")
    if args.per_source and not args.sample:
        parser.error("--per-source: got no --sample; wanted the number of rows of each data set")
    return args


def add_stage(stages: Any, name: str, command: Callable, about: str) -> cli.ArgumentParser:
    """stages: what add_subparsers gives. command: takes the parsed arguments."""
    stage = stages.add_parser(name, help=about, description=about, argument_default=argparse.SUPPRESS)
    stage.set_defaults(command=command)
    return stage


def source_and_file(text: str) -> tuple[str, Path]:
    """An argparse type: SOURCE=FILE."""
    name, _, path = text.partition("=")
    if not path or name not in SOURCES:
        wanted = f"SOURCE=FILE, SOURCE one of {', '.join(SOURCES)}"
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")
    return name, Path(path)


def add_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="records, JSON Lines")


def add_give_ups(parser: argparse.ArgumentParser) -> None:
    help = "ToolBench's runs that gave up: kept, their summarizer says so, or refused"
    parser.add_argument("--give-ups", choices=("keep", "refuse"), default="refuse", help=help)


def add_output_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="OUT", help="JSON Lines file to write")


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write")


def add_rules(parser: argparse.ArgumentParser) -> None:
    help = "fill missing thoughts and summaries by templates; no model is asked for them (English alone)"
    parser.add_argument("--rules", action="store_true", default=False, help=help)


def add_judging(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("judging").add_argument
    score = cli.number(int, 1, 10)
    help = "score of a trajectory, 1 to 10, under which it is set aside"
    add("--min-overall", type=score, metavar="S", default=7, help=help)
    help = "score of each thought and summary, likewise"
    add("--min-step", type=score, metavar="S", default=6, help=help)


def add_running(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("running calls and code").add_argument
    add("--tools", metavar="FILE", help="schemas of functions that can be run, as agent.py takes them")
    add("--responses", metavar="FILE", help="recorded results of these functions, likewise")
    help = "run the code of maths rows, in a sandbox"
    add("--python", action="store_true", default=False, help=help)
    help = "GSM8K's and MATH's files, whose answers maths rows have to give; else the second model's count"
    add("--references", type=Path, nargs="+", default=[], metavar="PATH", help=help)
    help = "run it even where bubblewrap is not installed"
    add("--unsafe-python", action="store_true", default=False, help=help)


def add_splitting(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("splitting").add_argument
    help = "files or folders of BFCL, GSM8K, MATH, StableToolBench, whose questions must not occur"
    add("--evaluation", type=Path, nargs="+", default=[], metavar="PATH", help=help)
    help = "of BFCL's functions, those that must not occur by name: of its executable sets, all, none"
    add("--evaluation-names", choices=unify.NAMES, default="executable", help=help)
    help = "share of function names, and of rows without functions, that are held out"
    add("--held-out", type=cli.number(float, 0, 1), default=0.02, metavar="X", help=help)
    help = "the most rows of train.jsonl, chosen by --seed; a smaller sample is part of a larger; 0: all"
    add("--sample", type=cli.number(int, 0), default=0, metavar="N", help=help)
    help = "--sample counts the rows of each data set by itself"
    add("--per-source", action="store_true", default=False, help=help)
    add("--seed", type=int, default=0, metavar="N", help="of the order, the split and the sample")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")
    args.command(args)


if __name__ == "__main__":
    sys.exit(cli.run(main))
