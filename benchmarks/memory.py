"""Peak memory of whole training steps of this project and of PEFT, each variant in a process of its own.

    python -m benchmarks.memory                                 on a CPU: resident memory of the process
    python -m benchmarks.memory --device cuda --tokens 32768    on a GPU: what tensors took there

common.py and peers.py say what the variants are. A process makes two steps, since AdamW's moments exist from
the first on and lie beside the activations in the second. `model` is what it had taken before the first: base
and adapters and, on a CPU, Python with its libraries; `step` is the rest.
"""

import argparse
import json
import subprocess
import sys

import torch
from tqdm import tqdm

from benchmarks import common, peers
from cli import UserError, run
from engine.devices import peak_memory

ROWS = ("mor", "mor-checkpointing", "mor-bfloat16", "frozen", "peft")  # a variant, and what differs


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("memory.py", __doc__.split("\n\n")[0])
    one = "one row, measured in this process and printed as JSON; the table starts a process for each"
    parser.add_argument("--row", choices=ROWS, default=argparse.SUPPRESS, help=one)
    args = parser.parse_args(argv)
    common.check_device(args)
    return args


def measure(row: str, args: argparse.Namespace) -> dict[str, int]:
    """Bytes: the peak before the first step and after the second."""
    variant, _, option = row.partition("-")
    device, dtype = torch.device(args.device), "bfloat16" if option == "bfloat16" else args.dtype
    base = common.base_model(argparse.Namespace(**vars(args) | {"dtype": dtype}))
    texts, model = common.draw_texts(args), peers.MODELS[variant](base)
    if option == "checkpointing":
        model.gradient_checkpointing = True
    before, steps = peak_memory(device), peers.STEPS[variant](model, texts)
    next(steps), next(steps)
    return {"model": before, "peak": peak_memory(device)}


def measure_apart(row: str, argv: list[str]) -> dict[str, int]:
    """The same from a fresh process. Raises UserError with the last line of what it says when it fails."""
    command = [sys.executable, "-m", "benchmarks.memory", *argv, "--row", row]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"{row}: {said.removeprefix('error: ')}")
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if hasattr(args, "row"):
        print(json.dumps(measure(args.row, args)))
        return
    print(common.describe(args, common.draw_texts(args)))
    absent = {"mor-bfloat16"} if args.dtype == "bfloat16" else set()
    absent |= {"peft"} - set(peers.without_peers(("peft",)))
    argv = sys.argv[1:] if argv is None else argv
    found = {
        row: measure_apart(row, argv) for row in tqdm(ROWS, disable=None, leave=False) if row not in absent
    }
    print(f"\n{'':20}{'peak GB':>9}{'model GB':>10}{'step GB':>9}{'peak / peft':>13}{'step / peft':>13}")
    for row, got in found.items():
        step = got["peak"] - got["model"]
        line = f"{row:20}{got['peak'] / 1e9:9.2f}{got['model'] / 1e9:10.2f}{step / 1e9:9.2f}"
        if peft := found.get("peft"):
            line += f"{got['peak'] / peft['peak']:13.2f}{step / (peft['peak'] - peft['model']):13.2f}"
        print(line)


if __name__ == "__main__":
    sys.exit(run(main))
