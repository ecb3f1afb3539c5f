"""Peak memory of whole training steps of this project and of PEFT, each variant in a process of its own.

    python -m benchmarks.memory                                 on a CPU: resident memory of the process
    python -m benchmarks.memory --device cuda --tokens 32768    on a GPU: what tensors took there
    python -m benchmarks.memory --only mor frozen               some rows of the table

common.py and peers.py say what the variants are. A process makes two steps, since AdamW's moments exist from
the first on and lie beside the activations in the second. `model` is what it had taken before the first: base
and adapters and, on a CPU, Python with its libraries; `step` is the rest.
"""

import argparse
import sys

import torch
from tqdm import tqdm

from benchmarks import common, peers
from benchmarks.apart import in_new_process
from cli import layout, run
from engine.devices import peak_memory

ROWS = ("mor", "mor-checkpointing", "mor-bfloat16", "frozen", "peft")  # a variant, and what differs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("memory", __doc__)
    common.add_steps(parser)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help="of the table")
    return common.parse(parser, argv)


def measure(row: str, args: argparse.Namespace) -> dict[str, int]:
    """Bytes: the peak before the first step and after the second."""
    variant, _, option = row.partition("-")
    if option == "bfloat16":
        args.dtype = torch.bfloat16
    base, texts = common.base_model(args), common.draw_texts(args)
    model = peers.model_of(variant, base, args)
    if option == "checkpointing":
        model.gradient_checkpointing = True
    before, steps = peak_memory(args.device), peers.STEPS[variant](model, texts)
    next(steps)
    next(steps)
    return {"model": before, "peak": peak_memory(args.device)}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    print(common.describe(args, common.draw_texts(args)))
    rows = peers.without_peers(args.only)
    if args.dtype == torch.bfloat16 and "mor-bfloat16" in rows:
        rows.remove("mor-bfloat16")  # it is what the first row says
    found = {row: in_new_process(measure, row, args) for row in tqdm(rows, disable=None, leave=False)}
    table = [["", "peak GB", "model GB", "step GB", "peak / peft", "step / peft"]]
    for row, got in found.items():
        step = got["peak"] - got["model"]
        cells = [row, f"{got['peak'] / 1e9:.2f}", f"{got['model'] / 1e9:.2f}", f"{step / 1e9:.2f}"]
        if "peft" in found:
            peft = found["peft"]
            cells.append(f"{got['peak'] / peft['peak']:.2f}")
            cells.append(f"{step / (peft['peak'] - peft['model']):.2f}")
        table.append(cells)
    print("\n" + layout(table), end="")


if __name__ == "__main__":
    sys.exit(run(main))
