"""Train a Mixture-of-Roles adapter: the paper's Algorithm 1 and Eq. 8, as one plain loop in `train`.

    python train.py --data bfcl.jsonl                                    quick run on a CPU, no download
    python train.py --data train.jsonl --model DIR --output runs/llama   one GPU, the paper's settings
    torchrun --nproc-per-node 8 train.py --data train.jsonl --model DIR  eight GPUs, the same result
    torchrun --nproc-per-node 8 train.py --data train.jsonl --model DIR --fsdp   a base too large for one
    python train.py --data train.jsonl --model Qwen/Qwen2.5-Coder-1.5B   base model from the hub

The same command with --resume goes on with a run that was stopped. Defaults are those of section 4.2: rank
16; 5, 5 and 4 LoRAs, 4, 4 and 3 of them active; lr 5e-5; 4 epochs; alpha1 1e-3; alpha2 1e-4.

A step takes --grad-accum micro-batches, shared out over the processes; a micro-batch is a pack of whole
trajectories of up to --tokens-per-batch tokens. Paper silent:
  - Eq. 9 is summed over the supervised tokens of a step and divided once by their number, known before the
    first backward, so that it does not depend on the split into micro-batches and processes.
  - Eqs. 10 to 12 take their statistics from one micro-batch; a step's balance loss is the mean over its
    micro-batches. Eq. 13 depends on the parameters alone and enters once a step.
  - AdamW; batch size; warm-up, then a cosine down to 0; clipping at norm 1; no weight decay.

The output folder holds adapter_config.json and adapter_model.safetensors; train_args.json; metrics.jsonl, a
line per logged step (about that step alone) and per evaluation; and training_state.safetensors, all that
--resume needs in one file, because the rename of one file has happened or it has not.
"""

import argparse
import itertools
import math
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import data
import mor
from cli import ArgumentParser, UserError, number, run
from engine import dataset
from engine.dataset import Trajectories
from engine.devices import (
    Processes,
    check_memory,
    choose_dtype,
    flat_gradients,
    peak_memory,
    start_processes,
    stop_on_signal,
    sum_gradients,
)
from engine.dora import layer_class
from engine.full import Masters
from engine.fused import for_training, orthogonal_loss
from engine.heldout import evaluate, per_role, table
from engine.inference import for_inference
from engine.loss import token_losses
from engine.runs import Output, claimed, settings_of
from engine.sharding import complete_round, load_sharded
from formats.checkpoint import ModelConfig, checkpoint_folder
from formats.frames import FAMILIES, Frame, load_frame
from formats.prompts import PROMPTS
from model import Transformer
from mor import ROLES, MoRConfig

HERE = Path(__file__).resolve().parent

# Without --model: the bundled tiny/, and these in place of the defaults in parse_args.
QUICK_RUN = dict(
    epochs=1.5, lr=3e-3, rank=8, tokens_per_batch=2048, grad_accum=1, save_every=200, eval_limit=50
)
FULL_LR = 5e-6  # of --method full with --model; the bundled model is so small that it learns with QUICK_RUN's
OF_ADAPTERS = "rank loras active targets shared_gate init scale dora lr_ratio orthogonal balance".split()
SAMPLE = HERE / "bfcl.jsonl"  # with it, unless --eval-data is given:
SAMPLE_EVAL = {"unseen functions": HERE / "bfcl_heldout.jsonl", "seen functions": HERE / "bfcl_seen.jsonl"}


# ---- arguments ----


# fmt: off
def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(prog="train.py", description=__doc__.split("\n\n")[0], epilog=quick_run())
    parser.set_defaults(quick=False)
    absent, config = argparse.SUPPRESS, MoRConfig()
    count, positive = number(int, 0), number(int, 1)
    amount, factor = number(float, 0, 1e30), number(float, 1e-6, 1e6)

    add = parser.add_argument_group("data").add_argument
    add("--data", type=Path, required=True, default=absent, metavar="FILE", help="trajectories, JSON Lines")
    add("--eval-data", action="append", default=absent, metavar="[NAME:]FILE",
        help="held-out trajectories; may be given several times (for bfcl.jsonl: its own)")
    add("--max-length", type=count, default=0, metavar="TOKENS",
        help="of a trajectory; 0: what a micro-batch and the model hold")
    add("--samples", type=count, default=0, metavar="N",
        help="train on the first N trajectories in an order that --seed draws; 0: all")
    add("--only-role", choices=ROLES, help="train on what this role says alone, as for Fig. 4; None: on all")
    add("--overlong", choices=("skip", "error"), default="skip", help="what to do with longer ones")
    add("--cache", default=dataset.default_cache(), metavar="DIR",
        help="folder that keeps --data rendered, for the next start; '' keeps nothing")
    add("--show", type=count, default=0, metavar="N", help="print N rendered trajectories and stop")

    add = parser.add_argument_group("model and adapter").add_argument
    add("--model", default=absent, metavar="DIR|HUB_ID", help="base model; without it, a quick run on tiny/")
    add("--method", choices=("adapter", "full"), default="adapter",
        help=f"full: no adapter, all of the model is trained; with --model at --lr {FULL_LR:g} by default")
    add("--frame", choices=tuple(FAMILIES), default="",
        help="chat format; default: by the special tokens of the tokenizer")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="of the base model; auto: bfloat16 on CUDA, else float32")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    add("--gradient-checkpointing", action="store_true",
        help="keep one state a layer and compute the rest again in backward: less memory, more time")
    add("--fsdp", action="store_true",
        help="under torchrun: a process keeps its part of the base model, not all of it (FSDP2)")
    add("--compile", action="store_true", help="fuse norms and MLP gates with torch.compile")
    add("--rank", type=number(int, 1, 2**16), default=config.rank, metavar="N", help="of every LoRA")
    add("--loras", type=triple, default="5,5,4", metavar="N,N,N",
        help="LoRAs of reasoner, executor, summarizer, the shared one included; 1: no router; "
        "0: the role uses those of the role before it, so 1,0,0 is plain LoRA")
    add("--active", type=triple, default=None, metavar="N,N,N",
        help="of these per token, likewise; None: all but one of each role's, as in section 4.4, or the one")
    add("--scale", type=factor, default=config.scale, metavar="F",
        help="of what the LoRAs add: alpha / rank in LoRA's words")
    add("--dora", action="store_true", help="DoRA, with --loras 1,0,0: an output row has a trained length")
    add("--targets", default=",".join(config.targets), metavar="NAMES", help="names of linears to adapt")
    add("--shared-gate", action=argparse.BooleanOptionalAction, default=False,
        help="put a sigmoid gate on the shared LoRA, as the released code does and Eq. 7 does not")
    add("--prompts", choices=[*PROMPTS],
        help="what the roles are told: our few words, or those of the paper's Figs. 8 to 10; "
        "None: short, or what a model that was trained here as a whole was told")
    add("--init", choices=("lora", "released"), default="lora",
        help="A starts within 1/sqrt(in), or within 1/sqrt(rank * in) as in the released code")

    add = parser.add_argument_group("optimisation").add_argument
    add("--epochs", type=factor, default=4.0, metavar="F", help="passes over the data")
    add("--steps", type=count, default=0, metavar="N", help="steps, in place of --epochs; 0: none")
    add("--tokens-per-batch", type=positive, default=8192, metavar="TOKENS", help="of a micro-batch")
    add("--grad-accum", type=positive, default=8, metavar="N", help="micro-batches in a step")
    add("--lr", type=amount, default=5e-5, metavar="F", help="highest learning rate of AdamW")
    add("--lr-ratio", type=factor, default=1.0, metavar="F",
        help="learning rate of B over that of A and routers: LoRA+, which has 16")
    add("--warmup", type=number(float, 0, 1), default=0.03, metavar="F", help="share of steps, lr rising")
    add("--schedule", choices=("constant", "linear", "cosine"), default="cosine", help="of lr after warm-up")
    add("--weight-decay", type=amount, default=0.0, metavar="F", help="of AdamW")
    add("--clip", type=amount, default=1.0, metavar="NORM", help="of the gradient at most; 0: no clipping")
    add("--alpha1", type=amount, default=1e-3, metavar="F", help="weight of the balance loss in Eq. 8")
    add("--balance", choices=("sum", "mean"), default="sum",
        help="of Eq. 10 over the adapted linears; the mean is less by their number, 112 for Llama-3.2-1B")
    add("--alpha2", type=amount, default=1e-4, metavar="F", help="weight of the orthogonal loss in Eq. 8")
    add("--orthogonal", choices=("directions", "printed"), default="directions",
        help="Eq. 13 by [rank, rank] products of both factors, or with the shapes that the paper prints")
    add("--seed", type=number(int, 0, 2**32 - 1), default=0, metavar="N", help="of adapter and data order")

    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, default=Path("output"), metavar="DIR", help="folder of the run")
    add("--resume", action="store_true", help="go on with the run in --output")
    add("--save-every", type=positive, default=500, metavar="STEPS", help="between saves")
    add("--log-every", type=positive, default=1, metavar="STEPS", help="between lines of metrics.jsonl")
    add("--eval-limit", type=count, default=100, metavar="N",
        help="trajectories of a set to write turns for; 0: all")

    args = parser.parse_args(argv)
    if not hasattr(args, "model"):
        parser.set_defaults(quick=True, model=str(HERE / "tiny"), **QUICK_RUN)
        args = parser.parse_args(argv)
    elif args.method == "full":
        parser.set_defaults(lr=FULL_LR)
        args = parser.parse_args(argv)
    args.eval_data = eval_files(args)
    if args.method == "full":
        defaults = parser.parse_args(["--data", ""])
        given = [name for name in OF_ADAPTERS if getattr(args, name) != getattr(defaults, name)]
        if given:
            flag = f"--{given[0].replace('_', '-')}"
            parser.error(f"{flag}: got --method full, which has no adapter; leave out one of the two")
    if args.active is None:
        args.active = tuple(loras - 1 if loras > 1 else loras for loras in args.loras)
    return args
# fmt: on


def quick_run() -> str:
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in QUICK_RUN.items())
    return f"Quick run, without --model: the bundled tiny/ model and {flags}."


def triple(text: str) -> tuple[int, ...]:
    """An argparse type: three whole numbers. What they may be, MoRConfig knows."""
    try:
        first, second, third = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted three whole numbers such as 5,5,4") from None
    if max(first, second, third) > 1000:
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted at most 1000 of each")
    return first, second, third


def eval_files(args: argparse.Namespace) -> dict[str, Path]:
    """Evaluation sets, name -> file. Raises UserError when two share a name."""
    if not hasattr(args, "eval_data"):
        return SAMPLE_EVAL if os.path.realpath(args.data) == str(SAMPLE) else {}
    files = {}
    for text in args.eval_data:
        name, colon, path = text.partition(":")
        if not colon or Path(text).exists():
            name, path = Path(text).stem, text
        if name in files:
            raise UserError(f"--eval-data: two sets are named {name!r}; name one of them, as in NAME:{path}")
        files[name] = Path(path)
    return files


# ---- data ----

MOST_MICRO_BATCHES = 10**6  # of a run, whose plan takes some 100 bytes and 50 microseconds for each


def load_trajectories(
    frame: Frame, longest: int, args: argparse.Namespace, processes: Processes
) -> Trajectories:
    """The training data, rendered, without what is too long. Raises UserError."""
    workers = dataset.cores() if args.cache else dataset.cores() // processes.size
    with processes.first_alone(bool(args.cache)):  # it fills the cache for the others
        rendered = dataset.load(args.data, frame, args.cache, workers, processes.say, processes.bar())
    if args.only_role:
        rendered = rendered.only(args.only_role)
    fitting = rendered.keep(dataset.fitting(rendered, args.data, longest, args.overlong, processes.say))
    return sample(fitting, args, processes) if args.samples else fitting


def sample(trajectories: Trajectories, args: argparse.Namespace, processes: Processes) -> Trajectories:
    """--samples of them: with one seed, those of a smaller number are among those of a larger one.

    Raises UserError where there are not as many.
    """
    there = len(trajectories)
    if args.samples > there:
        raise UserError(f"--samples: got {args.samples}, {args.data} has {there} to train on; ask for fewer")
    order = random.Random(f"samples/{args.seed}").sample(range(there), there)
    chosen = trajectories.keep(np.sort(order[: args.samples]))
    processes.say(f"--samples: {args.samples:,} of them, {chosen.supervised.sum():,} supervised tokens")
    return chosen


def plan_steps(lengths: list[int], args: argparse.Namespace) -> list[list[list[int]]]:
    """All steps of the run: a step is a list of micro-batches, these are lists of indices of trajectories.

    It follows from data and settings, and a step draws no random numbers: the number of a step is all that a
    resumed run has to know. Steps run on over the end of an epoch; only the last one may be short.
    Raises UserError for more than a plan can hold.
    """
    micro_batches = []
    for epoch in itertools.count():
        share = 1.0 if args.steps else min(1.0, args.epochs - epoch)
        if share <= 0 or (args.steps and len(micro_batches) >= args.steps * args.grad_accum):
            break
        packs = data.pack(lengths, args.tokens_per_batch, args.seed, epoch)
        wanted = args.steps * args.grad_accum or args.epochs * len(packs)
        if wanted > MOST_MICRO_BATCHES:
            got = f"got {wanted:,.0f} micro-batches in all"
            raise UserError(f"--epochs or --steps: {got}, wanted at most {MOST_MICRO_BATCHES:,}")
        micro_batches += packs[: math.ceil(share * len(packs))]
    steps = [micro_batches[i : i + args.grad_accum] for i in range(0, len(micro_batches), args.grad_accum)]
    return steps[: args.steps or None]


def learning_rate(step: int, steps: int, args: argparse.Namespace) -> float:
    """Of step 1, 2, ..., steps: a straight rise, then what --schedule says; the last step still moves."""
    warmup = math.ceil(args.warmup * steps)
    if step <= warmup:
        return args.lr * step / warmup
    gone = (step - warmup - 1) / (steps - warmup)
    shapes = {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}
    return args.lr * shapes[args.schedule]


def train(
    model: Transformer,
    masters: Masters,
    trajectories: Trajectories,
    plan: list[list[list[int]]],
    optimizer: torch.optim.AdamW,
    output: Output,
    step: int,
    args: argparse.Namespace,
    processes: Processes,
) -> None:
    """Algorithm 1, from the step after `step` to the end of the plan.

    Raises KeyboardInterrupt on Ctrl-C, after saving; UserError when the loss is no longer a finite number.
    """
    adapted = args.method != "full"
    config = mor.mor_layers(model)[0].config if adapted else None
    gradients = flat_gradients(list(masters.parameters.values()))
    model.train()
    with stop_on_signal() as caught, tqdm(total=len(plan), initial=step, disable=processes.bar()) as bar:
        while step < len(plan):  # Algorithm 1: repeat
            step += 1
            started = time.perf_counter()
            micro_batches = plan[step - 1]  # 1. a random batch of data
            sums = StepSums(config, gradients.device)
            supervised = sum(trajectories[i].supervised for i in itertools.chain(*micro_batches))
            gradients.zero_()
            for i in range(processes.rank, len(micro_batches), processes.size):
                examples = [trajectories[j].example for j in micro_batches[i]]
                nll, by_role = token_losses(model, examples)  # 2. forward with MoR, Eq. 5
                ce = nll / supervised  # Eq. 9
                balance = orthogonal = torch.zeros_like(ce)
                if adapted:
                    balance = mor.balance_loss(model, args.balance) / len(micro_batches)  # Eqs. 10 to 12
                if adapted and i == 0:
                    orthogonal = orthogonal_loss(model)  # Eq. 13
                loss = ce + args.alpha1 * balance + args.alpha2 * orthogonal  # 3. the loss, Eq. 8
                loss.backward()
                masters.gather()
                load = mor.router_load(model) if adapted else {}
                sums.add(torch.stack((loss, ce, balance, orthogonal)), by_role, load)
            if complete_round(model, len(micro_batches), processes):  # --fsdp: others had one more
                masters.gather()
            sums.stop += len(caught)  # a signal to one process stops all of them after the same step
            sums.over(processes)

            grad_norm = sum_gradients(gradients, masters.sharded, processes)
            check_finite(step, float(sums.terms[0]), grad_norm, args.output)
            if 0 < args.clip < grad_norm:
                gradients.mul_(args.clip / grad_norm)
            lr = learning_rate(step, len(plan), args)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["lr_ratio"]
            optimizer.step()  # 4. update LoRAs and routers; all else is frozen
            masters.publish()

            seconds = time.perf_counter() - started
            record = step_record(step, sums, grad_norm, lr, seconds, peak_memory(gradients.device))
            report(bar, record, seconds, processes)
            if step % args.log_every == 0:
                output.log(record)
            if sums.stop or step % args.save_every == 0 or step == len(plan):
                output.save(step, model, masters, optimizer)
            if sums.stop:
                processes.say(f"stopped after step {step} of {len(plan)}; --resume goes on with it")
                raise KeyboardInterrupt


def make_optimizer(parameters: dict[str, Tensor], args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW; what is B, or DoRA's m, gets --lr-ratio times the learning rate (LoRA+, arXiv 2402.12354)."""
    fast = {name: p for name, p in parameters.items() if {"lora_B", "magnitude"} & set(name.split("."))}
    slow = {name: p for name, p in parameters.items() if name not in fast}
    groups = [{"params": [*slow.items()], "lr_ratio": 1.0}]
    if fast:
        groups.append({"params": [*fast.items()], "lr_ratio": args.lr_ratio})
    # fused: one kernel for all; a loop over a thousand small ones takes as long as a small model's step
    return torch.optim.AdamW(groups, weight_decay=args.weight_decay, fused=True)


class StepSums:
    """What a step adds up over its micro-batches and then over the processes, in float64."""

    def __init__(self, config: MoRConfig | None, device: torch.device):
        options = dict(dtype=torch.float64, device=device)
        self.terms = torch.zeros(4, **options)  # loss, cross-entropy, balance, orthogonal
        self.by_role = torch.zeros(3, 4, **options)  # cross-entropy, hits, supervised tokens, tokens
        self.groups = config.groups if config else {}
        routed = mor.routed_loras(config) if config else {}
        self.load = {role: torch.zeros(E, **options) for role, E in routed.items()}  # f times tokens
        self.stop = torch.zeros(1, **options)  # signals caught

    def add(self, terms: Tensor, by_role: Tensor, load: dict[str, Tensor]) -> None:
        """One micro-batch: terms [4], by_role [3, 4] of token_losses, load of mor.router_load."""
        self.terms += terms.detach()
        self.by_role += by_role
        for role, f in load.items():
            self.load[role] += f * by_role[self.groups[role], 3].sum()

    def over(self, processes: Processes) -> None:
        """Add up over all processes."""
        for values in (self.terms, self.by_role, *self.load.values(), self.stop):
            processes.sum(values)


def step_record(
    step: int, sums: StepSums, grad_norm: float, lr: float, seconds: float, peak_memory_bytes: int
) -> dict:
    """A line of metrics.jsonl. load_<role>: share of its router's tokens at each LoRA, None without any."""
    loss, ce, balance, orthogonal = sums.terms.tolist()
    _, _, supervised, tokens = sums.by_role.sum(dim=0).tolist()
    loads = {f"load_{role}": None for role in ROLES}
    for role, load in sums.load.items():
        routed_tokens = sums.by_role[sums.groups[role], 3].sum()
        if routed_tokens:
            loads[f"load_{role}"] = (load / routed_tokens).tolist()
    return {
        "step": step,
        "loss": loss,
        "ce": ce,
        "balance": balance,
        "orthogonal": orthogonal,
        "grad_norm": grad_norm,
        "lr": lr,
        "tokens": int(tokens),
        "supervised_tokens": int(supervised),
        "tokens_per_second": tokens / seconds,
        "peak_memory_bytes": peak_memory_bytes,
        **per_role(sums.by_role.tolist()),
        **loads,
    }


def check_finite(step: int, loss: float, grad_norm: float, output: Path) -> None:
    """Raises UserError before a step that would put NaN or infinity into the adapter."""
    if not math.isfinite(loss + grad_norm):
        raise UserError(
            f"step {step}: loss {loss}, gradient norm {grad_norm}, wanted finite numbers; "
            f"{output} keeps the last save; lower --lr or --clip, or choose --dtype float32"
        )


def report(bar: tqdm, record: dict, seconds: float, processes: Processes) -> None:
    """A step on the bar or, where stderr is no terminal, about twenty lines in all."""
    step = record["step"]
    text = f"loss {record['loss']:.4f}, {record['tokens_per_second']:,.0f} tokens/s"
    if not bar.disable:
        bar.set_postfix_str(text, refresh=False)
        bar.update()
    elif step % max(1, bar.total // 20) == 0 or step == bar.total:
        processes.say(f"step {step}/{bar.total}: {text}, {(bar.total - step) * seconds / 60:.1f} min left")


# ---- main ----


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    folder = checkpoint_folder(args.model)
    frame = load_frame(folder, args.frame, args.prompts or "")
    args.prompts = frame.prompts
    base, config = ModelConfig.from_file(folder), adapter_config(args, frame)
    if args.show:
        return show(args, frame)
    processes, device = start_processes(args)
    with claimed(args.output, args.resume, processes.rank == 0):
        train_and_evaluate(args, frame, base, config, processes, device)
    processes.end()


def train_and_evaluate(
    args: argparse.Namespace,
    frame: Frame,
    base: ModelConfig,
    config: MoRConfig,
    processes: Processes,
    device: torch.device,
) -> None:
    """A whole run, into an output folder that nobody else writes to. Raises UserError."""
    folder = frame.folder
    with torch.device("meta"):  # what the adapter cannot be is better known before all that takes time
        planned = Transformer(base)
        mor.add_mor(planned, config, layer_class=layer_class(config))
    adapter, whole = mor.count_parameters(planned)
    sharded = args.fsdp and processes.size > 1  # one process has all the parts
    if args.method == "full":
        check_memory(whole // processes.size if sharded else whole, device)
    else:
        check_memory(adapter, device)
    torch.manual_seed(args.seed)
    if args.quick:
        processes.say(quick_run())

    longest = longest_trajectory(args, base)
    trajectories = load_trajectories(frame, longest, args, processes)
    held_out = {}
    for name, file in args.eval_data.items():
        options = args.overlong, processes.say, processes.bar()
        held_out[name] = dataset.load_held_out(file, frame, longest, *options)
    plan = plan_steps(trajectories.lengths.tolist(), args)
    dtype = choose_dtype(args.dtype, device)
    args.dtype = str(dtype).removeprefix("torch.")

    def load() -> Transformer:
        if sharded:
            return load_sharded(folder, dtype, device, processes)
        return Transformer.from_pretrained(folder, dtype, device)

    model = load()
    output = Output(args.output, settings_of(args, trajectories, model), frame, processes.rank == 0)

    def evaluate_all(model: Transformer, step: int) -> None:
        """The model can then no longer be trained."""
        if not sharded:  # that form copies the weights
            model = for_inference(model)
        for name, of_set in held_out.items():
            processes.say(f"evaluating after step {step}: {name}")
            output.log({"step": step, "set": name, "eval": evaluate(model, of_set, frame, args, processes)})

    if not args.resume:
        output.start(args)
        if held_out:  # the base alone is as good: an adapter that starts at zero changes nothing
            evaluate_all(model, 0)
            del model
            model = load()
    if args.method == "full":
        model.arrange_rows = lambda role_ids: None  # plain linears want no order of rows
    else:
        mor.add_mor(model, config, args.seed, args.init, layer_class(config))
        for_training(model)
    model.gradient_checkpointing = args.gradient_checkpointing
    if args.compile:
        model.compile_elementwise()
    masters = Masters(model)
    optimizer = make_optimizer(masters.parameters, args)
    if args.resume:
        step = output.restore(model, masters, optimizer)
    else:
        step = 0
        output.save(step, model, masters, optimizer)
    trained, frozen = mor.count_parameters(model)
    steps = f"steps {step + 1} to {len(plan)}" if step < len(plan) else f"no step left of {len(plan)}"
    processes.say(
        f"{args.model} ({args.dtype}, {device}): {frozen:,} parameters frozen, {trained:,} trained\n"
        f"{steps} of up to {args.grad_accum} x {args.tokens_per_batch:,} tokens"
    )
    train(model, masters, trajectories, plan, optimizer, output, step, args, processes)
    if held_out:
        evaluate_all(model, len(plan))
        processes.say(table(output.evaluations()))
    how = f"--model {args.output} --adapter ''" if args.method == "full" else f"--adapter {args.output}"
    processes.say(f"saved in {args.output}; use it by {how}")


def show(args: argparse.Namespace, frame: Frame) -> None:
    """Print --show records as they are trained on."""
    for record in data.read_records(args.data)[: args.show]:
        example = data.render(record, frame)
        if args.only_role:
            for t, role in enumerate(example.role_ids):
                if ROLES[role] != args.only_role:
                    example.labels[t] = -100
        print(data.show(example, frame))


def adapter_config(args: argparse.Namespace, frame: Frame) -> MoRConfig:
    """Raises UserError."""
    return MoRConfig(
        rank=args.rank,
        loras=args.loras,
        active=args.active,
        targets=tuple(args.targets.split(",")),
        shared_gate=args.shared_gate,
        orthogonal=args.orthogonal,
        scale=args.scale,
        dora=args.dora,
        frame=frame.name,
        prompts=frame.prompts,
    )


def longest_trajectory(args: argparse.Namespace, base: ModelConfig) -> int:
    """In tokens: --max-length, or else what a micro-batch and the model hold. Raises UserError."""
    most = base.max_position_embeddings
    if args.max_length > most:
        raise UserError(f"--max-length: got {args.max_length}, the model has {most} positions")
    return args.max_length or min(args.tokens_per_batch, most)


if __name__ == "__main__":
    sys.exit(run(main))
