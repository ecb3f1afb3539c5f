"""model.py against golden outputs of the reference library, and against naive twins written out here.

Fixtures: tests/fixtures/README.md. Twins: attention as a loop over queries (`naive_attention`), rotation
channel by channel (`naive_rotate`).
"""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from golden import FIXTURES, SPELLINGS, TINY, TINY_LLAMA, close, load, tokens
from safetensors.torch import load_file

import model
from cli import UserError
from formats.checkpoint import FULL, SLIDING
from model import KVCache, ModelConfig, RMSNorm, Transformer, attend, causal_mask, rotary_tables, rotate

# -------------------- golden outputs


def golden_rows(golden: dict[str, torch.Tensor], case: str):
    """(row, ids, positions or None) of each row of a case, left padding cut off.

    The reference picks longrope's table once per call, from the largest position of the batch; the model
    picks it per document. They part in one golden row, padded_long's first, which is short by itself and ran
    with the long table. Rotary attention depends on position differences only, so that row, moved up to the
    batch's largest position, must give the reference's values.
    """
    ids, positions = golden[f"{case}.ids"], golden.get(f"{case}.positions")
    mask = golden.get(f"{case}.mask", torch.ones_like(ids)).bool()
    for row in range(len(ids)):
        own = None if positions is None else positions[row][mask[row]]
        if case == "padded_long" and row == 0:
            own = own + (positions.max() - own.max())
        yield row, ids[row][mask[row]], mask[row], own


@pytest.mark.parametrize(("name", "spelling"), SPELLINGS)
def test_logits_of_every_case_in_both_spellings(name: str, spelling: str, tmp_path: Path) -> None:
    network, golden = load(name)
    if spelling != "config.json":
        shutil.copytree(FIXTURES / name, tmp_path / "m")
        (tmp_path / "m" / spelling).replace(tmp_path / "m" / "config.json")
        network = Transformer.from_pretrained(tmp_path / "m")
    cases = [key.removesuffix(".ids") for key in golden if key.endswith(".ids")]
    assert len(cases) >= 4
    for case in cases:
        for row, ids, mask, positions in golden_rows(golden, case):
            close(network(ids, positions=positions), golden[f"{case}.logits"][row][mask])


@pytest.mark.parametrize("name", sorted({*TINY} - {"llama_untied_sharded", "phi3_sliding"}))
def test_hidden_states_layer_by_layer(name: str) -> None:
    network, golden = Transformer.from_pretrained(FIXTURES / name), load(name)[1]
    states = []
    for layer in network.model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    cases = {key.split(".")[0] for key in golden if ".hidden." in key}
    assert cases
    for case in cases:
        states.clear()
        last = network.hidden_states(golden[f"{case}.ids"][0])
        assert f"{case}.hidden.{len(states)}" in golden
        for i, got in enumerate([*states, last]):
            close(got, golden[f"{case}.hidden.{i}"][0])


# -------------------- packing, roles, cache


@pytest.mark.parametrize("lengths", [[7, 20, 1, 45], [15, 15, 15], [40, 8]])
@pytest.mark.parametrize("name", TINY)
def test_packed_documents_equal_one_by_one(name: str, lengths: list[int]) -> None:
    """Some documents of phi3_longrope need the long table, others beside them the short one."""
    network, _ = load(name)
    ids = tokens(sum(lengths))
    alone = torch.cat([network(part) for part in ids.split(lengths)])
    close(network(ids, lengths=lengths), alone, 1e-5 * alone.abs().max().item())


@pytest.mark.parametrize("name", TINY)
def test_role_order_changes_no_output(name: str) -> None:
    network, _ = load(name)
    ids, lengths = tokens(60), [25, 35]
    roles = tokens(60, seed=1, vocab=3)
    close(network(ids, role_ids=roles, lengths=lengths), network(ids, lengths=lengths))
    close(network(ids, role_ids=torch.full((60,), 2)), network(ids))


def test_linears_get_rows_grouped_by_role() -> None:
    network = Transformer.from_config(ModelConfig.from_dict(TINY_LLAMA))
    ids, roles = tokens(9, vocab=50), torch.tensor([1, 0, 2, 0, 0, 1, 2, 1, 0])
    layer, seen = network.model.layers[0], []
    blocks = [m for m in network.model.layers.modules() if isinstance(m, model.Linear)]
    assert len(blocks) == 14
    for linear in blocks:
        linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    network(ids, role_ids=roles)
    assert len(seen) == 14
    assert all(roles.sizes == [4, 3, 2] for _, roles in seen)
    order = [1, 3, 4, 8, 0, 5, 7, 2, 6]  # role 0 first, each role in sequence order
    close(seen[0][0], layer.input_layernorm(network.model.embed_tokens(ids[order])), 1e-6)
    seen.clear()
    network(ids, role_ids=torch.ones(9, dtype=torch.int64))
    assert all(roles.sizes == [0, 9, 0] for _, roles in seen)
    seen.clear()
    network(ids)
    assert all(roles is None for _, roles in seen)


def test_checkpointing_runs_each_layer_again_in_backward_and_only_there() -> None:
    network, runs = Transformer.from_config(ModelConfig.from_dict(TINY_LLAMA)), []
    network.gradient_checkpointing = True
    for layer in network.model.layers:
        layer.mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    loss = network(tokens(9, vocab=50)).sum()
    assert len(runs) == 2
    loss.backward()
    assert len(runs) == 4
    with torch.no_grad():
        network(tokens(9, vocab=50))
    assert len(runs) == 6


def test_norms_of_a_bfloat16_model_are_made_in_float32() -> None:
    """Rounding comes once, at the end, as in the reference."""
    norm = RMSNorm(64, 1e-6)
    x = 30 * torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    x16 = x.bfloat16()
    exact = x16.double() / (x16.double().square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    assert torch.equal(norm.bfloat16()(x16), exact.bfloat16())


def test_role_order_changes_no_gradient() -> None:
    ids, roles = tokens(30, vocab=50), tokens(30, seed=1, vocab=3)
    gradients = []
    for role_ids in (None, roles):
        network = Transformer.from_config(ModelConfig.from_dict(TINY_LLAMA))
        network(ids, role_ids=role_ids, lengths=[13, 17]).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for plain, ordered in zip(*gradients, strict=True):
        close(ordered, plain, 1e-4 * plain.abs().max().item())


@pytest.mark.parametrize("chunks", [[1] * 30, [5, 1, 17, 7], [29, 1]])
@pytest.mark.parametrize("name", TINY)
def test_cached_chunks_equal_one_forward(name: str, chunks: list[int]) -> None:
    """Several new tokens behind a filled cache: the built-in causal flag would line them up wrongly."""
    network, _ = load(name)
    ids = tokens(30)
    cache = KVCache(network.config)
    parts = [network(part, cache=cache) for part in ids.split(chunks)]
    assert cache.length == 30
    close(torch.cat(parts), network(ids))


def test_cache_grows_and_forgets() -> None:
    network, _ = load("phi3_sliding")
    ids, other = tokens(150), tokens(20, seed=5)
    cache = KVCache(network.config)
    for part in ids.split([100, 50]):  # it grows with the second
        network(part, cache=cache)
    cache.truncate(70)
    assert cache.length == 70
    close(network(other, cache=cache), network(torch.cat((ids[:70], other)))[70:])
    cache.truncate(1000)
    assert cache.length == 90


# -------------------- pieces against naive twins


def naive_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """q [n, H, D], k and v [s, G, D]; the queries are the last n of s tokens."""
    out = torch.empty_like(q)
    for i in range(len(q)):
        last = len(k) - len(q) + i
        first = 0 if window is None else max(0, last - window + 1)
        for head in range(q.shape[1]):
            group = head // (q.shape[1] // k.shape[1])
            scores = k[first : last + 1, group] @ q[i, head] / math.sqrt(q.shape[-1])
            out[i, head] = torch.softmax(scores, dim=0) @ v[first : last + 1, group]
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
@pytest.mark.parametrize(("n", "s"), [(8, 8), (1, 8), (3, 8), (9, 9), (1, 1), (70, 80)])
def test_attention_equals_a_loop_over_queries(n: int, s: int, window: int | None) -> None:
    torch.manual_seed(n + s)
    q, k, v = torch.randn(n, 6, 4), torch.randn(s, 2, 4), torch.randn(s, 2, 4)
    heads_first = [x.transpose(0, 1)[None] for x in (q, k, v)]
    got = attend(*heads_first, causal_mask(n, s, window, q))[0].transpose(0, 1)
    close(got, naive_attention(q, k, v, window), 1e-5)


def naive_rotate(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """x [heads, D], angles [d/2]: channel i and i + d/2 are a point in the plane, turned by angle i."""
    out, half = x.clone(), len(angles)
    for i, angle in enumerate(angles.tolist()):
        out[:, i] = x[:, i] * math.cos(angle) - x[:, i + half] * math.sin(angle)
        out[:, i + half] = x[:, i] * math.sin(angle) + x[:, i + half] * math.cos(angle)
    return out


@pytest.mark.parametrize("partial", [1.0, 0.75, 0.5])
def test_rotation_of_all_or_some_channels(partial: float) -> None:
    config = ModelConfig.from_dict({**TINY_LLAMA, "head_dim": 16, "partial_rotary_factor": partial})
    positions = torch.tensor([0, 1, 5, 63])
    x = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(0))
    cos, sin = rotary_tables(config, positions, [4], [False])
    d = int(16 * partial)
    inverse = torch.tensor([10000.0 ** (-2 * i / d) for i in range(d // 2)])
    wanted = torch.stack([naive_rotate(x[t], position * inverse) for t, position in enumerate(positions)])
    close(rotate(x, cos, sin), wanted, 1e-5)


def test_rmsnorm_is_float32_inside_and_rounds_before_the_weight() -> None:
    """In bfloat16 the order of rounding shows: multiplying by the weight first gives other bits."""
    norm, x = RMSNorm(64, 1e-3).to(torch.bfloat16), torch.randn(20, 64).to(torch.bfloat16) * 7
    torch.nn.init.normal_(norm.weight)
    wide = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-3).sqrt()
    assert torch.equal(norm(x), wide.float().to(torch.bfloat16) * norm.weight)
    assert not torch.equal(norm(x), (wide * norm.weight.double()).to(torch.bfloat16))


# -------------------- real configs


REAL = json.loads((FIXTURES / "goldens" / "models.json").read_text())["models"]
ROPE = [(name, False) for name in [*REAL, "Phi-3-mini-4k-instruct"]] + [("Phi-3.5-mini-instruct", True)]


@pytest.mark.parametrize("name", REAL)
def test_shapes_and_totals_of_real_configs(name: str) -> None:
    golden = REAL[name]
    with torch.device("meta"):
        network = Transformer(ModelConfig.from_file(FIXTURES / "configs" / name))
    layers = range(golden["layers"])
    wanted = {
        pattern.replace("{i}", str(i)): shape
        for pattern, shape in golden["shapes"].items()
        for i in (layers if "{i}" in pattern else [0])
    }
    got = {key: list(parameter.shape) for key, parameter in network.named_parameters()}
    assert got == wanted and len(got) == golden["tensors_in_checkpoint"]
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["parameters"]


@pytest.mark.parametrize(("name", "long"), ROPE)
def test_rotary_tables_far_out(name: str, long: bool) -> None:
    golden = load_file(FIXTURES / "goldens" / "rope.safetensors")
    config = ModelConfig.from_file(FIXTURES / "configs" / name)
    key = name + (".long" if long else ".short") * (config.rope_type == "longrope")
    positions = golden[f"{key}.positions"]
    frequencies = model.inverse_frequencies(config, long, positions.device)
    assert torch.allclose(frequencies, golden[f"{key}.inv_freq"], rtol=1e-6, atol=0)
    cos, sin = rotary_tables(config, positions, [len(positions)], [long])
    assert cos.dtype == sin.dtype == torch.float32
    # one ulp of a frequency is 0.008 rad at position 131071, so the far rows allow for it
    slack = 1e-6 + 1.2e-7 * positions[:, None]
    for got, wanted in ((cos, golden[f"{key}.cos_half"]), (sin, golden[f"{key}.sin_half"])):
        half = got.shape[1] // 2
        assert ((got[:, half:] - wanted).abs() <= slack).all()
    assert torch.equal(cos[:, :half], cos[:, half:]) and torch.equal(sin[:, :half], -sin[:, half:])


def test_layers_with_a_window_and_layers_without_rotation() -> None:
    """As configs name them; a file of mistral that is silent has the window of the first Mistral."""

    def read(**fields) -> ModelConfig:
        return ModelConfig.from_dict({**TINY_LLAMA, **fields})

    switched = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    smollm3 = {"model_type": "smollm3", **switched, "no_rope_layers": [0, 1]}
    for fields, windows in (
        ({"model_type": "mistral"}, [4096, 4096]),
        ({"model_type": "mistral", "sliding_window": None}, [None, None]),
        ({"model_type": "llama", "sliding_window": 5}, [None, None]),
        ({"model_type": "qwen3", **switched}, [None, 5]),
        ({"model_type": "qwen3", **switched, "layer_types": [SLIDING, FULL]}, [5, None]),
        (smollm3, [5, None]),
        ({**smollm3, "no_rope_layers": [0, 1, 0], "layer_types": [FULL, SLIDING]}, [None, 5]),
    ):
        config = read(**fields)
        assert [config.window(i) for i in range(2)] == windows, fields
        rotary = [0, 1] if fields["model_type"] == "smollm3" else [1, 1]
        assert [config.is_rotary(i) for i in range(2)] == rotary
    eight = read(model_type="smollm3", num_hidden_layers=8)
    assert [i for i in range(8) if not eight.is_rotary(i)] == [3, 7]


def test_qwen2_windows_only_in_the_upper_layers_when_switched_on() -> None:
    base = {**TINY_LLAMA, "model_type": "qwen2", "sliding_window": 5, "max_window_layers": 1}
    off, on = (ModelConfig.from_dict({**base, "use_sliding_window": flag}) for flag in (False, True))
    assert [off.window(i) for i in range(2)] == [None, None]
    assert [on.window(i) for i in range(2)] == [None, 5]
    ids = tokens(20, vocab=50)
    far = [Transformer.from_config(config, seed=1).hidden_states(ids) for config in (off, on)]
    close(far[0][:5], far[1][:5], 1e-6)
    assert (far[0][5:] - far[1][5:]).abs().amax(-1).min() > 1e-6


def test_random_weights_follow_the_seed() -> None:
    config = ModelConfig.from_dict({**TINY_LLAMA, "hidden_size": 64, "attention_bias": True})
    one, same, other = (Transformer.from_config(config, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert one["lm_head.weight"].data_ptr() == one["model.embed_tokens.weight"].data_ptr()
    assert abs(one["model.embed_tokens.weight"].std() - 0.02) < 0.002
    assert (one["model.norm.weight"] == 1).all() and (one["model.layers.0.self_attn.q_proj.bias"] == 0).all()


def test_where_nothing_compiles_that_is_said_at_once(monkeypatch):
    def compile_nothing(function, **_):
        def call(*args):
            raise RuntimeError("no compiler\n  at /usr/bin")

        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    network, _ = load("qwen2_tied")
    with pytest.raises(UserError, match=r"--compile: does not work here \(no compiler at /usr/bin\)"):
        network.compile_elementwise()
