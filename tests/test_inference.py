"""inference.py against the model that it is made from, which the other tests hold against naive twins."""

import copy

import pytest
import torch
from golden import TINY, TINY_LLAMA, close, load, tokens

import mor
from cli import UserError
from engine import inference
from engine.dora import layer_class
from engine.generation import generate
from engine.inference import MoRInference, PackedLinear, for_inference
from model import KVCache, ModelConfig, Transformer
from mor import MoRConfig

SHAPES = [  # loras, active
    ((5, 5, 4), (4, 4, 3)),  # the paper's
    ((5, 4, 3), (5, 4, 3)),  # K = E: all
    ((4, 3, 2), (2, 2, 2)),  # K = 1
    ((3, 2, 5), (1, 2, 3)),  # K = 0 for the first role: its shared LoRA alone
    ((3, 3, 3), (1, 1, 1)),
    ((2, 6, 2), (2, 6, 2)),  # with a role of 5 choices, a role of one LoRA chooses 4 too many
    ((1, 1, 1), (1, 1, 1)),  # roles without router
    ((3, 0, 1), (2, 0, 1)),  # the executor uses the reasoner's
    ((2, 4, 0), (2, 2, 0)),
    ((1, 0, 0), (1, 0, 0)),  # plain LoRA
    ((6, 0, 0), (4, 0, 0)),  # router without roles
]
ROLES_OF_ROWS = [[0, 1, 2, 1, 0, 0, 2, 1], [1] * 5, [2, 0, 2], [0], [2], [2, 1, 2, 2]]


def adapted(network: Transformer, **changes) -> Transformer:
    config = MoRConfig(**{"rank": 3} | changes)
    mor.add_mor(network, config, seed=1, layer_class=layer_class(config))
    torch.manual_seed(0)
    for parameter in mor.mor_parameters(network).values():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


def small(dtype: torch.dtype = torch.float32, **changes) -> Transformer:
    return adapted(Transformer.from_config(ModelConfig.from_dict(TINY_LLAMA), dtype=dtype), **changes)


@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize(("loras", "active"), SHAPES)
@pytest.mark.parametrize("roles", ROLES_OF_ROWS, ids=str)
def test_adapters_of_all_roles_at_once(roles, loras, active, shared_gate) -> None:
    """Rows in sequence order, in float64, which is not packed."""
    shape = dict(loras=loras, active=active, shared_gate=shared_gate, scale=0.7)
    network = small(torch.float64, **shape).double()
    ids, roles = tokens(len(roles), vocab=50), torch.tensor(roles)
    with torch.no_grad():
        wanted = network(ids, roles)
        if all(loras):
            assert (wanted - network(ids, (roles + 1) % 3)).abs().max() > 0.1, "roles matter"
        close(for_inference(network)(ids, roles), wanted, 1e-9)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", TINY)
def test_every_family_packed_and_plain(name: str, packed: bool, monkeypatch) -> None:
    """Documents side by side, then behind their caches; the base alone, too."""
    if not packed:
        monkeypatch.setattr(inference, "_packable", lambda weight: False)
    dora = dict(loras=(1, 0, 0), active=(1, 0, 0), scale=0.7, dora=True)
    for network in (load(name)[0].eval(), adapted(load(name)[0]), adapted(load(name)[0], **dora)):
        ids, roles, lengths = tokens(45), tokens(45, seed=1, vocab=3), [20, 10, 15]
        later, later_roles = tokens(9, seed=2), tokens(9, seed=3, vocab=3)
        with torch.no_grad():
            wanted = []
            for made in (network, for_inference(copy.deepcopy(network))):
                caches = [KVCache(network.config) for _ in lengths]
                first = made(ids, roles, lengths, cache=caches)
                wanted.append(torch.cat((first, made(later, later_roles, [3, 1, 5], cache=caches))))
            close(*wanted, 5e-5 * wanted[0].abs().max().item())
        linears = [m for m in made.modules() if isinstance(m, (PackedLinear, torch.nn.Linear))]
        assert {type(m) for m in linears} == {PackedLinear}
        assert all(m.packed == packed for m in linears) or not torch.backends.mkldnn.is_available()
        assert len(linears) == 4 * len(made.model.layers) + 1


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_bfloat16_is_as_near_as_the_slices_by_role(rows: int) -> None:
    """Of all LoRAs active: rounding cannot change the choice."""
    network = small(active=(5, 5, 4))
    ids, roles = tokens(rows, vocab=50), tokens(rows, seed=1, vocab=3)
    with torch.no_grad():
        exact = network(ids, roles)
        network.to(torch.bfloat16)
        sliced, joined = network(ids, roles), for_inference(network)(ids, roles)
    assert joined.dtype == torch.bfloat16
    scale = exact.abs().max()
    near, allowed = (joined - exact).abs().max() / scale, (sliced - exact).abs().max() / scale
    assert near <= 2 * allowed + 0.01


def test_gates_of_a_bfloat16_model_are_float32() -> None:
    """Softmax in float32, as in mor.route."""
    network = for_inference(small(torch.bfloat16))
    layer = network.model.layers[0].mlp.down_proj
    roles = [0, 1, 2, 0]
    rows = network.arrange_rows(torch.tensor(roles))
    scores = torch.randn(len(roles), 1, 14, generator=torch.Generator().manual_seed(0)).bfloat16()
    gates = layer.gates(scores, rows)
    assert gates.dtype == torch.float32
    for row, role in enumerate(roles):
        start, loras, top_k = (0, 5, 10)[role], (5, 5, 4)[role], (3, 3, 2)[role]
        wanted, _, _ = mor.route(scores[row, :, start + 1 : start + loras].float(), top_k, False)
        close(gates[row, :, start : start + loras], wanted, 1e-6)


def test_linears_without_an_adapter_stay_out_of_the_groups() -> None:
    network = small(targets=("q_proj", "gate_proj", "up_proj", "o_proj"))
    ids, roles = tokens(12, vocab=50), tokens(12, seed=1, vocab=3)
    with torch.no_grad():
        wanted = network(ids, roles)
        close(for_inference(network)(ids, roles), wanted, 1e-5)
    attention, mlp = network.model.layers[0].self_attn, network.model.layers[0].mlp
    kinds = [type(attention.q_proj), type(attention.k_proj), type(mlp.gate_up_proj), type(mlp.down_proj)]
    assert kinds == [MoRInference, PackedLinear, MoRInference, PackedLinear]


def test_the_same_tokens_with_fewer_operations() -> None:
    network = small()
    options = dict(role_ids=[0, 1, 2, 0] * 3, role=1, max_new_tokens=30)
    prompt = tokens(12, vocab=50).tolist()
    wanted = list(generate(network, prompt, **options))
    assert list(generate(for_inference(network), prompt, **options)) == wanted


def test_roles_are_wanted() -> None:
    with pytest.raises(UserError, match="role_ids are missing"):
        for_inference(small())(tokens(3, vocab=50))


def test_the_head_keeps_its_weight() -> None:
    """engine/loss.py multiplies with it; here it is the embedding."""
    network = for_inference(small())
    assert network.lm_head.weight is network.model.embed_tokens.weight
