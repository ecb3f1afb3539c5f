"""What the paper's tables would take at full size: an estimate from FLOPs, nothing here is measured.

    forward and backward through frozen weights    4 x parameters x tokens: no gradient of the weights
    through what is trained                        6 x parameters x tokens
    a GPU                                          40 % of the 989 TFLOP/s of an H100, dense bfloat16

An adapter's parameters count as far as a token uses them. Left out: attention over the context (a few per
cent at a thousand tokens), the norms of DoRA, optimizer, data, evaluation; and on eight GPUs the exchange of
gradients.

    hours(training_flops(1_235_814_400, 46_399_488, tokens=356e6))
"""

from typing import NamedTuple

PEAK, USED = 989e12, 0.4  # FLOP/s of one H100, and the share of it that is reached
RANK, EPOCHS = 16, 4


class Base(NamedTuple):
    """A base model of the paper: its parameters, and the widths of its adapted linears."""

    parameters: int
    inputs: int  # sum of `in`: a router has a row of it for each routed LoRA
    both: int  # sum of `in` + `out`: what a LoRA has for each rank


BASES = {
    "Llama-3.2-1B": Base(1_235_814_400, 327_680, 704_512),
    "Phi-3.5-mini": Base(3_821_079_552, 557_056, 1_572_864),
    "openPangu-1B": Base(1_155_912_192, 399_360, 878_592),
    "Qwen2.5-Coder-1.5B": Base(1_543_714_304, 508_928, 1_154_048),
}
LLAMA = BASES["Llama-3.2-1B"]


class Data(NamedTuple):
    """Trajectories, as the paper says, and tokens in one of them, as samples of such data have."""

    samples: int
    length: int

    @property
    def tokens(self) -> int:
        return EPOCHS * self.samples * self.length


TOOLBENCH, CALLS, MATHS = Data(120_000, 2_200), Data(90_000, 1_000), Data(80_000, 700)


def training_flops(frozen: int, trained: int, tokens: float) -> float:
    """trained: of the parameters that are trained those that a token uses."""
    return (4 * frozen + 6 * trained) * tokens


def hours(flops: float, gpus: int = 1) -> float:
    """On so many H100s."""
    return flops / (PEAK * USED * gpus) / 3600


def lora(base: Base, rank: int, tokens: float) -> float:
    return training_flops(base.parameters, rank * base.both, tokens)


def mor(base: Base, tokens: float, loras: int = 5) -> float:
    """A token of the reasoner or the executor uses all LoRAs but one; of the summarizer, one less."""
    return training_flops(base.parameters, (loras - 1) * (RANK * base.both + base.inputs), tokens)


def trainings() -> dict[str, list[float]]:
    """The FLOPs of each training of each table."""
    full = training_flops(0, LLAMA.parameters, CALLS.tokens)
    alike = lora(LLAMA, 229, CALLS.tokens)  # LoRA, and DoRA, of as many parameters as MoR
    bfcl_bases = [BASES[name] for name in ("Llama-3.2-1B", "Phi-3.5-mini", "openPangu-1B")]
    of_a_role = 2 * 80_000 * CALLS.length  # two epochs
    return {
        "Table 1: MoR, 2 bases": [mor(base, TOOLBENCH.tokens) for base in bfcl_bases[:2]],
        "Table 2: MoR, 3 bases": [mor(base, CALLS.tokens) for base in bfcl_bases],
        "Table 3: MoR": [mor(BASES["Qwen2.5-Coder-1.5B"], MATHS.tokens)],
        "Table 4: losses": 4 * [mor(LLAMA, CALLS.tokens)],
        "Table 5: numbers of LoRAs": [mor(LLAMA, CALLS.tokens, loras) for loras in (4, 5, 6, 7)],
        "Table 6: LoRA, DoRA, full, MoR": [alike, alike, full, mor(LLAMA, CALLS.tokens)],
        "Table 7: 1K to 90K samples": [
            mor(LLAMA, CALLS.tokens * thousands / 90) for thousands in (1, 5, 10, 50, 90)
        ],
        "Fig. 4: 3 roles, 1 to 8 LoRAs": 3 * [lora(LLAMA, RANK * n, of_a_role) for n in range(1, 9)],
    }


def rows() -> list[list[str]]:
    """A table: one seed, one learning rate."""
    found = [["", "trainings", "EFLOP", "hours on one H100", "on eight"]]
    for name, flops in trainings().items():
        total = sum(flops)
        times = [f"{hours(total, gpus):.1f}" for gpus in (1, 8)]
        found.append([name, str(len(flops)), f"{total / 1e18:,.1f}", *times])
    return found
