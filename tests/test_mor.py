"""mor.py against loops that follow the paper symbol by symbol; what is faster is held against mor.py.

naive_layer        Eqs. 5 to 7, one token and one LoRA at a time
naive_balance      Eqs. 10 to 12, one token at a time
naive_orthogonal   Eq. 13 with the d x d products written out, one pair at a time

`form` is mor.mor_layer or its form for training, engine/fused.py, which test_fused.py holds against it.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mor
from cli import UserError
from engine import fused
from engine.dora import layer_class
from engine.fused import fused_layer
from model import Linear, ModelConfig, Transformer
from mor import ROLES, MoRConfig, MoRLinear, RoleRows

CONFIGS = Path(__file__).parent / "fixtures" / "configs"
TINY = dict(model_type="qwen2", vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2)
TINY |= dict(
    num_attention_heads=4, num_key_value_heads=2, head_dim=6, qkv_bias=True, tie_word_embeddings=True
)

SIZES = [[5, 3, 4], [0, 6, 0], [1, 1, 1], [4, 0, 0], [0, 0, 2], [3, 0, 1]]  # rows per role
SHAPES = [  # loras, active
    ((5, 5, 4), (4, 4, 3)),  # the paper's
    ((5, 4, 3), (5, 4, 3)),  # K = E: all
    ((4, 3, 2), (2, 2, 2)),  # K = 1
    ((3, 2, 5), (1, 2, 3)),  # K = 0 for the first role: its shared LoRA alone
    ((1, 0, 0), (1, 0, 0)),  # plain LoRA
    ((1, 1, 1), (1, 1, 1)),  # roles without router
    ((6, 0, 0), (4, 0, 0)),  # router without roles
    ((3, 0, 1), (2, 0, 1)),  # the executor uses the reasoner's, the summarizer has one of its own
]


FORMS = {"plain": mor.mor_layer, "fused": fused_layer}


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


# ------------------------------------------------------------------------------------------------ naive twins


def probabilities(u: Tensor, layer: MoRLinear, role: str) -> list[Tensor]:
    """Softmax(u W_R) over the routed LoRAs of a role, for one token."""
    rows = layer.router[role][1:] if layer.config.shared_gate else layer.router[role]
    powers = [torch.exp(u @ row) for row in rows]
    return [power / sum(powers) for power in powers]


def top_k(probs: list[Tensor], layer: MoRLinear, role: str) -> list[int]:
    k = layer.config.active[ROLES.index(role)] - 1
    return sorted(range(len(probs)), key=lambda i: -probs[i].item())[:k]


def owners(roles: list[str], layer: MoRLinear) -> list[str]:
    """Whose LoRAs a token of each of the roles meets: those of the role before where it has none."""
    found = {"reasoner": "reasoner"}
    for before, role in (("reasoner", "executor"), ("executor", "summarizer")):
        found[role] = role if layer.config.loras[ROLES.index(role)] else found[before]
    return [found[role] for role in roles]


def naive_layer(x: Tensor, roles: list[str], layer: MoRLinear) -> Tensor:
    rows = []
    for u, role in zip(x, owners(roles, layer), strict=True):
        A, B = layer.lora_A[role], layer.lora_B[role]
        probs = probabilities(u, layer, role)
        chosen = top_k(probs, layer, role)
        h0 = layer.base.weight @ u + (0 if layer.base.bias is None else layer.base.bias)
        delta = B[0].T @ (A[0] @ u)
        if layer.config.shared_gate:
            delta = delta * torch.sigmoid(u @ layer.router[role][0])
        for i in chosen:
            weight = probs[i] / sum(probs[j] for j in chosen)
            delta = delta + weight * (B[1 + i].T @ (A[1 + i] @ u))
        rows.append(h0 + layer.config.scale * delta)
    return torch.stack(rows)


def naive_balance(x: Tensor, roles: list[str], layer: MoRLinear) -> Tensor:
    total = torch.zeros((), dtype=x.dtype)
    for role in layer.lora_A:
        tokens = [u for u, r in zip(x, owners(roles, layer), strict=True) if r == role]
        E = len(layer.lora_A[role]) - 1
        for i in range(E):
            f, P = 0.0, 0.0
            for u in tokens:
                probs = probabilities(u, layer, role)
                f += (i in top_k(probs, layer, role)) / len(tokens)
                P = P + probs[i] / len(tokens)
            total = total + E * f * P
    return total


def naive_orthogonal(layers: list[MoRLinear], form: str) -> Tensor:
    """With the factors in the shapes that the paper prints, B [in, rank] first and A [rank, out] second."""
    total = torch.zeros((), dtype=torch.float64)
    for layer in layers:
        for role in layer.lora_A:
            B, A = [a.T for a in layer.lora_A[role]], list(layer.lora_B[role])
            for i in range(1, len(A)):
                for j in range(i + 1, len(A)):
                    a = A[i].T @ A[j] if form == "printed" else A[i] @ A[j].T  # [out, out] or [rank, rank]
                    total = total + (a**2).sum() + ((B[i].T @ B[j]) ** 2).sum()
    return total


# ---------------------------------------------------------------------------------------------------- helpers


def random_layer(
    config: MoRConfig, dtype=torch.float64, base_dtype=None, size=(12, 10), form=mor.mor_layer
) -> MoRLinear:
    """A layer whose B is not zero; the same values in any dtype."""
    torch.manual_seed(0)
    base = nn.Linear(*size)
    layer = MoRLinear(base, config)
    for parameter in mor.mor_parameters(layer).values():
        nn.init.normal_(parameter, std=0.5)
    layer.to(dtype).base.to(base_dtype or dtype)
    layer.function = form
    return layer


def role_list(sizes: list[int]) -> list[str]:
    return [role for role, n in zip(ROLES, sizes, strict=True) for _ in range(n)]


def gradients(loss: Tensor, x: Tensor, layer: nn.Module) -> dict[str, Tensor]:
    """Of x and every adapter parameter; zeros where the loss does not depend on it."""
    wanted = {"x": x} | mor.mor_parameters(layer)
    found = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {
        n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(wanted.items(), found, strict=True)
    }


def tiny_model(seed: int = 0, dtype=torch.float32, **changes) -> Transformer:
    return Transformer.from_config(ModelConfig(**TINY | changes), dtype=dtype, seed=seed)


def adapted(seed: int = 0, config: MoRConfig | None = None) -> Transformer:
    """A tiny model with random, trained-looking adapters."""
    model = tiny_model()
    config = config or MoRConfig(rank=2)
    mor.add_mor(model, config, seed, layer_class=layer_class(config))
    torch.manual_seed(seed)
    for parameter in mor.mor_parameters(model).values():
        nn.init.normal_(parameter, std=0.1)
    return model


# ------------------------------------------------------------------------------------------------ Eqs. 5 to 7


@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize(("loras", "active"), SHAPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_layer_equals_the_loop_over_tokens_and_loras(sizes, loras, active, shared_gate):
    config = MoRConfig(rank=3, loras=loras, active=active, shared_gate=shared_gate, scale=0.7)
    layer = random_layer(config)
    x = torch.randn(sum(sizes), 12, dtype=torch.float64, requires_grad=True)
    got, wanted = layer(x, RoleRows(sizes)), naive_layer(x, role_list(sizes), layer)
    torch.testing.assert_close(got, wanted)
    upstream = torch.randn_like(got)
    torch.testing.assert_close(
        gradients((got * upstream).sum(), x, layer), gradients((wanted * upstream).sum(), x, layer)
    )


def naive_lora(x: Tensor, layer: MoRLinear) -> Tensor:
    """Hu et al. 2021: W0 x + s B A x, whatever the role."""
    A, B = layer.lora_A["reasoner"][0], layer.lora_B["reasoner"][0].T  # [rank, in], [out, rank]
    return x @ layer.base.weight.T + layer.base.bias + layer.config.scale * (x @ A.T) @ B.T


def test_one_lora_for_all_roles_is_plain_lora(form):
    layer = random_layer(MoRConfig(rank=5, loras=(1, 0, 0), active=(1, 0, 0), scale=2 / 5), form=form)
    x = torch.randn(9, 12, dtype=torch.float64, requires_grad=True)
    got, wanted = layer(x, RoleRows([4, 2, 3])), naive_lora(x, layer)
    torch.testing.assert_close(got, wanted)
    upstream = torch.randn_like(got)
    torch.testing.assert_close(
        gradients((got * upstream).sum(), x, layer), gradients((wanted * upstream).sum(), x, layer)
    )
    assert mor.router_load(layer) == {}
    assert mor.balance_loss(layer) == mor.orthogonal_loss(layer) == fused.orthogonal_loss(layer) == 0


def test_a_router_without_roles_is_the_reasoners_group_for_every_token(form):
    layer = random_layer(MoRConfig(rank=2, loras=(6, 0, 0), active=(4, 0, 0)), form=form)
    x = torch.randn(9, 12, dtype=torch.float64)
    mixed, balance = layer(x, RoleRows([4, 2, 3])), mor.balance_loss(layer)
    assert torch.equal(mixed, layer(x, RoleRows([9, 0, 0])))
    assert torch.equal(balance, mor.balance_loss(layer))
    assert list(mor.router_load(layer)) == ["reasoner"] and set(layer.lora_A) == {"reasoner"}


def test_groups_say_whose_loras_each_role_uses():
    def groups(*loras: int) -> dict[str, list[int]]:
        return MoRConfig(loras=loras, active=tuple(min(n, 1) for n in loras)).groups

    assert groups(5, 5, 4) == {"reasoner": [0], "executor": [1], "summarizer": [2]}
    assert groups(1, 0, 0) == {"reasoner": [0, 1, 2]}
    assert groups(3, 0, 1) == {"reasoner": [0, 1], "summarizer": [2]}
    assert groups(2, 2, 0) == {"reasoner": [0], "executor": [1, 2]}


@pytest.mark.parametrize("training", [True, False])
def test_roles_that_are_absent_get_gradients_of_exactly_zero(training, form):
    """Eq. 6. Zeros, not None: DDP waits for a gradient of every parameter."""
    layer = random_layer(MoRConfig(rank=3), form=form).train(training)
    layer(torch.randn(6, 12, dtype=torch.float64), RoleRows([0, 6, 0])).square().sum().backward()
    for name, parameter in mor.mor_parameters(layer).items():
        assert parameter.grad.count_nonzero().item() == 0 or name.endswith("executor"), name
    for kind in (layer.lora_A, layer.lora_B, layer.router):
        assert kind["executor"].grad.count_nonzero() > 0


def test_bf16_base_with_fp32_adapters(form):
    config = MoRConfig(rank=3, active=(5, 5, 4))  # K = E: rounding cannot change the choice
    exact, layer = random_layer(config), random_layer(config, torch.float32, torch.bfloat16, form=form)
    x = torch.randn(9, 12, dtype=torch.float64, requires_grad=True)
    x16 = x.detach().bfloat16().requires_grad_()
    got, wanted = layer(x16, RoleRows([4, 2, 3])), exact(x, RoleRows([4, 2, 3]))
    assert got.dtype == torch.bfloat16
    assert layer.statistics[1].dtype == torch.float32  # the softmax
    torch.testing.assert_close(got.double(), wanted, rtol=0.03, atol=0.1)
    grads = gradients(got.float().sum(), x16, layer)
    assert {grads.pop("x").dtype} == {torch.bfloat16}
    assert {grad.dtype for grad in grads.values()} == {torch.float32}
    for name, grad in gradients(wanted.sum(), x, exact).items():
        if name != "x":
            torch.testing.assert_close(grads[name].double(), grad, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("config", [MoRConfig(rank=4), MoRConfig(rank=4, shared_gate=True)], ids=["", "gate"])
def test_a_new_adapter_leaves_the_base_model_bit_for_bit(config, dtype, form):
    base, model = tiny_model(dtype=dtype), tiny_model(dtype=dtype)
    assert mor.add_mor(model, config) == 14
    for layer in mor.mor_layers(model):
        layer.function = form
    ids, roles = torch.arange(20) % 61, torch.tensor([0, 0, 1, 2, 2, 1, 0, 0, 2, 2] * 2)
    for training in (False, True):
        model.train(training)
        got = model(ids, role_ids=roles, lengths=[12, 8])
        assert torch.equal(got, base(ids, role_ids=roles, lengths=[12, 8]))
        assert got.dtype == dtype


def test_a_model_without_role_ids_is_refused():
    with pytest.raises(UserError, match="role_ids"):
        adapted()(torch.arange(5))


def test_outputs_do_not_depend_on_the_other_roles_of_the_batch(form):
    layer = random_layer(MoRConfig(rank=3), form=form)
    x = torch.randn(9, 12, dtype=torch.float64)
    together = layer(x, RoleRows([4, 2, 3]))
    torch.testing.assert_close(together[:4], layer(x[:4], RoleRows([4, 0, 0])))
    torch.testing.assert_close(together[4:6], layer(x[4:6], RoleRows([0, 2, 0])))
    torch.testing.assert_close(together[6:], layer(x[6:], RoleRows([0, 0, 3])))


def test_gradients_reach_ddp(tmp_path, form):
    """DDP waits for a gradient of every parameter, those of roles without a token too."""
    layer, x = random_layer(MoRConfig(rank=2), form=form), torch.randn(6, 12, dtype=torch.float64)
    roles, parameters = RoleRows([4, 0, 2]), list(mor.mor_parameters(layer).values())
    wanted = torch.autograd.grad(layer(x, roles).square().sum(), parameters)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(layer)
        for _ in range(2):  # the second forward would say that the first reduction is not finished
            layer.zero_grad()
            wrapped(x, roles).square().sum().backward()
    finally:
        dist.destroy_process_group()
    for parameter, gradient in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


# ---------------------------------------------------------------------------------------------- Eqs. 10 to 12


@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize(("loras", "active"), SHAPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_balance_loss_equals_the_loop_over_tokens(sizes, loras, active, shared_gate):
    layer = random_layer(MoRConfig(rank=3, loras=loras, active=active, shared_gate=shared_gate))
    x = torch.randn(sum(sizes), 12, dtype=torch.float64, requires_grad=True)
    layer(x, RoleRows(sizes))
    got, wanted = mor.balance_loss(layer), naive_balance(x, role_list(sizes), layer)
    torch.testing.assert_close(got, wanted)
    if wanted.requires_grad and wanted != 0:
        torch.testing.assert_close(gradients(got, x, layer), gradients(wanted, x, layer))


def test_even_load_gives_k_and_the_load_is_reported():
    """The scores of token t are those of token 0, rotated by t: every LoRA is chosen equally often."""
    config = MoRConfig(rank=2)
    model = nn.ModuleDict({"a": random_layer(config, size=(4, 6)), "b": random_layer(config, size=(4, 5))})
    for layer in model.values():
        for role in ROLES:
            layer.router[role].data.copy_(torch.eye(len(layer.router[role]), 4))
    first = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    x = torch.stack(
        [first.roll(t) for t in range(8)] + [torch.cat([first[:3].roll(t), first[3:]]) for t in range(3)]
    )
    for layer in model.values():
        layer(x, RoleRows([4, 4, 3]))
    torch.testing.assert_close(mor.balance_loss(model).item(), 2.0 * (3 + 3 + 2))
    for role, k, routed in zip(ROLES, (3, 3, 2), (4, 4, 3), strict=True):
        torch.testing.assert_close(mor.router_load(model)[role].tolist(), [k / routed] * routed)

    for layer in model.values():  # one token to the executor, none to the reasoner
        layer(x[:1], RoleRows([0, 1, 0]))
    load = mor.router_load(model)
    assert load["reasoner"].tolist() == [0, 0, 0, 0]
    assert sorted(load["executor"].tolist()) == [0, 1, 1, 1]


def test_balance_is_a_sum_over_linears_or_their_mean():
    """Of 112 even loads, as in Llama-3.2-1B, alpha1 times the sum is 0.90 and alpha1 times the mean 0.008."""
    layers = nn.ModuleList(random_layer(MoRConfig(rank=2), size=(4, size)) for size in (6, 5, 7))
    x = torch.randn(9, 4, dtype=torch.float64)
    for layer in layers:
        layer(x, RoleRows([4, 2, 3]))
    each = [mor.balance_loss(layer) for layer in layers]
    torch.testing.assert_close(mor.balance_loss(layers), sum(each))
    torch.testing.assert_close(mor.balance_loss(layers, "mean"), sum(each) / 3)
    assert 1e-3 * 112 * (3 + 3 + 2) == pytest.approx(0.896)


def test_router_load_is_the_mean_over_linears():
    layers = nn.ModuleList(random_layer(MoRConfig(rank=2)) for _ in range(2))
    x = torch.randn(5, 12, dtype=torch.float64)
    layers[0](x, RoleRows([5, 0, 0]))
    layers[1](-x, RoleRows([5, 0, 0]))
    first, second = (layer.statistics[0][:4] for layer in layers)
    assert not torch.equal(first, second)
    torch.testing.assert_close(mor.router_load(layers)["reasoner"], (first + second) / 2)


def test_statistics_are_those_of_the_last_training_forward():
    layer = random_layer(MoRConfig(rank=2)).eval()
    x = torch.randn(5, 12, dtype=torch.float64)
    layer(x, RoleRows([5, 0, 0]))
    with pytest.raises(AssertionError, match="training mode"):
        mor.balance_loss(layer)
    layer.train()(x, RoleRows([5, 0, 0]))
    before = mor.balance_loss(layer).item()
    layer.eval()(x, RoleRows([0, 5, 0]))
    assert mor.balance_loss(layer).item() == before
    assert layer.statistics[0].requires_grad is False


def test_activation_checkpointing_changes_no_gradient_and_no_statistics(form):
    """Kept from the recomputation, P would hold on to the recomputed activations of every block."""
    model = nn.ModuleList(random_layer(MoRConfig(rank=3), size=(12, 12), form=form) for _ in range(2))
    x = torch.randn(9, 12, dtype=torch.float64, requires_grad=True)

    def loss(**how) -> Tensor:
        h = x
        for layer in model:
            h = checkpoint(layer, h, RoleRows([4, 0, 5]), **how) if how else layer(h, RoleRows([4, 0, 5]))
        return h.square().mean() + mor.balance_loss(model)

    wanted = gradients(loss(), x, model)
    value = loss(use_reentrant=False)
    statistics = [layer.statistics[1] for layer in model]
    value.backward()
    assert all(layer.statistics[1] is P for layer, P in zip(model, statistics, strict=True))
    for name, parameter in mor.mor_parameters(model).items():
        assert torch.equal(parameter.grad, wanted[name]), name
    with pytest.raises(AssertionError, match="reentrant"):
        loss(use_reentrant=True)


def test_layer_compiles_into_one_graph(form):
    layer = random_layer(MoRConfig(rank=3), form=form)
    x = torch.randn(9, 12, dtype=torch.float64)
    wanted = layer(x, RoleRows([4, 0, 5]))
    balance = mor.balance_loss(layer)
    layer.statistics = None
    torch.testing.assert_close(
        torch.compile(layer, backend="aot_eager", fullgraph=True)(x, RoleRows([4, 0, 5])), wanted
    )
    torch.testing.assert_close(mor.balance_loss(layer), balance)


def test_ddp_goes_on_when_roles_are_absent(tmp_path, form):
    """By default DDP refuses the second step when a parameter had no gradient in the first."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        layer = random_layer(MoRConfig(rank=2), form=form)
        parallel = nn.parallel.DistributedDataParallel(layer)
        for sizes in ([0, 4, 0], [4, 0, 0]):
            (
                parallel(torch.randn(4, 12, dtype=torch.float64), RoleRows(sizes)).sum()
                + mor.balance_loss(layer)
            ).backward()
    finally:
        torch.distributed.destroy_process_group()


# ----------------------------------------------------------------------------------------------------- Eq. 13


@pytest.mark.parametrize("loss", [mor.orthogonal_loss, fused.orthogonal_loss], ids=["plain", "fused"])
@pytest.mark.parametrize("reading", ["directions", "printed"])
@pytest.mark.parametrize(("loras", "active"), SHAPES)
def test_orthogonal_loss_equals_the_products_of_the_printed_shapes(reading, loras, active, loss):
    config = MoRConfig(rank=3, loras=loras, active=active, orthogonal=reading)
    layers = nn.ModuleList([random_layer(config), random_layer(config, size=(5, 8)), random_layer(config)])
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    got, wanted = loss(layers), naive_orthogonal(list(layers), reading)
    torch.testing.assert_close(got.double(), wanted)
    if wanted.requires_grad:  # not without routed LoRAs
        torch.testing.assert_close(gradients(got, x, layers), gradients(wanted, x, layers))
    assert torch.equal(got, loss(layers, config))


@pytest.mark.parametrize("loss", [mor.orthogonal_loss, fused.orthogonal_loss], ids=["plain", "fused"])
def test_only_the_directions_reading_is_zero_for_orthogonal_rows(loss):
    """Of the up factors; the printed reading adds rank for each pair of them."""
    layer = random_layer(MoRConfig(rank=3, orthogonal="directions"), size=(10, 12))
    for role in ROLES:
        layer.lora_A[role].data.zero_()
        layer.lora_B[role].data[1:] = torch.eye(12)[: 3 * (len(layer.lora_B[role]) - 1)].unflatten(0, (-1, 3))
    assert loss(layer) == 0
    assert loss(layer, MoRConfig(orthogonal="printed")) == 3 * (6 + 6 + 3)  # rank, pairs


# --------------------------------------------------------------------------------- injection, start, counting


def test_initial_values_follow_from_the_seed_and_the_names_alone():
    state = torch.get_rng_state()
    first, again, other = (tiny_model() for _ in range(3))
    mor.add_mor(first, MoRConfig(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    mor.add_mor(again, MoRConfig(), seed=3)
    mor.add_mor(other, MoRConfig(), seed=4)
    first, again, other = map(mor.mor_parameters, (first, again, other))
    assert list(first) == sorted(first)
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name])
        assert torch.equal(parameter, other[name]) == (".lora_B." in name)
        if ".lora_B." in name:
            assert not parameter.any()
        else:  # uniform within 1 / sqrt(in)
            bound = parameter.shape[-1] ** -0.5
            assert 0.9 * bound < parameter.abs().max() <= bound
            assert abs(parameter.mean()) < 0.3 * bound

    forward, backward = (
        nn.ModuleDict({n: Linear(4, 4) for n in names})
        for names in (("q_proj", "k_proj"), ("k_proj", "q_proj"))
    )
    mor.add_mor(forward, MoRConfig()), mor.add_mor(backward, MoRConfig())
    for name, parameter in mor.mor_parameters(forward).items():
        assert torch.equal(parameter, mor.mor_parameters(backward)[name])


def test_the_released_start_of_A_is_smaller_by_the_root_of_the_rank():
    """Its call on the stack of LoRAs takes rank * in for the fan-in; routers start as ours."""
    ours, released = tiny_model(), tiny_model()
    mor.add_mor(ours, MoRConfig(), seed=3)
    mor.add_mor(released, MoRConfig(), seed=3, init="released")
    for name, parameter in mor.mor_parameters(ours).items():
        scale = 1 / 4 if ".lora_A." in name else 1  # rank 16
        torch.testing.assert_close(mor.mor_parameters(released)[name], parameter * scale)


def test_the_base_is_frozen_and_everything_else_trained():
    model = tiny_model().eval()
    frozen = sum(p.numel() for p in model.parameters())
    mor.add_mor(model, MoRConfig(rank=2))
    trained = mor.mor_parameters(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(trained)
    assert all(p.dtype == torch.float32 for p in trained.values())
    assert not any(module.training for module in model.modules())
    assert mor.count_parameters(model) == (sum(p.numel() for p in trained.values()), frozen)


def test_targets_choose_linears_by_the_last_part_of_their_name():
    model = tiny_model()
    assert mor.add_mor(model, MoRConfig(targets=("q_proj", "down_proj"))) == 4
    found = {name for name, module in model.named_modules() if isinstance(module, MoRLinear)}
    assert found == {f"model.layers.{i}.{n}" for i in (0, 1) for n in ("self_attn.q_proj", "mlp.down_proj")}

    other = nn.ModuleDict({"q_proj_extra": nn.Linear(2, 2), "k_proj": nn.ReLU(), "lm_head": nn.Linear(2, 2)})
    with pytest.raises(UserError, match="no linear named q_proj.*has q_proj_extra$"):
        mor.add_mor(other, MoRConfig())
    with pytest.raises(UserError, match="no linear named qkv_proj"):  # asked for by name, absent
        mor.add_mor(tiny_model(), MoRConfig(targets=("q_proj", "qkv_proj")))
    with pytest.raises(UserError, match="no linear named"):  # a second time
        mor.add_mor(model, MoRConfig(targets=("q_proj",)))


COUNTS = [  # base model, its size, LoRAs in total, trained without and with shared_gate, paper (None: missed)
    ("Llama-3.2-1B-Instruct", "1.24", (5, 5, 4), 161_415_168, 162_398_208, "0.16"),
    ("Phi-3.5-mini-instruct", "3.82", (5, 5, 4), 358_449_152, 360_120_320, "0.36"),
    ("Qwen2.5-Coder-1.5B", "1.54", (5, 5, 4), 264_104_960, 265_631_744, None),  # printed 0.27
    ("openPangu-Embedded-1B", "1.16", (5, 5, 4), 201_197_568, 202_395_648, "0.20"),
    ("Llama-3.2-1B-Instruct", "1.24", (4, 4, 3), 126_615_552, 127_598_592, "0.13"),  # Table 5
    ("Llama-3.2-1B-Instruct", "1.24", (6, 6, 5), 196_214_784, 197_197_824, None),  # printed 0.19
    ("Llama-3.2-1B-Instruct", "1.24", (7, 7, 6), 231_014_400, 231_997_440, "0.23"),
]


def on_meta(name: str) -> Transformer:
    """The base model of that name, without weights."""
    with torch.device("meta"):
        return Transformer(ModelConfig.from_file(CONFIGS / name))


@pytest.mark.parametrize(("name", "size", "loras", "without", "with_gate", "paper"), COUNTS)
def test_parameter_counts_of_the_paper(name, size, loras, without, with_gate, paper):
    for shared_gate, wanted in ((False, without), (True, with_gate)):
        model = on_meta(name)
        config = MoRConfig(loras=loras, active=tuple(n - 1 for n in loras), shared_gate=shared_gate)
        mor.add_mor(model, config)
        trained, frozen = mor.count_parameters(model)
        assert trained == wanted
        assert f"{frozen / 1e9:.2f}" == size
        assert paper is None or f"{trained / 1e9:.2f}" == paper


LORA, ROLES_ALONE, ROUTER_ALONE = (1, 0, 0), (1, 1, 1), (14, 0, 0)
EQUAL = [  # base model, loras, dora, rank, trained: as near to MoR's number above as a rank comes
    ("Llama-3.2-1B-Instruct", LORA, False, 229, 161_333_248),
    ("Llama-3.2-1B-Instruct", LORA, True, 229, 161_710_080),
    ("Llama-3.2-1B-Instruct", LORA, False, 64, 45_088_768),  # about as many as MoR uses for a token
    ("Llama-3.2-1B-Instruct", LORA, False, 180, 126_812_160),  # Table 5: 4/4/3, 6/6/5, 7/7/6
    ("Llama-3.2-1B-Instruct", LORA, False, 279, 196_558_848),
    ("Llama-3.2-1B-Instruct", LORA, False, 328, 231_079_936),
    ("Llama-3.2-1B-Instruct", ROLES_ALONE, False, 76, 160_628_736),
    ("Llama-3.2-1B-Instruct", ROUTER_ALONE, False, 16, 162_070_528),
    ("Phi-3.5-mini-instruct", LORA, False, 228, 358_612_992),
    ("Phi-3.5-mini-instruct", LORA, True, 227, 358_055_936),
    ("Qwen2.5-Coder-1.5B", LORA, False, 229, 264_276_992),
    ("Qwen2.5-Coder-1.5B", LORA, True, 228, 263_768_064),
    ("openPangu-Embedded-1B", LORA, False, 229, 201_197_568),
    ("openPangu-Embedded-1B", LORA, True, 228, 200_798_208),
]


@pytest.mark.parametrize(("name", "loras", "dora", "rank", "wanted"), EQUAL)
def test_parameter_counts_of_equal_size(name, loras, dora, rank, wanted):
    model, active = on_meta(name), tuple(min(n, 4) for n in loras)
    config = MoRConfig(rank=rank, loras=loras, active=active, dora=dora)
    mor.add_mor(model, config, layer_class=layer_class(config))
    assert mor.count_parameters(model)[0] == wanted


def test_full_fine_tuning_trains_all_of_llama():
    assert mor.count_parameters(on_meta("Llama-3.2-1B-Instruct")) == (1_235_814_400, 0)
