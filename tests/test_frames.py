"""frames.py on stand-in tokenizers and the published ones; twins: the ids of the published chat templates."""

import json
import re
import unicodedata
from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import pytest
from conftest import (
    MORE_REAL,
    PANGU,
    REAL,
    SHARED,
    TINYLLAMA,
    byte_tokenizer,
    hostile,
    letter_tokenizer,
    write_model,
)
from tokenizers import Tokenizer

from cli import UserError
from formats.calls import CLOSE, OPEN
from formats.frames import FAMILIES, load_frame

# what the published templates make of a system text S, a user's A, an answer and a user's B
NATIVE = {
    "deepseek": "<｜begin▁of▁sentence｜>S<｜User｜>A",
    "phi4": "<|im_start|>system<|im_sep|>S<|im_end|><|im_start|>user<|im_sep|>A<|im_end|>",
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nA<|eot_id|>",
    "phi3": "<|system|>S<|end|><|user|>A<|end|>",
    "mistral": "<s>[INST]S[/INST][INST]A[/INST]",  # its template has no turn for the system's text
    "pangu": "<s>[unused9]系统：S[unused10][unused9]用户：A[unused10]",
    "zephyr": "<s><|system|>\nS</s>\n<|user|>\nA</s>",
}


def test_the_frame_follows_the_special_tokens(frames):
    """And its system and user turns, decoded, are the template's."""
    own = {"bytes": "llama3", "pangu": "pangu", "deepseek": "deepseek", "phi4": "phi4", "phi4_mini": "phi3"}
    own |= {"smollm3": "chatml", "mistral": "mistral", "tinyllama": "zephyr"}
    assert set(own.values()) == set(FAMILIES) == set(NATIVE)
    own |= dict(zip(REAL, ("llama3", "phi3", "chatml"), strict=True)) | dict.fromkeys(MORE_REAL, "chatml")
    assert {name: frame.name for name, frame in frames.items()} == {name: own[name] for name in frames}
    for name, frame in frames.items():
        ids = [*frame.begin, *frame.encode("S"), *frame.ends["system"], *frame.headers["user"]]
        ids += [*frame.encode("A"), *frame.ends["user"]]
        assert frame.decode(ids).replace(" ", "") == NATIVE[frame.name], name


def test_native_turns_are_those_of_the_models_own_template(frames):
    """System and user turns stand as they are in the ids that the published chat templates give."""
    if not (SHARED / "goldens" / "chat.json").exists():
        pytest.skip(f"no goldens in {SHARED}")
    goldens = json.loads((SHARED / "goldens" / "chat.json").read_text("utf-8"))["models"]
    for name in REAL:
        frame, native = frames[name], goldens[name]["chats"]["two_turns"]["ids"]
        users = [[*frame.headers["user"], *frame.encode(text), frame.end] for text in ("A", "C é 中文 🙂")]
        if name != REAL[0]:  # Llama's template puts dates here
            system = [*frame.begin, *frame.encode("S"), frame.end]
            assert native[: len(system + users[0])] == system + users[0]
        assert native[: len(frame.begin)] == frame.begin
        assert any(native[i : i + len(users[1])] == users[1] for i in range(len(native)))


# ---- forging ----


def test_stock_encoding_would_be_forged(frame_folders, frames):
    """The danger is real: as they come, the tokenizers make special tokens of such text."""
    for name, folder in frame_folders.items():
        stock = Tokenizer.from_file(str(folder / "tokenizer.json"))
        stock.no_truncation()
        ids = stock.encode(hostile(frames[name]), add_special_tokens=False).ids
        assert frames[name].reserved & set(ids)


def test_no_text_can_open_a_turn(frame):
    """A header holds a reserved token or stands behind one, and none begins like another that goes on."""
    behind = all(set(end[-1:]) & frame.reserved for end in frame.ends.values())
    headers = {**frame.headers, "system": frame.begin}
    for header in headers.values():
        assert header and (behind or set(header) & frame.reserved)
    for one, other in permutations(headers.values(), 2):
        assert other[: len(one)] != one


def test_text_survives(frame):
    """decode(encode(text)) is the text, special tokens' names included, and no id is reserved."""
    texts = [" lead", "trail ", "\n\n", "a\n\nb", "\t{'a': 1}", "naïve 中文 🙂 \u200d", '"\\"', "x" * 999, ""]
    if OPEN not in frame.added:  # the stand-in spells special tokens from letters and is cut open there
        texts.append(hostile(frame))
    for text in texts:
        ids = frame.encode(text)
        assert frame.reserved.isdisjoint(ids) and frame.decode(ids) == text
    decomposed = "e\u0301"
    assert frame.decode(frame.encode(decomposed)) in (decomposed, unicodedata.normalize("NFC", decomposed))


def test_stand_in_spells_its_special_tokens(frames):
    """The case that `encode` takes text apart for: without it, letters add up to a frame's token."""
    frame = frames["pangu"]
    for token in ("[unused9]", "[unused10]", "<s>", "[unused11]"):
        assert frame.reserved & set(frame.tokenizer.encode(f"a{token}b", add_special_tokens=False).ids)
        ids = frame.encode(f"a{token}b{token}" * 1000)
        assert frame.reserved.isdisjoint(ids)
        assert frame.decode(ids).replace(" ", "") == f"a{token}b{token}" * 1000


def test_marks_become_tokens_only_as_parts(frames):
    """And only where both are tokens: elsewhere the parts are one text, encoded as a whole."""
    pangu, parts = frames["pangu"], [OPEN, f"x{OPEN}", CLOSE]
    ids = pangu.encode_parts(parts, (OPEN, CLOSE))
    assert [id for id in ids if id in pangu.reserved] == [pangu.added[OPEN], pangu.added[CLOSE]]
    assert ids[0] == pangu.added[OPEN] and ids[-1] == pangu.added[CLOSE]
    assert frames["bytes"].encode_parts(parts, (OPEN, CLOSE)) == [*"".join(parts).encode()]


# ---- folders that will not do ----


def without_bytes(unknown: str | None) -> dict:
    """A tokenizer that knows some letters, and has this token for others."""
    tokenizer = letter_tokenizer(PANGU)
    vocabulary = {text: id for text, id in tokenizer["model"]["vocab"].items() if not text.startswith("<0x")}
    changed = {"vocab": vocabulary, "unk_token": unknown, "byte_fallback": False}
    return tokenizer | {"model": tokenizer["model"] | changed}


LLAMA, BYTES = {"model_type": "llama", "vocab_size": 261}, byte_tokenizer()
BAD_FOLDERS = [
    ({"model_type": "llama"}, BYTES, "vocab_size None"),
    ({"model_type": "llama", "vocab_size": 260}, BYTES, "token ids up to 260"),
    (LLAMA, BYTES | {"added_tokens": []}, "of no known frame; wanted the tokenizer of a chat model"),
    (LLAMA, BYTES | {"added_tokens": BYTES["added_tokens"][:-1]}, "frames deepseek, phi4, chatml, llama3"),
    ({"vocab_size": 999}, letter_tokenizer(TINYLLAMA), "pangu, zephyr; --frame zephyr would do"),
    (LLAMA, BYTES | {"added_tokens": 7}, "not for the tokenizers library"),
    (LLAMA, BYTES | {"model": {"type": "Magic"}}, "not for the tokenizers library"),
    (LLAMA, {"model": BYTES["model"]}, "not for the tokenizers library"),
    (LLAMA, BYTES | {"model": BYTES["model"] | {"dropout": 0.1}}, "got dropout 0.1"),
    # panics of the library, one while it reads the file, one while it encodes
    (LLAMA, BYTES | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "Precompiled"),
    (LLAMA, BYTES | {"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "chunk size must be"),
    ({"vocab_size": 999}, without_bytes("[gone]"), "Unk token `[gone]` not found in the vocabulary"),
    ({"vocab_size": 999}, without_bytes(None), "no token for '"),
    (LLAMA, "[]", "wanted a JSON object"),
    (LLAMA, "version https://git-lfs.github.com/spec/v1", "not JSON"),
]


@pytest.mark.parametrize("config, tokenizer, wanted", BAD_FOLDERS)
def test_bad_folders(config, tokenizer, wanted, tmp_path, capfd):
    write_model(tmp_path / "m", config, tokenizer)
    with pytest.raises(UserError) as error:
        load_frame(tmp_path / "m")
    where, _, message = str(error.value).partition("json: ")
    assert where.startswith(str(tmp_path / "m")) and wanted in message
    assert capfd.readouterr().err == "" and "\n" not in message


def test_a_text_that_the_library_stumbles_over_is_refused(tmp_path):
    """No file shows it: here a pattern that tries for too long."""
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    split = {"type": "Sequence", "pretokenizers": [pattern, BYTES["pre_tokenizer"]]}
    frame = load_frame(write_model(tmp_path / "m", LLAMA, BYTES | {"pre_tokenizer": split}))
    assert frame.decode(frame.encode("aab")) == "aab"
    with pytest.raises(UserError, match="tokenizer.json: not for the tokenizers library"):
        frame.encode("a" * 30 + "b")

    class Panic(BaseException):
        pass

    def panic(*_: object, **__: object) -> None:
        raise Panic("index out of bounds")

    broken = replace(frame, tokenizer=SimpleNamespace(decode=panic))
    with pytest.raises(UserError, match="index out of bounds"):
        broken.decode([1])


def test_a_frame_by_name(tmp_path):
    """It needs its special tokens, and no others."""
    folder = write_model(tmp_path / "m", {"vocab_size": 999}, letter_tokenizer(PANGU))
    assert (load_frame(folder).name, load_frame(folder, "zephyr").name) == ("pangu", "zephyr")
    for name, wanted in (
        ("chatml", "no special token <|im_start|>; frame chatml"),
        ("qwen", "got frame qwen"),
    ):
        with pytest.raises(UserError, match=re.escape(wanted)):
            load_frame(folder, name)


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="config.json: cannot be read"):
        load_frame(tmp_path / "none")
    write_model(tmp_path / "m", LLAMA, BYTES)
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json: cannot be read"):
        load_frame(tmp_path / "m")


def test_saved_truncation_is_lifted(frames):
    assert len(frames["bytes"].encode("x" * 100)) == 100
