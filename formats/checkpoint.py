"""A Hugging Face checkpoint folder: config.json, generation_config.json and weights in safetensors form.

`ModelConfig` lists the fields of config.json that are honoured, in the spelling of 2024 (rope_scaling) or in
the newer one (rope_parameters). What would need other code in model.py (another activation or rope kind,
quantized weights) is refused, and so is a tensor too many, too few or of another shape.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from cli import UserError, open_file, read_object

MODEL_TYPES = ("llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3", "PanguEmbedded")
ROPE_TYPES = ("default", "llama3", "longrope")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
CHECKSUM = "sha256"  # its key in the metadata of a file that we wrote: see engine/tensors.py
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
FULL, SLIDING = "full_attention", "sliding_attention"
WANTED = "a JSON object, as in the folder of a Hugging Face checkpoint"


@dataclass(frozen=True)
class ModelConfig:
    """What the forward pass needs from config.json, under the names used there."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_type: str = "default"
    partial_rotary_factor: float = 1.0
    original_max_position_embeddings: int | None = None  # llama3 and longrope
    rope_factor: float | None = None  # llama3
    low_freq_factor: float | None = None  # llama3
    high_freq_factor: float | None = None  # llama3
    short_factor: tuple[float, ...] | None = None  # longrope, one number per frequency
    long_factor: tuple[float, ...] | None = None  # longrope
    attention_factor: float = 1.0  # cos and sin are multiplied by it
    sliding_window: int | None = None  # a query sees itself and the window - 1 tokens before it
    window_layers: tuple[bool, ...] = ()  # for each layer, whether it has the window; empty: all have it
    rotary_layers: tuple[bool, ...] = ()  # for each layer, whether q and k are rotated; empty: in all
    qk_norm: bool = False  # each head of q and k is normed before it is rotated
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool | None = None  # None: tied exactly when the checkpoint has no lm_head.weight
    eos_token_ids: tuple[int, ...] = ()

    @property
    def rotary_dim(self) -> int:
        """How many channels of a head are rotated; the others pass unchanged."""
        return int(self.head_dim * self.partial_rotary_factor)

    def uses_long_factor(self, length: int) -> bool:
        """Whether a document of this many positions needs longrope's second table."""
        return self.rope_type == "longrope" and length > self.original_max_position_embeddings

    def window(self, layer: int) -> int | None:
        return self.sliding_window if not self.window_layers or self.window_layers[layer] else None

    def is_rotary(self, layer: int) -> bool:
        return not self.rotary_layers or self.rotary_layers[layer]

    @classmethod
    def from_file(cls, folder: str | Path) -> "ModelConfig":
        """Read `config.json`; end tokens of a `generation_config.json` beside it win. Raises UserError."""
        path, generation = Path(folder) / "config.json", Path(folder) / "generation_config.json"
        config = cls.from_dict(read_object(path, WANTED), str(path))
        if generation.exists():
            ends = Fields(read_object(generation, WANTED), str(generation)).token_ids("eos_token_id")
            config = replace(config, eos_token_ids=ends or config.eos_token_ids)
        return config

    @classmethod
    def from_dict(cls, data: dict, where: str = "config.json") -> "ModelConfig":
        """Check the fields of a parsed config.json. Raises UserError naming the field and `where`."""
        fields = Fields(data, where)
        model_type = fields.choice("model_type", MODEL_TYPES)
        fields.choice("hidden_act", ("silu", "swish"), "silu")  # two names of one function
        if data.get("quantization_config") is not None:
            fields.fail("quantization_config", "set", "weights in float32, bfloat16 or float16")
        hidden, heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
        kv_heads = fields.integer("num_key_value_heads", heads)
        if heads % kv_heads:
            fields.fail("num_attention_heads", heads, f"a multiple of num_key_value_heads ({kv_heads})")
        if data.get("head_dim") is None and hidden % heads:
            fields.fail("hidden_size", hidden, f"a multiple of num_attention_heads ({heads}), or a head_dim")
        bias = model_type in ("llama", "qwen3", "smollm3") and fields.flag("attention_bias")  # q, k, v and o
        if model_type == "PanguEmbedded":
            bias = fields.flag("bias", ...)
        config = cls(
            model_type=model_type,
            vocab_size=fields.integer("vocab_size", high=2**31),
            hidden_size=hidden,
            intermediate_size=fields.integer("intermediate_size"),
            num_hidden_layers=fields.integer("num_hidden_layers", high=1000),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=fields.integer("head_dim", 128 if model_type == "qwen3" else hidden // heads),
            rms_norm_eps=fields.number("rms_norm_eps"),
            max_position_embeddings=fields.integer("max_position_embeddings", high=2**31),
            qkv_bias=bias or model_type == "qwen2",
            o_bias=bias,
            mlp_bias=model_type in ("llama", "smollm3") and fields.flag("mlp_bias"),
            qk_norm=model_type == "qwen3",
            tie_word_embeddings=fields.flag("tie_word_embeddings", None),
            eos_token_ids=fields.token_ids("eos_token_id"),
        )
        if model_type == "smollm3":
            config = replace(config, rotary_layers=rotary_layers(fields, config.num_hidden_layers))
        return replace(config, **window_fields(fields, config), **rope_fields(fields, config))


def rotary_layers(fields: "Fields", layers: int) -> tuple[bool, ...]:
    """smollm3's no_rope_layers, in which 1 means rotary; without it, every fourth layer is not."""
    interval = fields.integer("no_rope_layer_interval", 4)
    every_fourth = [int((i + 1) % interval != 0) for i in range(layers)]

    def good(value) -> bool:
        return isinstance(value, list) and len(value) >= layers and all(flag in (0, 1) for flag in value)

    flags = fields.get("no_rope_layers", every_fourth, good, f"{layers} or more numbers, each 0 or 1")
    return tuple(map(bool, flags[:layers]))


def window_fields(fields: "Fields", config: ModelConfig) -> dict:
    """The sliding window, and which layers have it."""
    if config.model_type == "phi3":
        return {"sliding_window": fields.integer("sliding_window", None, high=2**31)}
    if config.model_type == "mistral":
        default = None if "sliding_window" in fields.data else 4096  # of a file that does not say null
        return {"sliding_window": fields.integer("sliding_window", default, high=2**31)}
    if config.model_type not in ("qwen2", "qwen3", "smollm3"):
        return {}
    layers = config.num_hidden_layers
    if not fields.flag("use_sliding_window"):
        fields.layer_types([FULL] * layers, (FULL,))
        return {}
    if config.model_type == "smollm3":
        kinds = [FULL if rotary else SLIDING for rotary in config.rotary_layers]
    else:
        first = fields.integer("max_window_layers", low=0)
        kinds = [FULL if i < first else SLIDING for i in range(layers)]
    kinds = fields.layer_types(kinds, (FULL, SLIDING))
    windowed = tuple(kind == SLIDING for kind in kinds)
    return {"sliding_window": fields.integer("sliding_window", high=2**31), "window_layers": windowed}


def rope_fields(fields: "Fields", config: ModelConfig) -> dict:
    """The rotary settings of the model. Raises UserError."""
    rope = rope_settings(fields, config.model_type)
    found = {
        "rope_type": rope.choice("rope_type", ROPE_TYPES, "default"),
        "rope_theta": rope.number("rope_theta", 2e6 if config.model_type == "smollm3" else 1e4),
        "partial_rotary_factor": rope.number("partial_rotary_factor", 1.0),
    }
    rotary_dim = replace(config, **found).rotary_dim
    if rotary_dim % 2 or not 2 <= rotary_dim <= config.head_dim:
        fields.fail("head_dim", f"{config.head_dim}, {rotary_dim} of it rotary", "an even rotary part")
    if found["rope_type"] == "default":
        return found
    original = rope.integer("original_max_position_embeddings", low=2, high=2**31)
    found["original_max_position_embeddings"] = original
    if found["rope_type"] == "llama3":
        return found | llama3_fields(rope)
    return found | longrope_fields(rope, config.max_position_embeddings, original, rotary_dim)


def rope_settings(fields: "Fields", model_type: str) -> "Fields":
    """What stands in `rope_scaling` or, where that is absent or empty, in `rope_parameters`.

    A checkpoint that passed through two versions of transformers may have both. As in version 5, the older
    name wins, and what it lacks is looked for at the top level alone.
    """
    name = "rope_scaling" if fields.data.get("rope_scaling") else "rope_parameters"
    nested = fields.data.get(name) or {}
    if not isinstance(nested, dict):
        fields.fail(name, json.dumps(nested), "an object or null")
    settings = {
        "rope_theta": fields.data.get("rope_theta"),
        "partial_rotary_factor": fields.data.get("partial_rotary_factor"),
        "rope_type": nested.get("type"),
        **{key: value for key, value in nested.items() if value is not None},
    }
    if (original := fields.data.get("original_max_position_embeddings")) is not None:
        settings["original_max_position_embeddings"] = original  # here the top level wins
    if model_type == "phi3" and settings["rope_type"] in ("su", "yarn"):
        settings["rope_type"] = "longrope"  # the names that early Phi-3 files used for it
    return Fields(settings, f"{fields.where}: {name}")


def llama3_fields(rope: "Fields") -> dict:
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        rope.fail("low_freq_factor", low, "less than high_freq_factor")
    return {"rope_factor": rope.number("factor"), "low_freq_factor": low, "high_freq_factor": high}


def longrope_fields(rope: "Fields", positions: int, original: int, rotary_dim: int) -> dict:
    """positions: what the model is made for; original: what it was before its context was made longer."""
    ratio = rope.number("factor", positions / original)
    scale = math.sqrt(1 + math.log(ratio) / math.log(original)) if ratio > 1 else 1.0
    return {
        "attention_factor": rope.number("attention_factor", scale),
        "short_factor": rope.numbers("short_factor", rotary_dim // 2),
        "long_factor": rope.numbers("long_factor", rotary_dim // 2),
    }


class Fields:
    """Typed reading of one JSON object. Null counts as absent; a default of ... makes the field required."""

    def __init__(self, data: dict, where: str):
        self.data, self.where = data, where

    def fail(self, name: str, got: object, wanted: str):
        raise UserError(f"{self.where}: {name} is {str(got)[:80]}; wanted {wanted}")

    def get(self, name: str, default, good: Callable[[object], bool], wanted: str):
        value = self.data.get(name)
        if value is None and default is not ...:
            return default
        if not good(value):
            self.fail(name, "missing" if value is None else json.dumps(value), wanted)
        return value

    def integer(self, name: str, default=..., low: int = 1, high: int = 2**20) -> int:
        wanted = f"a whole number from {low} to {high}"
        return self.get(name, default, lambda x: type(x) is int and low <= x <= high, wanted)

    def number(self, name: str, default=...) -> float:
        return float(self.get(name, default, is_positive, "a number above 0"))

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        def good(value) -> bool:
            return isinstance(value, list) and len(value) == count and all(map(is_positive, value))

        return tuple(map(float, self.get(name, ..., good, f"a list of {count} numbers above 0")))

    def flag(self, name: str, default: bool | None = False) -> bool | None:
        return self.get(name, default, lambda x: type(x) is bool, "true or false")

    def choice(self, name: str, options: tuple[str, ...], default=...) -> str:
        return self.get(name, default, lambda x: x in options, "one of " + ", ".join(options))

    def layer_types(self, default: list[str], options: tuple[str, ...]) -> list[str]:
        """A kind of attention for each layer."""
        count = len(default)

        def good(value) -> bool:
            return isinstance(value, list) and len(value) == count and all(kind in options for kind in value)

        return self.get("layer_types", default, good, f"{count} times one of {', '.join(options)}")

    def token_ids(self, name: str) -> tuple[int, ...]:
        value = [] if self.data.get(name) is None else self.data[name]
        ids = value if isinstance(value, list) else [value]
        if not all(type(i) is int and i >= 0 for i in ids):
            self.fail(name, json.dumps(value), "a token id or a list of token ids")
        return tuple(ids)


def is_positive(value) -> bool:
    return type(value) in (int, float) and 0 < value < 1e300  # false for NaN, and safe to make a float of


# -------------------- files


def checkpoint_folder(path_or_id: str | Path) -> Path:
    """The folder itself, or the local snapshot of a hub id, fetched if need be. Raises UserError."""
    text = str(path_or_id)
    if os.path.isdir(text):
        if os.path.exists(f"{text}/adapter_config.json") and not os.path.exists(f"{text}/config.json"):
            raise UserError(f"{text}: holds an adapter and no model; wanted the folder of its base model")
        return Path(text)
    if os.path.exists(text) or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text, re.ASCII):
        raise UserError(f"{text}: not a folder; wanted a model folder or a hub id like owner/name")
    # imported here, because a folder needs neither the client nor the time that its import takes
    from huggingface_hub import snapshot_download

    files = ["*.json", "model*.safetensors", "tokenizer.model"]
    try:
        return Path(snapshot_download(text, allow_patterns=files))
    except Exception as error:  # no network, no such model, no permission, disk full: no common class
        reason = " ".join(str(error).split())
        raise UserError(f"{text}: neither a folder nor to be had from the hub ({reason})") from error


@contextmanager
def opened(path: Path) -> Iterator[safe_open]:
    """A mapped safetensors file. Raises UserError when it is absent, cut short or something else."""
    try:
        open_file(path).close()  # the library takes a file that it may not read for an absent one
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch it again") from None


def tensor_files(folder: Path) -> dict[str, str]:
    """Tensor name -> name of the file that holds it, from the one weight file or from the index of many."""
    if (folder / WEIGHTS).exists():
        with opened(folder / WEIGHTS) as file:
            files = dict.fromkeys(file.keys(), WEIGHTS)
    elif (folder / INDEX).exists():
        files = read_object(folder / INDEX, WANTED).get("weight_map")
    else:
        raise UserError(f"{folder}: no {WEIGHTS} and no {INDEX}; wanted weights in safetensors form")
    if not isinstance(files, dict):
        raise UserError(f"{folder / INDEX}: weight_map is missing or not an object; wanted tensors and files")
    for name, file in files.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise UserError(f"{folder / INDEX}: {name} is in {file!r}; wanted the name of a file beside it")
    # older files hold the rotary frequencies too; model.py computes them
    return {name: file for name, file in files.items() if not name.endswith("rotary_emb.inv_freq")}


def without_repeated_head(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """`files` of a tied model without a head that equals the embedding: some programs store it all the same.

    Raises UserError for another head.
    """
    if HEAD not in files or EMBEDDING not in files:
        return files
    with opened(folder / files[HEAD]) as first, opened(folder / files[EMBEDDING]) as second:
        head, embedding = first.get_tensor(HEAD), second.get_tensor(EMBEDDING)
        if head.shape != embedding.shape or not (head == embedding).all():  # whatever dtypes they have
            wanted = "wanted the two equal, or tie_word_embeddings false"
            raise UserError(f"{folder / files[HEAD]}: {HEAD} differs from {EMBEDDING}; {wanted}")
    return {name: file for name, file in files.items() if name != HEAD}


def holds_parts(stored: str, name: str) -> bool:
    """Whether a name has all parts of another one in order, with those of wrappers between."""
    parts = iter(stored.split("."))
    return all(part in parts for part in name.split("."))


def read_tensors(
    folder: Path, files: dict[str, str], shapes: dict[str, list[int]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Each of `files` in turn, mapped and checked against the `shapes` asked for. Raises UserError.

    dtype: in which their numbers have to be finite.
    """
    most = torch.finfo(dtype).max
    for name in shapes:
        if name not in files:
            longer = [stored for stored in files if holds_parts(stored, name)]
            hint = f" ({longer[0]} is there: save the model without its wrapper)" if longer else ""
            raise UserError(f"{folder}: tensor {name} is missing; its config.json asks for it{hint}")
    for name, file in files.items():
        if name not in shapes:
            raise UserError(f"{folder / file}: tensor {name} is unexpected; config.json has none")
    for file in sorted(set(files.values())):
        check_file(folder / file)
    for name, file in files.items():
        path = folder / file
        with opened(path) as stored:  # opened for each: what was read is unmapped, so memory holds one copy
            if name not in stored.keys():
                raise UserError(f"{path}: tensor {name} is missing; {INDEX} says it is here")
            tensor = stored.get_tensor(name)
        shape, kind = list(tensor.shape), tensor.dtype
        if shape != shapes[name]:
            raise UserError(f"{path}: tensor {name} has shape {shape}; config.json asks for {shapes[name]}")
        if not kind.is_floating_point or kind.itemsize == 1:
            raise UserError(f"{path}: tensor {name} is stored as {kind}; wanted floats of 16 bits or more")
        least, largest = map(float, tensor.aminmax())
        if not -most <= least <= largest <= most:  # a NaN is both the least and the largest
            got = f"tensor {name} holds NaN, infinity, or what is infinite in {dtype}"
            raise UserError(f"{path}: {got}; fetch or make the file again")
        yield name, tensor


def check_file(path: Path) -> None:
    """Raises UserError for a file whose checksum, if it has one, is of other content."""
    with opened(path) as stored:
        metadata = stored.metadata() or {}
        written = metadata.pop(CHECKSUM, None)
        tensors = {name: stored.get_tensor(name) for name in stored.keys()} if written else {}
        if written and written != checksum(tensors, metadata):
            raise UserError(f"{path}: damaged, its checksum is of other content; make it again")


def checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 of names, kinds, shapes and contents, and of the metadata, in hex."""
    whole = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        whole.update(raw_bytes(tensor))
    return whole.hexdigest()


def raw_bytes(tensor: Tensor) -> np.ndarray:
    """uint8 [bytes]: what is stored of a tensor; a view where it lies in memory in one piece."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
