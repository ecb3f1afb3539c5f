"""frames.py on stand-in tokenizers and the published ones; twins: the ids of the published chat templates."""

import json
import unicodedata

import pytest
from conftest import REAL, SHARED, byte_tokenizer, hostile, write_model
from tokenizers import Tokenizer

from cli import UserError
from formats.calls import CLOSE, OPEN
from formats.frames import load_frame


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

LLAMA, BYTES = {"model_type": "llama", "vocab_size": 261}, byte_tokenizer()
BAD_FOLDERS = [
    ({"model_type": "gpt2", "vocab_size": 9}, BYTES, "wanted one of llama, phi3, qwen2, PanguEmbedded"),
    ({"vocab_size": 9}, BYTES, "model_type: got None"),
    ({"model_type": ["llama"], "vocab_size": 9}, BYTES, "model_type: got"),
    ({"model_type": "llama"}, BYTES, "vocab_size None"),
    ({"model_type": "llama", "vocab_size": 260}, BYTES, "token ids up to 260"),
    ({"model_type": "qwen2", "vocab_size": 999}, BYTES, "no special token <|im_end|>"),
    ({"model_type": "PanguEmbedded", "vocab_size": 999}, BYTES, "no special token [unused10]"),
    (LLAMA, BYTES | {"added_tokens": []}, "no special token <|"),
    (LLAMA, BYTES | {"added_tokens": BYTES["added_tokens"][:-1]}, "no special token <|eot_id|>"),
    (LLAMA, BYTES | {"added_tokens": 7}, "not for the tokenizers library"),
    (LLAMA, BYTES | {"model": {"type": "Magic"}}, "not for the tokenizers library"),
    (LLAMA, {"model": BYTES["model"]}, "not for the tokenizers library"),
    (LLAMA, "[]", "wanted a JSON object"),
    (LLAMA, "version https://git-lfs.github.com/spec/v1", "not JSON"),
]


@pytest.mark.parametrize("config, tokenizer, wanted", BAD_FOLDERS)
def test_bad_folders(config, tokenizer, wanted, tmp_path):
    write_model(tmp_path / "m", config, tokenizer)
    with pytest.raises(UserError) as error:
        load_frame(tmp_path / "m")
    where, _, message = str(error.value).partition("json: ")
    assert where.startswith(str(tmp_path / "m")) and wanted in message


def test_missing_files(tmp_path):
    with pytest.raises(UserError, match="config.json: cannot be read"):
        load_frame(tmp_path / "none")
    write_model(tmp_path / "m", LLAMA, BYTES)
    (tmp_path / "m" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="tokenizer.json: cannot be read"):
        load_frame(tmp_path / "m")


def test_saved_truncation_is_lifted(frames):
    assert len(frames["bytes"].encode("x" * 100)) == 100
