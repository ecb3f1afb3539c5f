"""The peers of the benchmarks: transformers with PEFT's LoRA, by hand and through TRL. pip install '.[peers]'

peft  the usual way: batches of 8 padded to the longest, attention mask, labels of -100, the model's own loss
trl   SFTTrainer with the same model, ids and labels: its batches and training_step, then clipping and AdamW

LoRA has the rank of all of MoR's LoRAs together, on the same linears, and starts at zero like them. With
bfloat16 both run under autocast, as Trainer does.
"""

import argparse
import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import CLIP, LR, Texts, trained
from model import Transformer
from mor import MoRConfig

BATCH = 8
NEEDS = {"peft": ("transformers", "peft"), "trl": ("transformers", "peft", "trl", "datasets")}


def without_peers(variants: Sequence[str]) -> list[str]:
    """The variants that can run here; a line says what is missing for the others."""
    present = []
    for name in variants:
        absent = [package for package in NEEDS.get(name, ()) if not importlib.util.find_spec(package)]
        if absent:
            print(f"{name} is left out: it needs {', '.join(absent)}, from pip install '.[peers]'")
        else:
            present.append(name)
    return present


def causal_model(base: Transformer, args: argparse.Namespace) -> nn.Module:
    """transformers' model on the tensors of the base."""
    from transformers import AutoConfig, AutoModelForCausalLM

    weight, shape = base.model.embed_tokens.weight, common.shape_of(args)
    shape = {name: value for name, value in shape.items() if name not in ("dtype", "torch_dtype")}
    config = AutoConfig.for_model(**shape, dtype=weight.dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie_weights()
    rotary = type(model.model.rotary_emb)
    model.model.rotary_emb = rotary(config).to(weight.device)  # buffers that no file holds
    return model


def peft_model(base: Transformer, args: argparse.Namespace) -> nn.Module:
    """The same with LoRA of MoR's parameters (but for the routers)."""
    from peft import LoraConfig, get_peft_model

    warnings.simplefilter("ignore", FutureWarning)  # of the peers, about each other's names
    rank = sum(MoRConfig().loras) * args.rank
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(common.linears(base)))
    return get_peft_model(causal_model(base, args), lora).train()


def model_of(variant: str, base: Transformer, args: argparse.Namespace) -> nn.Module:
    if variant == "mor":
        return common.mor_model(base, MoRConfig(rank=args.rank))
    if variant == "frozen":
        return common.frozen_model(base)
    return peft_model(base, args)


def padded(texts: Texts, device: torch.device) -> list[dict[str, Tensor]]:
    """Batches of BATCH texts, each filled up to its longest."""

    def fill(rows: list[list[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row, device=device) for row in rows]
        return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    batches = []
    for i in range(0, len(texts.examples), BATCH):
        chosen = texts.examples[i : i + BATCH]
        batch = {
            "input_ids": fill([example.input_ids for example in chosen], 0),
            "labels": fill([example.labels for example in chosen], -100),
            "attention_mask": fill([[1] * len(example.input_ids) for example in chosen], 0),
        }
        batches.append(batch)
    return batches


def peft_steps(model: nn.Module, texts: Texts) -> Iterator[float]:
    parameters, batches = trained(model), padded(texts, model.device)
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0, fused=True)
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)
    while True:
        total = 0.0
        for batch in batches:
            with mixed:
                ce = model(**batch, num_items_in_batch=texts.supervised, use_cache=False).loss
            ce.backward()
            total += ce.item()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        yield total


STEPS = {"mor": common.mor_steps, "frozen": common.frozen_steps, "peft": peft_steps}


@dataclass
class Row:
    """A variant as a table shows it."""

    name: str
    model: nn.Module
    steps: Iterator[float]


def row_of(variant: str, base: Transformer, texts: Texts, args: argparse.Namespace) -> Row:
    if variant == "trl":
        return best_trl(base, texts, args)
    model = model_of(variant, base, args)
    return Row(variant, model, STEPS[variant](model, texts))


# ---- TRL ----


def trl_settings(texts: Texts) -> dict[str, dict]:
    """What is tried. Packs keep documents apart by a mask, from their positions; none may cut a text."""
    longest = max(len(example.input_ids) for example in texts.examples)
    return {
        f"packs of {longest}": dict(packing=True, max_length=longest, per_device_train_batch_size=1),
        "one pack": dict(packing=True, max_length=texts.tokens, per_device_train_batch_size=1),
        f"padded, {BATCH} a batch": dict(max_length=None, per_device_train_batch_size=BATCH),
    }


def best_trl(base: Transformer, texts: Texts, args: argparse.Namespace) -> Row:
    """The setting whose second step is the fastest; the steps are from the first one on."""
    best, fastest = None, float("inf")
    for setting, options in trl_settings(texts).items():
        model = peft_model(base, args)
        steps = trl_steps(model, texts, options, args)
        first, started = next(steps), common.clock(args.device)
        next(steps)
        seconds = common.clock(args.device) - started
        print(f"trl, {setting}: {seconds:.2f} s a step", flush=True)
        if seconds < fastest:
            best, fastest = Row(f"trl, {setting}", model, chain([first], steps)), seconds
    return best


def trl_steps(model: nn.Module, texts: Texts, options: dict, args: argparse.Namespace) -> Iterator[float]:
    from datasets import Dataset, disable_progress_bars
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    frame = common.load_frame(args)
    end = frame.tokenizer.id_to_token(frame.end)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=frame.tokenizer, eos_token=end, pad_token=end)
    columns = {
        "input_ids": [example.input_ids for example in texts.examples],
        "labels": [example.labels for example in texts.examples],
    }
    dataset = Dataset.from_dict(columns)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            report_to="none",
            learning_rate=LR,
            gradient_checkpointing=False,
            bf16=args.dtype == torch.bfloat16,
            use_cpu=args.device.type == "cpu",
            **options,
        )
        trainer = SFTTrainer(model, config, train_dataset=dataset, processing_class=tokenizer)
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())
    loader = trainer.get_train_dataloader()
    batches, supervised = trainer.get_batch_samples(iter(loader), len(loader), trainer.args.device)
    while True:
        loss = sum(trainer.training_step(model, dict(batch), supervised) for batch in batches).item()
        trainer.accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        yield loss
