"""engine/dora.py against the equation of DoRA with its matrix written out, in plain autograd."""

import pytest
import torch
from test_mor import gradients, tiny_model
from torch import Tensor, nn

import mor
from engine.dora import DoRALinear, layer_class
from engine.fused import fused_layer
from mor import MoRConfig, RoleRows

CONFIG = MoRConfig(rank=3, loras=(1, 0, 0), active=(1, 0, 0), scale=0.7, dora=True)
FORMS = {"plain": mor.mor_layer, "fused": fused_layer}


def random_layer(bias: bool, form: str = "plain") -> DoRALinear:
    """In float64; m is not the norm of anything."""
    torch.manual_seed(0)
    layer = DoRALinear(nn.Linear(12, 10, bias=bias).double(), CONFIG).double()
    layer.function = FORMS[form]
    for parameter in mor.mor_parameters(layer).values():
        nn.init.normal_(parameter, std=0.5)
    return layer


def dense(layer: DoRALinear) -> Tensor:
    """W0 + s B A, [out, in]."""
    A, B = layer.lora_A["reasoner"][0], layer.lora_B["reasoner"][0].T
    return layer.base.weight + layer.config.scale * B @ A


def naive_dora(x: Tensor, layer: DoRALinear) -> Tensor:
    matrix = dense(layer)
    norm = matrix.norm(dim=1, keepdim=True).detach()
    y = x @ (layer.magnitude[:, None] * matrix / norm).T
    return y if layer.base.bias is None else y + layer.base.bias


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_equals_the_dense_form_in_outputs_and_gradients(form, bias):
    layer = random_layer(bias, form)
    x = torch.randn(9, 12, dtype=torch.float64, requires_grad=True)
    got, wanted = layer(x, RoleRows([4, 2, 3])), naive_dora(x, layer)
    torch.testing.assert_close(got, wanted)
    upstream = torch.randn_like(got)
    found = gradients((got * upstream).sum(), x, layer)
    assert set(found) == {"x", "magnitude"} | {f"{kind}.reasoner" for kind in ("lora_A", "lora_B", "router")}
    torch.testing.assert_close(found, gradients((wanted * upstream).sum(), x, layer))


def test_norms_follow_the_factors_and_no_matrix_is_made():
    layer, largest = random_layer(bias=True), 0
    torch.testing.assert_close(layer.norms(), dense(layer).norm(dim=1))
    layer.lora_B["reasoner"].data.mul_(-3)

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            if made.untyped_storage().data_ptr() != layer.base.weight.untyped_storage().data_ptr():
                largest = max(largest, made.numel())
            return made

    with Sizes():
        norms = layer.norms()
    torch.testing.assert_close(norms, dense(layer).norm(dim=1))
    assert largest == 3 * 12  # A; W0 has 10 * 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_new_adapter_equals_the_base(dtype):
    """Bit for bit without a bias, which is added apart."""
    for model_type, distance in (("llama", 0), ("qwen2", 1e-2 if dtype == torch.bfloat16 else 1e-6)):
        shape = dict(model_type=model_type, qkv_bias=model_type == "qwen2", dtype=dtype)
        base, model = tiny_model(**shape), tiny_model(**shape)
        assert mor.add_mor(model, CONFIG, layer_class=layer_class(CONFIG)) == 14
        ids, roles = torch.arange(20) % 61, torch.arange(20) % 3
        got, wanted = model(ids, role_ids=roles), base(ids, role_ids=roles)
        torch.testing.assert_close(got, wanted, rtol=0, atol=distance)
        assert got.dtype == dtype


def test_m_over_n_is_not_rounded_to_bfloat16():
    """Where 1.02 is 1.0234."""
    layer = DoRALinear(nn.Linear(64, 64, bias=False), CONFIG)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    layer.base.to(torch.bfloat16)
    x = torch.randn(500, 64, dtype=torch.bfloat16)
    before = layer(x, RoleRows([500, 0, 0])).float()
    layer.magnitude.data *= 1.02
    after = layer(x, RoleRows([500, 0, 0])).float()
    assert (after.abs().sum() / before.abs().sum()).item() == pytest.approx(1.02, abs=5e-4)


def test_a_row_of_zeros_stays_one():
    layer = random_layer(bias=False)
    layer.base.weight.data[3] = 0
    layer.lora_B["reasoner"].data.zero_()
    layer.reset_parameters(torch.Generator())
    y = layer(torch.randn(4, 12, dtype=torch.float64), RoleRows([4, 0, 0]))
    assert y.isfinite().all() and not y[:, 3].any()
