r"""The stage complete (paper, 3.3, Figs. 6 and 7): a model writes thoughts and summaries that records lack.

It fills what source.missing lists, and nothing else. It takes `ask`, which sends messages to a chat model and
returns its answer, so that here all is plain code. An answer is held against what was asked for; asking.py
says how records are shown and how a model is asked again.

The prompts ask for what Fig. 6 (function calling) and Fig. 7 (maths) ask for, in other words. Decisions,
where the paper is silent: one request fills all missing texts of a record, so that they fit each other; a
text that gives away what is observed only later is a fault, as is one that could be taken for a turn, a call
or a frame.
"""

import json
import re
from typing import Any

import data
from formats.calls import BEFORE
from formats.frames import SPECIAL
from sources.rows import Refused
from stages.asking import DATA, Fault, consult, quoted, read_object, shown
from stages.edits import PATH, source_of
from stages.process import Results
from tools.endpoint import Ask, Message

LONGEST = 1500  # characters of a completed text; the prompt asks for some 100 words
COMPLETE = f"""\
You write what is missing from the record of an agent; language models will be trained on it. Three roles \
act in it: the reasoner thinks and names who is next, the executor %s, the summarizer speaks to the user last.

{DATA}

Every text you write
- fits the turns before and behind it as they stand, even where you would have done something else;
- knows only the turns before it: a thought never tells a result that is observed later;
- is in the language of the user's query, in plain words, and has at most 100 of them;
- has no line `Next: ...`, no role as a heading, no call in any notation, no code and no special tokens."""
ACTS = {True: "writes Python", False: "calls functions"}

THINK = (
    "a thought: what the user wants, what is known by now, and which functions with which values are to be "
    "called next and why; do not answer the query"
)
PLAN = (
    "a thought, as short as can be: the plan that the code behind it carries out. Start with the quantities "
    "that are given and their values, go on in steps (First, Next, Finally) with formulas in parentheses, "
    "end with the quantity that answers the problem. Compute nothing"
)
CEASE = "a thought: why nothing is left to do, or why nothing can be done; do not answer the query"
TELL = "a summary: a short answer to the user in natural language, from the observations alone"
SOLVE = "a summary: a short answer to the problem, from the observations alone, its result in \\boxed{}"
CONFIRM = (
    "a summary: check the calls against the query, then say in one sentence what was called and with which "
    "values; no result is known, so claim none"
)
REPLY = "a summary: what the thought before it leads to, as a short reply to the user"


def complete(record: dict, ask: Ask) -> dict:
    """The record with the texts that source.missing lists, which then stand in source.completed.

    Other parts that are missing, such as "tools.parameters.required", stay as they are. Where no text is
    missing, nothing is asked and the record itself returned. Raises Refused.
    """
    places = missing_texts(record)
    if not places:
        return record
    messages = request(record, places)
    texts = consult(ask, messages, lambda answer: read_texts(answer, record, places), "completion")
    turns = list(record["trajectory"])
    for path, i in places.items():
        turns[i] = turns[i] | {"content": texts[path]}
    source = dict(source_of(record))
    source["missing"] = [path for path in source["missing"] if path not in places]
    source["completed"] = [*source.get("completed", []), *places]
    return record | {"trajectory": turns, "source": source}


def missing_texts(record: dict) -> dict[str, int]:
    """The texts that source.missing lists: path -> number of the turn. Raises Refused where one is there."""
    places, turns = {}, record["trajectory"]
    for path in source_of(record).get("missing", []):
        found = PATH.fullmatch(path)
        if not found:
            continue
        i = int(found[1])
        if i >= len(turns) or turns[i]["role"] not in ("reasoner", "summarizer") or turns[i]["content"]:
            raise Refused("completion: nothing is missing where the record says so", path)
        places[path] = i
    return places


def request(record: dict, places: dict[str, int]) -> list[Message]:
    """The messages that ask for the texts at `places` (path -> number of the turn)."""
    turns = dict(enumerate(record["trajectory"]))
    for i in places.values():
        turns[i] = turns[i] | {"content": None}
    wanted = [f"{n}. {quoted(path)}: {task(record, i)}." for n, (path, i) in enumerate(places.items(), 1)]
    form = "Answer with one JSON object and nothing else: exactly these keys, and each text as a string."
    asked = ["The record:", shown(record, turns), "", "Write, in place of null:", *wanted, "", form]
    system = COMPLETE % ACTS[data.domain_of(record) == "math"]
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(asked)}]


def requests(record: dict) -> list[list[Message]]:
    """What the stage asks first, for a preview: nothing where no text is missing. Raises Refused."""
    places = missing_texts(record)
    return [request(record, places)] if places else []


def task(record: dict, i: int) -> str:
    """What the text of turn i has to say."""
    turns, is_math = record["trajectory"], data.domain_of(record) == "math"
    if turns[i]["role"] == "reasoner":
        if turns[i]["next"] == "summarizer":
            return CEASE
        return PLAN if is_math else THINK
    query = max(j for j in range(i) if turns[j]["role"] == "user")
    before = {turn["role"] for turn in turns[query:i]}
    if "observation" in before:
        return SOLVE if is_math else TELL
    if "executor" in before and not is_math:
        return CONFIRM
    return REPLY


def read_texts(answer: str, record: dict, places: dict[str, int]) -> dict[str, str]:
    """The texts by path. Raises Fault, which names what is wrong in each text."""
    texts, faults = read_object(answer, list(places)), []
    for path, i in places.items():
        try:
            texts[path] = check_text(texts[path], record, i)
        except Fault as fault:
            faults.append(Fault(fault.kind, f"{quoted(path)} {fault.told}"))
    if faults:
        raise Fault(faults[0].kind, "; ".join(fault.told for fault in faults))
    return texts


# text that a reader of turns could take for the frame around them; `Next: multiply both` is harmless
FORBIDDEN = {
    "frame mark": rf"{SPECIAL.pattern}|</?(?:s|tools?|tool_call|functioncall|think)>",
    "next role": r"next:\s*[\"'*`<]*(?:reasoner|executor|summarizer)",
    "role as a heading": r"^\W*(?:user|reasoner|executor|summarizer|observation)\W*:",
    "call": BEFORE.pattern,
    "code": "```",
    "control character": "[\x00-\x08\x0b-\x1f\x7f-\x9f]",
}


def check_text(text: Any, record: dict, i: int) -> str:
    """The text for turn i, without space around it. Raises Fault."""
    if not isinstance(text, str):
        raise Fault("no text", f"is {quoted(text)[:60]}, wanted a string")
    text = text.strip()
    if not text:
        raise Fault("empty text", "is empty")
    if len(text) > LONGEST:
        raise Fault("text too long", f"has {len(text)} characters, wanted at most {LONGEST}")
    for kind, pattern in FORBIDDEN.items():
        check_without(kind, re.search(pattern, text, re.IGNORECASE | re.MULTILINE))
    if names := "|".join(re.escape(tool["name"]) for tool in record.get("tools", [])):
        called = rf"(?<!\w)(?:{names})\(|\"name\"\s*:\s*\"(?:{names})\""
        check_without("call", re.search(called, text))
    if piece := given_away(text, record, i):
        raise Fault("later result in a text", f"tells {quoted(piece)}, which is observed only later")
    return text


def check_without(kind: str, found: re.Match | None) -> None:
    """Raises Fault where something was found."""
    if found:
        raise Fault(f"{kind} in a text", f"holds {quoted(found[0][:60])} ({kind}), wanted plain words")


BLOCK, STRIDE = 32, 16  # bytes, as scripts differ in characters a word; an overlap of 47 is always found
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def given_away(text: str, record: dict, i: int) -> str | None:
    """A piece of `text` from an observation behind turn i that turn i cannot have from anywhere else.

    It may have it from the functions, the turns before, and what the executor writes. A piece is a block of
    the text, a number of four characters or more, or a whole short observation with a number in it or of ten
    characters or more.
    """
    turns = record["trajectory"]
    later = [turn["content"].strip() for turn in turns[i + 1 :] if turn["role"] == "observation"]
    if not later:
        return None
    earlier = [turn for j, turn in enumerate(turns) if j < i or turn["role"] == "executor"]
    known = "\n".join(strings([record.get("tools", []), record.get("system", ""), earlier]))
    whole = "\n".join(later)
    return short_observation(text, later, known) or number(text, whole, known) or block(text, whole, known)


def short_observation(text: str, later: list[str], known: str) -> str | None:
    """An observation that stands in the text from its beginning to its end."""
    for piece in later:
        telling = len(piece) > 9 or (len(piece) > 1 and NUMBER.search(piece))
        if telling and len(piece) < BLOCK:
            alone = re.compile(rf"(?<![\w.]){re.escape(piece)}(?!\w)(?!\.\d)")
            if alone.search(text) and not alone.search(known):
                return piece
    return None


def number(text: str, later: str, known: str) -> str | None:
    """A long number of the text that only an observation has."""
    common = set(NUMBER.findall(text)) & set(NUMBER.findall(later))
    long = [found for found in common - set(NUMBER.findall(known)) if len(found) > 3]
    return min(long, default=None)


def block(text: str, later: str, known: str) -> str | None:
    """A block of the text that only an observation has."""
    text_bytes, later_bytes, known_bytes = text.encode(), later.encode(), known.encode()
    for at in range(0, len(text_bytes) - BLOCK + 1, STRIDE):
        piece = text_bytes[at : at + BLOCK]
        if piece in later_bytes and piece not in known_bytes:
            return piece.decode(errors="ignore")
    return None


def strings(value: Any) -> list[str]:
    """The strings, names of keys and other leaves of a JSON value as texts."""
    if isinstance(value, dict):
        return [text for name, inner in value.items() for text in (name, *strings(inner))]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else [json.dumps(value)]


def completed(record: dict, ask: Ask | None) -> dict:
    """`complete`, without a model only for what lacks nothing. Raises Refused."""
    if not ask and any(PATH.fullmatch(path) for path in record["source"].get("missing", ())):
        raise Refused("lacks a thought or summary, and no model is asked")
    return complete(record, ask)


def complete_row(record: dict, ask: Ask | None, model: str) -> Results:
    """The record without missing texts, and in its source who wrote them. Raises Refused."""
    whole = completed(record, ask)
    if whole is not record:
        whole["source"]["completed_by"] = model
    return [("out", whole)]
