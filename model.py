"""The frozen base model: a decoder-only transformer written out by hand that loads Hugging Face checkpoints.

No method of the paper lives here; mor.py adds it by swapping the `Linear` layers of this file.
engine/generation.py makes text with it.

    model = Transformer.from_pretrained("folder or hub id owner/name", dtype=torch.bfloat16, device="cuda")
    logits = model(input_ids, lengths=[n1, n2])  # two packed documents, int64 [n1 + n2] -> [n1 + n2, vocab]

Model types: llama, mistral, phi3, qwen2, qwen3, smollm3 and PanguEmbedded (openPangu). They are settings of
one transformer, which formats/checkpoint.py reads from their configs. Modules carry the names of the
checkpoint, so loading needs no name map and is strict.

Shapes: T tokens of all documents, H query heads, G key/value heads, D channels of a head, d of them rotary.
There is no batch axis and no padding: documents lie one after another on the token axis, positions restart
with each, and attention stays inside each.

Role order: when `role_ids` is given, tokens are sorted by role once (mor.sort_by_role), so that every linear
sees one contiguous group of rows per role and is told how many. Only attention goes back to sequence order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from inspect import signature
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cli import UserError
from formats.checkpoint import (
    HEAD,
    ModelConfig,
    checkpoint_folder,
    read_tensors,
    tensor_files,
    without_repeated_head,
)
from mor import RoleRows, sort_by_role


class Linear(nn.Linear):
    """A linear layer that is told the roles of its rows and does not need them; mor.MoRLinear does."""

    def forward(self, x: Tensor, roles: RoleRows | None = None) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight * F.rms_norm(wide, x.shape[-1:], eps=self.eps).to(x.dtype)


# -------------------- rotary positions


@lru_cache(maxsize=16)
def inverse_frequencies(config: ModelConfig, long: bool, device: torch.device) -> Tensor:
    """Angle per position of each channel pair, float32 [d / 2]; `long` chooses longrope's long table."""
    exponent = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32, device=device) / config.rotary_dim
    if config.rope_type == "longrope":
        factor = config.long_factor if long else config.short_factor
        return 1.0 / (torch.tensor(factor, dtype=torch.float32, device=device) * config.rope_theta**exponent)
    frequency = 1.0 / config.rope_theta**exponent
    if config.rope_type == "default":
        return frequency
    # llama3: what turns more than `high` times within the original length stays, what turns less than `low`
    # times is slowed down by the factor, and in between it is a blend
    turns = config.original_max_position_embeddings * frequency / (2 * math.pi)
    keep = (turns - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    keep = keep.clamp(0, 1)
    return (1 - keep) * frequency / config.rope_factor + keep * frequency


def rotary_tables(
    config: ModelConfig, positions: Tensor, lengths: list[int], longs: list[bool]
) -> tuple[Tensor, Tensor]:
    """cos and sin of each position, float32 [T, d], the first half of sin negated for `rotate`.

    `longs` says for each document whether it takes longrope's long table.
    """
    documents = zip(lengths, longs, strict=True)
    rows = [inverse_frequencies(config, long, positions.device).expand(n, -1) for n, long in documents]
    angles = positions.float()[:, None] * torch.cat(rows)
    cos, sin = angles.cos() * config.attention_factor, angles.sin() * config.attention_factor
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn channel i against channel i + d/2, for the first d channels of each head; the others pass.

    x [T, heads, D], cos and sin [T, d]. Rolling by d/2 swaps the halves; the sign of the swap is in `sin`.
    """
    size = cos.shape[-1]
    turning = x[..., :size]
    turned = turning * cos[:, None] + turning.roll(size // 2, -1) * sin[:, None]
    return turned if size == x.shape[-1] else torch.cat((turned, x[..., size:]), dim=-1)


# -------------------- attention


class KVCache:
    """Keys (rotated) and values of one sequence, per layer [2, 1, G, capacity, D]; capacity doubles at need.

    For inference: what is stored is cut from the autograd graph.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ):
        shape = (2, 1, config.num_key_value_heads, 0, config.head_dim)
        self.layers = [torch.empty(shape, dtype=dtype, device=device)] * config.num_hidden_layers
        self.length = 0
        self.long = False  # which longrope table turned the keys

    def truncate(self, length: int) -> None:
        """Forget the tokens from index `length` on."""
        self.length = min(self.length, length)

    def append(self, layer: int, new: Tensor) -> Tensor:
        """Store keys and values [2, 1, G, n, D] behind the first `length` tokens; return those of all."""
        stored, end = self.layers[layer], self.length + new.shape[3]
        if end > stored.shape[3]:
            with torch.inference_mode(False):  # so that it can be written to outside of it, too
                grown = stored.new_empty(*new.shape[:3], max(end, 2 * stored.shape[3], 64), new.shape[4])
            grown[..., : self.length, :] = stored[..., : self.length, :]
            stored = self.layers[layer] = grown
        stored[..., self.length : end, :] = new.detach()
        return stored[..., :end, :]


def causal_mask(n: int, s: int, window: int | None, like: Tensor) -> Tensor | None:
    """0 or -inf, added to the scores of the last n of s tokens [n, s]; None where `attend` needs none."""
    windowed = window is not None and s > window
    if not windowed and n in (1, s):
        return None
    query, key = torch.arange(s - n, s, device=like.device)[:, None], torch.arange(s, device=like.device)
    seen = (key <= query) & (key > query - window) if windowed else key <= query
    return torch.zeros(n, s, dtype=like.dtype, device=like.device).masked_fill_(~seen, -torch.inf)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention in documents of one length. q [B, H, n, D]; k, v [B, G, s, D]; mask [n, s] -> [B, H, n, D].

    Without a mask it is causal for n = s, and the last token sees all for n = 1. (The built-in flag lines up
    the first query with the first key.) Of a few masked queries, those of heads that share keys become
    rows of one matrix.
    """
    (n, s), groups = (q.shape[2], k.shape[2]), q.shape[1] // k.shape[1]
    if mask is None or n > 64:
        causal = mask is None and n == s
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=groups > 1)
    rows, mask = q.reshape(len(q), k.shape[1], -1, q.shape[3]), mask.repeat(groups, 1)
    return F.scaled_dot_product_attention(rows, k, v, mask).reshape(q.shape)


@dataclass
class Packed:
    """Packed documents as torch's kernel for them is told."""

    kernel: Callable
    ends: Tensor  # int32 [documents + 1]: 0, then where each document ends
    longest: int  # tokens of a document

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> "Packed":
        """The import is here because it takes a second and only CUDA needs it.

        Heads that share keys: torch 2.11 takes them as they are, 2.13 wants to be told of them.
        """
        from torch.nn.attention.varlen import varlen_attn

        told = "enable_gqa" in signature(varlen_attn).parameters
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32).to(device, non_blocking=True)
        return cls(partial(varlen_attn, enable_gqa=True) if told else varlen_attn, ends, max(lengths))


def takes_packed(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether that kernel, flash attention, does."""
    narrow = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and narrow and head_dim % 8 == 0 and head_dim <= 256


def attend_packed(q: Tensor, k: Tensor, v: Tensor, packed: Packed, window: int | None) -> Tensor:
    """Causal attention inside each packed document, one kernel for all. q [T, H, D]; k, v [T, G, D]."""
    left = -1 if window is None else window - 1  # tokens before the query's own; -1: all
    ends, longest = packed.ends, packed.longest
    return packed.kernel(q, k, v, ends, ends, longest, longest, window_size=(left, 0))


@dataclass
class Layout:
    """How the T rows of one forward pass are arranged; made once, read by every layer."""

    lengths: list[int]  # of the documents, in sequence order
    cos: Tensor  # [T, d] in sequence order, and so is sin
    sin: Tensor
    caches: list[KVCache] | None  # one for each document
    roles: RoleRows | None  # how the rows are grouped by role; told to every linear
    packed: Packed | None = None  # where one kernel attends in all documents
    masks: dict = field(default_factory=dict)  # made by the first layer that wants them

    def mask(self, n: int, s: int, window: int | None, like: Tensor) -> Tensor | None:
        """causal_mask's, kept for the layers to come."""
        if (n, s, window) not in self.masks:
            self.masks[n, s, window] = causal_mask(n, s, window, like)
        return self.masks[n, s, window]


class Permute(torch.autograd.Function):
    """Rows of x in another order. Autograd's own backward of x[order] would add up what is only moved."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x[order]

    @staticmethod
    def backward(ctx, d_x: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return d_x[inverse], None, None


def in_sequence(x: Tensor, roles: RoleRows | None) -> Tensor:
    """Rows grouped by role -> rows in sequence order."""
    if roles is None or roles.order is None:
        return x
    return Permute.apply(x, roles.inverse, roles.order)


def by_role(x: Tensor, roles: RoleRows | None) -> Tensor:
    """Rows in sequence order -> rows grouped by role."""
    if roles is None or roles.order is None:
        return x
    return Permute.apply(x, roles.order, roles.inverse)


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.window, self.rotary = config.window(layer), config.is_rotary(layer)
        hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.widths = [width, kv_width, kv_width]
        if config.model_type == "phi3":
            self.qkv_proj = Linear(hidden, sum(self.widths), bias=config.qkv_bias)
        else:
            self.q_proj = Linear(hidden, width, bias=config.qkv_bias)
            self.k_proj = Linear(hidden, kv_width, bias=config.qkv_bias)
            self.v_proj = Linear(hidden, kv_width, bias=config.qkv_bias)
        self.o_proj = Linear(width, hidden, bias=config.o_bias)
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """x [T, hidden] -> [T, hidden], rows as `layout.roles` orders them."""
        q, k, v = (in_sequence(part, layout.roles) for part in self.project(x, layout.roles))
        if self.rotary:
            q, k = rotate(q, layout.cos, layout.sin), rotate(k, layout.cos, layout.sin)
        if layout.caches is not None:
            out = self.attend_cached(q, k, v, layout)
        elif layout.packed is not None:
            out = attend_packed(q, k, v, layout.packed, self.window)
        elif len(set(layout.lengths)) == 1:
            out = self.attend_equal(q, k, v, layout)
        else:
            out = self.attend_each(q, k, v, layout)
        return self.o_proj(by_role(out.flatten(1), layout.roles), layout.roles)

    def project(self, x: Tensor, roles: RoleRows | None) -> list[Tensor]:
        """q [T, H, D], k and v [T, G, D], rows as in x."""
        if hasattr(self, "qkv_proj"):
            parts = self.qkv_proj(x, roles).split(self.widths, dim=-1)
        else:
            parts = [self.q_proj(x, roles), self.k_proj(x, roles), self.v_proj(x, roles)]
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        if hasattr(self, "q_norm"):
            q, k = self.q_norm(q), self.k_norm(k)  # each head by itself
        return [q, k, v]

    def attend_cached(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """New tokens of each document, [T, heads, D], look at its cache, which they join -> [T, H, D]."""
        new = torch.stack((k, v)).transpose(1, 2)[:, None]  # [2, 1, G, T, D]
        queries = q.transpose(0, 1)[None].split(layout.lengths, dim=2)
        outs = []
        for i, new_i in enumerate(new.split(layout.lengths, dim=3)):
            keys, values = layout.caches[i].append(self.layer, new_i).unbind()
            mask = layout.mask(queries[i].shape[2], keys.shape[2], self.window, q)
            outs.append(attend(queries[i], keys, values, mask))
        return torch.cat(outs, dim=2)[0].transpose(0, 1)

    def attend_equal(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Documents of one length, [T, heads, D], in one call -> [T, H, D]."""
        n = layout.lengths[0]
        q, k, v = (part.unflatten(0, (-1, n)).transpose(1, 2) for part in (q, k, v))  # [B, heads, n, D]
        out = attend(q, k, v, layout.mask(n, n, self.window, q))
        return out.transpose(1, 2).flatten(0, 1)

    def attend_each(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """Documents of different lengths, [T, heads, D], one after another -> [T, H, D]."""
        outs = []
        for q_i, k_i, v_i in zip(*(part.split(layout.lengths) for part in (q, k, v)), strict=True):
            q_i, k_i, v_i = (part.transpose(0, 1)[None] for part in (q_i, k_i, v_i))  # [1, heads, n, D]
            mask = layout.mask(q_i.shape[2], q_i.shape[2], self.window, q)
            outs.append(attend(q_i, k_i, v_i, mask)[0].transpose(0, 1))
        return torch.cat(outs)


# -------------------- the decoder


class SwiGLU(nn.Module):
    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up


class MLP(nn.Module):
    def __init__(self, config: ModelConfig):
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        if config.model_type == "phi3":
            self.gate_up_proj = Linear(hidden, 2 * inner, bias=False)
        else:
            self.gate_proj = Linear(hidden, inner, bias=config.mlp_bias)
            self.up_proj = Linear(hidden, inner, bias=config.mlp_bias)
        self.down_proj = Linear(inner, hidden, bias=config.mlp_bias)
        self.act_fn = SwiGLU()

    def forward(self, x: Tensor, roles: RoleRows | None) -> Tensor:
        if hasattr(self, "gate_up_proj"):
            gate, up = self.gate_up_proj(x, roles).chunk(2, dim=-1)
        else:
            gate, up = self.gate_proj(x, roles), self.up_proj(x, roles)
        return self.down_proj(self.act_fn(gate, up), roles)


class Layer(nn.Module):
    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        # despite its name, this one feeds the MLP
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), layout)
        return x + self.mlp(self.post_attention_layernorm(x), layout.roles)


class Transformer(nn.Module):
    """The whole decoder. Build it with `from_pretrained` or `from_config`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        # from a tensor: drawing its own, on the meta device, would import two seconds' worth of modules
        embedding = torch.empty(config.vocab_size, config.hidden_size)
        parts = {
            "embed_tokens": nn.Embedding.from_pretrained(embedding, freeze=False),
            "layers": nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers)),
            "norm": RMSNorm(config.hidden_size, config.rms_norm_eps),
        }
        self.model = nn.ModuleDict(parts)  # only a name: checkpoints keep all but the head under `model.`
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.gradient_checkpointing = False  # True: backward runs each layer again, no states are kept
        self.arrange_rows = sort_by_role  # role_ids -> RoleRows; engine/inference.py has another one
        self.tie()

    def tie(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def compile_layers(self) -> None:
        """Compile each layer as a whole, once for all of them; the first steps then take a minute more.

        For the layers of engine/grouped.py on a GPU, whose graph is the same for every packing.
        """
        for layer in self.model.layers:
            layer.compile(dynamic=True)

    def compile_elementwise(self) -> None:
        """Fuse each norm, and each gate of an MLP, into one kernel; the first step then takes seconds more.

        The rest is matmuls and attention, which gain nothing, and would be compiled again for every packing.
        Raises UserError where it does not work: no compiler, no folder for its files.
        """
        for module in self.modules():
            if isinstance(module, (RMSNorm, SwiGLU)):
                module.compile(dynamic=True)
        try:
            self.model.norm(self.model.norm.weight[None])
        except Exception as error:  # no common class
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"--compile: does not work here ({reason}); leave it out") from None

    def forward(self, *args, **kwargs) -> Tensor:
        """Logits [T, vocab]; arguments as in `hidden_states`."""
        return self.lm_head(self.hidden_states(*args, **kwargs))

    def hidden_states(
        self,
        input_ids: Tensor,
        role_ids: Tensor | None = None,
        lengths: list[int] | None = None,
        positions: Tensor | None = None,
        cache: KVCache | list[KVCache] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """States after the final norm in sequence order, [T, hidden], or of the tokens `rows` alone.

        input_ids, role_ids (0, 1, 2) and positions: int64 [T]. `lengths` of the packed documents add up to T
        (default: one document). Positions count from 0 in each document, or on from the cached tokens. Where
        there is a cache for each document, input_ids are new tokens; a single one need not be in a list.
        """
        caches = [cache] if isinstance(cache, KVCache) else cache
        lengths = [len(input_ids)] if lengths is None else lengths
        assert input_ids.dim() == 1, f"input_ids has shape {list(input_ids.shape)}, wanted [T]"
        assert sum(lengths) == len(input_ids), f"lengths {lengths} do not split {len(input_ids)} tokens"
        assert lengths and min(lengths) > 0, f"lengths {lengths} name a document without tokens"
        assert caches is None or len(lengths) == len(caches), "a cache holds one document"
        layout = self.lay_out(input_ids, role_ids, lengths, positions, caches)
        order, inverse = (None, None) if layout.roles is None else (layout.roles.order, layout.roles.inverse)
        x = self.model.embed_tokens(input_ids if order is None else input_ids[order])
        for layer in self.model.layers:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, layout, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, layout)
        for i, used in enumerate(caches or []):
            used.length += lengths[i]
        if inverse is not None:
            rows = inverse if rows is None else inverse[rows]
        return self.model.norm(x if rows is None else x[rows])

    def lay_out(
        self,
        input_ids: Tensor,
        role_ids: Tensor | None,
        lengths: list[int],
        positions: Tensor | None,
        caches: list[KVCache] | None,
    ) -> Layout:
        """What all layers of one forward pass are told; arguments as in `hidden_states`."""
        starts = [0] * len(lengths) if caches is None else [cache.length for cache in caches]
        if positions is None:
            counts = [torch.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)]
            positions = torch.cat(counts).to(input_ids.device)
            ends = [start + n for start, n in zip(starts, lengths, strict=True)]
        else:
            ends = [int(of_document.max()) + 1 for of_document in positions.split(lengths)]
        # The reference picks longrope's table once per call, for the largest position of the batch. Here each
        # document picks its own, so that it gets the same packed as alone.
        longs = [self.config.uses_long_factor(end) for end in ends]
        for i, cache in enumerate(caches or []):
            same_table = cache.length == 0 or cache.long == longs[i]
            assert same_table, "longrope changes its table: truncate(0) first"
            cache.long = longs[i]
        cos, sin = rotary_tables(self.config, positions, lengths, longs)
        dtype = self.model.norm.weight.dtype
        roles = None
        if role_ids is not None:
            wanted = f"wanted [{len(input_ids)}]"
            assert role_ids.shape == input_ids.shape, f"role_ids has shape {list(role_ids.shape)}, {wanted}"
            roles = self.arrange_rows(role_ids)
        packed = None
        if caches is None and takes_packed(input_ids.device, dtype, self.config.head_dim):
            packed = Packed.of(lengths, input_ids.device)
        return Layout(lengths, cos.to(dtype), sin.to(dtype), caches, roles, packed)

    @classmethod
    def from_config(
        cls,
        config: ModelConfig,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> "Transformer":
        """Random weights: matrices normal with deviation 0.02, biases 0, norms 1."""
        with torch.device("meta"):
            model = cls(config)
        model = model.to(dtype).to_empty(device=device)
        model.tie()  # to_empty gave the head a tensor of its own
        generator = torch.Generator(device).manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0, 0.02, generator=generator)
                else:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return model

    @classmethod
    def from_pretrained(
        cls, path_or_id: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> "Transformer":
        """Load a checkpoint folder or a hub id, every tensor once, straight to `dtype` and `device`.

        Raises UserError for a config, a file, a tensor name or a shape that does not fit.
        """
        model, tensors = cls.of_checkpoint(path_or_id, dtype)
        model.fill({name: tensor.to(device, dtype, copy=True) for name, tensor in tensors})
        return model

    @classmethod
    def of_checkpoint(
        cls, path_or_id: str | Path, dtype: torch.dtype = torch.float32
    ) -> tuple["Transformer", Iterator[tuple[str, Tensor]]]:
        """A model on the meta device, and the tensors for `fill`, each read when it is asked for.

        dtype: what they will become, which has to hold their values.

        Raises UserError as from_pretrained does.
        """
        folder = checkpoint_folder(path_or_id)
        config, files = ModelConfig.from_file(folder), tensor_files(folder)
        if config.tie_word_embeddings is None:
            config = replace(config, tie_word_embeddings=HEAD not in files)
        if config.tie_word_embeddings:
            files = without_repeated_head(folder, files)
        with torch.device("meta"):
            model = cls(config)
        shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
        return model, read_tensors(folder, files, shapes, dtype)

    def fill(self, state: dict[str, Tensor]) -> None:
        """Make these tensors the parameters; they are all that the model has."""
        self.load_state_dict(state, strict=False, assign=True)  # not strict: a tied head has no tensor
        self.tie()
