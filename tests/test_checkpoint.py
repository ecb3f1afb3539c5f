"""checkpoint.py: what is read from a checkpoint folder or a hub id, and what is refused.

The hub is played by a local server. That the other spelling of each config.json gives the same logits is
shown in test_model.py.
"""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_model import FIXTURES, TINY_LLAMA, close, load, tokens

from cli import UserError
from formats.checkpoint import FULL, SLIDING, ModelConfig
from model import Transformer, inverse_frequencies

EMBED, NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
Q, GENERATION = "model.layers.1.self_attn.q_proj.weight", "generation_config.json"
FILE, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "model-00002-of-00002.safetensors"


def changed(data: dict, changes: dict) -> dict:
    """`data` with some keys changed; ... removes one."""
    return {key: value for key, value in (data | changes).items() if value is not ...}


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps(changed(json.loads(path.read_text()), fields)))


def store(folder: Path, tensors: dict) -> None:
    save_file(changed(load_file(folder / FILE), tensors), folder / FILE)


def huge(sign: int) -> torch.Tensor:
    return torch.full((64,), sign * 1e300, dtype=torch.float64)


def wrap(folder: Path, prefix: str, old: str = "", new: str = "") -> None:
    tensors = load_file(folder / FILE).items()
    save_file({prefix + name.replace(old, new): tensor for name, tensor in tensors}, folder / FILE)


def remap(folder: Path, files: dict) -> None:
    edit(folder / INDEX, weight_map=changed(json.loads((folder / INDEX).read_text())["weight_map"], files))


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def refused(action: Callable, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for part in parts:
        assert part in message


# -------------------- config.json


def test_longrope_switches_after_the_original_length() -> None:
    config = ModelConfig.from_file(FIXTURES / "configs" / "Phi-3.5-mini-instruct")
    assert [config.uses_long_factor(n) for n in (1, 4096, 4097)] == [False, False, True]
    assert abs(config.attention_factor - 1.1902380714238083) < 1e-12


def test_end_tokens_of_generation_config_win() -> None:
    phi = ModelConfig.from_file(FIXTURES / "configs" / "Phi-3.5-mini-instruct")  # its config.json says 32000
    assert phi.eos_token_ids == (32007, 32001, 32000)
    assert ModelConfig.from_dict({**TINY_LLAMA, "eos_token_id": 3}).eos_token_ids == (3,)
    assert ModelConfig.from_dict(TINY_LLAMA).eos_token_ids == ()


ROPE = json.loads((FIXTURES / "goldens" / "rope_settings.json").read_text())


def test_rope_settings_are_read_as_transformers_reads_them() -> None:
    """rope_scaling, rope_parameters and rope_theta: absent, null, empty or set, in all combinations."""
    assert len(ROPE["rows"]) > 250
    for row in ROPE["rows"]:
        data = {**ROPE["shape"], **row["fields"]}
        kind, frequencies, scale = row["read"]
        if kind in ("linear", "yarn"):
            refused(lambda data=data: ModelConfig.from_dict(data), "rope_scaling: rope_type", kind)
            continue
        config = ModelConfig.from_dict(data)
        ours = inverse_frequencies(config, False, torch.device("cpu"))
        assert config.rope_type == kind, row
        assert torch.allclose(ours, torch.tensor(frequencies), rtol=1e-6, atol=0), row
        assert abs(config.attention_factor - scale) < 1e-9, row


def test_fields_that_change_the_layers() -> None:
    def shapes(**fields) -> dict[str, list[int]]:
        with torch.device("meta"):
            network = Transformer(ModelConfig.from_dict({**TINY_LLAMA, **fields}))
        return {name: list(parameter.shape) for name, parameter in network.named_parameters()}

    def added(**fields) -> set[str]:
        new = shapes(**fields).keys() - shapes().keys()
        return {name.removeprefix("model.layers.0.") for name in new if ".layers.1." not in name}

    assert added(attention_bias=True) == {f"self_attn.{part}_proj.bias" for part in "qkvo"}
    assert added(model_type="qwen3", attention_bias=True) > added(attention_bias=True)
    assert added(mlp_bias=True) == {f"mlp.{part}_proj.bias" for part in ("gate", "up", "down")}
    assert added(model_type="qwen2") == {f"self_attn.{part}_proj.bias" for part in "qkv"}
    assert added(model_type="qwen3", head_dim=8) == {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}
    assert shapes(model_type="qwen3")["model.layers.0.self_attn.k_norm.weight"] == [128]
    assert added(hidden_act="swish") == set()
    assert added(tie_word_embeddings=False) == {"lm_head.weight"}
    assert shapes(head_dim=20)["model.layers.0.self_attn.q_proj.weight"] == [80, 32]
    assert shapes(num_key_value_heads=None)["model.layers.0.self_attn.k_proj.weight"] == [32, 32]


# -------------------- loading


def test_loading_converts_and_frees_the_file(tmp_path: Path) -> None:
    """Weights are copies: a checkpoint that is overwritten in place later must not change a loaded model."""
    shutil.copytree(FIXTURES / "pangu_tied", tmp_path / "m")
    network = Transformer.from_pretrained(str(tmp_path / "m"), dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert network.lm_head.weight is network.model.embed_tokens.weight
    network = Transformer.from_pretrained(tmp_path / "m")
    before = network(tokens(10))
    file = tmp_path / "m" / FILE
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(network(tokens(10)), before)


def test_a_config_silent_about_the_head_follows_the_file(tmp_path: Path) -> None:
    for name in ("qwen2_tied", "phi3_sliding"):
        shutil.copytree(FIXTURES / name, tmp_path / name)
        edit(tmp_path / name / "config.json", tie_word_embeddings=None)
        silent, said = (Transformer.from_pretrained(folder / name) for folder in (tmp_path, FIXTURES))
        assert silent.config.tie_word_embeddings == said.config.tie_word_embeddings
        close(silent(tokens(9)), said(tokens(9)), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tied_model_may_repeat_its_head(tmp_path: Path, dtype: torch.dtype) -> None:
    """The config begins with a byte order mark, as Windows editors write it."""
    shutil.copytree(FIXTURES / "qwen2_tied", tmp_path / "m")
    store(tmp_path / "m", {HEAD: load_file(tmp_path / "m" / FILE)[EMBED].to(dtype)})
    config = tmp_path / "m" / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    network = Transformer.from_pretrained(tmp_path / "m")
    assert network.lm_head.weight is network.model.embed_tokens.weight
    close(network(tokens(9)), load("qwen2_tied")[0](tokens(9)), 0.0)


def test_stored_rotary_frequencies_are_ignored(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "pangu_tied", tmp_path / "m")
    store(tmp_path / "m", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    assert torch.isfinite(Transformer.from_pretrained(tmp_path / "m")(tokens(9))).all()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_loading_holds_one_copy(tmp_path: Path) -> None:
    """Peak memory over the resting state stays within 1.1 times the weights in the dtype asked for."""
    config = {**TINY_LLAMA, "vocab_size": 16384, "hidden_size": 1024, "intermediate_size": 1024}
    network = Transformer.from_config(ModelConfig.from_dict(config), dtype=torch.bfloat16)
    save_file(dict(network.named_parameters()), tmp_path / FILE)
    (tmp_path / "config.json").write_text(json.dumps(config))
    script = f"""
import torch, model
def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
model.Transformer.from_pretrained({str(FIXTURES / "pangu_tied")!r})
before = peak()
network = model.Transformer.from_pretrained({str(tmp_path)!r}, dtype=torch.float32)
print((peak() - before) / sum(4 * parameter.numel() for parameter in network.parameters()))
"""
    assert 0.9 < float(child(script).communicate(timeout=60)[0]) < 1.1


def child(script: str, **environment: str) -> subprocess.Popen:
    """A fresh interpreter in the repository that runs `script`, with pipes for stdin and stdout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command, repository = [sys.executable, "-c", script], FIXTURES.parent.parent
    return subprocess.Popen(command, cwd=repository, env=environment, **pipes)


# -------------------- the hub, played by a local server


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository, someone/tiny: the four routes that a snapshot download asks for."""

    folder, commit = FIXTURES / "llama_untied_sharded", "0123456789abcdef0123456789abcdef01234567"
    asked: list[str] = []

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        names = [file.name for file in sorted(self.folder.iterdir())] + ["pytorch_model.bin"]
        if path.startswith("/api/models/someone/tiny/tree/"):
            return self.send([self.entry(name) for name in names])
        if path.startswith("/api/models/someone/tiny"):
            siblings = [{"rfilename": name} for name in names]
            return self.send({"id": "someone/tiny", "sha": self.commit, "siblings": siblings})
        if path.startswith("/someone/tiny/resolve/") and (self.folder / Path(path).name).exists():
            return self.send((self.folder / Path(path).name).read_bytes(), etag=Path(path).name)
        self.send({"error": "Repository not found"}, 404)

    def entry(self, name: str) -> dict:
        file = self.folder / name
        size = file.stat().st_size if file.exists() else 7
        return {"type": "file", "path": name, "size": size, "oid": name}

    def send(self, body: bytes | dict | list, status: int = 200, etag: str = "none") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args) -> None:
        pass


def test_hub_ids_are_fetched_once_then_found_offline(tmp_path: Path) -> None:
    script = """
import model
from cli import UserError
def show(name):
    try:
        network = model.Transformer.from_pretrained(name)
        print(sum(parameter.numel() for parameter in network.parameters()), flush=True)
    except UserError as error:
        print(error, flush=True)
show("someone/tiny")
show("someone/else")
input()
show("someone/tiny")
show("someone/else")
"""
    pytest.importorskip("huggingface_hub")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_CACHE": str(tmp_path / "hub")}
    names |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_OFFLINE": "0"}
    process = child(script, **names, NO_PROXY="127.0.0.1", no_proxy="127.0.0.1")
    try:
        online = [process.stdout.readline(), process.stdout.readline()]
        server.shutdown()
        server.server_close()
        offline = process.communicate("\n", timeout=60)[0].splitlines()
    finally:
        process.kill()
    for good, bad in (online, offline):
        assert good.strip() == "86848"
        assert bad.startswith("someone/else: neither a folder nor to be had from the hub (")
    fetched = {Path(path).name for path in Hub.asked if "/resolve/" in path}
    assert {"config.json", SHARD} <= fetched
    assert not fetched & {"pytorch_model.bin", "golden.safetensors"}


# -------------------- refusals


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
ORIGINAL = "original_max_position_embeddings"
WINDOWS = {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
BAD_CONFIGS = [
    ({"model_type": "gpt2"}, "model_type", '"gpt2"'),
    ({"model_type": ...}, "model_type", "missing"),
    ({"hidden_act": "gelu"}, "hidden_act", '"gelu"'),
    ({"hidden_size": "64"}, "hidden_size", '"64"'),
    ({"hidden_size": 64.0}, "hidden_size", "64.0"),
    ({"hidden_size": ...}, "hidden_size", "missing"),
    ({"hidden_size": 63, "head_dim": None}, "hidden_size", "num_attention_heads"),
    ({"num_hidden_layers": 0}, "num_hidden_layers", "0"),
    ({"num_hidden_layers": True}, "num_hidden_layers", "true"),
    ({"num_hidden_layers": 10**12}, "num_hidden_layers", "1000"),
    ({"num_key_value_heads": 3}, "num_attention_heads", "num_key_value_heads (3)"),
    ({"vocab_size": -5}, "vocab_size", "-5"),
    ({"vocab_size": [256]}, "vocab_size", "[256]"),
    ({"rms_norm_eps": 0}, "rms_norm_eps", "0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps", "NaN"),
    ({"rope_theta": "big"}, "rope_theta", '"big"'),
    ({"rope_theta": 10**400}, "rope_theta", "1000"),
    ({"head_dim": 15}, "head_dim", "even"),
    ({"attention_bias": "no"}, "attention_bias", '"no"'),
    ({"tie_word_embeddings": 1}, "tie_word_embeddings", "1"),
    ({"eos_token_id": "</s>"}, "eos_token_id", '"</s>"'),
    ({"quantization_config": {"bits": 4}}, "quantization_config", "bfloat16"),
    ({"rope_scaling": "linear"}, "rope_scaling", "an object"),
    ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type", '"linear"'),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type", '"yarn"'),
    ({"rope_scaling": LLAMA3}, ORIGINAL, "missing"),
    ({"rope_scaling": {**LLAMA3, "factor": None, ORIGINAL: 64}}, "factor", "missing"),
    ({"rope_scaling": {**LLAMA3, "low_freq_factor": 4, ORIGINAL: 64}}, "low_freq_factor", "4.0"),
    ({"rope_scaling": LONGROPE, ORIGINAL: 1}, ORIGINAL, "1"),
    ({"rope_parameters": {**LONGROPE, ORIGINAL: 9, "long_factor": [1]}}, "long_factor", "8"),
    ({"model_type": "PanguEmbedded", "bias": ...}, "bias", "missing"),
    ({"model_type": "qwen2", "use_sliding_window": True}, "max_window_layers", "missing"),
    ({"model_type": "phi3", "sliding_window": 0}, "sliding_window", "0"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window", "0"),
    ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "no_rope_layers", "3 or more numbers"),
    ({"model_type": "smollm3", "no_rope_layers": [1, 2, 0]}, "no_rope_layers", "[1, 2, 0]"),
    ({"model_type": "qwen3", "layer_types": [FULL, SLIDING, FULL]}, "layer_types", SLIDING),
    ({**WINDOWS, "layer_types": [FULL]}, "layer_types", "3 times"),
    ({**WINDOWS, "layer_types": [FULL, "chunked_attention", FULL]}, "layer_types", "chunked"),
]


@pytest.mark.parametrize(("fields", "field", "got"), BAD_CONFIGS)
def test_bad_configs_are_refused_in_one_line(fields: dict, field: str, got: str, tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "llama_tied_llama3rope" / "config.json", tmp_path)
    edit(tmp_path / "config.json", rope_scaling=None)
    edit(tmp_path / "config.json", **fields)
    refused(lambda: ModelConfig.from_file(tmp_path), str(tmp_path / "config.json"), field, got)


UNREADABLE = [FILE, "not a readable safetensors file"]
BAD_CHECKPOINTS = {
    "missing tensor": (lambda f: store(f, {Q: ...}), [Q, "missing"]),
    "extra tensor": (lambda f: store(f, {"more": torch.ones(1)}), ["tensor more", "unexpected"]),
    "second head": (lambda f: store(f, {HEAD: torch.ones(256, 64)}), [HEAD, "tie_word_embeddings"]),
    "saved compiled": (lambda f: wrap(f, "_orig_mod."), ["_orig_mod.model.", "without its wrapper"]),
    "layers compiled": (lambda f: wrap(f, "", ".0.", ".0._orig_mod."), ["layers.0._orig_mod.", "wrapper"]),
    "a head of another dtype": (lambda f: store(f, {HEAD: torch.ones(3, dtype=torch.float64)}), [HEAD]),
    "saved by DDP": (lambda f: wrap(f, "module."), ["module.model.", "without its wrapper"]),
    "NaN": (lambda f: store(f, {NORM: torch.tensor([*[1.0] * 63, torch.nan])}), [NORM, FILE, "NaN"]),
    "infinity": (lambda f: store(f, {NORM: torch.tensor([*[1.0] * 63, -torch.inf])}), [NORM, "infinity"]),
    "infinite in float32": (lambda f: store(f, {NORM: huge(1)}), [NORM, "infinite in torch.float32"]),
    "infinite below zero": (lambda f: store(f, {NORM: huge(-1)}), [NORM, "infinite in torch.float32"]),
    "other shape": (lambda f: store(f, {NORM: torch.ones(63)}), [NORM, "[63]", "[64]", FILE]),
    "integer weights": (lambda f: store(f, {NORM: torch.ones(64).int()}), [NORM, "int32"]),
    "other config": (lambda f: edit(f / "config.json", vocab_size=255), [EMBED, "[256, 64]", "[255, 64]"]),
    "cut in the header": (lambda f: cut(f / FILE, 500), UNREADABLE),
    "cut in the data": (lambda f: cut(f / FILE, 300_000), UNREADABLE),
    "empty file": (lambda f: cut(f / FILE, 0), UNREADABLE),
    "not safetensors": (lambda f: (f / FILE).write_bytes(b"\x80\x02" + bytes(500)), UNREADABLE),
    "no weights": (lambda f: (f / FILE).unlink(), ["no model.safetensors", "safetensors form"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json", "cannot be read"]),
    "config cut": (lambda f: cut(f / "config.json", 100), ["config.json", "not JSON"]),
    "config binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), ["config.json", "not UTF-8"]),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), ["config.json", "got []"]),
    "bad end": (lambda f: edit(f / GENERATION, eos_token_id=[1, "x"]), [GENERATION, "eos_token_id", "x"]),
}
BAD_SHARDS = {
    "shard missing": (lambda f: (f / SHARD).unlink(), [SHARD, "not a readable"]),
    "map lacks a tensor": (lambda f: remap(f, {NORM: ...}), [NORM, "missing"]),
    "map names the wrong shard": (lambda f: remap(f, {EMBED: SHARD}), [EMBED, SHARD, INDEX]),
    "map leaves the folder": (lambda f: remap(f, {NORM: "../a"}), [NORM, "../a"]),
    "map is a list": (lambda f: edit(f / INDEX, weight_map=[]), [INDEX, "weight_map"]),
    "map absent": (lambda f: edit(f / INDEX, weight_map=...), [INDEX, "weight_map"]),
}


@pytest.mark.parametrize("case", [*BAD_CHECKPOINTS, *BAD_SHARDS])
def test_bad_checkpoints_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    folder, sharded = tmp_path / "checkpoint", case in BAD_SHARDS
    shutil.copytree(FIXTURES / ("llama_untied_sharded" if sharded else "llama_tied_llama3rope"), folder)
    Transformer.from_pretrained(folder)
    damage, parts = (BAD_SHARDS if sharded else BAD_CHECKPOINTS)[case]
    damage(folder)
    refused(lambda: Transformer.from_pretrained(folder), str(folder), *parts)


NO_MODEL = ["", "nowhere", "a/b/c", "./nowhere/x", "/nowhere", "a\0b", "x" * 5000, "owner/na me", __file__]


@pytest.mark.parametrize("text", NO_MODEL)
def test_texts_that_are_no_folder_and_no_hub_id(text: str) -> None:
    with pytest.raises(UserError, match="wanted a model folder or a hub id"):
        Transformer.from_pretrained(text)
