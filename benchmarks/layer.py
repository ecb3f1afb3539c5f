"""One linear layer, forward and backward: what adapters cost on top of the frozen linear.

    python -m benchmarks.layer                  the shapes of Llama-3.2-1B and Phi-3.5-mini, 2,048 tokens
    python -m benchmarks.layer --tokens 8192    as many on a GPU, in bfloat16

frozen  the linear alone: h = W0 x, and the gradient of x
lora    one LoRA of as many parameters as MoR's 5 + 5 + 4 of rank 16: rank 224 for every token
masked  MoR as one writes it down first: every LoRA on all tokens, gates of 0 where it is not meant
mor     mor.MoRLinear

Seconds are medians of repeats that take turns; the other columns are ratios to the frozen linear. Floor: if
all that mor multiplies ran at the frozen linear's FLOP/s and nothing else took time.
"""

import sys
import time
from statistics import median

import torch
from torch import Tensor, nn

import mor
from benchmarks.common import check_device, hardware
from cli import ArgumentParser, number, run
from model import Linear
from mor import MoRConfig, MoRLinear

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
SHARES = (0.86, 0.06, 0.08)  # of reasoner, executor and summarizer among the tokens of agent data


class LoRA(nn.Module):
    def __init__(self, base: Linear, rank: int):
        super().__init__()
        self.base = base
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features, device=base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(rank, base.out_features, device=base.weight.device))

    def forward(self, x: Tensor, role_sizes: list[int]) -> Tensor:
        return torch.addmm(self.base(x), x @ self.lora_A.to(x.dtype).T, self.lora_B.to(x.dtype))


class MaskedMoR(MoRLinear):
    def forward(self, x: Tensor, role_sizes: list[int]) -> Tensor:
        h, start = self.base(x), 0
        for role, size, active in zip(mor.ROLES, role_sizes, self.config.active, strict=True):
            gates, _, _ = mor.route((x @ self.router[role].to(x.dtype).T).float(), active - 1, False)
            mask = torch.zeros(len(x), 1, device=x.device)
            mask[start : start + size] = 1
            start += size
            gates = (gates * mask).to(x.dtype)
            for i, (A, B) in enumerate(zip(self.lora_A[role], self.lora_B[role], strict=True)):
                h = h + gates[:, i : i + 1] * (x @ A.to(x.dtype).T @ B.to(x.dtype))
        return h


def variants(base: Linear, config: MoRConfig) -> dict[str, nn.Module]:
    found = {"frozen": base, "lora": LoRA(base, sum(config.loras) * config.rank)}
    for name, kind in (("masked", MaskedMoR), ("mor", MoRLinear)):
        found[name] = kind(base, config).train()
        found[name].reset_parameters(torch.Generator().manual_seed(0))
        for B in found[name].lora_B.values():
            nn.init.normal_(B, std=0.02)
    return found


def step(module: nn.Module, x: Tensor, d_h: Tensor, role_sizes: list[int]) -> float:
    """Seconds of one forward and backward; gradients are made anew, as zero_grad(set_to_none=True) has it."""
    x.grad = None
    module.zero_grad(set_to_none=True)
    if x.is_cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    module(x, role_sizes).backward(d_h)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def floor(config: MoRConfig, role_sizes: list[int], d_in: int, d_out: int) -> float:
    """FLOPs of mor over those of the frozen linear. An adapter's matmul runs three times, W0's twice."""
    extra = 0
    for size, loras in zip(role_sizes, config.loras, strict=True):
        extra += 6 * size * (loras * config.rank * (d_in + d_out) + (loras - 1) * d_in)
    return 1 + extra / (4 * sum(role_sizes) * d_in * d_out)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="benchmarks/layer.py", description=__doc__.split("\n\n")[0])
    cuda = torch.cuda.is_available()
    add, count = parser.add_argument, number(int, 1)
    add("--tokens", type=number(int, 100), default=2048, metavar="N", help="rows of x")
    add("--repeats", type=count, default=15, metavar="N", help="of each variant; the median is reported")
    add("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu", help="where to run")
    dtype = "bfloat16" if cuda else "float32"
    add("--dtype", choices=("float32", "bfloat16"), default=dtype, help="of x and W0")
    args = parser.parse_args(argv)
    check_device(args)

    config, like = MoRConfig(), dict(device=args.device, dtype=getattr(torch, args.dtype))
    role_sizes = [round(share * args.tokens) for share in SHARES[:2]]
    role_sizes.append(args.tokens - sum(role_sizes))
    print(f"hardware  {hardware(args.device)}; {args.dtype}; torch {torch.__version__}")
    print(f"rows      {args.tokens:,}, of them {role_sizes} reasoner, executor, summarizer")
    print(f"{'layer':22}{'in':>6}{'out':>7}{'frozen s':>10}{'lora':>8}{'masked':>8}{'mor':>8}{'floor':>8}")
    for name, (d_in, d_out) in SHAPES.items():
        base = Linear(d_in, d_out, bias=False, **like).requires_grad_(False)
        x, d_h = (
            torch.randn(args.tokens, d_in, **like, requires_grad=True),
            torch.randn(args.tokens, d_out, **like),
        )
        modules = variants(base, config)
        seconds = {variant: [] for variant in modules}
        for repeat in range(args.repeats + 1):
            for variant, module in modules.items():
                taken = step(module, x, d_h, role_sizes)
                if repeat:  # the first is a warm-up
                    seconds[variant].append(taken)
        frozen = median(seconds["frozen"])
        ratios = "".join(f"{median(seconds[v]) / frozen:8.2f}" for v in ("lora", "masked", "mor"))
        least = floor(config, role_sizes, d_in, d_out)
        print(f"{name:22}{d_in:6}{d_out:7}{frozen:10.4f}{ratios}{least:8.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(run(main))
