r"""The stage complete (paper, 3.3, Figs. 6 and 7): a model writes thoughts and summaries that records lack.

It fills what source.missing lists, and nothing else. It takes `ask`, which sends messages to a chat model and
returns its answer, so that here all is plain code. An answer is held against what was asked for; asking.py
says how records are shown and how a model is asked again.

The prompts say what Fig. 6 (function calling) and Fig. 7 (maths) say, each rule in the words of our form.
What executors do comes from the data, so Fig. 6's rules for them are not used. Decisions, where the paper is
silent: one request fills all missing texts of a record, so that they fit each other. A text is a fault that
gives away what is observed only later, could be taken for a turn, a call or a frame, repeats the request's
own words or another of these texts, or is a thought that does not name the functions called behind it. Why a
reasoner hands over to the summarizer (results are there, calls are made, it gives up, no function fits, none
is needed) the record tells, so the request says which it is.
"""

import json
import re
from typing import Any

import data
from formats.calls import BEFORE, CLOSE, OPEN, CallError, call_parts, check_call, check_calls, parse_calls
from formats.frames import SPECIAL
from sources.record import is_error
from sources.rows import Refused
from stages.asking import DATA, Fault, consult, is_parroted, quoted, read_object, shown
from stages.edits import PATH, source_of
from stages.process import Results
from tools.endpoint import Ask, Message

FORM_OF_CALLS = [{"name": "...", "arguments": {"...": "..."}}]
LONGEST = 1500  # characters of a completed text; the prompt asks for some 100 words
COMPLETE = f"""\
You write what is missing from the record of an agent; language models will be trained on it. Three roles \
act in it: the reasoner thinks and names who is next, the executor %s, the summarizer speaks to the user last.

{DATA}

Every text you write
- fits the turns before and behind it as they stand, even where you would have done something else;
- knows only the turns before it: a thought never tells a result that is observed later;
- is in the language of the user's query, in plain words, and has at most 100 of them;
- says it in its own words and never repeats the words of this request;
- has no line `Next: ...`, no role as a heading, no code and no special tokens, and no call in any notation \
unless calls are asked for."""
ACTS = {True: "writes Python", False: "calls functions"}

# What a text has to say. Fig. 6, the reasoner's rules 1 to 3:
THINK = (
    "a thought: analyze the current status from the query and the history, and tell the approach that "
    "completes the task: which functions, by their names, are to be called next with which values, and why; "
    "do not answer the query"
)
ENOUGH = (
    "a thought: the executor has completed the task. Tell which of its calls settled what the user wants, "
    "and that the summarizer is to give the executor's results; do not answer the query"
)
CALLED = (
    "a thought: the calls that the query needs are made, and no result has come yet. Tell why these "
    "functions cover what the user wants, and that the summarizer is to look over the calls; tell no result"
)
GIVE_UP = (
    "a thought: the query cannot be solved after these attempts. Tell what was tried, what failed, and that "
    "it is given up; do not answer the query"
)
NONE_FITS = (
    "a thought: nothing can be called for this query. Tell what would be needed and why no function on offer "
    "serves; do not answer the query"
)
NO_CALL = (
    "a thought: nothing is called before the reply behind it. Tell what this reply does instead, such as "
    "asking for a detail that is missing or answering from earlier turns, and why; do not give the reply"
)
# Fig. 7, rules 1 to 6:
PLAN = (
    "a thought, as concise as possible: read and understand the problem and the code behind it, and give the "
    "solution step by step. The first step extracts the variables and their values from the problem. First, "
    "Next and Finally lead from step to step. Give the formulas and parameters for the code, but do not "
    "calculate the results. Conclude by pointing out which parameters lead to the final result that is "
    "needed. Formulas stand in parentheses, and mathematical symbols nowhere else"
)
# Fig. 6, the summarizer's rules 1 to 3, 4 and 5:
CONFIRM = (
    "a summary, where no result was observed: examine the functions, the parameters and the format of the "
    "executor's calls. If there are errors, correct them; if all is entirely correct, copy the calls. It is "
    'no text but a JSON list of calls, [{"name": "...", "arguments": {...}}]'
)
TELL = "a summary: a concise summary of the observations, in natural language and from them alone"
SOLVE = "a summary: a short answer to the problem, from the observations alone, its result in \\boxed{}"
REPLY = (
    "a summary: from the information received so far and the thought before it, a short reply to the user's "
    "query"
)

# An answer to another question, for a model that is asked again.
EXAMPLES = {
    THINK: (
        "Tomorrow's weather in Oslo is wanted. get_forecast knows the weather of a city on a day, so it is "
        "to be called with Oslo and tomorrow's date."
    ),
    ENOUGH: "get_forecast has told Oslo's weather, and the user asked for no more. The summarizer can go on.",
    CALLED: (
        "get_forecast was called for Oslo and tomorrow's date, which is all that was asked for. What remains "
        "is to check it, so the summarizer follows."
    ),
    GIVE_UP: "get_forecast failed for Oslo twice, also with another date. No other way is left, so it ends.",
    NONE_FITS: "A taxi is to be ordered, which takes a booking function. These here only know the weather.",
    NO_CALL: "The user has named no city, and get_forecast cannot do without one. So the reply asks for it.",
    PLAN: (
        "First, the price is 3 and the number of tickets is 12. Next, the cost is (3 * 12), and the change "
        "is (50 - cost). Finally, the change is what is asked for."
    ),
    CONFIRM: [{"name": "get_forecast", "arguments": {"city": "Oslo"}}],
    TELL: "It will rain in Oslo tomorrow, at 9 degrees.",
    SOLVE: "The change is \\boxed{14} euros.",
    REPLY: "Which city do you want the weather for?",
}


def complete(record: dict, ask: Ask) -> dict:
    """The record with the texts that source.missing lists, which then stand in source.completed.

    Other parts that are missing, such as "tools.parameters.required", stay as they are. Where no text is
    missing, nothing is asked and the record itself returned. Raises Refused.
    """
    places = missing_texts(record)
    if not places:
        return record
    messages = request(record, places)
    example = quoted({path: EXAMPLES[task(record, i)] for path, i in places.items()})
    texts = consult(ask, messages, lambda answer: read_texts(answer, record, places), "completion", example)
    return with_texts(record, places, texts)


def with_texts(record: dict, places: dict[str, int], texts: dict[str, str]) -> dict:
    """The record with these texts (by path), which then stand in source.completed."""
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
    kinds = {path: task(record, i) for path, i in places.items()}
    form = {path: FORM_OF_CALLS if kind == CONFIRM else "..." for path, kind in kinds.items()}
    form = f"Answer with one JSON object and nothing else, of this form: {quoted(form)}"
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
    if turns[i]["role"] == "summarizer":
        before = {turn["role"] for turn in this_query(turns, i)}
        if "observation" in before:
            return SOLVE if is_math else TELL
        if "executor" in before and not is_math:
            return CONFIRM
        return REPLY
    if turns[i]["next"] == "executor":
        return PLAN if is_math else THINK
    return why_summarizer(turns, i)


def why_summarizer(turns: list[dict], i: int) -> str:
    """What a reasoner has to say that names the summarizer: all is done, it gives up, or there is no call."""
    before = this_query(turns, i)
    if before[-1]["role"] == "observation" and is_error(before[-1]["content"]):
        return GIVE_UP
    if any(turn["role"] == "executor" for turn in before):
        return ENOUGH if any(turn["role"] == "observation" for turn in before) else CALLED
    return NO_CALL if turns[i + 1]["content"] else NONE_FITS


def this_query(turns: list[dict], i: int) -> list[dict]:
    """The turns from the last query up to turn i."""
    start = max(j for j in range(i) if turns[j]["role"] == "user")
    return turns[start:i]


def read_texts(answer: str, record: dict, places: dict[str, int]) -> dict[str, str]:
    """The texts by path. Raises Fault, which names what is wrong in each text."""
    texts, faults = read_object(answer, list(places)), []
    for path, i in places.items():
        try:
            if task(record, i) == CONFIRM:
                texts[path] = check_copy(texts[path], record)
            else:
                texts[path] = check_text(texts[path], record, i)
        except Fault as fault:
            faults.append(Fault(fault.kind, f"{quoted(path)} {fault.told}"))
    if faults:
        raise Fault(faults[0].kind, "; ".join(fault.told for fault in faults))
    own = [texts[path] for path, i in places.items() if task(record, i) != CONFIRM]
    long = [text for text in own if len(text) > 40]
    if len(set(long)) < len(long):
        raise Fault("one text in two places", "the same text stands in two places, wanted one for each")
    return texts


# ---- what a text must not be ----

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
    if not re.search(r"\w", text):
        raise Fault("empty text", "is empty")
    if len(text) > LONGEST:
        raise Fault("text too long", f"has {len(text)} characters, wanted at most {LONGEST}")
    for kind, pattern in FORBIDDEN.items():
        check_without(kind, re.search(pattern, text, re.IGNORECASE | re.MULTILINE))
    if names := "|".join(re.escape(tool["name"]) for tool in record.get("tools", [])):
        called = rf"(?<!\w)(?:{names})\(|\"name\"\s*:\s*\"(?:{names})\""
        check_without("call", re.search(called, text))
    check_own_words(text, task(record, i))
    check_names(text, record, i)
    if piece := given_away(text, record, i):
        raise Fault("later result in a text", f"tells {quoted(piece)}, which is observed only later")
    return text


def check_without(kind: str, found: re.Match | None) -> None:
    """Raises Fault where something was found."""
    if found:
        raise Fault(f"{kind} in a text", f"holds {quoted(found[0][:60])} ({kind}), wanted plain words")


def check_own_words(text: str, instruction: str) -> None:
    """Raises Fault for a text that says an instruction or its example again."""
    for source in (instruction, quoted(EXAMPLES[instruction])):
        if is_parroted(text, source):
            raise Fault("words of the request in place of a text", "only repeats what was asked for or shown")


def check_names(text: str, record: dict, i: int) -> None:
    """Raises Fault where a thought does not name a function on offer that is called behind it.

    Of a name with dots, Shop.Delivery.order, the last part is enough.
    """
    turns = record["trajectory"]
    if turns[i]["role"] != "reasoner" or turns[i]["next"] != "executor":
        return
    offered = {tool["name"] for tool in record.get("tools", [])}
    for call in turns[i + 1].get("calls", []):
        name = call["name"]
        if name in offered and letters_of(name.split(".")[-1]) not in letters_of(text):
            raise Fault("thought without the function's name", f"does not name {quoted(name)}, which is next")


def letters_of(name: str) -> str:
    """Its letters and digits, small."""
    return re.sub(r"[\W_]", "", name).lower()


def check_copy(value: Any, record: dict) -> str:
    """The text of a summary that repeats or corrects the executor's calls. Raises Fault."""
    try:
        calls = parse_calls(value.strip()) if isinstance(value, str) else value
        check_calls(calls, "calls")
    except (CallError, ValueError) as error:
        raise Fault("no calls in a summary", f"is no list of calls ({error})") from None
    for call in calls:
        if fault := check_call(call, record.get("tools", [])):
            raise Fault("faulty calls in a summary", f"holds a call that cannot be made ({fault})")
    return copy_of(calls, record)


def copy_of(calls: list[dict], record: dict) -> str:
    """Calls as a summarizer repeats them: in the executor's notation, without its marks."""
    parts = call_parts(calls, data.domain_of(record))
    return "".join(part for part in parts if part not in (OPEN, CLOSE))


# ---- what is known only later ----

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
