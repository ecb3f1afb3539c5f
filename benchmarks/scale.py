"""How time and memory grow: many trajectories, one very long one; and the paper's whole run, estimated.

    python -m benchmarks.scale                               100,000 trajectories; one of 32,768 tokens
    python -m benchmarks.scale --count 2000 --length 4096    smaller
    python -m benchmarks.scale --only estimate               the paper's run on one and eight GPUs, computed

Each part is measured at a half and at the whole of its size, every row in a process of its own: growth is
what the second takes over the first, and 2 is linear. The file is that of benchmarks/tokenise.py. Its steps
are train.py's with tiny/, two of one micro-batch of 8,192 tokens; those of the long trajectory are of a model
of tiny/'s shape with random weights and as many positions. The estimate divides the operations that a step of
Llama-3.2-1B cannot do without (benchmarks/train_step.py) by a share of an H100's peak: it measures nothing.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.apart import in_new_process, peak_bytes
from benchmarks.tokenise import ROOT, write_sample
from cli import ArgumentParser, layout, number, run

PARTS = ("many", "long", "estimate")
MANY = ("render, into the cache", "open the cache", "plan four epochs", "train.py, two steps")
LONG = ("render", "two steps")
BATCH = 8192  # tokens of a micro-batch, train.py's default

# of the paper's run: its trajectories and epochs; dense bfloat16 of an H100 in its data sheet
TRAJECTORIES, EPOCHS, H100 = 90_000, 4, 989e12
SUPERVISED, ROLE_SHARES = 0.25, (0.86, 0.06, 0.08)  # of tokens, as benchmarks/layer.py has them


# ---- many ----


def measure_many(row: str, path: Path, folder: Path) -> dict:
    """One row, in this process."""
    import train  # not above: the process that prints the tables needs no torch
    from engine import dataset
    from formats.frames import load_frame

    flags = ["--data", str(path), "--cache", str(folder / "cache"), "--tokens-per-batch", str(BATCH)]
    started = time.perf_counter()
    if row == "train.py, two steps":
        flags += ["--steps", "2", "--device", "cpu", "--output", str(folder / path.stem)]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            train.main(flags)
    else:
        found = dataset.load(path, load_frame(ROOT / "tiny"), str(folder / "cache"))
        if row == "plan four epochs":
            lengths = found.lengths.tolist()
            started = time.perf_counter()
            train.plan_steps(lengths, train.parse_args([*flags, "--model", str(ROOT / "tiny")]))
    return {"seconds": time.perf_counter() - started, "peak": peak_bytes()}


# ---- long ----


def long_record(frame, tokens: int) -> dict:
    """A trajectory of so many tokens: as many calls as fit, and the first question fills up the rest."""
    import data

    record = json.loads((ROOT / "bfcl.jsonl").read_text("utf-8").splitlines()[0])
    first, *others = record["trajectory"]
    call, end = others[:3], others[-2:]  # reasoner, executor, observation; reasoner, summarizer

    def rendered(calls: int, words: int) -> tuple[dict, int]:
        question = first | {"content": first["content"] + " and" * words}
        made = record | {"trajectory": [question, *call * calls, *end]}
        return made, len(data.render(made, frame).input_ids)

    one, two = rendered(1, 0)[1], rendered(2, 0)[1]
    calls = 1 + (tokens - one) // (two - one)
    missing = tokens - rendered(calls, 0)[1]
    word = rendered(1, 1)[1] - one
    return rendered(calls, missing // word)[0]


def measure_long(row: str, tokens: int) -> dict:
    """One row, in this process."""
    from dataclasses import replace

    import data
    from benchmarks import common
    from formats.checkpoint import ModelConfig
    from formats.frames import load_frame
    from model import Transformer
    from mor import MoRConfig

    frame = load_frame(ROOT / "tiny")
    record = long_record(frame, tokens)
    started = time.perf_counter()
    texts = common.Texts()
    texts.add(data.render(record, frame))
    if row == "two steps":
        config = ModelConfig.from_file(ROOT / "tiny")
        base = Transformer.from_config(replace(config, max_position_embeddings=tokens))
        steps = common.mor_steps(common.mor_model(base, MoRConfig(rank=8)), texts)
        started = time.perf_counter()
        for _ in range(2):
            next(steps)
    return {"seconds": time.perf_counter() - started, "peak": peak_bytes(), "tokens": texts.tokens}


# ---- the paper's run ----


def operations_a_token(tokens: int) -> float:
    """Of a training step of Llama-3.2-1B with the paper's adapter, on trajectories of so many tokens."""
    import torch

    from benchmarks import common, train_step
    from data import Example
    from formats.checkpoint import ModelConfig
    from model import Transformer

    sizes = [round(share * tokens) for share in ROLE_SHARES]
    role_ids = [role for role, size in enumerate(sizes) for _ in range(size)]
    example = Example([0] * len(role_ids), [], role_ids)
    texts = common.Texts([example], len(role_ids), round(SUPERVISED * len(role_ids)))
    with torch.device("meta"):
        base = Transformer(ModelConfig.from_dict(common.LLAMA_1B))
    return train_step.operations("mor", base, texts, 16) / len(role_ids)


def estimate() -> Iterator[list[str]]:
    """Rows of a table: hours of the paper's run by the length of its trajectories, and by what is reached."""
    for tokens in (500, 1000, 2000, 4000):
        each = operations_a_token(tokens)
        seconds = TRAJECTORIES * EPOCHS * tokens * each / H100  # at the peak, on one GPU
        hours = [seconds / share / gpus / 3600 for gpus in (1, 8) for share in (0.4, 0.2)]
        yield [f"{tokens:,}", f"{each / 1e9:.2f}", *(f"{value:.2f}" for value in hours)]


# ---- tables ----


def growth(rows: dict[str, tuple[dict, dict]], sizes: tuple[str, str]) -> str:
    """Seconds and peak memory at both sizes, and the second over the first."""
    head = [f"{what} {size}" for what in ("s,", "MB,") for size in sizes]
    table = [["", *head, "growth of s", "of MB"]]
    for name, (half, whole) in rows.items():
        cells = [f"{each['seconds']:.2f}" for each in (half, whole)]
        cells += [f"{each['peak'] / 2**20:,.0f}" for each in (half, whole)]
        ratios = [whole[what] / half[what] for what in ("seconds", "peak")]
        table.append([name, *cells, *(f"{ratio:.2f}" for ratio in ratios)])
    return layout(table)


def many_table(args: argparse.Namespace) -> str:
    counts = args.count // 2, args.count
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {row: [] for row in MANY}
        for count in counts:
            path = folder / f"{count}.jsonl"
            write_sample(path, count)
            for row in MANY:
                found[row].append(in_new_process(measure_many, row, path, folder))
    return "\n" + growth(found, tuple(f"{count:,} trajectories" for count in counts))


def long_table(args: argparse.Namespace) -> str:
    lengths, found = (args.length // 2, args.length), {}
    for row in LONG:
        found[row] = [in_new_process(measure_long, row, length) for length in lengths]
    return "\n" + growth(found, tuple(f"{each['tokens']:,} tokens" for each in found["render"]))


def estimate_table(args: argparse.Namespace) -> str:
    head = [f"h, {gpus} x H100 at {share}" for gpus in (1, 8) for share in ("40 %", "20 %")]
    table = [["tokens a trajectory", "GFLOP a token", *head], *estimate()]
    about = f"{TRAJECTORIES:,} trajectories, {EPOCHS} epochs, Llama-3.2-1B: an estimate, nothing measured"
    return f"\n{about}\n{layout(table)}"


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    add = parser.add_argument
    add("--count", type=number(int, 2), default=100_000, metavar="N", help="trajectories of the file")
    about = "tokens of the long trajectory, at most"
    add("--length", type=number(int, 2048), default=32_768, metavar="TOKENS", help=about)
    add("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    args = parser.parse_args(argv)
    tables = {"many": many_table, "long": long_table, "estimate": estimate_table}
    for part in args.only:
        print(tables[part](args), end="", flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
