r"""Chat frames: how each model family marks turns, as token ids that no text can become.

System and user turns are each family's own; the three roles and observations have headers of their own, in
the same manner. Llama's:

    <|start_header_id|>executor<|end_header_id|>\n\nCONTENT<|eot_id|>

A token's role decides whose LoRAs see it (mor.py), so no text may pass for a frame: headers and ends of turns
are written by id, and text is encoded so that it never holds an added token.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from cli import UserError, read_object
from mor import ROLES


class Family(NamedTuple):
    """A chat format, with special tokens by name."""

    marks: tuple[str, ...]  # the special tokens that it is made of
    begin: str
    header: str  # {} is the name of the role
    end: str
    stops: tuple[str, ...] = ()  # further tokens that end a generated turn
    names: dict[str, str] = {}  # role -> its name, where that is not the role itself
    ends: dict[str, str] = {}  # role -> what ends its turns, where that is not `end`
    between: str = ""  # stands before every header but the first, so that a turn ends with its `end`


def after(mark: str, *roles: str) -> dict[str, str]:
    """Names of roles as text behind a mark, in formats that have no header with a free name."""
    return {role: f"{mark}{role}:\n" for role in roles}


# A tokenizer's frame is the first whose marks are all special tokens of it, so those with rarer marks come
# first: SmolLM3 has ChatML's marks beside Llama's. Zephyr's marks are those of many models without a frame.
#
# An observation has a header that a user's text cannot imitate; Qwen's template (<tool_response> as plain
# text in a user turn) has none. Llama's template would add the date. The newlines beside Phi's special tokens
# never become tokens. Where a header is or begins with text (Mistral, Zephyr), it is one only behind a mark
# that ends the turn before.
FAMILIES = {
    "deepseek": Family(
        ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        "<｜begin▁of▁sentence｜>", "{}", "<｜end▁of▁sentence｜>", ("<｜User｜>", "<｜Assistant｜>"),
        {"system": "", "user": "<｜User｜>"} | after("<｜Assistant｜>", *ROLES, "observation"),
        {"system": "", "user": ""}),
    "phi4": Family(
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"), "", "<|im_start|>{}<|im_sep|>", "<|im_end|>",
        ("<|endoftext|>",)),
    "chatml": Family(
        ("<|im_start|>", "<|im_end|>"), "", "<|im_start|>{}\n", "<|im_end|>", ("<|endoftext|>",),
        between="\n"),
    "llama3": Family(
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>", "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>",
        ("<|eom_id|>", "<|end_of_text|>"), {"observation": "ipython"}),
    "phi3": Family(
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "", "{}", "<|end|>",
        ("<|assistant|>", "<|endoftext|>"),
        {"system": "<|system|>", "user": "<|user|>"} | after("<|assistant|>", *ROLES, "observation")),
    "mistral": Family(
        ("<s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "</s>"), "<s>", "{}", "</s>",
        ("[INST]", "[/INST]"),
        {"system": "[INST]", "user": "[INST]", "observation": "[TOOL_RESULTS]"} | after("", *ROLES),
        {"system": "[/INST]", "user": "[/INST]", "observation": "[/TOOL_RESULTS]"}),
    "pangu": Family(
        ("<s>", "[unused9]", "[unused10]"), "<s>", "[unused9]{}：", "[unused10]", (),
        {"system": "系统", "user": "用户", "observation": "工具"}),
    "zephyr": Family(("<s>", "</s>"), "<s>", "<|{}|>\n", "</s>", between="\n"),
}  # fmt: skip
TRAINED_WITH = "moragent"  # the key of config.json that says it: see engine/full.py
ON_REQUEST = "zephyr"  # never chosen by its tokens, which many other models have
WANTED = "a JSON object, as in the folder of a Hugging Face model; fetch it again"
# what looks like a special token of a frame
SPECIAL = re.compile(r"(<\|\w+\|>|<｜[\w▁]+｜>|<s>|\[unused\d+\]|\[/?(?:INST|TOOL_RESULTS)\])")


@dataclass
class Frame:
    """The chat format of one model, in token ids, and what it was loaded from."""

    folder: Path  # of the model
    name: str  # of the family, a key of FAMILIES
    prompts: str  # "short" or "paper": which of data.py's wordings the roles are given
    tokenizer: Tokenizer
    begin: list[int]  # what opens a sequence and its system turn
    headers: dict[str, list[int]]  # role -> what opens its turns
    ends: dict[str, list[int]]  # role -> what ends its turns
    end: int  # of the turns of the three roles
    stop_ids: tuple[int, ...]  # `end` and the family's further stops
    added: dict[str, int]  # special and other added tokens by name
    reserved: frozenset[int]  # their ids: no text becomes one of these

    def encode(self, text: str) -> list[int]:
        """Ids of anybody's text: none of them reserved, nothing added in front.

        Headers and texts are encoded apart from each other, in training as in generation, so a turn has the
        same ids in both. (SentencePiece's tokenizers put a `▁` before each; `decode` takes it off.) One that
        normalizes changes the text: Qwen's applies Unicode NFC, Mistral's may drop a space in front.
        """
        with library_faults(self.folder / "tokenizer.json"):
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        if self.reserved.isdisjoint(encoding.ids):
            return encoding.ids
        # A vocabulary may spell a special token out of its letters: cut the text inside each such spot.
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        cuts = sorted({0, len(text), *(start + 1 for id, (start, _) in spans if id in self.reserved)})
        if len(cuts) == 2:
            raise UserError(f"the tokenizer makes a special token of the text {text!r:.60}")
        return [id for a, b in pairwise(cuts) for id in self.encode(text[a:b])]

    def encode_parts(self, parts: list[str], marks: tuple[str, ...]) -> list[int]:
        """Ids of text in parts. A part that is a mark becomes its token, where the model has these tokens."""
        if not all(mark in self.added for mark in marks):
            return self.encode("".join(parts))
        pieces = ([self.added[part]] if part in marks else self.encode(part) for part in parts)
        return [id for piece in pieces for id in piece]

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens by name."""
        with library_faults(self.folder / "tokenizer.json"):
            return self.tokenizer.decode(ids, skip_special_tokens=False)


def load_frame(folder: str | Path, name: str = "", prompts: str = "") -> Frame:
    """Read a model folder's frame from config.json and tokenizer.json. Raises UserError for what is wrong.

    name: that of a family; "": the one whose special tokens the tokenizer has. prompts: "": "short". A model
    that was trained here as a whole goes on with what it was trained with.
    """
    path = Path(folder) / "tokenizer.json"
    config = read_object(path.with_name("config.json"), WANTED)
    size, trained_with = config.get("vocab_size"), config.get(TRAINED_WITH)
    if isinstance(trained_with, dict):
        name = name or str(trained_with.get("frame"))
        prompts = prompts or str(trained_with.get("prompts"))
    tokenizer = _load_tokenizer(path)
    top = max(tokenizer.get_vocab().values(), default=0)
    if not (isinstance(size, int) and top < size):
        wanted = f"less than vocab_size {size} in config.json"
        raise UserError(f"{path}: got token ids up to {top}, wanted {wanted}")
    added = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items()}
    name = _family_of(name, added, path)
    family = FAMILIES[name]
    marks = re.compile("(" + "|".join(map(re.escape, family.marks)) + ")")

    def ids(text: str) -> list[int]:
        """Ids of text of ours, special tokens as such."""
        result = []
        for part in filter(None, marks.split(text)):
            special = part in family.marks
            result += [added[part]] if special else tokenizer.encode(part, add_special_tokens=False).ids
        return result

    def header(role: str) -> str:
        return family.header.format(family.names.get(role, role))

    turns = ("user", "observation", *ROLES)
    end = added[family.end]
    # what a vocabulary without bytes cannot spell becomes the unknown token, which frames nothing
    harmless = added.get(getattr(tokenizer.model, "unk_token", None))
    return Frame(
        folder=Path(folder),
        name=name,
        prompts=prompts or "short",
        tokenizer=tokenizer,
        begin=ids(family.begin + header("system")),
        headers={role: ids(family.between + header(role)) for role in turns},
        ends={role: ids(family.ends.get(role, family.end)) for role in ("system", *turns)},
        end=end,
        stop_ids=(end, *(added[token] for token in family.stops if token in added)),
        added=added,
        reserved=frozenset(added.values()) - {harmless},
    )


def _family_of(name: str, added: dict[str, int], path: Path) -> str:
    """`name` if the special tokens `added` of a tokenizer suffice for it; without one, their own family."""
    if name and name not in FAMILIES:
        raise UserError(f"{path}: got frame {name}, wanted one of {', '.join(FAMILIES)}")
    if name:
        if lacking := [mark for mark in FAMILIES[name].marks if mark not in added]:
            raise UserError(f"{path}: has no special token {lacking[0]}; frame {name} wants it")
        return name
    fitting = [name for name, family in FAMILIES.items() if added.keys() >= set(family.marks)]
    if fitting in ([], [ON_REQUEST]):
        mend = f"; --frame {ON_REQUEST} would do" if fitting else ""
        wanted = f"the tokenizer of a chat model with one of the frames {', '.join(FAMILIES)}{mend}"
        raise UserError(f"{path}: its special tokens are of no known frame; wanted {wanted}")
    return fitting[0]


PROBES = ("", "A b\n\n\tc_1", "é", "中文", "🙂", "\ue000", "\0", "x" * 50)  # what any text may hold


def _load_tokenizer(path: Path) -> Tokenizer:
    data = read_object(path, WANTED)
    data["truncation"] = data["padding"] = None  # as saved by who trained with a maximal length
    if isinstance(data.get("model"), dict) and data["model"].get("dropout") not in (None, 0):
        got = f"got dropout {data['model']['dropout']!r:.20}, which makes other tokens of a text each time"
        raise UserError(f"{path}: {got}; set it to null")
    with library_faults(path), without_stderr():
        for token in data["added_tokens"]:
            token["special"] = True  # or the next switch would pass over <tool_call> and </s>
        tokenizer = Tokenizer.from_str(json.dumps(data))
        tokenizer.encode_special_tokens = True  # special tokens within texts are spelled out
        alone = tokenizer.encode("a", add_special_tokens=False).ids
        for text in PROBES:
            ids = tokenizer.encode(text + "a", add_special_tokens=False).ids
            tokenizer.decode(ids)
            if text.isprintable() and text and ids == alone:
                raise ValueError(f"no token for {text!r}, neither of its bytes nor an unknown one")
    return tokenizer


@contextmanager
def library_faults(path: Path) -> Iterator[None]:
    """Raise what the tokenizers library raises as a UserError: its panics are no Exception."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        fault = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not for the tokenizers library ({fault}); fetch the file again") from None


@contextmanager
def without_stderr() -> Iterator[None]:
    """Leave out what the library's panics print by themselves."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
