"""Chat models without weights: two stand-in tokenizers made here, and the published ones where at hand.

Besides, a tiny random model with an adapter and a tokenizer of its own, for the tests of episodes.
"""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import data
import mor
from engine.adapter import load_adapter, save_adapter
from formats.calls import CLOSE, OPEN
from formats.frames import Frame, load_frame
from model import ModelConfig, Transformer

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"
REAL = ("Llama-3.2-1B-Instruct", "Phi-3.5-mini-instruct", "Qwen2.5-Coder-1.5B-Instruct")
MORE_REAL = ("real/smollm2-135m", "real/qwen2.5-coder-0.5b")
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def added(tokens: dict[str, int]) -> list[dict]:
    """As a tokenizer.json lists them; DeepSeek's are added tokens that are not called special."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": id, "content": token, "special": token not in DEEPSEEK[1:3], **flags}
        for token, id in tokens.items()
    ]


LLAMA_SPECIALS = {token: 256 + i for i, token in enumerate(SPECIALS)}
# the special tokens of chat models, for the stand-ins
DEEPSEEK = ("<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<think>")
PHI4 = ("<|endoftext|>", "<|fim_prefix|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")
PHI4_MINI = ("<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>", "<|system|>", "<|tool|>", "<|/tool|>")
SMOLLM3 = (*SPECIALS, "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_response>")
MISTRAL = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]")
MISTRAL += ("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
TINYLLAMA = ("<unk>", "<s>", "</s>")
STAND_INS = {  # name -> what it is made of, and the frame asked for
    "deepseek": (DEEPSEEK, ""), "phi4": (PHI4, ""), "phi4_mini": (PHI4_MINI, ""), "smollm3": (SMOLLM3, ""),
    "mistral": (MISTRAL, ""), "tinyllama": (TINYLLAMA, "zephyr"),
}  # fmt: skip


def byte_tokenizer(specials: tuple[str, ...] = SPECIALS) -> dict:
    """256 byte tokens without merges, then special tokens, Llama's; saved with a maximal length of 5."""
    printable, rest = [*range(33, 127), *range(161, 173), *range(174, 256)], iter(range(256, 512))
    letters = [chr(b) if b in printable else chr(next(rest)) for b in range(256)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": added({token: 256 + i for i, token in enumerate(specials)}),
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []},
    }


PANGU = ("<unk>", "<s>", "</s>", *(f"[unused{i}]" for i in range(9, 13)))


def letter_tokenizer(specials: tuple[str, ...], spelled: bool = False) -> dict:
    """In the manner of SentencePiece; `spelled` at its worst: merges make special tokens of their letters."""
    letters = [*(f"<0x{b:02X}>" for b in range(256)), "▁", *map(chr, range(33, 127))]
    vocab, merges = {text: i for i, text in enumerate([*specials, *letters])}, []
    for token in specials if spelled else ():
        for end in range(2, len(token) + 1):
            vocab.setdefault(token[:end], len(vocab))
            if [token[: end - 1], token[end - 1]] not in merges:
                merges.append([token[: end - 1], token[end - 1]])
    blank = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}]
    back += [{"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
    return {
        "version": "1.0",
        "added_tokens": added({token: vocab[token] for token in specials}),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, blank]},
        "decoder": {"type": "Sequence", "decoders": back},
        "model": model | {"vocab": vocab, "merges": merges},
    }


def write_model(folder: Path, config: dict, tokenizer: dict | str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    text = tokenizer if isinstance(tokenizer, str) else json.dumps(tokenizer)
    (folder / "tokenizer.json").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory) -> Iterator[Path]:
    """Rendered data is kept here, and by the processes that tests start: not in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Path(os.environ["XDG_CACHE_HOME"]) / "moragent"


@pytest.fixture(scope="session")
def frame_folders(tmp_path_factory) -> dict[str, Path]:
    """By name: the stand-ins, and the real ones that are at hand."""
    root = tmp_path_factory.mktemp("tokenizers")
    files = {"bytes": ({"model_type": "llama", "vocab_size": 261}, byte_tokenizer())}
    files["pangu"] = {"model_type": "PanguEmbedded", "vocab_size": 999}, letter_tokenizer(PANGU, spelled=True)
    for name, (specials, _) in STAND_INS.items():
        make = letter_tokenizer if "<unk>" in specials else byte_tokenizer
        files[name] = {"vocab_size": 999}, make(specials)
    for name in (*REAL, *MORE_REAL):
        packed, plain = SHARED / name / "tokenizer.json.gz", SHARED / name / "tokenizer.json"
        if packed.exists() or plain.exists():
            text = gzip.decompress(packed.read_bytes()) if packed.exists() else plain.read_bytes()
            files[name] = json.loads((SHARED / name / "config.json").read_bytes()), text.decode()
    return {name: write_model(root / name, *pair) for name, pair in files.items()}


@pytest.fixture(scope="session")
def frames(frame_folders) -> dict[str, Frame]:
    asked = {name: frame for name, (_, frame) in STAND_INS.items()}
    return {name: load_frame(folder, asked.get(name, "")) for name, folder in frame_folders.items()}


@pytest.fixture(params=(*REAL, *MORE_REAL, "bytes", "pangu", *STAND_INS))
def frame(request, frames) -> Frame:
    if request.param not in frames:
        pytest.skip(f"no tokenizer of {request.param} in {SHARED}")
    return frames[request.param]


def hostile(frame: Frame) -> str:
    """Every added token's text, alone, in words and in spaces."""
    return "".join(f"{token} a{token}b {token}" for token in [*frame.added, OPEN, CLOSE]) + "."


# ---- a tiny model for episodes, and what is said there ----

WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
}
CLOCK = {"name": "clock", "parameters": {"type": "object", "properties": {}}}
THINK, ENOUGH = "I need it.\nNext: executor", "That answers it.\nNext: summarizer"
CALL, ANSWER = '[unused11]Action: get_weather Arguments: {"city": "Bali"}[unused12]', "Rain, 86 F."
FULL = [THINK, CALL, ENOUGH, ANSWER]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A random Llama checkpoint with a tokenizer of its own, and a MoR adapter whose roles differ."""
    torch.set_num_threads(1)
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(
        [data.system_text({"tools": [WEATHER]}), *data.role_prompts("bfcl"), *FULL], trainer
    )
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in (*SPECIALS, "<|eom_id|>")])
    tokenizer.save(str(base / "tokenizer.json"))
    config = {
        "model_type": "llama",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }
    (base / "config.json").write_text(json.dumps(config))
    model = Transformer.from_config(ModelConfig.from_dict(config), seed=0)
    save_file({name: p.detach().clone() for name, p in model.named_parameters()}, base / "model.safetensors")
    mor.add_mor(model, mor.MoRConfig(rank=4))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in mor.mor_parameters(model).items():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    save_adapter(model, adapter)
    return base, adapter


@pytest.fixture(scope="module")
def model(folders) -> Transformer:
    model = Transformer.from_pretrained(folders[0])
    load_adapter(model, folders[1])
    return model.eval()
