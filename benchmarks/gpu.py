"""What a GPU has to say about this project: one command of at most six minutes, without a network.

    python -m benchmarks.gpu --out DIR                     all parts; DIR/gpu.json, and the same as tables
    python -m benchmarks.gpu --out DIR --only training     some parts; their rows take the place of older ones
    python -m benchmarks.gpu --out DIR --smoke             small shapes: whether it runs, on a CPU too

tests       75 s  the tests marked gpu: CUDA against CPU
training   145 s  whole steps on 8,192 packed tokens: frozen base, MoR in its forms, PEFT's LoRA; tokens a
                  second, share of the matmul peak measured here, peak memory, launches, waits of the host;
                  the twenty kernels that take longest
generation  50 s  one stream and 64, base and MoR, transformers beside them; share of a copy's bandwidth
quick       60 s  the quick run of train.py

Weights are random, of the shapes of Llama-3.2-1B, Qwen2.5-Coder-1.5B and Phi-3.5-mini; texts are those of
bfcl.jsonl. Each part runs in a process of its own, which is stopped when its time is over. gpu.json is
written after every row, and a failure is a row with its traceback: neither loses the others. The rows are in
the order of their worth; what no time is left for is named. The first two steps of every row are not counted.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn
from tqdm import tqdm

import train
from benchmarks import common, decode, peers, train_step
from benchmarks.common import ROOT, Texts, clock
from benchmarks.gpu_rows import Results, bandwidth, kernels, matmul_peak, tables, waits
from cli import ArgumentParser, read_object, run, write_whole
from engine.devices import choose_device, choose_dtype, peak_memory
from engine.generation import Sequence as Stream
from engine.generation import accept, score
from engine.grouped import grouped
from engine.inference import for_inference
from model import KVCache, ModelConfig, Transformer
from mor import MoRConfig

CONFIGS = ROOT / "tests" / "fixtures" / "configs"
SHAPES = {
    "Llama-3.2-1B": CONFIGS / "Llama-3.2-1B-Instruct",
    "Qwen2.5-Coder-1.5B": CONFIGS / "Qwen2.5-Coder-1.5B-Instruct",
    "Phi-3.5-mini": CONFIGS / "Phi-3.5-mini-instruct",
}
FIRST = "Llama-3.2-1B"
STEPS = 5  # timed, of a row
START = 15  # seconds that a part's process has besides, to start and to end


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder for gpu.json and the quick run")
    add("--only", nargs="+", choices=tuple(PARTS), default=list(PARTS), metavar="PART", help="parts to run")
    add(
        "--rows",
        nargs="+",
        default=[""],
        metavar="TEXT",
        help="only rows that have one of these in their name",
    )
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    add("--smoke", action="store_true", help="small shapes, all in this process")
    add("--here", action="store_true", help="in this process; what the others are started with")
    args = parser.parse_args(argv)
    args.here = args.here or args.smoke
    return args


# ---- training ----


def config_of(name: str, smoke: bool) -> ModelConfig:
    """The config of a model; with `smoke`, the same in small."""
    config = ModelConfig.from_file(SHAPES[name])
    if not smoke:
        return config
    sizes = dict(hidden_size=64, intermediate_size=128, num_attention_heads=4, head_dim=16, vocab_size=2048)
    heads = 4 if config.num_key_value_heads == config.num_attention_heads else 2
    factors = {each: getattr(config, each) and getattr(config, each)[:8] for each in FACTORS}
    return replace(config, num_hidden_layers=1, num_key_value_heads=heads, **sizes, **factors)


FACTORS = ("short_factor", "long_factor")


def twin(base: Transformer) -> Transformer:
    """A model of its own on the tensors of the base."""
    with torch.device("meta"):
        model = Transformer(base.config)
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie()
    return model


def variant_of(variant: str, base: Transformer, args: argparse.Namespace) -> nn.Module:
    """The first word says which model, the others what differs."""
    kind, *options = variant.split()
    if kind == "peft":
        return peers.peft_model(base, args)
    if kind == "frozen":
        model = common.frozen_model(twin(base))
    else:
        model = common.mor_model(base, MoRConfig())
    if "grouped" in options:
        grouped(model)
    if "elementwise" in options:
        model.compile_elementwise()
    if "layers" in options:
        model.compile_layers()
    model.gradient_checkpointing = "checkpointing" in options
    return model


VARIANTS = {  # -> seconds that a row needs, about, at the most
    "frozen": 8,
    "mor": 10,
    "mor grouped": 10,
    "peft": 20,
    "mor checkpointing": 10,
    "mor elementwise": 30,  # compiled: train.py's --compile
    "frozen elementwise": 15,
    "mor grouped layers": 50,  # compiled whole
}
UNCOMPILED = ("frozen", "mor", "mor grouped")
PLAN = (  # rows, in the order of their worth
    (FIRST, (*UNCOMPILED, "peft", "mor checkpointing")),
    ("Qwen2.5-Coder-1.5B", UNCOMPILED),
    ("Phi-3.5-mini", UNCOMPILED),
    (FIRST, ("mor elementwise", "frozen elementwise", "mor grouped layers")),
)


def measure_training(
    variant: str, base: Transformer, texts: Texts, peak: float, args: argparse.Namespace, values: dict
) -> Callable:
    """Fill in a row; return what makes one more step."""
    model = variant_of(variant, base, args)
    kind = variant.split()[0]
    steps = peers.STEPS[kind](model, texts)
    for _ in range(2):
        next(steps)
    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    seconds = [train_step.timed(steps, args.device)[0] for _ in range(1 if args.smoke else STEPS)]
    values["seconds"] = median(seconds)
    values["tokens/s"] = texts.tokens / values["seconds"]
    values["of matmul"] = train_step.operations(kind, base, texts, args.rank) / values["seconds"] / peak
    values["peak GB"] = peak_memory(args.device) / 1e9
    values["trained"] = train_step.trained(model)
    step = partial(next, steps)
    if args.device.type == "cuda":
        values["waits"] = waits(step)
        values["launches"] = sum(count for _, _, count in kernels(step, args.device))
    return step


def training(results: Results, args: argparse.Namespace) -> None:
    texts = common.draw_texts(args)
    peak = matmul_peak(args)
    share = texts.supervised / texts.tokens
    results.add(
        "texts", tokens=texts.tokens, documents=len(texts.examples), supervised=share, peak_TFLOPs=peak / 1e12
    )
    peft = peers.without_peers(("peft",))
    for name, variants in PLAN[:3] if args.smoke else PLAN:  # to compile takes minutes on a CPU
        base = None
        for variant in variants:
            if variant == "peft" and not peft:
                continue
            with results.row(f"{name}, {variant}", VARIANTS[variant]) as values:
                if "skip" in values:
                    continue
                if base is None:
                    base = Transformer.from_config(config_of(name, args.smoke), args.dtype, args.device)
                step = measure_training(variant, base, texts, peak, args, values)
                if name == FIRST and variant in ("mor", "mor grouped layers"):
                    add_kernels(results, f"{name}, {variant}", step, args)
            step = None  # it holds the model


def add_kernels(results: Results, name: str, step: Callable, args: argparse.Namespace) -> None:
    found = kernels(step, args.device)
    total = sum(taken for _, taken, _ in found)
    for key, taken, count in found[:20]:
        share = taken / max(total, 1e-9)
        results.add(f"kernel of {name}", ms=taken, share=share, count=count, kernel=key[:90])


# ---- generation ----


def seconds_a_pass(model: Transformer, streams: int, args: argparse.Namespace) -> float:
    """Median over passes that give each stream one token, greedy, without guesses; all caches are full."""
    generator = torch.Generator().manual_seed(0)
    weight, sequences = model.model.norm.weight, []
    for _ in range(streams):
        ids = torch.randint(0, 2000, (args.prompt,), generator=generator).tolist()
        cache = KVCache(model.config, weight.dtype, weight.device)
        sequences.append(Stream(ids, [0] * len(ids), cache, role=1))
    seconds = []
    for _ in range(args.new):
        started = clock(args.device)
        best = score(model, sequences, [[]] * streams).argmax(dim=-1).tolist()
        for i, sequence in enumerate(sequences):
            accept(sequence, [], [best[i]], None)
        seconds.append(clock(args.device) - started)
    return median(seconds[4:])  # the first one reads the prompts


def seconds_of_theirs(model: nn.Module, streams: int, args: argparse.Namespace) -> float:
    """The same by transformers' generate: what each token after the first adds."""
    prompts = torch.randint(0, 2000, (streams, args.prompt), device=args.device)
    options = dict(attention_mask=torch.ones_like(prompts), do_sample=False, use_cache=True, pad_token_id=0)
    taken = []
    for new in (1, 1, args.new):
        started = clock(args.device)
        with torch.inference_mode():
            model.generate(prompts, max_new_tokens=new, min_new_tokens=new, **options)
        taken.append(clock(args.device) - started)
    return (taken[2] - taken[1]) / (args.new - 1)


def narrow(model: nn.Module) -> nn.Module:
    """Its LoRAs in the base's dtype. (Not by model.to: that would round rotary tables as well.)"""
    for parameter in common.trained(model):
        parameter.data = parameter.data.to(model.dtype)
    return model


def generation(results: Results, args: argparse.Namespace) -> None:
    copy = bandwidth(args)
    results.add("copy", GB_per_second=copy / 1e9)
    makers = {
        "base": lambda base: twin(base).eval(),
        "mor": lambda base: common.mor_model(base, MoRConfig()).eval(),
        "transformers": lambda base: peers.causal_model(base, args).eval(),
        "peft": lambda base: narrow(peers.peft_model(base, args)).eval(),
    }
    if not peers.without_peers(("peft",)):
        makers = {name: makers[name] for name in ("base", "mor")}
    base = Transformer.from_config(config_of(FIRST, args.smoke), args.dtype, args.device)
    for name, make in makers.items():
        ours, model = name in ("base", "mor"), None
        for streams in (1, args.streams):
            with results.row(f"{name}, {streams} at once", needs=8) as values:
                if "skip" in values:
                    continue
                if model is None:
                    model = make(base)
                    weights = decode.bytes_read(model, 0)
                    cached = decode.bytes_read(model, args.prompt + args.new // 2) - weights
                    if ours:
                        for_inference(model)
                taken = (seconds_a_pass if ours else seconds_of_theirs)(model, streams, args)
                values["ms a pass"] = 1e3 * taken
                values["tokens/s"] = streams / taken
                values["MB a pass"] = (weights + streams * cached) / 1e6
                values["of bandwidth"] = (weights + streams * cached) / taken / copy


# ---- tests and the quick run ----


def tests(results: Results, args: argparse.Namespace) -> None:
    """pytest in a process of its own, as a fault on the device spoils the one that meets it."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--tb=short", "-p", "no:cacheprovider"]
    report = results.path.with_name("tests.log")
    text = ""
    with results.row("tests marked gpu") as values, report.open("w+", encoding="utf-8") as log:
        command += ["-rfEs", "--durations=8", "tests/test_gpu.py"]
        try:
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=max(results.left(), 1))
            values["exit code"] = done.returncode
        finally:
            log.seek(0)
            text = log.read()
            values |= {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)", text)}
    for line in text.splitlines():
        if line.startswith(("FAILED", "ERROR")):
            results.add("test", failed=line[:300])


def quick(results: Results, args: argparse.Namespace) -> None:
    folder = results.path.with_name("quick")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run
    command = ["--data", str(train.SAMPLE)]
    if args.smoke:  # data without held-out sets of its own
        command = ["--data", str(ROOT / "bfcl_heldout.jsonl"), "--steps", "2", "--tokens-per-batch", "512"]
    lines = []
    with results.row("quick run") as values:
        started = time.perf_counter()
        train.main([*command, "--output", str(folder), "--cache", "", "--device", str(args.device)])
        values["seconds"] = time.perf_counter() - started
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        steps = [line for line in lines if "loss" in line]
        values |= {"steps": len(steps), "first loss": steps[0]["loss"], "last loss": steps[-1]["loss"]}
        values["tokens/s"] = median(line["tokens_per_second"] for line in steps)
    for line in lines:
        if "eval" in line:
            results.add(f"{line['set']}, step {line['step']}", **numbers(line["eval"]))


def numbers(values: dict) -> dict:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


# ---- all ----

PARTS = {  # -> function, seconds
    "tests": (tests, 75),
    "training": (training, 145),
    "generation": (generation, 50),
    "quick": (quick, 60),
}


def run_here(part: str, args: argparse.Namespace) -> None:
    args.device = choose_device(str(args.device))
    args.dtype = choose_dtype("auto", args.device)
    args.shape, args.layers = ("mini", 1) if args.smoke else ("llama-1b", 16)
    args.tokens, args.prompt, args.new, args.streams = (300, 20, 6, 3) if args.smoke else (8192, 400, 40, 64)
    args.data, args.tokenizer, args.model, args.seed = ROOT / "bfcl.jsonl", ROOT / "tiny", None, 0
    args.rank = MoRConfig().rank
    if args.smoke:
        args.data = ROOT / "bfcl_seen.jsonl"  # which is read faster
    work, seconds = PARTS[part]
    results = Results(args.out, part, seconds, args.rows)
    results.all["environment"] = [{"what": line} for line in common.environment(args).splitlines()]
    try:
        work(results, args)
    except Exception:
        results.add(part, failed="see traceback", traceback=traceback.format_exc())
    results.add("time", seconds=time.monotonic() - results.started)


def run_apart(part: str, args: argparse.Namespace, start: Callable = subprocess.Popen) -> None:
    """In a process of its own, which is ended with all that it has started when the time is over."""
    _, seconds = PARTS[part]
    command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--only", part, "--out", str(args.out)]
    command += ["--device", args.device, "--rows", *args.rows]
    process = start(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(seconds + START)
        fault = f"its process ended with code {code}" if code else ""
    except subprocess.TimeoutExpired:
        fault = "stopped: its time was over"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if fault:
        Results(args.out, part, seconds, keep=True).add(part, failed=fault)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in tqdm(args.only, disable=None, leave=False):
        (run_here if args.here else run_apart)(part, args)
    if not args.here or args.smoke:
        text = tables(read_object(args.out / "gpu.json", "results"))
        write_whole(args.out / "gpu.txt", lambda path: path.write_text(text, encoding="utf-8"))
        print(text, end="")


if __name__ == "__main__":
    sys.exit(run(main))
