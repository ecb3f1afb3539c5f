"""Run what a study still lacks: training, evaluation, and a small result file for each run.

    python -m evidence.study tiny                     hours on two cores; goes on where it was stopped
    python -m evidence.study smollm2 --model DIR --single FILE --irrelevant FILE --bfcl PATH
    python -m evidence.study maths --model DIR --data FILE       Qwen2.5-Coder-1.5B's Instruct sibling, GSM8K
    python -m evidence.study tiny --dry-run           the runs that are missing, and the time they may take
    python -m evidence.study tiny --only "Table 4"    of one table, or of names and methods with this text
    python -m evidence.report                         docs/evidence.md, from the result files alone

A result file, evidence/results/STUDY/RUN.json, holds settings, versions, the course of the training, and for
each file of questions the sums of the losses and the verdict on every question; no weights. Runs with a
result are left out, so two machines share the work when their result files are put together. What a run
needs while it lasts is in --work, and may be deleted when the study is done.

plan.py says which runs there are, and what was decided before the first one.
"""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from argparse import Namespace
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from tqdm import tqdm

from cli import ArgumentParser, UserError, number, read_object, run, write_whole
from evidence.plan import Run, plan
from evidence.similarity import similarity_of
from mor import ROLES
from tiny import sample, world

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "evidence" / "results"
POINTS = 40  # of the course of a training
CATEGORIES = (  # of BFCL: a sample of what calls for Python functions, and of what calls for none
    *("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_multiple"),
    *("irrelevance", "live_irrelevance"),
)
COUNTS = ("reasoner_turns", "next_role", "executor_turns", "exact", "exact_own")

# ---- what the runs of a study share ----

TRAINING = {  # flags of train.py that all runs of a study have
    "tiny": "",
    "smoke": "--steps 3",
    "smollm2": "--dtype bfloat16 --tokens-per-batch 2048 --grad-accum 1 --max-length 1024 --warmup 0.05"
    " --save-every 30 --eval-limit 1",
    "maths": "",
}
EVALUATION = {  # suite of evaluate.py, files of questions, flags
    "tiny": ("roles", ("unseen", "seen"), ""),
    "smoke": ("roles", ("unseen", "seen"), "--limit 2"),
    "smollm2": ("bfcl", ("bfcl",), "--limit 75 --dtype bfloat16 --categories " + " ".join(CATEGORIES)),
    "maths": ("math", ("maths",), "--limit 100 --python --dtype bfloat16"),
}


def prepare(args: Namespace) -> None:
    """The files of a study, in --work. Raises UserError."""
    args.work.mkdir(parents=True, exist_ok=True)
    if args.study == "smollm2":
        prepare_mix(args)
    elif args.study == "maths":
        if not (args.model and args.data):
            raise UserError("maths: got no --model or no --data; wanted the model's folder, GSM8K's file")
    else:
        prepare_tiny(args.study, args.work)


def prepare_tiny(study: str, work: Path) -> None:
    """The bundled files for training and development, new ones for the test."""
    lines = (ROOT / "bfcl.jsonl").read_bytes().splitlines(keepends=True)
    (work / "train.jsonl").write_bytes(b"".join(lines[:50] if study == "smoke" else lines))
    (work / "dev-unseen.jsonl").write_bytes((ROOT / "bfcl_heldout.jsonl").read_bytes())
    (work / "dev-seen.jsonl").write_bytes((ROOT / "bfcl_seen.jsonl").read_bytes())
    asked = set()
    for name in ("bfcl.jsonl", "bfcl_heldout.jsonl", "bfcl_seen.jsonl"):
        for line in (ROOT / name).read_text("utf-8").splitlines():
            asked |= {turn["content"] for turn in json.loads(line)["trajectory"] if turn["role"] == "user"}
    chance = Random("evidence")
    for kind, count in (("unseen", 300), ("seen", 100)):
        functions = [f for f in world.all_functions() if world.held_out(f.thing) == (kind == "unseen")]
        sample.write(work / f"test-{kind}.jsonl", sample.new_records(chance, functions, count, asked))


def prepare_mix(args: Namespace) -> None:
    """Of --single and --irrelevant three to one, shuffled; 150 records are for development. Raises UserError.

    Thoughts and summaries that are missing are filled in by rules. Rows with a question or a function of BFCL
    are left out.
    """
    if not (args.model and args.bfcl):
        raise UserError("smollm2: got no --model or no --bfcl; wanted the model's folder, BFCL's questions")
    if (args.work / "train.jsonl").exists():
        return
    parts = []
    for name, path, count in (("single", args.single, 4500), ("irrelevant", args.irrelevant, 1500)):
        if not path:
            raise UserError(f"smollm2: got no --{name}; wanted a file of trajectories")
        done, clean = args.work / f"{name}.jsonl", args.work / name
        pipeline = [sys.executable, "pipeline.py"]
        fill = [*pipeline, "complete", "--rules", str(path.resolve()), "--output", str(done)]
        against = ["--evaluation", args.bfcl, "--evaluation-names", "all"]
        sift = [*pipeline, "unify", str(done), "--output", str(clean), "--held-out", "0", *against]
        for command in (fill, sift):
            if fault := call(command, args.work / "log.txt", 1):
                raise UserError(f"{path}: {fault}")
        lines = (clean / "train.jsonl").read_bytes().splitlines(keepends=True)
        parts += Random(name).sample(lines, min(count, len(lines)))
    Random("mix").shuffle(parts)
    (args.work / "dev.jsonl").write_bytes(b"".join(parts[:150]))
    # whole, as the next start takes it for the sign that all is there
    write_whole(args.work / "train.jsonl", lambda path: path.write_bytes(b"".join(parts[150:])))


def train_command(one: Run, args: Namespace) -> list[str]:
    """That trains a run, or goes on with it."""
    output = args.work / one.name
    flags = shlex.split(f"{TRAINING[args.study]} {one.flags} --lr {one.lr:g} --seed {one.seed}")
    files = ["--data", str(args.work / "train.jsonl"), "--output", str(output)]
    if args.model:
        files += ["--model", str(args.model), "--eval-data", f"dev:{args.work / 'dev.jsonl'}"]
    resume = ["--resume"] if (output / "training_state.safetensors").exists() else []
    return [sys.executable, "train.py", *files, *flags, *resume]


def evaluate_command(one: Run, args: Namespace, questions: str) -> list[str]:
    """That answers a file of questions."""
    output = args.work / one.name
    suite, _, flags = EVALUATION[args.study]
    model, adapter = args.model, str(output)
    if "full" in one.flags:
        model, adapter = output, ""
    elif one.method == "base":
        adapter = ""
    data = args.work / f"{questions}.jsonl"
    if suite == "bfcl":
        data = args.bfcl
    elif suite == "math":
        data = args.data
    files = ["--data", str(data), "--output", str(output / f"{questions}.jsonl"), "--adapter", adapter]
    if model:
        files += ["--model", str(model)]
    return [sys.executable, "evaluate.py", suite, *files, *flags.split()]


# ---- one run ----


def perform(one: Run, args: Namespace, threads: int) -> dict:
    """Train and evaluate; the result. A training that diverges is a result as well. Raises UserError."""
    output, started = args.work / one.name, time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    result = {"study": args.study, "method": one.method, "flags": one.flags, "lr": one.lr, "seed": one.seed}
    result |= {"tested_on": one.tested_on, "versions": versions(threads)}
    if one.method != "base":
        fault = call(train_command(one, args), output / "log.txt", threads)
        if "wanted finite numbers" in fault:
            return result | {"failed": fault}
        if fault:
            raise UserError(f"{one.name}: {fault}; {output / 'log.txt'} has more")
        result["trained_parameters"] = trained_parameters(output)
        result |= course(output / "metrics.jsonl")
    trained = time.perf_counter()
    suite, files, _ = EVALUATION[args.study]
    answers = {}
    if suite == "roles" or one.tested_on == "test":
        for name in files:
            questions = f"{one.tested_on}-{name}" if suite == "roles" else name
            if fault := call(evaluate_command(one, args, questions), output / "log.txt", threads):
                raise UserError(f"{one.name}: {fault}; {output / 'log.txt'} has more")
            condense = condensed if suite == "roles" else verdicts
            answers[questions] = condense(output / f"{questions}.jsonl")
    done = time.perf_counter()
    result["seconds"] = {"train": round(trained - started), "evaluate": round(done - trained)}
    result["files"] = answers
    if one.method.startswith("MoR") or "router" in one.method:
        result["similarity"] = similarity_of(output)
    return result


def versions(threads: int) -> dict:
    """What else decides a result, in its last digits."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": machine(),
        "threads": threads,
    }


def call(command: list[str], log: Path, threads: int) -> str:
    """Run a command of this project, its output added to a log; "" or the last line, which is the fault."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with open(log, "ab") as file:
        code = subprocess.run(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        ).returncode
    if code == 0:
        return ""
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {code}"


def machine() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def trained_parameters(output: Path) -> int:
    """The numbers in the adapter or, after full fine-tuning, in the model."""
    adapter = output / "adapter_model.safetensors"
    with safe_open(adapter if adapter.exists() else output / "model.safetensors", "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())


def course(metrics: Path) -> dict:
    """The training in POINTS parts, each the mean over its steps; what it took in all."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    size = max(1, len(steps) // POINTS)
    parts = [steps[i : i + size] for i in range(0, len(steps), size)]
    last = steps[-size:]
    held_out = [line["eval"]["loss"] for line in lines if "eval" in line]
    loads = {}
    for role in ROLES:
        seen = [line[f"load_{role}"] for line in last if line.get(f"load_{role}")]
        loads[role] = [round(sum(column) / len(seen), 4) for column in zip(*seen, strict=True)]
    return {
        "steps": len(steps),
        "tokens": sum(line["tokens"] for line in steps),
        "supervised_tokens": sum(line["supervised_tokens"] for line in steps),
        "peak_memory_bytes": max(line["peak_memory_bytes"] for line in steps),
        "course": {
            "step": [part[-1]["step"] for part in parts],
            **{
                name: [round(sum(line[name] for line in part) / len(part), 5) for part in parts]
                for name in ("ce", "balance", "orthogonal", "grad_norm")
            },
        },
        "load": loads,
        **({"dev_loss": held_out[-1]} if held_out else {}),
    }


def condensed(path: Path) -> dict:
    """Of a result file of `evaluate.py roles`: sums of losses, nearness, and the counts of each record."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
    sums = torch.tensor([line["sums"] for line in lines], dtype=torch.float64).sum(dim=0)
    near = {role: [] for role in ROLES}
    for line in lines:
        for turn, value in zip(line["turns"], line["levenshtein"], strict=True):
            near[turn["role"]].append(value)
    return {
        "sums": [[round(value, 3) for value in row] for row in sums.tolist()],
        "levenshtein": {role: [round(sum(values), 3), len(values)] for role, values in near.items()},
        **{name: [line["counts"].get(name, 0) for line in lines] for name in COUNTS},
    }


def verdicts(path: Path) -> dict:
    """Of a result file of bfcl or math: for each category, which questions are right; None: not run."""
    found: dict[str, list[bool | None]] = {}
    for line in map(json.loads, path.read_text("utf-8").splitlines()[1:]):
        found.setdefault(line["category"], []).append(line["valid"])
    return found


# ---- all runs ----


def read_results(study: str) -> dict[str, dict]:
    """The results at hand, by the name of their run. Raises UserError."""
    files = sorted((RESULTS / study).glob("*.json"))
    return {file.stem: read_object(file, "a result of this command") for file in files}


def write_result(result: dict, path: Path) -> None:
    """A line for each entry, so that a change shows in a comparison of two versions."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in result.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def missing(study: str, only: str) -> list[Run]:
    """The runs without a result, in the order in which they are wanted, each once."""
    results = read_results(study)
    runs = {one.name: one for one in plan(study, results) if one.name not in results}
    return [one for one in runs.values() if only.lower() in f"{one.table} {one.method} {one.name}".lower()]


def work_off(args: Namespace) -> None:
    """Run all that is missing, --jobs at once. What a result adds to the plan is run as well."""
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    begun: dict[Future, Run] = {}
    with ThreadPoolExecutor(args.jobs) as pool, tqdm(unit="run", disable=None) as bar:
        while True:
            names = {one.name for one in begun.values()}
            todo = [one for one in missing(args.study, args.only) if one.name not in names]
            bar.total = bar.n + len(begun) + len(todo)
            for one in todo[: args.jobs - len(begun)]:
                print(f"{one.table}: {one.name}", file=sys.stderr)
                begun[pool.submit(perform, one, args, threads)] = one
            if not begun:
                return
            done, _ = wait(begun, return_when=FIRST_COMPLETED)
            for future in done:
                one = begun.pop(future)
                write_result(future.result(), RESULTS / args.study / f"{one.name}.json")
                bar.update()


def tell(args: Namespace) -> None:
    """The missing runs and, from those that are done, the hours they may take."""
    todo, done = missing(args.study, args.only), read_results(args.study).values()
    for one in todo:
        print(f"{one.table:<8}  {one.method}, seed {one.seed}: {one.flags} --lr {one.lr:g}")
    seconds = [sum(result["seconds"].values()) for result in done if "seconds" in result]
    hours = (
        f"{sum(seconds) / len(seconds) * len(todo) / args.jobs / 3600:.1f} hours" if seconds else "unknown"
    )
    print(f"{len(done)} runs done, {len(todo)} known to be missing: {hours} with --jobs {args.jobs}")


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m evidence.study", description=__doc__)
    add = parser.add_argument
    add("study", choices=[*TRAINING], help="smoke: two runs of three steps, to see whether it works")
    add("--only", default="", metavar="TEXT", help="runs whose table, method or name holds it")
    add("--jobs", type=number(int, 1), default=2, metavar="N", help="runs at once; they share the cores")
    add("--work", type=Path, default=ROOT / "runs" / "evidence", metavar="DIR", help="for what passes")
    models = "smollm2: folder of SmolLM2-135M-Instruct; maths: of Qwen2.5-Coder-1.5B-Instruct"
    add("--model", type=Path, metavar="DIR", help=models)
    add("--single", type=Path, metavar="FILE", help="smollm2: trajectories with calls, JSON Lines")
    add("--irrelevant", type=Path, metavar="FILE", help="smollm2: trajectories for which no function fits")
    add("--bfcl", metavar="PATH", help="smollm2: folder with BFCL's questions")
    add("--data", type=Path, metavar="FILE", help="maths: GSM8K's test file, JSON Lines")
    add("--dry-run", action="store_true", help="say what is missing and run nothing")
    args = parser.parse_args(argv)
    args.work = args.work.resolve() / args.study
    args.model = args.model and args.model.resolve()
    args.data = args.data and args.data.resolve()
    if args.dry_run:
        return tell(args)
    prepare(args)
    work_off(args)


if __name__ == "__main__":
    sys.exit(run(main))
