"""Tiny checkpoints with outputs of the reference library (tests/fixtures/README.md)."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from model import Transformer

FIXTURES = Path(__file__).parent / "fixtures"
SPELLINGS = [(path.parent.name, path.name) for path in sorted(FIXTURES.glob("*/config*.json"))]
TINY = [name for name, spelling in SPELLINGS if spelling == "config.json"]
TINY_LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def load(name: str) -> tuple[Transformer, dict[str, torch.Tensor]]:
    """The tiny model and its golden tensors."""
    return Transformer.from_pretrained(FIXTURES / name), load_file(FIXTURES / name / "golden.safetensors")


def tokens(n: int, seed: int = 0, vocab: int = 256) -> torch.Tensor:
    return torch.randint(0, vocab, (n,), generator=torch.Generator().manual_seed(seed))


def close(got: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-4) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max().item() <= tolerance
