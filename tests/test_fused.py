"""engine/fused.py against its plain twin, mor.mor_layer, in outputs and in every gradient."""

import pytest
import torch
from test_mor import SHAPES, SIZES, adapted, gradients, random_layer
from torch import Tensor

import mor
from engine.fused import for_training, fused_layer, route_largest
from mor import MoRConfig, RoleRows

FUSED = fused_layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize(("loras", "active"), SHAPES)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_equals_the_plain_layer(sizes, loras, active, shared_gate, bias):
    """h, f, P, and what a gradient of h and one of P make of every gradient."""
    config = MoRConfig(rank=3, loras=loras, active=active, shared_gate=shared_gate, scale=0.7)
    layer = random_layer(config)
    if not bias:
        layer.base.bias = None
    x = torch.randn(sum(sizes), 12, dtype=torch.float64, requires_grad=True)
    d_h, found = torch.randn(sum(sizes), 10, dtype=torch.float64), []
    for function in (mor.mor_layer, FUSED):
        layer.function = function
        h = layer(x, RoleRows(sizes))
        f, P = layer.statistics
        d_P = torch.arange(1.0, 1 + len(P), dtype=P.dtype)
        loss = (h * d_h).sum() + (P * d_P).sum()
        found.append({"h": h, "f": f, "P": P} | gradients(loss, x, layer))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize("top_k", [0, 1, 3, 4])
def test_routing_by_the_largest_scores_equals_the_plain_router(top_k, shared_gate):
    torch.manual_seed(0)
    scores = torch.randn(6, 4 + shared_gate, dtype=torch.float64)
    gates, _, chosen = mor.route(scores, top_k, shared_gate)
    fast_gates, fast_chosen = route_largest(scores, top_k, shared_gate)
    torch.testing.assert_close(fast_gates, gates)
    assert torch.equal(fast_chosen, chosen)


def test_a_whole_model_trains_alike_in_both_forms():
    ids, roles, lengths = torch.arange(24) % 61, torch.arange(24) // 3 % 3, [15, 9]
    found = []
    for prepare in (lambda model: model, for_training):
        model = prepare(adapted().double())
        logits = model(ids, role_ids=roles, lengths=lengths)
        (logits.square().mean() + mor.balance_loss(model)).backward()
        found.append({name: p.grad for name, p in mor.mor_parameters(model).items()} | {"logits": logits})
    torch.testing.assert_close(found[1], found[0])
    assert {layer.function for layer in mor.mor_layers(model)} == {FUSED}


@pytest.mark.parametrize("prepare", [lambda model: model, for_training], ids=["plain", "fused"])
def test_a_whole_model_with_checkpointing_has_the_same_loss_gradients_and_statistics(prepare):
    ids, roles, lengths = torch.arange(24) % 61, torch.arange(24) // 3 % 3, [15, 9]
    found = []
    for checkpointing in (False, True):
        model = prepare(adapted())
        model.gradient_checkpointing = checkpointing
        loss = model(ids, role_ids=roles, lengths=lengths).square().mean() + mor.balance_loss(model)
        statistics = [layer.statistics for layer in mor.mor_layers(model)]
        loss.backward()
        assert all(
            layer.statistics is of_layer
            for layer, of_layer in zip(mor.mor_layers(model), statistics, strict=True)
        )
        found.append({name: p.grad for name, p in mor.mor_parameters(model).items()} | {"loss": loss})
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("shared_gate", [False, True])
def test_written_out_backward_passes_gradcheck(shared_gate):
    layer = random_layer(MoRConfig(rank=2, shared_gate=shared_gate), size=(4, 3), form=FUSED)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    parameters = mor.mor_parameters(layer)

    def outputs(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.func.functional_call(
            layer, dict(zip(parameters, values, strict=True)), (x, RoleRows([3, 0, 3]))
        )
        return h, layer.statistics[1]

    assert torch.autograd.gradcheck(outputs, (x, *parameters.values()))


def test_nothing_wide_is_kept_for_backward():
    """Beyond x, the frozen weight and the parameters, only tensors of at most loras * rank columns."""
    layer = random_layer(MoRConfig(rank=2), size=(40, 50), form=FUSED)
    x, kept = torch.randn(6, 40, dtype=torch.float64, requires_grad=True), []
    known = {t.data_ptr() for t in (x, layer.base.weight, *mor.mor_parameters(layer).values())}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x, RoleRows([3, 1, 2]))
    assert kept and all(t.shape[-1] <= 5 * 2 for t in kept if t.data_ptr() not in known)


def test_no_gradient_is_made_for_an_input_that_wants_none():
    layer, x = random_layer(MoRConfig(rank=2), form=FUSED), torch.randn(6, 12, dtype=torch.float64)
    parameters = list(mor.mor_parameters(layer).values())
    layer(x, RoleRows([3, 1, 2])).square().sum().backward()
    of_input = layer(x.requires_grad_(), RoleRows([3, 1, 2])).square().sum()
    wanted = torch.autograd.grad(of_input, parameters)
    assert all(torch.equal(p.grad, w) for p, w in zip(parameters, wanted, strict=True)) and x.grad is None
