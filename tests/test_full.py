"""engine/full.py: its checkpoint, loaded by us and by transformers; steps too small for bfloat16."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden import FIXTURES, close, tokens
from safetensors.torch import load_file

from cli import UserError
from engine.full import Masters, save_checkpoint
from formats.frames import load_frame
from model import Transformer


def moved(folder: Path, dtype: torch.dtype = torch.float32) -> Transformer:
    """A checkpoint with other values than it has in its file."""
    model = Transformer.from_pretrained(folder, dtype)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=chance).to(dtype)
    return model.eval()


def test_the_checkpoint_loads_and_says_how_it_was_prompted(folders, tmp_path):
    """folders: a Llama with a tokenizer; its config.json says nothing of prompts."""
    base = folders[0]
    (base / "generation_config.json").write_text('{"eos_token_id": 7}')
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    frame = load_frame(base, prompts="paper")
    model = moved(base, torch.bfloat16)
    save_checkpoint(model, frame, tmp_path)
    again = Transformer.from_pretrained(tmp_path, torch.bfloat16)
    assert again.config == model.config and again.config.eos_token_ids == (7,)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name))
    assert load_frame(tmp_path).prompts == "paper" and load_frame(base).prompts == "short"
    assert load_frame(tmp_path, prompts="short").prompts == "short"
    assert load_frame(tmp_path).name == frame.name
    assert load_frame(tmp_path).encode("It rains.") == frame.encode("It rains.")
    written = json.loads((tmp_path / "config.json").read_text())
    assert written.pop("moragent") == {"frame": frame.name, "prompts": "paper"}
    assert written.pop("torch_dtype") == "bfloat16"
    assert written == config


def test_a_flipped_byte_of_the_checkpoint_is_refused(folders, tmp_path):
    model = Transformer.from_pretrained(folders[0])
    save_checkpoint(model, load_frame(folders[0]), tmp_path)
    path = tmp_path / "model.safetensors"
    whole = bytearray(path.read_bytes())
    whole[-2] ^= 1  # a weight that is a little another one: no NaN shows it
    path.write_bytes(whole)
    with pytest.raises(UserError, match="model.safetensors: damaged"):
        Transformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["qwen2_tied", "llama_untied_sharded", "phi3_sliding"])
def test_transformers_computes_the_same_with_the_checkpoint(name, tmp_path):
    transformers = pytest.importorskip("transformers")
    model, ids = moved(FIXTURES / name), tokens(20)

    frame = SimpleNamespace(folder=FIXTURES / name, name=model.config.model_type, prompts="short")
    save_checkpoint(model, frame, tmp_path)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == ("lm_head.weight" not in load_file(tmp_path / "model.safetensors"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        close(theirs(ids[None]).logits[0], model(ids))


def test_steps_too_small_for_bfloat16_add_up_in_the_copies():
    layer = torch.nn.Linear(2, 1, dtype=torch.bfloat16)
    layer.bias.requires_grad_(False)
    layer.weight.data.fill_(1.0)
    masters = Masters(layer)
    assert list(masters.parameters) == ["weight"]
    copy = masters.parameters["weight"]
    copy.grad = torch.zeros_like(copy)
    for _ in range(20):
        layer(torch.ones(1, 2, dtype=torch.bfloat16)).sum().backward()
        masters.gather()
        with torch.no_grad():
            copy -= 0.001 * copy.grad  # 1 - 0.001 is 1 in bfloat16
        copy.grad.zero_()
        masters.publish()
    assert copy.dtype == torch.float32 and layer.weight.grad is None
    torch.testing.assert_close(copy, torch.full((1, 2), 0.98))
    assert layer.weight.tolist() == [[0.98046875, 0.98046875]]


def test_gradients_of_micro_batches_add_up():
    layer = torch.nn.Linear(2, 1, bias=False, dtype=torch.bfloat16)
    masters = Masters(layer)
    copy = masters.parameters["weight"]
    copy.grad = torch.zeros_like(copy)
    for value in (1.0, 2.0):
        layer(torch.full((1, 2), value, dtype=torch.bfloat16)).sum().backward()
        masters.gather()
    assert copy.grad.tolist() == [[3.0, 3.0]]


def test_what_is_float32_is_its_own_copy():
    layer = torch.nn.Linear(2, 1)
    masters = Masters(layer)
    assert masters.parameters["weight"] is layer.weight and not masters.copied
