"""Time whole training steps of this project beside its floor and its peers, on the same texts and weights.

    python -m benchmarks.train_step                                 the main table: mor, frozen, peft, trl
    python -m benchmarks.train_step --only mor,frozen               without peers
    python -m benchmarks.train_step --scaling                       seconds at 1, 2 and 4 times --tokens
    python -m benchmarks.train_step --loras                         seconds by the number of LoRAs
    python -m benchmarks.train_step --device cuda --tokens 32768    a GPU: all 16 layers in bfloat16

common.py and peers.py say what the variants are. They take turns; shown is the median of --repeats steps
after a warm-up, in which the adapters are still zero: then all variants must give the same cross-entropy, or
there is no table. trl runs in the fastest of three settings; where Triton runs, its head takes supervised
positions alone, on a CPU all of them.

The floor: floating point operations that a step cannot do without, and their rate as a share of what a large
matmul reaches here. They are, for real tokens, not padding: linears, forward and gradient of the input;
active adapters and routers, with the gradient of their weights; causal attention inside documents; the head
on supervised positions.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from statistics import median

import torch
from torch import nn
from tqdm import tqdm

from benchmarks import common, peers
from benchmarks.common import LINEARS, SHAPE, Texts
from cli import UserError, number, run
from model import Transformer
from mor import MoRConfig

VARIANTS = ("mor", "frozen", "peft", "trl")
LORAS = {(4, 4, 3): (3, 3, 2), (5, 5, 4): (4, 4, 3), (6, 6, 5): (5, 5, 4), (7, 7, 6): (6, 6, 5)}  # : active
TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}  # of cross-entropies; in bfloat16 each rounds in its own way


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("train_step.py", __doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--repeats", type=number(int, 1), default=5, metavar="N", help="timed steps of each variant")
    add("--only", type=variants, default=",".join(VARIANTS), metavar="NAMES", help="rows of the main table")
    other = parser.add_mutually_exclusive_group().add_argument
    other("--scaling", action="store_true", help="in place of the main table: time by the number of tokens")
    other("--loras", action="store_true", help="in place of the main table: time by the number of LoRAs")
    args = parser.parse_args(argv)
    common.check_device(args)
    return args


def variants(text: str) -> tuple[str, ...]:
    """An argparse type: names with commas between them."""
    names = tuple(text.split(","))
    if wrong := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"got {wrong[0]!r}, wanted some of {','.join(VARIANTS)}")
    return names


# ---- timing ----


def timed(steps: Iterator[float], device: str) -> tuple[float, float]:
    """Seconds of the next step, and what it gives."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    value = next(steps)
    wait()
    return time.perf_counter() - started, value


def take_turns(rows: dict[str, Iterator[float]], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the steps of each row, the first one left out. Raises UserError when first losses differ."""
    seconds, losses = {name: [] for name in rows}, {}
    with tqdm(total=len(rows) * (args.repeats + 1), disable=None, leave=False) as bar:
        for turn in range(args.repeats + 1):
            for name, steps in rows.items():
                bar.set_postfix_str(name)
                passed, loss = timed(steps, args.device)
                if turn:
                    seconds[name].append(passed)
                else:
                    losses[name] = loss
                bar.update()
    values = ", ".join(f"{name} {loss:.6f}" for name, loss in losses.items())
    if max(losses.values()) - min(losses.values()) > TOLERANCE[args.dtype]:
        raise UserError(f"cross-entropy at the start: got {values}, wanted the same; trust no time above")
    print(f"at start  cross-entropy of {values}")
    return seconds


def matmul_peak(args: argparse.Namespace) -> float:
    """Operations a second of the fastest of some products of two square matrices of 4096 rows."""
    x = torch.randn(4096, 4096, device=args.device, dtype=getattr(torch, args.dtype))
    products = ((x @ x)[0, 0].item() for _ in range(6))
    return 2 * 4096**3 / min(timed(products, args.device)[0] for _ in range(6))


def operations(variant: str, texts: Texts, layers: int) -> float:
    """Floating point operations that a step of a variant cannot do without."""
    config, width = MoRConfig(), SHAPE["num_attention_heads"] * SHAPE["head_dim"]
    inputs, both = sum(i for i, _ in LINEARS.values()), sum(i + o for i, o in LINEARS.values())
    count = 4 * sum(i * o for i, o in LINEARS.values()) * texts.tokens
    count += sum(6 * width * len(e.input_ids) ** 2 for e in texts.examples)
    if variant == "mor":
        for role, (loras, active) in enumerate(zip(config.loras, config.active, strict=True)):
            tokens = sum(e.role_ids.count(role) for e in texts.examples)
            count += 6 * (active * config.rank * both + (loras - 1) * inputs) * tokens
    elif variant != "frozen":
        count += 6 * sum(config.loras) * config.rank * both * texts.tokens
    return layers * count + 4 * SHAPE["hidden_size"] * SHAPE["vocab_size"] * texts.supervised


# ---- tables ----


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in common.trained(model))


def build(
    variant: str, base: Transformer, texts: Texts, args: argparse.Namespace
) -> tuple[str, nn.Module, Iterator[float]]:
    """What the table calls it, the model, the steps."""
    if variant == "trl":
        return peers.best_trl(base, texts, args)
    model = peers.MODELS[variant](base)
    return variant, model, peers.STEPS[variant](model, texts)


def main_table(texts: Texts, args: argparse.Namespace) -> None:
    variants, base = peers.without_peers(args.only), common.base_model(args)
    if "peft" in variants:
        slots = sum(batch["labels"].numel() for batch in peers.padded(texts, torch.device("cpu")))
        print(f"padding   {1 - texts.tokens / slots:.0%} of the batches of peft")
    built = {variant: build(variant, base, texts, args) for variant in variants}
    before = matmul_peak(args)
    seconds = take_turns({variant: steps for variant, (_, _, steps) in built.items()}, args)
    peak = max(before, matmul_peak(args))  # a busy machine may have spoilt one
    print(f"matmul    {peak / 1e12:.2f} TFLOP/s\n")
    head = f"{'variant':24}{'trained':>12}{'seconds a step':>26}{'tokens/s':>10}{'/ frozen':>10}{'/ mor':>8}"
    print(f"{head}{'floor TFLOP':>13}{'of matmul':>11}")
    for variant, (name, model, _) in built.items():
        own, floor = median(seconds[variant]), operations(variant, texts, args.layers)
        spread = f"{own:.2f} ({min(seconds[variant]):.2f} to {max(seconds[variant]):.2f})"
        frozen, ours = (f"{own / median(seconds[v]):.2f}" if v in seconds else "-" for v in ("frozen", "mor"))
        line = f"{name:24}{count(model):12,}{spread:>26}{texts.tokens / own:10,.0f}{frozen:>10}{ours:>8}"
        print(f"{line}{floor / 1e12:13.2f}{floor / own / peak:11.0%}")


def scaling_table(args: argparse.Namespace) -> None:
    lines, base = [], common.base_model(args)
    frozen = common.frozen_model(base)
    for times in (1, 2, 4):
        texts = common.draw_texts(args, times)
        ours = common.mor_steps(common.mor_model(base), texts)
        rows = {"mor": ours, "frozen": common.frozen_steps(frozen, texts)}
        mor, floor = (median(values) for values in take_turns(rows, args).values())
        each = f"{mor:10.2f}{1e3 * mor / texts.tokens:12.3f}{floor:10.2f}{1e3 * floor / texts.tokens:12.3f}"
        lines.append(f"{texts.tokens:8,}{each}{mor / floor:10.2f}")
    print(f"\n{'tokens':>8}{'mor s':>10}{'ms a token':>12}{'frozen s':>10}{'ms a token':>12}{'ratio':>10}")
    print("\n".join(lines))


def loras_table(texts: Texts, args: argparse.Namespace) -> None:
    base, rows, sizes = common.base_model(args), {}, {}
    for loras, active in LORAS.items():
        name, model = "/".join(map(str, loras)), common.mor_model(base, MoRConfig(loras=loras, active=active))
        rows[name], sizes[name] = common.mor_steps(model, texts), count(model)
    rows["frozen"], sizes["frozen"] = common.frozen_steps(common.frozen_model(base), texts), 0
    seconds = {name: median(values) for name, values in take_turns(rows, args).items()}
    print(f"\n{'LoRAs':8}{'trained':>14}{'seconds a step':>16}{'/ frozen':>10}")
    for name, own in seconds.items():
        print(f"{name:8}{sizes[name]:14,}{own:16.2f}{own / seconds['frozen']:10.2f}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    texts = common.draw_texts(args)
    print(common.describe(args, texts))
    if args.scaling:
        scaling_table(args)
    elif args.loras:
        loras_table(texts, args)
    else:
        main_table(texts, args)


if __name__ == "__main__":
    sys.exit(run(main))
