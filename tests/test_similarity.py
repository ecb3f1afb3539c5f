"""evidence/similarity.py against dense products, on adapters made for the purpose."""

import torch
from test_mor import adapted, tiny_model

import mor
from engine.adapter import save_adapter
from evidence.similarity import alignment, cosine, overlap, similarity_of


def lora(seed: int, rank: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, 12, generator=generator), torch.randn(rank, 10, generator=generator)


def test_cosine_is_that_of_the_dense_matrices():
    one, other = lora(1), lora(2)
    dense = [(B.T @ A).flatten() for A, B in (one, other)]
    wanted = torch.nn.functional.cosine_similarity(*dense, dim=0)
    assert abs(cosine(*one, *other) - wanted) < 1e-6
    assert abs(cosine(*one, *one) - 1) < 1e-6


def test_what_leaves_the_measures_alone():
    (A, B), (other_A, other_B) = lora(1), lora(2)
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(3)) + 3 * torch.eye(3)
    before = cosine(A, B, other_A, other_B)
    assert abs(cosine(A, -2 * B, other_A, other_B) + before) < 1e-6  # a scale, but for its sign
    mixed_A, mixed_B = torch.linalg.inv(mix) @ A, mix.T @ B  # the same Delta from other factors
    assert abs(cosine(mixed_A, mixed_B, other_A, other_B) - before) < 1e-5
    assert abs(overlap(mixed_A, other_A) - overlap(A, other_A)) < 1e-5
    assert abs(alignment(mixed_A, other_A) - alignment(A, other_A)) > 1e-3  # of the factors, not of Delta


def test_orthogonal_and_equal_spaces():
    rows = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(4))).Q
    assert overlap(rows[:3], rows[3:6]) < 1e-10 and alignment(rows[:3], rows[3:6]) < 1e-6
    assert abs(overlap(rows[:3], 2 * rows[:3].flip(0)) - 1) < 1e-6


def test_of_an_adapter(tmp_path):
    model = adapted(config=mor.MoRConfig(rank=2, loras=(4, 3, 2), active=(2, 2, 2)))
    save_adapter(model, tmp_path)
    found = similarity_of(tmp_path)
    layers = dict(model.named_modules())
    assert set(found["roles"]) == {"reasoner", "executor"}  # the summarizer has a single routed LoRA
    assert [len(found["shown"][role]) for role in found["roles"]] == [3, 2]
    assert found["linears"] == sorted(
        name for name, layer in layers.items() if isinstance(layer, mor.MoRLinear)
    )
    i = found["linears"].index("model.layers.1.mlp.up_proj")
    layer = layers["model.layers.1.mlp.up_proj"]
    A, B = layer.lora_A["executor"].detach(), layer.lora_B["executor"].detach()
    wanted = abs(cosine(A[1], B[1], A[2], B[2]))
    assert abs(found["roles"]["executor"]["cosine"][i] - wanted) < 1e-4
    across = [
        abs(cosine(A[j], B[j], layer.lora_A["reasoner"][k].detach(), layer.lora_B["reasoner"][k].detach()))
        for j in (1, 2)
        for k in (1, 2, 3)
    ]
    assert abs(found["between"]["cosine"][i] - sum(across) / 6) < 1e-4


def test_an_untrained_adapter_has_no_cosines(tmp_path):
    model = tiny_model()
    mor.add_mor(model, mor.MoRConfig(rank=2))
    save_adapter(model, tmp_path)
    found = similarity_of(tmp_path)
    assert found["shown"]["executor"][0] == [None] * 4
    assert found["roles"]["executor"]["cosine"][0] is None
    assert found["roles"]["executor"]["A"][0] > 0
