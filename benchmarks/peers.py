"""The peers of the benchmarks: transformers with PEFT's LoRA, by hand and through TRL. pip install '.[peers]'

peft  the usual way: batches of 8 padded to the longest, attention mask, labels of -100, the model's own loss
trl   SFTTrainer with the same model, ids and labels: its batches and training_step, then clipping and AdamW

LoRA has the rank of all of MoR's LoRAs together, on the same linears, and starts at zero like them. With
bfloat16 both run under autocast, as Trainer does.
"""

import argparse
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

import data
from benchmarks import common
from benchmarks.common import CLIP, LINEARS, LR, SHAPE, Texts, trained
from model import Transformer
from mor import MoRConfig

BATCH = 8
NEEDS = {"peft": ("transformers", "peft"), "trl": ("transformers", "peft", "trl", "datasets")}


def without_peers(variants: tuple[str, ...]) -> list[str]:
    """The variants that can run here; a line says what is missing for the others."""
    absent = {name: [p for p in NEEDS.get(name, ()) if not importlib.util.find_spec(p)] for name in variants}
    for name in (name for name in variants if absent[name]):
        print(f"{name} is left out: it needs {', '.join(absent[name])}, from pip install '.[peers]'")
    return [name for name in variants if not absent[name]]


def llama_model(base: Transformer, **changes) -> nn.Module:
    """LlamaForCausalLM on the tensors of the base; `changes` to common.SHAPE."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    weight = base.model.embed_tokens.weight
    options = SHAPE | {"num_hidden_layers": base.config.num_hidden_layers} | changes
    config = LlamaConfig(**options, dtype=weight.dtype)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie_weights()
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(weight.device)  # buffers that no file holds
    return model


def peft_model(base: Transformer, **changes) -> nn.Module:
    """The same with LoRA of MoR's parameters (but for the routers)."""
    from peft import LoraConfig, get_peft_model

    warnings.simplefilter("ignore", FutureWarning)  # of the peers, about each other's names
    rank = sum(MoRConfig().loras) * MoRConfig().rank
    lora = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LINEARS))
    return get_peft_model(llama_model(base, **changes), lora).train()


def padded(texts: Texts, device: torch.device) -> list[dict[str, Tensor]]:
    """Batches of BATCH texts, each filled up to its longest."""

    def fill(rows: list[list[int]], value: int) -> Tensor:
        tensors = [torch.tensor(row, device=device) for row in rows]
        return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)

    batches = []
    for i in range(0, len(texts.examples), BATCH):
        chosen = texts.examples[i : i + BATCH]
        mask = fill([[1] * len(e.input_ids) for e in chosen], 0)
        ids, labels = fill([e.input_ids for e in chosen], 0), fill([e.labels for e in chosen], -100)
        batches.append({"input_ids": ids, "labels": labels, "attention_mask": mask})
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


MODELS = {"mor": common.mor_model, "frozen": common.frozen_model, "peft": peft_model}
STEPS = {"mor": common.mor_steps, "frozen": common.frozen_steps, "peft": peft_steps}


# ---- TRL ----


def trl_settings(texts: Texts) -> dict[str, dict]:
    """What is tried. Packs keep documents apart by a mask, from their positions; none may cut a text."""
    longest = max(len(e.input_ids) for e in texts.examples)
    return {
        f"packs of {longest}": dict(packing=True, max_length=longest, per_device_train_batch_size=1),
        "one pack": dict(packing=True, max_length=texts.tokens, per_device_train_batch_size=1),
        f"padded, {BATCH} a batch": dict(max_length=None, per_device_train_batch_size=BATCH),
    }


def best_trl(
    base: Transformer, texts: Texts, args: argparse.Namespace
) -> tuple[str, nn.Module, Iterator[float]]:
    """The setting whose second step is the fastest: name, model, steps from the first one on."""
    best, fastest = None, float("inf")
    for setting, options in trl_settings(texts).items():
        model = peft_model(base)
        steps = trl_steps(model, texts, options, args)
        first, started = next(steps), time.perf_counter()
        next(steps)
        seconds = time.perf_counter() - started
        print(f"trl, {setting}: {seconds:.2f} s a step", flush=True)
        if seconds < fastest:
            best, fastest = (f"trl, {setting}", model, chain([first], steps)), seconds
    return best


def trl_steps(model: nn.Module, texts: Texts, options: dict, args: argparse.Namespace) -> Iterator[float]:
    from datasets import Dataset, disable_progress_bars
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    frame = data.load_frame(args.tokenizer)
    end = frame.tokenizer.id_to_token(frame.end)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=frame.tokenizer, eos_token=end, pad_token=end)
    columns = {name: [getattr(e, name) for e in texts.examples] for name in ("input_ids", "labels")}
    with tempfile.TemporaryDirectory() as folder:
        options = options | dict(output_dir=folder, report_to="none", learning_rate=LR)
        options |= dict(
            gradient_checkpointing=False, bf16=args.dtype == "bfloat16", use_cpu=args.device == "cpu"
        )
        dataset = Dataset.from_dict(columns)
        trainer = SFTTrainer(model, SFTConfig(**options), train_dataset=dataset, processing_class=tokenizer)
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.create_optimizer())
    loader = trainer.get_train_dataloader()
    batches, supervised = trainer.get_batch_samples(iter(loader), len(loader), trainer.args.device)
    while True:
        loss = sum(trainer.training_step(model, dict(batch), supervised) for batch in batches).item()
        trainer.accelerator.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        yield loss
