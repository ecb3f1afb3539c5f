"""What the benchmarks share: a model of Llama-3.2-1B's shape, texts of real length, and our own steps.

A variant is a model and a generator. Each `next` is one whole training step over the same texts (forward, all
losses, backward, clipping, AdamW) and gives the cross-entropy, the mean over supervised tokens.

mor     this project: rank 16, 5, 5 and 4 LoRAs, 4, 4 and 3 active; packed, head on supervised positions
frozen  the same without adapters, forward and backward alone: no weight is trained, but the gradient flows
        down to the output of the embedding

The variants of others are in peers.py. All stand on one copy of the base weights, which are random.
"""

import argparse
import importlib.util
import os
import platform
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import data
import mor
from cli import ArgumentParser, UserError, number
from data import Example
from engine.devices import flat_gradients
from engine.loss import token_losses
from model import ModelConfig, Transformer
from mor import ROLES, MoRConfig

ROOT = Path(__file__).resolve().parent.parent
LAYERS = 16
SHAPE = dict(model_type="llama", vocab_size=128256, hidden_size=2048, intermediate_size=8192, head_dim=64)
SHAPE |= dict(num_attention_heads=32, num_key_value_heads=8, rms_norm_eps=1e-5, tie_word_embeddings=True)
ROPE = dict(rope_type="llama3", rope_theta=500000.0, factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0)
ROPE |= dict(original_max_position_embeddings=8192)
SHAPE |= dict(max_position_embeddings=131072, rope_parameters=ROPE)
# in and out features of the linears of a layer, all of them adapted
LINEARS = dict(q_proj=(2048, 2048), k_proj=(2048, 512), v_proj=(2048, 512), o_proj=(2048, 2048))
LINEARS |= dict(gate_proj=(2048, 8192), up_proj=(2048, 8192), down_proj=(8192, 2048))

LR, CLIP, ALPHA1, ALPHA2 = 5e-5, 1.0, 1e-3, 1e-4  # train.py's defaults


# ---- arguments ----


def parser(name: str, description: str) -> ArgumentParser:
    cuda, count = torch.cuda.is_available(), number(int, 1)
    made = ArgumentParser(prog=f"benchmarks/{name}", description=description)
    add = made.add_argument
    layers = LAYERS if cuda else 4
    add("--layers", type=count, default=layers, metavar="N", help=f"of the {LAYERS} of the whole model")
    add(
        "--tokens",
        type=count,
        default=4096,
        metavar="N",
        help="of a step, about: it takes whole trajectories",
    )
    add("--data", type=Path, default=ROOT / "bfcl.jsonl", metavar="FILE", help="trajectories to draw from")
    add("--tokenizer", type=Path, default=ROOT / "tiny", metavar="DIR", help="folder with tokenizer.json")
    add("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu", help="where to run")
    dtype = "bfloat16" if cuda else "float32"
    add("--dtype", choices=("float32", "bfloat16"), default=dtype, help="of the base model")
    add("--seed", type=number(int, 0), default=0, metavar="N", help="of texts and weights")
    return made


def check_device(args: argparse.Namespace) -> None:
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: got cuda, but torch finds no CUDA device; try cpu")


# ---- texts ----


@dataclass
class Texts:
    examples: list[Example] = field(default_factory=list)
    tokens: int = 0
    supervised: int = 0  # tokens with a label

    def add(self, example: Example) -> None:
        self.examples.append(example)
        self.tokens += len(example.input_ids)
        self.supervised += sum(label >= 0 for label in example.labels[1:])


def draw_texts(args: argparse.Namespace, times: int = 1) -> Texts:
    """The first trajectories of a seeded draw, about times * --tokens in all. Raises UserError."""
    frame, records = data.load_frame(args.tokenizer), data.read_records(args.data)
    texts, wanted = Texts(), times * args.tokens
    for record in random.Random(args.seed).sample(records, len(records)):
        example = data.render(record, frame)
        if max(example.input_ids) >= SHAPE["vocab_size"]:
            got = f"got token id {max(example.input_ids)}, wanted less than {SHAPE['vocab_size']}"
            raise UserError(f"{args.tokenizer}: {got}; choose another --tokenizer")
        if texts.examples and texts.tokens + len(example.input_ids) / 2 > wanted:
            return texts  # one more would be farther off
        texts.add(example)
    raise UserError(f"{args.data}: has {texts.tokens} tokens, wanted {wanted}; lower --tokens")


def hardware(device: str) -> str:
    """Name of the GPU, or name, cores and threads of the CPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    name, info = platform.processor(), Path("/proc/cpuinfo")
    if info.exists():
        fields = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in fields if key.strip() == "model name"), name)
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def versions() -> str:
    packages = ("torch", "transformers", "peft", "trl")
    return ", ".join(f"{name} {version(name)}" for name in packages if importlib.util.find_spec(name))


def describe(args: argparse.Namespace, texts: Texts) -> str:
    """What every report begins with: hardware, versions, model, texts."""
    lengths = [len(e.input_ids) for e in texts.examples]
    counts = [sum(e.role_ids.count(i) for e in texts.examples) for i in range(len(ROLES))]
    shares = [f"{name} {count / texts.tokens:.0%}" for name, count in zip(ROLES, counts, strict=True)]
    return (
        f"hardware  {hardware(args.device)}; {args.dtype}\n"
        f"versions  {versions()}\n"
        f"model     of Llama-3.2-1B's shape, {args.layers} of its {LAYERS} layers, random weights\n"
        f"texts     {len(lengths)} of {args.data.name}, {min(lengths)} to {max(lengths)} tokens\n"
        f"tokens    {texts.tokens:,}, {texts.supervised / texts.tokens:.1%} supervised; {', '.join(shares)}"
    )


# ---- models and their steps ----


def base_model(args: argparse.Namespace) -> Transformer:
    config = ModelConfig.from_dict(SHAPE | {"num_hidden_layers": args.layers})
    return Transformer.from_config(config, getattr(torch, args.dtype), args.device, args.seed)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def mor_model(base: Transformer, config: MoRConfig | None = None) -> Transformer:
    """A model of its own on the tensors of the base, with the paper's adapter unless told otherwise."""
    with torch.device("meta"):
        model = Transformer(base.config)
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie()
    mor.add_mor(model, config or MoRConfig())
    return model.train()


def mor_steps(model: Transformer, texts: Texts) -> Iterator[float]:
    """All texts are one micro-batch; otherwise as in train.train."""
    parameters = list(mor.mor_parameters(model).values())
    gradients = flat_gradients(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0, fused=True)
    while True:
        gradients.zero_()
        ce = token_losses(model, texts.examples)[0] / texts.supervised
        (ce + ALPHA1 * mor.balance_loss(model) + ALPHA2 * mor.orthogonal_loss(model)).backward()
        norm = torch.linalg.vector_norm(gradients).item()
        if norm > CLIP:
            gradients.mul_(CLIP / norm)
        optimizer.step()
        yield ce.item()


def frozen_model(base: Transformer) -> Transformer:
    """The base itself."""
    base.requires_grad_(False)
    base.model.embed_tokens.register_forward_hook(lambda module, ids, states: states.requires_grad_())
    return base.train()


def frozen_steps(model: Transformer, texts: Texts) -> Iterator[float]:
    """One role for all tokens, so that it does not even pay for their order."""
    examples = [Example(e.input_ids, e.labels, [0] * len(e.input_ids)) for e in texts.examples]
    while True:
        ce = token_losses(model, examples)[0] / texts.supervised
        ce.backward()
        yield ce.item()
