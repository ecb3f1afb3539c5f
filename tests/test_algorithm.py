"""train.train against Algorithm 1 written out: a document at a time, plain layers, AdamW by hand, float64."""

import math
from argparse import Namespace

import pytest
import torch
from torch import Tensor

import mor
import train
from data import Example
from engine.dataset import Trajectory
from engine.devices import Processes
from engine.full import Masters
from engine.fused import for_training
from model import ModelConfig, Transformer
from mor import MoRConfig

SHAPE = dict(model_type="qwen2", vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2)
SHAPE |= dict(num_attention_heads=4, num_key_value_heads=2, head_dim=6, qkv_bias=True)
SHAPE |= dict(tie_word_embeddings=True)
CONFIG = MoRConfig(rank=2, loras=(4, 3, 3), active=(3, 2, 2))
LENGTHS = [30, 12, 25, 18, 9, 40, 22]  # micro-batches of up to 50 tokens are uneven
FLAGS = (
    "--data x.jsonl --model x --tokens-per-batch 50 --grad-accum 2 --epochs 2 --lr 0.02 --warmup 0.3".split()
)


def trajectories() -> list[Trajectory]:
    """Random tokens; a third of them is trained; roles in runs, the summarizer in every other document."""
    chance = torch.Generator().manual_seed(0)
    made = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(0, 61, (length,), generator=chance).tolist()
        trained = (torch.rand(length, generator=chance) < 1 / 3).tolist()
        labels = [id if is_trained else -100 for id, is_trained in zip(ids, trained, strict=True)]
        role_ids = [t // 4 % (2 + number % 2) for t in range(length)]
        made.append(Trajectory(Example(ids, labels, role_ids), length, sum(trained[1:])))
    return made


def made(method: str, seed: int = 5) -> Transformer:
    """In float64, adapted unless the method is full; B is random, or the first steps would leave A alone."""
    model = Transformer.from_config(ModelConfig(**SHAPE), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)  # so that hidden states differ
    if method == "full":
        return model.double().train()
    mor.add_mor(model, CONFIG, seed)
    chance = torch.Generator().manual_seed(seed)
    for parameter in mor.mor_parameters(model).values():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=chance)
    return model.double().train()


def learning_rate(step: int, steps: int, args: Namespace) -> float:
    warmup = math.ceil(args.warmup * steps)
    if step <= warmup:
        return args.lr * step / warmup
    left = 1 - (step - warmup - 1) / (steps - warmup)  # from 1 down to just above 0
    if args.schedule == "constant":
        return args.lr
    if args.schedule == "linear":
        return args.lr * left
    return args.lr * (0.5 - 0.5 * math.cos(math.pi * left))


def cross_entropy(model: Transformer, example: Example) -> Tensor:
    """Eq. 9 of one document: the sum over its tokens that are trained, each predicted by those before it."""
    logits = model(torch.tensor(example.input_ids), torch.tensor(example.role_ids))
    total = torch.zeros((), dtype=torch.float64)
    for t in range(1, len(example.labels)):
        if example.labels[t] != -100:
            total = total - torch.log_softmax(logits[t - 1], dim=0)[example.labels[t]]
    return total


def algorithm_1(model: Transformer, data: list[Trajectory], plan: list, args: Namespace) -> list[dict]:
    """-> loss terms, gradient norm and learning rate of each step."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    names, parameters = list(trained), list(trained.values())
    mean = [torch.zeros_like(p) for p in parameters]
    square = [torch.zeros_like(p) for p in parameters]
    logged = []
    for step, micro_batches in enumerate(plan, 1):
        supervised = sum(data[i].supervised for micro_batch in micro_batches for i in micro_batch)
        ce, balance = torch.zeros(()), torch.zeros(())
        for micro_batch in micro_batches:
            examples = [data[i].example for i in micro_batch]
            for example in examples:
                ce = ce + cross_entropy(model, example) / supervised
            ids = torch.tensor([id for example in examples for id in example.input_ids])
            roles = torch.tensor([role for example in examples for role in example.role_ids])
            model(ids, roles, [len(example.input_ids) for example in examples])
            if args.method != "full":
                balance = balance + mor.balance_loss(model, args.balance) / len(micro_batches)
        orthogonal = torch.zeros(()) if args.method == "full" else mor.orthogonal_loss(model)
        loss = ce + args.alpha1 * balance + args.alpha2 * orthogonal
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [
            torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
        ]
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        scale = min(1.0, args.clip / norm) if args.clip else 1.0
        lr = learning_rate(step, len(plan), args)
        with torch.no_grad():
            for i, parameter in enumerate(parameters):
                gradient = scale * gradients[i]
                mean[i] = 0.9 * mean[i] + 0.1 * gradient
                square[i] = 0.999 * square[i] + 0.001 * gradient**2
                rate = lr * args.lr_ratio if ".lora_B." in names[i] else lr
                parameter -= rate * args.weight_decay * parameter
                parameter -= (
                    rate * (mean[i] / (1 - 0.9**step)) / ((square[i] / (1 - 0.999**step)).sqrt() + 1e-8)
                )
        terms = {"loss": loss, "ce": ce, "balance": balance, "orthogonal": orthogonal}
        logged.append({name: term.item() for name, term in terms.items()} | {"grad_norm": norm, "lr": lr})
    return logged


class Kept:
    """In the place of the output folder."""

    def __init__(self) -> None:
        self.records: list[dict] = []

    def log(self, record: dict) -> None:
        self.records.append(record)

    def save(self, *_) -> None:
        pass


SETTINGS = [
    ["--alpha1", "0", "--alpha2", "0", "--clip", "0"],
    ["--alpha1", "2", "--alpha2", "0", "--clip", "0"],
    ["--alpha1", "0", "--alpha2", "0.5", "--clip", "0"],
    ["--alpha1", "2", "--alpha2", "0.5", "--clip", "0.3"],  # active
    ["--alpha1", "2", "--alpha2", "0.5", "--clip", "1000", "--balance", "mean"],  # inactive
    ["--schedule", "linear", "--weight-decay", "0.1"],
    ["--schedule", "constant", "--warmup", "0", "--weight-decay", "0.1"],
    ["--schedule", "cosine", "--seed", "3", "--grad-accum", "3", "--gradient-checkpointing"],
    ["--lr-ratio", "4", "--weight-decay", "0.1"],
    ["--method", "full", "--lr", "0.001", "--weight-decay", "0.1"],
]


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_training_is_algorithm_1(settings, tmp_path):
    args = train.parse_args([*FLAGS, *settings, "--output", str(tmp_path)])
    data = trajectories()
    plan = train.plan_steps(LENGTHS, args)
    assert len(plan) >= 3
    model, twin, output = made(args.method), made(args.method), Kept()
    if args.method != "full":
        for_training(model)
    model.gradient_checkpointing = args.gradient_checkpointing  # as train.main does
    masters = Masters(model)
    optimizer = train.make_optimizer(masters.parameters, args)
    train.train(model, masters, data, plan, optimizer, output, 0, args, Processes())
    wanted = algorithm_1(twin, data, plan, args)
    for record, line in zip(output.records, wanted, strict=True):
        assert {name: record[name] for name in line} == pytest.approx(line, rel=1e-9, abs=1e-12)
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=0, atol=1e-9, msg=name)


def test_epochs_have_orders_of_their_own_and_the_seed_decides_them():
    def orders(*flags: str) -> list[list[int]]:
        args = train.parse_args([*FLAGS, *flags])
        steps = train.plan_steps(LENGTHS, args)
        flat = [i for step in steps for micro_batch in step for i in micro_batch]
        return [flat[: len(LENGTHS)], flat[len(LENGTHS) :]]

    first, second = orders()
    assert sorted(first) == sorted(second) == list(range(len(LENGTHS)))
    assert first != second
    assert orders("--seed", "1") != [first, second]
