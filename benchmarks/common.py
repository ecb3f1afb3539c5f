"""What the benchmarks share: arguments, models of a known shape, texts of real length, and our own steps.

A variant is a model and a generator. Each `next` is one whole training step over the same texts (forward, all
losses, backward, clipping, AdamW) and gives the cross-entropy, the mean over supervised tokens.

mor     this project: 5, 5 and 4 LoRAs, 4, 4 and 3 active; packed, head on supervised positions
frozen  the same without adapters, forward and backward alone: no weight is trained, but the gradient flows
        down to the output of the embedding

The variants of others are in peers.py. All stand on one copy of the base weights, which are random unless a
--model is given.
"""

import argparse
import importlib.util
import os
import platform
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

import data
import mor
from cli import ArgumentParser, UserError, number, read_object
from data import Example
from engine.devices import choose_device, choose_dtype, flat_gradients
from engine.fused import for_training, orthogonal_loss
from engine.loss import token_losses
from formats.frames import Frame
from model import ModelConfig, Transformer
from mor import ROLES, MoRConfig

ROOT = Path(__file__).resolve().parent.parent
LLAMA_1B = {  # the config.json of Llama-3.2-1B
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
LLAMA_100M = LLAMA_1B | {
    "vocab_size": 32768,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}
MINI = LLAMA_1B | {  # to see whether a benchmark runs
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
SHAPES = {"llama-1b": LLAMA_1B, "llama-100m": LLAMA_100M, "mini": MINI}
LR, CLIP, ALPHA1, ALPHA2 = 5e-5, 1.0, 1e-3, 1e-4  # train.py's defaults


# ---- arguments ----


def parser(name: str, text: str) -> ArgumentParser:
    """What every benchmark that computes asks for. `text` is the script's docstring."""
    made = ArgumentParser(prog=f"python -m benchmarks.{name}", description=text)
    add = made.add_argument
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    choices = ("auto", "float32", "bfloat16")
    add("--dtype", choices=choices, default="auto", help="of the base; auto: bfloat16 on CUDA")
    return made


def add_model(parser: ArgumentParser, shape: str, layers: int) -> None:
    """Arguments of a benchmark with a whole model, and the defaults of two of them."""
    add = parser.add_argument
    add("--shape", choices=tuple(SHAPES), default=shape, help="of a model with random weights")
    add("--layers", type=number(int, 1, 1000), default=layers, metavar="N", help="of that model")
    add("--model", type=Path, metavar="DIR", help="checkpoint folder, in place of random weights")
    add(
        "--rank",
        type=number(int, 1, 2**16),
        default=MoRConfig().rank,
        metavar="N",
        help="of every LoRA of MoR",
    )
    add("--data", type=Path, default=ROOT / "bfcl.jsonl", metavar="FILE", help="trajectories to draw from")
    about = "folder with tokenizer.json; None: that of --model, or else tiny/"
    add("--tokenizer", type=Path, metavar="DIR", help=about)
    add("--seed", type=number(int, 0), default=0, metavar="N", help="of texts and weights")


def add_steps(parser: ArgumentParser) -> None:
    """Arguments of a benchmark of training steps."""
    add_model(parser, "llama-1b", LLAMA_1B["num_hidden_layers"] if torch.cuda.is_available() else 4)
    about = "of a step, about: it takes whole trajectories"
    parser.add_argument("--tokens", type=number(int, 1), default=4096, metavar="N", help=about)


def parse(parser: ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """The arguments, with a torch.device and a torch.dtype. Raises UserError when there is no such device."""
    args = parser.parse_args(argv)
    args.device = choose_device(args.device)
    args.dtype = choose_dtype(args.dtype, args.device)
    return args


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


def load_frame(args: argparse.Namespace) -> Frame:
    """The tokenizer and its chat frame. Raises UserError when it has more tokens than the model."""
    folder, most = args.tokenizer or args.model or ROOT / "tiny", shape_of(args)["vocab_size"]
    frame = data.load_frame(folder)
    tokens = frame.tokenizer.get_vocab_size()
    if tokens > most:
        got = f"got {tokens} tokens, wanted at most {most}"
        raise UserError(f"{folder}: {got}; choose another --tokenizer or --shape")
    return frame


def draw_texts(args: argparse.Namespace, times: int = 1) -> Texts:
    """The first trajectories of a seeded draw, about times * --tokens in all. Raises UserError."""
    frame, records = load_frame(args), data.read_records(args.data)
    texts, wanted = Texts(), times * args.tokens
    for record in random.Random(args.seed).sample(records, len(records)):
        example = data.render(record, frame)
        if texts.examples and texts.tokens + len(example.input_ids) / 2 > wanted:
            return texts  # one more would be farther off
        texts.add(example)
    raise UserError(f"{args.data}: has {texts.tokens} tokens, wanted {wanted}; lower --tokens")


# ---- reports ----


def processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor()


def environment(args: argparse.Namespace) -> str:
    """Two lines: hardware and dtype; versions of the libraries that are installed."""
    if args.device.type == "cuda":
        hardware = torch.cuda.get_device_name(args.device)
    else:
        hardware = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    names = [name for name in ("torch", "transformers", "peft", "trl") if importlib.util.find_spec(name)]
    dtype = str(args.dtype).removeprefix("torch.")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"hardware  {hardware}; {dtype}\nversions  {versions}"


def describe(args: argparse.Namespace, texts: Texts) -> str:
    """What a report on training steps begins with: environment, model, texts."""
    lengths = [len(example.input_ids) for example in texts.examples]
    shares = []
    for role, name in enumerate(ROLES):
        count = sum(example.role_ids.count(role) for example in texts.examples)
        shares.append(f"{name} {count / texts.tokens:.0%}")
    return (
        f"{environment(args)}\n"
        f"model     {model_name(args)}\n"
        f"texts     {len(lengths)} of {args.data.name}, {min(lengths)} to {max(lengths)} tokens\n"
        f"tokens    {texts.tokens:,}, {texts.supervised / texts.tokens:.1%} supervised; {', '.join(shares)}"
    )


def clock(device: torch.device) -> float:
    """Seconds, once all that was begun on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


# ---- models and their steps ----


def shape_of(args: argparse.Namespace) -> dict:
    """The model's config.json. Raises UserError."""
    if args.model:
        return read_object(args.model / "config.json", "the config.json of a model")
    return SHAPES[args.shape] | {"num_hidden_layers": args.layers}


def model_name(args: argparse.Namespace) -> str:
    if args.model:
        return f"{args.model.resolve().name}, {shape_of(args)['num_hidden_layers']} layers, its weights"
    return f"{args.shape}, {args.layers} layers, random weights"


def base_model(args: argparse.Namespace) -> Transformer:
    if args.model:
        return Transformer.from_pretrained(args.model, args.dtype, args.device)
    config = ModelConfig.from_dict(shape_of(args))
    return Transformer.from_config(config, args.dtype, args.device, args.seed)


def linears(base: Transformer) -> dict[str, tuple[int, int]]:
    """In and out features of the linears of a layer, all of which are adapted."""
    found = {}
    for name, module in base.model.layers[0].named_modules():
        if isinstance(module, nn.Linear):
            found[name.rpartition(".")[2]] = module.in_features, module.out_features
    return found


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def mor_model(base: Transformer, config: MoRConfig) -> Transformer:
    """A model of its own on the tensors of the base, as train.py makes it."""
    with torch.device("meta"):
        model = Transformer(base.config)
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie()
    mor.add_mor(model, config)
    return for_training(model.train())


def mor_steps(model: Transformer, texts: Texts) -> Iterator[float]:
    """All texts are one micro-batch; otherwise as in train.train."""
    parameters = list(mor.mor_parameters(model).values())
    gradients = flat_gradients(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0, fused=True)
    while True:
        gradients.zero_()
        ce = token_losses(model, texts.examples)[0] / texts.supervised
        loss = ce + ALPHA1 * mor.balance_loss(model) + ALPHA2 * orthogonal_loss(model)
        loss.backward()
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
