"""Which runs a study has: methods, rates, seeds, and the tables of the paper that they stand for.

What is decided here was decided before the first result:

  - Each method gets the same grid of learning rates, half decades apart, at one seed (SWEEP_SEED). The rate
    with the least cross-entropy on the development files is its rate. Where that is the first or the last of
    the grid, the grid goes on by a half decade in that direction.
  - Methods are then compared at other seeds, on other files: the test files play no part in the choice.
  - Steps, data, order of data, prompts and evaluation are the same for all methods of a study.
  - alpha1 and alpha2 are the paper's, and not tuned. Methods without a router have no use for them.
  - The headline is the share of calls that are exactly right after the reasoner's own words, on functions
    that occur nowhere in training.

    plan(study, results)  # the runs in the order in which they are wanted; grows as results come in
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mor import ROLES


@dataclass(frozen=True)
class Run:
    """One training and its evaluation."""

    table: str  # "sweep", or the table or figure of the paper that it is a part of
    method: str
    flags: str  # of train.py, besides those of the study, --lr and --seed
    lr: float
    seed: int
    tested_on: str  # "dev" or "test": which files of the study

    @property
    def name(self) -> str:
        """Of its result file. The same run in two tables has one name."""
        flags = self.flags.replace("--", "").replace(" ", "_").replace(",", ".")
        return f"{flags or 'defaults'}_lr_{self.lr:g}_seed_{self.seed}_{self.tested_on}"


NO_ROUTER = "--alpha1 0 --alpha2 0"
SWEEP_SEED = 100
SEEDS = (1, 2, 3, 4, 5)
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
ADAPTER_RATES = RATES[3:8]
FULL_RATES = RATES[2:7]

# tiny/ has 1,197,568 trained parameters with MoR of rank 8, 5, 5 and 4 LoRAs. Ranks of the others are those
# with as many parameters, or with as many that are active for a token.
TINY = {
    "MoR": "--rank 8",
    "LoRA": f"--loras 1,0,0 --rank 117 {NO_ROUTER}",
    "LoRA, equal active": f"--loras 1,0,0 --rank 32 {NO_ROUTER}",
    "DoRA": f"--loras 1,0,0 --rank 116 --dora {NO_ROUTER}",
    "full": "--method full",
    "roles, no router": f"--loras 1,1,1 --rank 39 {NO_ROUTER}",
    "router, no roles": "--loras 14,0,0 --active 4,0,0 --rank 8",
}
LOSSES = {  # Table 4
    "MoR, cross-entropy alone": "--rank 8 --alpha1 0 --alpha2 0",
    "MoR, with balance loss": "--rank 8 --alpha2 0",
    "MoR, with orthogonal loss": "--rank 8 --alpha1 0",
}
LORAS = {  # Table 5, and LoRAs of as many parameters, which it lacks
    "MoR 4/4/3": "--rank 8 --loras 4,4,3",
    "MoR 6/6/5": "--rank 8 --loras 6,6,5",
    "MoR 7/7/6": "--rank 8 --loras 7,7,6",
    "LoRA as 4/4/3": f"--loras 1,0,0 --rank 92 {NO_ROUTER}",
    "LoRA as 6/6/5": f"--loras 1,0,0 --rank 142 {NO_ROUTER}",
    "LoRA as 7/7/6": f"--loras 1,0,0 --rank 168 {NO_ROUTER}",
}
# SmolLM2-135M-Instruct: rank 4 trains 18,743,040 numbers, 13.9 % of the base's (the paper: 13 %).
SMOLLM2 = {
    "MoR": "--rank 4",
    "LoRA": f"--loras 1,0,0 --rank 61 {NO_ROUTER}",
    "full": "--method full",
}
SMOLLM2_RATES = {"MoR": RATES[3:6], "LoRA": RATES[3:6], "full": RATES[1:4]}
STEPS = 240  # of 2,048 tokens, half a million in all: what two cores train in half an hour
SWEEP_STEPS = 60  # a sweep has a quarter of it
CURVE_STEPS = (60, 120)  # the learning curve: shorter runs, each with the whole course of its rate
SAMPLES = (100, 200, 400, 800)  # Table 7; epochs are held, not steps
COUNTS = (1, 2, 4, 6, 8)  # Fig. 4: LoRAs of rank 2 without a router, which are one LoRA of rank 2n


def plan(study: str, results: dict[str, dict]) -> Iterator[Run]:
    """The runs of a study, as far as they are known. results: those at hand, by the name of the run."""
    plans = {"tiny": tiny, "smoke": smoke, "smollm2": smollm2, "maths": maths}
    return plans[study](results)


def smoke(results: dict[str, dict]) -> Iterator[Run]:
    """Two methods, a rate each, a seed: to see whether a study runs."""
    for method in ("MoR", "LoRA"):
        yield Run("Table 6", method, TINY[method], 3e-3, 1, "test")


def tiny(results: dict[str, dict]) -> Iterator[Run]:
    """Tables 4 to 7 and Figs. 4 and 5 with the bundled model."""
    rates = {}
    for method, flags in TINY.items():
        grid = FULL_RATES if method == "full" else ADAPTER_RATES
        runs = sweep(method, flags, grid, results)
        yield from runs
        rates[method] = chosen_rate(runs, results)
    known = [method for method in TINY if rates[method]]
    for seed in SEEDS:
        for method in known:
            yield Run("Table 6", method, TINY[method], rates[method], seed, "test")
    for seed in SEEDS[:3]:
        if rates["MoR"]:
            for method, flags in LOSSES.items():
                yield Run("Table 4", method, flags, rates["MoR"], seed, "test")
        for method, flags in LORAS.items():
            if lr := rates[method.split()[0]]:
                yield Run("Table 5", method, flags, lr, seed, "test")
        for method in ("MoR", "LoRA"):
            for samples in SAMPLES:
                if lr := rates[method]:
                    yield Run("Table 7", method, f"{TINY[method]} --samples {samples}", lr, seed, "test")
    yield from figure_4(results)


def smollm2(results: dict[str, dict]) -> Iterator[Run]:
    """Table 6 in small with a real language model, and calls against the tokens that it was trained on."""
    yield Run("Table 6", "base", "", 0, 0, "test")
    rates = {}
    for method, flags in SMOLLM2.items():
        runs = sweep(method, f"{flags} --steps {SWEEP_STEPS}", SMOLLM2_RATES[method], results)
        yield from runs
        rates[method] = chosen_rate(runs, results)
    for seed in (1, 2):
        for method, flags in SMOLLM2.items():
            if rates[method] and (method != "full" or seed == 1):
                yield Run("Table 6", method, f"{flags} --steps {STEPS}", rates[method], seed, "test")
    for steps in CURVE_STEPS:
        for method in ("MoR", "LoRA"):
            if rates[method]:
                flags = f"{SMOLLM2[method]} --steps {steps}"
                yield Run("curve", method, flags, rates[method], 1, "test")


def maths(results: dict[str, dict]) -> Iterator[Run]:
    """Table 3: the base alone."""
    yield Run("Table 3", "base", "", 0, 0, "test")


def figure_4(results: dict[str, dict]) -> Iterator[Run]:
    """Each role alone, by the number of LoRAs; one rate, chosen for 4 LoRAs of the executor."""
    runs = sweep("executor alone", role_flags("executor", 4), ADAPTER_RATES, results)
    yield from runs
    lr = chosen_rate(runs, results)
    if not lr:
        return
    for count in (1, 8):  # whether the best rate moves with the rank
        near = RATES.index(lr)
        for rate in RATES[near - 1 : near + 2]:
            flags = role_flags("executor", count)
            yield Run("sweep", f"executor alone, {count}", flags, rate, SWEEP_SEED, "dev")
    for seed in SEEDS[:2]:
        for role in ROLES:
            for count in COUNTS:
                yield Run("Fig. 4", f"{role} alone, {count}", role_flags(role, count), lr, seed, "test")


def role_flags(role: str, count: int) -> str:
    """`count` LoRAs of rank 2 for one role and no router."""
    return f"--loras 1,0,0 --rank {2 * count} --only-role {role} {NO_ROUTER}"


# ---- rates ----


def sweep(method: str, flags: str, grid: tuple[float, ...], results: dict[str, dict]) -> list[Run]:
    """The runs of a grid of rates, which goes on where its best is at an end."""

    def run(lr: float) -> Run:
        return Run("sweep", method, flags, lr, SWEEP_SEED, "dev")

    first, last = RATES.index(grid[0]), RATES.index(grid[-1])
    while True:
        runs = [run(lr) for lr in RATES[first : last + 1]]
        best = chosen_rate(runs, results)
        if best == RATES[first] and first > 0:
            first -= 1
        elif best == RATES[last] and last < len(RATES) - 1:
            last += 1
        else:
            return runs


def chosen_rate(runs: list[Run], results: dict[str, dict]) -> float | None:
    """The rate with the least cross-entropy on the development files; None while a run is missing."""
    if not all(run.name in results for run in runs):
        return None
    return min(runs, key=lambda run: dev_loss(results[run.name])).lr


def dev_loss(result: dict) -> float:
    """Cross-entropy a supervised token of the development files; infinite for a run that broke off."""
    if "failed" in result:
        return float("inf")
    if "dev_loss" in result:
        return result["dev_loss"]
    sums = [row for of_file in result["files"].values() for row in of_file["sums"]]
    return sum(row[0] for row in sums) / sum(row[2] for row in sums)
