"""evidence/cost.py: its sizes against the models, its formula against one done by hand."""

import pytest
from test_mor import on_meta

import mor
from evidence import cost

NAMES = ("Llama-3.2-1B-Instruct", "Phi-3.5-mini-instruct", "openPangu-Embedded-1B", "Qwen2.5-Coder-1.5B")


@pytest.mark.parametrize(("name", "base"), list(zip(NAMES, cost.BASES.values(), strict=True)))
def test_the_sizes_are_the_models(name, base):
    model = on_meta(name)
    mor.add_mor(model, mor.MoRConfig())
    linears = [layer.base for layer in mor.mor_layers(model)]
    inputs = sum(linear.in_features for linear in linears)
    both = inputs + sum(linear.out_features for linear in linears)
    assert base == (mor.count_parameters(model)[1], inputs, both)


def test_by_hand():
    # a token of Llama: 4 x 1.2358e9 + 6 x 4 x (16 x 704,512 + 327,680) = 5.2217e9
    assert cost.mor(cost.LLAMA, 1) == pytest.approx(5.2217e9, rel=1e-4)
    assert cost.lora(cost.LLAMA, 229, 1) == pytest.approx(5.9113e9, rel=1e-4)
    assert cost.hours(989e12 * 0.4 * 3600) == pytest.approx(1)
    assert cost.hours(989e12 * 0.4 * 3600, 8) == pytest.approx(1 / 8)


def test_every_training_of_the_paper():
    counts = {name.split(":")[0]: len(flops) for name, flops in cost.trainings().items()}
    assert counts == {**{f"Table {n}": c for n, c in enumerate((2, 3, 1, 4, 4, 4, 5), 1)}, "Fig. 4": 24}
    of = {name.split(":")[0]: sum(flops) for name, flops in cost.trainings().items()}
    one = cost.mor(cost.LLAMA, cost.CALLS.tokens)
    assert of["Table 4"] == 4 * one and of["Table 7"] == pytest.approx(156 / 90 * one)
    assert of["Table 6"] > 4 * one  # full fine-tuning has the weights' gradients as well
