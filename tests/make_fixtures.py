"""Makes tests/fixtures/{qwen3,phi4_mini,smollm3,mistral} and goldens/rope_settings.json with transformers.

    pip install -e '.[peers]' && python tests/make_fixtures.py

Random checkpoints of a few kilobytes, and what transformers computes from them; fixtures/README.md names the
tensors. Not a test: the tests read the files, and need no transformers.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = Path(__file__).parent / "fixtures"
SIZES = {"vocab_size": 256, "intermediate_size": 48, "rms_norm_eps": 1e-5, "hidden_act": "silu"}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "float32"}
LONG = {"type": "longrope", "short_factor": [1.0, 1.02, 1.1, 1.3, 1.9, 2.6]}
LONG["long_factor"] = [1.1, 1.4, 3.2, 9.1, 28.5, 60.0]
# as published configs of 2024 spell them; config.json beside it is what transformers 5 writes
MODELS = {
    "qwen3": {
        "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 1e6,
        "rope_scaling": None, "tie_word_embeddings": True, "attention_bias": False,
        "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2},
    "phi4_mini": {
        "model_type": "phi3", "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
        "num_key_value_heads": 1, "max_position_embeddings": 512, "original_max_position_embeddings": 32,
        "partial_rotary_factor": 0.75, "rope_theta": 1e4, "rope_scaling": LONG, "tie_word_embeddings": True,
        "sliding_window": 262144},
    "smollm3": {
        "model_type": "smollm3", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "rope_theta": 5e6, "rope_scaling": None,
        "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "no_rope_layer_interval": 2,
        "use_sliding_window": True, "sliding_window": 9},
    "mistral": {
        "model_type": "mistral", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 512, "rope_theta": 1e4,
        "tie_word_embeddings": False, "sliding_window": 6},
}  # fmt: skip


def main() -> None:
    for seed, (name, fields) in enumerate(MODELS.items()):
        make_model(FIXTURES / name, {**SIZES, **fields}, seed)
    write_rope_settings(FIXTURES / "goldens" / "rope_settings.json")


def read_config(fields: dict):
    """The config as transformers reads it from a file."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(fields))
        return AutoConfig.from_pretrained(folder)


def make_model(folder: Path, fields: dict, seed: int) -> None:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(read_config(fields), attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.3)
        elif parameter.dim() == 1:
            parameter.data.normal_(1, 0.3)
        elif "embed_tokens" in name:
            parameter.data.normal_(0, 1)
        else:
            parameter.data.normal_(0, 1.5 * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    (folder / "config.hub.json").write_text(json.dumps(fields, indent=2) + "\n")
    golden = {}
    with torch.no_grad():
        for case, length, offset in (("len1", 1, 0), ("len9", 9, 0), ("len48", 48, 0), ("offset", 12, 21)):
            golden |= run(model, case, torch.randint(0, 256, (1, length)), offset)
        golden |= run_padded(model, [5, 0], 16)
        for length in (4, 25):
            golden |= generate(model, f"gen{length}", length)
    save_file({name: tensor.contiguous() for name, tensor in golden.items()}, folder / "golden.safetensors")
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    (folder / "golden.json").write_text(json.dumps({"made_with": made_with}, indent=2) + "\n")


def run(model, case: str, ids: torch.Tensor, offset: int) -> dict[str, torch.Tensor]:
    positions = torch.arange(offset, offset + ids.shape[1])[None]
    out = model(ids, position_ids=positions, output_hidden_states=case == "len9")
    found = {f"{case}.ids": ids, f"{case}.positions": positions, f"{case}.logits": out.logits}
    return found | {f"{case}.hidden.{i}": state for i, state in enumerate(out.hidden_states or [])}


def run_padded(model, padding: list[int], length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 256, (len(padding), length))
    mask = torch.stack([(torch.arange(length) >= n).long() for n in padding])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions).logits
    return {"padded.ids": ids, "padded.mask": mask, "padded.positions": positions, "padded.logits": logits}


def generate(model, case: str, length: int) -> dict[str, torch.Tensor]:
    """16 greedy tokens, each by a whole forward pass, of a prompt that leaves clear choices."""
    while True:
        prompt = ids = torch.randint(0, 256, (1, length))
        margins = []
        for _ in range(16):
            best = model(ids).logits[0, -1].topk(2)
            margins.append(float(best.values[0] - best.values[1]))
            ids = torch.cat((ids, best.indices[None, :1]), dim=1)
        if min(margins) > 0.1:
            return {f"{case}.prompt": prompt, f"{case}.tokens": ids[:, length:]}


# -------------------- what is read from rope_scaling, rope_parameters and the top level

ABSENT = "absent"  # in the lists below: the field is not in the file
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 64
LONGROPE = {"short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0]}
# model type -> the values of rope_scaling, of rope_parameters, and further fields of the top level
ROPE_CASES = {
    "llama": (
        [{"type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0, "rope_theta": 300.0},
         {**LLAMA3, "factor": 2.0}, {**LLAMA3, "rope_theta": 300.0}],
        [{"rope_type": "default"}, {"rope_type": "default", "rope_theta": 400.0}, LLAMA3,
         {**LLAMA3, "rope_theta": 400.0}],
        [{}, {"original_max_position_embeddings": 32}]),
    "phi3": (
        [{"type": "longrope", **LONGROPE}, {"type": "yarn", **LONGROPE, "rope_theta": 300.0}],
        [{"rope_type": "longrope", **LONGROPE, "original_max_position_embeddings": 64},
         {"rope_type": "default", "rope_theta": 400.0, "partial_rotary_factor": 1.0}],
        [{"original_max_position_embeddings": 32, "partial_rotary_factor": 0.5}]),
    "smollm3": ([{"rope_type": "default"}], [{"rope_type": "default", "rope_theta": 400.0}], [{}]),
}  # fmt: skip


def write_rope_settings(path: Path) -> None:
    """For every combination: the config, and the frequencies and scale of a model that transformers makes."""
    shape = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 128}
    shape |= {"rms_norm_eps": 1e-5, "pad_token_id": 0}
    rows = []
    for kind, (scalings, parameters, tops) in ROPE_CASES.items():
        empty = [ABSENT, None, {}]
        for scaling, parameter, theta, top in itertools.product(
            empty + scalings, empty + parameters, [ABSENT, 200.0], tops
        ):
            fields = {"rope_scaling": scaling, "rope_parameters": parameter, "rope_theta": theta}
            fields = {name: value for name, value in fields.items() if value != ABSENT} | top
            data = {"model_type": kind, **shape, **fields}
            rotary = AutoModelForCausalLM.from_config(read_config(data)).model.rotary_emb
            read = [rotary.rope_type, rotary.inv_freq.tolist(), rotary.attention_scaling]
            rows.append({"fields": {"model_type": kind, **fields}, "read": read})
    made_with = {"transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(row) for row in rows)
    head = f'{{"made_with": {json.dumps(made_with)}, "shape": {json.dumps(shape)}, "rows": [\n'
    path.write_text(head + lines + "\n]}\n")


if __name__ == "__main__":
    sys.exit(main())
