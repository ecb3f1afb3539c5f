"""Time whole training steps of this project beside its floor and its peers, on the same texts and weights.

    python -m benchmarks.train_step                                 the main table: mor, frozen, peft, trl
    python -m benchmarks.train_step --only mor frozen               without peers
    python -m benchmarks.train_step --scaling                       seconds at 1, 2 and 4 times --tokens
    python -m benchmarks.train_step --loras                         seconds by the number of LoRAs
    python -m benchmarks.train_step --model DIR                     with the weights of a checkpoint
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
from collections.abc import Iterator
from statistics import median

import torch
from torch import nn
from tqdm import tqdm

from benchmarks import common, peers
from benchmarks.common import Texts
from cli import UserError, layout, number, run
from model import Transformer
from mor import MoRConfig

VARIANTS = ("mor", "frozen", "peft", "trl")
LORAS = {(4, 4, 3): (3, 3, 2), (5, 5, 4): (4, 4, 3), (6, 6, 5): (5, 5, 4), (7, 7, 6): (6, 6, 5)}  # : active
# Of cross-entropies. In bfloat16 each library rounds in places of its own.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("train_step", __doc__)
    common.add_steps(parser)
    add = parser.add_argument
    add("--repeats", type=number(int, 1), default=5, metavar="N", help="timed steps of each variant")
    rows = "rows of the main table"
    add("--only", nargs="+", choices=VARIANTS, default=VARIANTS, metavar="NAME", help=rows)
    other = parser.add_mutually_exclusive_group().add_argument
    other("--scaling", action="store_true", help="in place of the main table: time by the number of tokens")
    other("--loras", action="store_true", help="in place of the main table: time by the number of LoRAs")
    return common.parse(parser, argv)


# ---- timing ----


def timed(steps: Iterator[float], device: torch.device) -> tuple[float, float]:
    """Seconds of the next step, and what it gives."""
    started = common.clock(device)
    value = next(steps)
    return common.clock(device) - started, value


def take_turns(rows: dict[str, Iterator[float]], args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of the steps of each row, the first one left out. Raises UserError when first losses differ."""
    seconds, losses = {name: [] for name in rows}, {}
    with tqdm(total=len(rows) * (args.repeats + 1), disable=None, leave=False) as bar:
        for turn in range(args.repeats + 1):
            for name, steps in rows.items():
                bar.set_postfix_str(name)
                taken, loss = timed(steps, args.device)
                if turn == 0:
                    losses[name] = loss
                else:
                    seconds[name].append(taken)
                bar.update()
    check_same(losses, TOLERANCE[args.dtype])
    return seconds


def check_same(losses: dict[str, float], tolerance: float) -> None:
    """Print the cross-entropies of the first steps. Raises UserError when they differ."""
    values = ", ".join(f"{name} {loss:.6f}" for name, loss in losses.items())
    first = next(iter(losses.values()))
    if not all(abs(loss - first) <= tolerance for loss in losses.values()):  # nor is NaN the same
        raise UserError(f"cross-entropy at the start: got {values}, wanted the same; there is no table")
    print(f"at start  cross-entropy of {values}")


def matmul_peak(args: argparse.Namespace) -> float:
    """Operations a second of the fastest of some products of two square matrices, twice the model's width."""
    size = 2 * common.shape_of(args)["hidden_size"]
    x = torch.randn(size, size, device=args.device, dtype=args.dtype)
    products = ((x @ x)[0, 0].item() for _ in range(6))
    return 2 * size**3 / min(timed(products, args.device)[0] for _ in range(6))


def operations(variant: str, base: Transformer, texts: Texts, rank: int) -> float:
    """Floating point operations that a step of a variant cannot do without."""
    model, adapter = base.config, MoRConfig(rank=rank)
    shapes = common.linears(base).values()
    products = sum(d_in * d_out for d_in, d_out in shapes)
    ends = sum(d_in + d_out for d_in, d_out in shapes)
    layer = 4 * products * texts.tokens
    for example in texts.examples:
        layer += 6 * model.num_attention_heads * model.head_dim * len(example.input_ids) ** 2
    if variant == "mor":
        inputs = sum(d_in for d_in, _ in shapes)
        for role, (loras, active) in enumerate(zip(adapter.loras, adapter.active, strict=True)):
            tokens = sum(example.role_ids.count(role) for example in texts.examples)
            layer += 6 * (active * adapter.rank * ends + (loras - 1) * inputs) * tokens
    elif variant != "frozen":
        layer += 6 * sum(adapter.loras) * adapter.rank * ends * texts.tokens
    head = 4 * model.hidden_size * model.vocab_size * texts.supervised
    return model.num_hidden_layers * layer + head


# ---- tables ----


def trained(model: nn.Module) -> int:
    return sum(p.numel() for p in common.trained(model))


def main_table(texts: Texts, args: argparse.Namespace) -> str:
    variants, base = peers.without_peers(args.only), common.base_model(args)
    if "peft" in variants:
        slots = sum(batch["labels"].numel() for batch in peers.padded(texts, torch.device("cpu")))
        print(f"padding   {1 - texts.tokens / slots:.0%} of the batches of peft")
    rows = {variant: peers.row_of(variant, base, texts, args) for variant in variants}
    before = matmul_peak(args)
    seconds = take_turns({variant: row.steps for variant, row in rows.items()}, args)
    peak = max(before, matmul_peak(args))  # a busy machine may have spoilt one
    print(f"matmul    {peak / 1e12:.2f} TFLOP/s\n")
    head = ["variant", "trained", "seconds a step", "least", "most", "tokens/s", "/ frozen", "/ mor"]
    table = [[*head, "floor TFLOP", "of matmul"]]
    for variant, row in rows.items():
        taken = seconds[variant]
        own, floor = median(taken), operations(variant, base, texts, args.rank)
        cells = [row.name, f"{trained(row.model):,}", f"{own:.3f}", f"{min(taken):.3f}", f"{max(taken):.3f}"]
        cells.append(f"{texts.tokens / own:,.0f}")
        for other in ("frozen", "mor"):
            cells.append(f"{own / median(seconds[other]):.2f}" if other in seconds else "-")
        table.append([*cells, f"{floor / 1e12:.4f}", f"{floor / own / peak:.0%}"])
    return layout(table)


def scaling_table(args: argparse.Namespace) -> str:
    base = common.base_model(args)
    frozen = common.frozen_model(base)
    table = [["tokens", "mor s", "ms a token", "frozen s", "ms a token", "ratio"]]
    for times in (1, 2, 4):
        texts = common.draw_texts(args, times)
        ours = common.mor_steps(common.mor_model(base, MoRConfig(rank=args.rank)), texts)
        seconds = take_turns({"mor": ours, "frozen": common.frozen_steps(frozen, texts)}, args)
        cells = [f"{texts.tokens:,}"]
        for taken in seconds.values():
            cells += [f"{median(taken):.3f}", f"{1e3 * median(taken) / texts.tokens:.3f}"]
        table.append([*cells, f"{median(seconds['mor']) / median(seconds['frozen']):.2f}"])
    return "\n" + layout(table)


def loras_table(texts: Texts, args: argparse.Namespace) -> str:
    base, rows, sizes = common.base_model(args), {}, {}
    for loras, active in LORAS.items():
        name = "/".join(map(str, loras))
        model = common.mor_model(base, MoRConfig(rank=args.rank, loras=loras, active=active))
        rows[name], sizes[name] = common.mor_steps(model, texts), trained(model)
    rows["frozen"], sizes["frozen"] = common.frozen_steps(common.frozen_model(base), texts), 0
    seconds = {name: median(taken) for name, taken in take_turns(rows, args).items()}
    table = [["LoRAs", "trained", "seconds a step", "/ frozen"]]
    for name, own in seconds.items():
        table.append([name, f"{sizes[name]:,}", f"{own:.3f}", f"{own / seconds['frozen']:.2f}"])
    return "\n" + layout(table)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    texts = common.draw_texts(args)
    print(common.describe(args, texts))
    if args.scaling:
        table = scaling_table(args)
    elif args.loras:
        table = loras_table(texts, args)
    else:
        table = main_table(texts, args)
    print(table, end="")


if __name__ == "__main__":
    sys.exit(run(main))
