"""engine/grouped.py against mor.mor_layer, and compiled against not compiled."""

import pytest
import torch
from test_mor import SHAPES, SIZES, gradients, random_layer
from torch import Tensor

import mor
from engine.grouped import Grouped
from mor import MoRConfig, RoleRows

ROUTED = [(loras, active) for loras, active in SHAPES if min(loras) > 1]


def role_ids_of(sizes: list[int]) -> Tensor:
    return torch.arange(3).repeat_interleave(torch.tensor(sizes))


def grouped_and_plain(config: MoRConfig, sizes: list[int], bias: bool) -> list[dict]:
    """h, f, P and all gradients of a float32 layer, by mor.mor_layer and by Grouped."""
    layer = random_layer(config, torch.float32, size=(16, 24))
    if not bias:
        layer.base.bias = None
    x, d_h, found = torch.randn(sum(sizes), 16, requires_grad=True), torch.randn(sum(sizes), 24), []
    grouped = Grouped(config, x.device)
    rows = grouped.arrange(role_ids_of(sizes))
    for function, told in ((mor.mor_layer, RoleRows(sizes)), (grouped, rows)):
        layer.function = function
        h = layer(x, told)
        f, P = layer.statistics
        d_P = torch.arange(1.0, 1 + len(P))
        loss = (h * d_h).sum() + (P * d_P).sum()
        found.append({"h": h, "f": f, "P": P} | gradients(loss, x, layer))
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shared_gate", [False, True])
@pytest.mark.parametrize(("loras", "active"), ROUTED)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_grouped_equals_the_plain_layer(sizes, loras, active, shared_gate, bias):
    config = MoRConfig(rank=8, loras=loras, active=active, shared_gate=shared_gate, scale=0.7)
    plain, grouped = grouped_and_plain(config, sizes, bias)
    torch.testing.assert_close(grouped, plain, rtol=1e-4, atol=1e-4)


def test_rows_are_arranged_as_by_sort_by_role():
    roles = torch.tensor([2, 0, 1, 0, 0, 2, 1, 1])
    wanted, found = mor.sort_by_role(roles), Grouped(MoRConfig(), roles.device).arrange(roles)
    assert torch.equal(found.order, wanted.order) and torch.equal(found.inverse, wanted.inverse)
    assert found.ends.tolist() == [3, 6, 8]


def test_grouped_compiles_into_one_graph_with_its_gradients():
    """In bfloat16, the one dtype that the compiler takes. torch 2.11 once lost the gradient of h."""

    def compiled(layer):
        return torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)

    config, roles = MoRConfig(rank=8), role_ids_of([5, 2, 4])
    found = []
    for prepare in (lambda layer: layer, compiled):
        layer = random_layer(config, torch.float32, torch.bfloat16, size=(16, 24))
        layer.function = Grouped(config, roles.device)
        x = torch.randn(11, 16, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
        h = prepare(layer)(x, layer.function.arrange(roles))
        loss = h.float().square().sum() + layer.statistics[1].square().sum()
        found.append({"h": h} | gradients(loss, x, layer))
    torch.testing.assert_close(found[1], found[0])
