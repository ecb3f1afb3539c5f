"""One linear layer, forward and backward: what adapters cost on top of the frozen linear.

    python -m benchmarks.layer                        the shapes of Llama-3.2-1B and Phi-3.5-mini
    python -m benchmarks.layer --tokens 8192          as many on a GPU, in bfloat16
    python -m benchmarks.layer --features 2048 512    one shape of your own

frozen  the linear alone: h = W0 x, and the gradient of x
lora    one LoRA of as many parameters as MoR's 5 + 5 + 4 of rank 16: rank 224 for every token
masked  MoR with every LoRA on all tokens, gates of 0 at the tokens of other roles
plain   mor.mor_layer: the equations in plain autograd
mor     engine.fused.MoRFunction, which train.py puts in the place of mor.mor_layer

Seconds are medians of repeats that take turns; the other columns are ratios to the frozen linear. Floor: if
all that mor multiplies ran at the frozen linear's FLOP/s and nothing else took time.
"""

import argparse
import sys
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import mor
from benchmarks import common
from cli import layout, number, run
from engine.fused import fused_layer
from model import Linear
from mor import MoRConfig, MoRLinear, RoleRows

SHAPES = {  # in and out features
    "Llama-3.2-1B q, o": (2048, 2048),
    "Llama-3.2-1B k, v": (2048, 512),
    "Llama-3.2-1B gate, up": (2048, 8192),
    "Llama-3.2-1B down": (8192, 2048),
    "Phi-3.5-mini qkv": (3072, 9216),
    "Phi-3.5-mini o": (3072, 3072),
    "Phi-3.5-mini gate_up": (3072, 16384),
    "Phi-3.5-mini down": (8192, 3072),
}
REASONER, EXECUTOR = 0.86, 0.06  # their shares of the tokens of agent data; the summarizer has the rest


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common.parser("layer", __doc__)
    add, count = parser.add_argument, number(int, 1)
    add("--tokens", type=number(int, 100), default=2048, metavar="N", help="rows of x")
    add("--repeats", type=count, default=15, metavar="N", help="of each variant; the median is reported")
    one = "in and out features of one layer to measure; None: those of two models"
    add("--features", type=count, nargs=2, metavar=("IN", "OUT"), help=one)
    return common.parse(parser, argv)


class LoRA(nn.Module):
    def __init__(self, base: Linear, rank: int):
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, device=base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(rank, base.out_features, device=base.weight.device))

    def forward(self, x: Tensor, roles: RoleRows) -> Tensor:
        return torch.addmm(self.base(x), x @ self.lora_A.to(x.dtype).T, self.lora_B.to(x.dtype))


def masked_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    role_sizes: list[int],
    active: list[int],
    shared_gate: bool,
    scale: float,
    *parameters: Tensor,
) -> tuple[Tensor, None, None]:
    """mor.mor_layer with a mask in the place of slices, and without statistics."""
    h, sizes = F.linear(x, weight, bias), torch.tensor(role_sizes, device=x.device)
    role_of_row = torch.arange(3, device=x.device).repeat_interleave(sizes)
    for role in range(3):
        A, B, router = parameters[3 * role : 3 * role + 3]
        A, B = A.to(x.dtype), B.to(x.dtype)
        scores = (x @ router.to(x.dtype).T).to(router.dtype)
        gates, _, _ = mor.route(scores, active[role] - 1, shared_gate)
        gates = (gates * (role_of_row == role)[:, None]).to(x.dtype)
        for i in range(len(A)):
            h = h + scale * gates[:, i : i + 1] * (x @ A[i].T @ B[i])
    return h, None, None


MOR = {"masked": masked_layer, "plain": mor.mor_layer, "mor": fused_layer}


def variants(base: Linear, config: MoRConfig) -> dict[str, nn.Module]:
    """The layers to measure by name; those of MoR have the same values."""
    found = {"frozen": base, "lora": LoRA(base, sum(config.loras) * config.rank)}
    for name, function in MOR.items():
        layer, generator = MoRLinear(base, config), torch.Generator().manual_seed(0)
        layer.reset_parameters(generator)
        for B in layer.lora_B.values():
            B.data.copy_(torch.empty(B.shape).normal_(std=0.02, generator=generator))
        layer.function = function
        found[name] = layer.train()
    return found


def step(module: nn.Module, x: Tensor, d_h: Tensor, roles: RoleRows) -> float:
    """Seconds of one forward and backward; gradients are new tensors, as zero_grad leaves none."""
    x.grad = None
    module.zero_grad(set_to_none=True)
    started = common.clock(x.device)
    module(x, roles).backward(d_h)
    return common.clock(x.device) - started


def measure(d_in: int, d_out: int, roles: RoleRows, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of each variant."""
    like = {"device": args.device, "dtype": args.dtype}
    base = Linear(d_in, d_out, bias=False, **like).requires_grad_(False)
    x = torch.randn(args.tokens, d_in, **like, requires_grad=True)
    d_h = torch.randn(args.tokens, d_out, **like)
    modules = variants(base, MoRConfig())
    seconds = {name: [] for name in modules}
    for repeat in range(args.repeats + 1):
        for name, module in modules.items():
            taken = step(module, x, d_h, roles)
            if repeat > 0:  # the first is a warm-up
                seconds[name].append(taken)
    return {name: median(values) for name, values in seconds.items()}


def floor(config: MoRConfig, role_sizes: list[int], d_in: int, d_out: int) -> float:
    """FLOPs of mor over those of the frozen linear. An adapter's matmul runs three times, W0's twice."""
    extra = 0
    for size, loras in zip(role_sizes, config.loras, strict=True):
        extra += 6 * size * (loras * config.rank * (d_in + d_out) + (loras - 1) * d_in)
    return 1 + extra / (4 * sum(role_sizes) * d_in * d_out)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    sizes = [round(REASONER * args.tokens), round(EXECUTOR * args.tokens)]
    sizes.append(args.tokens - sum(sizes))
    shapes = {"one layer": tuple(args.features)} if args.features else SHAPES
    print(common.environment(args))
    print(f"rows      {args.tokens:,}, of them {sizes} reasoner, executor, summarizer\n")
    table = [["layer", "in", "out", "frozen s", "lora", *MOR, "floor"]]
    for name, (d_in, d_out) in tqdm(shapes.items(), disable=None, leave=False):
        seconds = measure(d_in, d_out, RoleRows(sizes), args)
        frozen = seconds.pop("frozen")
        ratios = [f"{taken / frozen:.2f}" for taken in seconds.values()]
        least = floor(MoRConfig(), sizes, d_in, d_out)
        table.append([name, str(d_in), str(d_out), f"{frozen:.4f}", *ratios, f"{least:.2f}"])
    print(layout(table), end="")


if __name__ == "__main__":
    sys.exit(run(main))
