r"""The pipeline's stages complete and judge (paper, 3.3): models write what records lack, and score it.

    complete   fills the thoughts and summaries that source.missing lists, and nothing else
    judge      scores the trajectory and each of its thoughts and summaries from 1 to 10

Both take `ask`, which sends messages to a chat model and returns its answer, so that here all is plain code.
Records are data from elsewhere. They are shown to the model as JSON, one object a line: no text in them ends
its string, so none can pose as part of the request, nor as a frame of the model's own chat format. An answer
is one JSON object and is held against what was asked for; where it fails, the model is told why and asked
again, three times in all, then the row is refused.

The prompts ask for what the paper's Figs. 6 and 7 ask for, in other words. Paper silent: one request fills
all missing texts of a record, so that they fit each other; a text that gives away what is observed only
later is a fault.
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
    turns, math = record["trajectory"], data.domain_of(record) == "math"
    if turns[i]["role"] == "reasoner":
        return CEASE if turns[i]["next"] == "summarizer" else PLAN if math else THINK
    query = max(j for j in range(i) if turns[j]["role"] == "user")
    before = {turn["role"] for turn in turns[query:i]}
    if "observation" in before:
        return SOLVE if math else TELL
    return CONFIRM if "executor" in before and not math else REPLY


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
FORBIDDEN = {kind: re.compile(text, re.IGNORECASE | re.MULTILINE) for kind, text in FORBIDDEN.items()}


def check_text(text: Any, record: dict, i: int) -> str:
    """The text for turn i, without space around it. Raises Fault."""
    if not isinstance(text, str):
        raise Fault("no text", f"is {quoted(text)[:60]}, wanted a string")
    text = text.strip()
    if not text:
        raise Fault("empty text", "is empty")
    if len(text) > LONGEST:
        raise Fault("text too long", f"has {len(text)} characters, wanted at most {LONGEST}")
    names = "|".join(re.escape(tool["name"]) for tool in record.get("tools", []))
    named = re.compile(rf"(?<!\w)(?:{names})\(|\"name\"\s*:\s*\"(?:{names})\"") if names else None
    for kind, pattern in [*FORBIDDEN.items(), ("call", named)]:
        if pattern and (found := pattern.search(text)):
            raise Fault(f"{kind} in a text", f"holds {quoted(found[0][:60])} ({kind}), wanted plain words")
    if piece := given_away(text, record, i):
        raise Fault("later result in a text", f"tells {quoted(piece)}, which is observed only later")
    return text


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
    for piece in later:
        if len(piece) < BLOCK and (len(piece) > 9 or (len(piece) > 1 and NUMBER.search(piece))):
            whole = re.compile(rf"(?<![\w.]){re.escape(piece)}(?!\w)(?!\.\d)")
            if whole.search(text) and not whole.search(known):
                return piece
    later = "\n".join(later)
    numbers = set(NUMBER.findall(text)) & set(NUMBER.findall(later)) - set(NUMBER.findall(known))
    if long := sorted(number for number in numbers if len(number) > 3):
        return long[0]
    text, later, known = text.encode(), later.encode(), known.encode()
    for at in range(0, len(text) - BLOCK + 1, STRIDE):
        if (block := text[at : at + BLOCK]) in later and block not in known:
            return block.decode(errors="ignore")
    return None


def strings(value: Any) -> list[str]:
    """The strings, names of keys and other leaves of a JSON value as texts."""
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value if isinstance(value, str) else json.dumps(value)]


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
