r"""`complete --rules`: thoughts and summaries by templates, without a model.

    fill(record)    # the record with the texts that source.missing lists

The paper has a model write these texts (stages/complete.py); this is for who has none. Each kind of text has
several wordings. A hash of the record chooses one, so neither the order of the rows nor the number of workers
matters. Texts are held against the same checks as a model's; where none of the wordings passes, or only a
model could know what to say, the row is refused. English alone. thoughts.py has
the thoughts before an executor acts.
"""

import json
import random
import re

import data
from formats.calls import JSON
from sources.record import is_error
from sources.rows import Refused
from stages.asking import Fault
from stages.complete import (
    CALLED,
    CONFIRM,
    ENOUGH,
    GIVE_UP,
    NO_CALL,
    NONE_FITS,
    PLAN,
    REPLY,
    SOLVE,
    TELL,
    THINK,
    check_text,
    missing_texts,
    task,
    this_query,
    with_texts,
)
from stages.process import Results
from stages.thoughts import (
    LONGEST_VALUE,
    before_calls,
    before_code,
    called,
    in_words,
    listed,
    plans,
    purpose,
    thoughts,
    values,
)

RULES = "rules"  # in source.completed_by
LONGEST_RESULT = 300  # characters


def fill(record: dict) -> dict:
    """The record with all its texts; the record itself where none is missing. Raises Refused."""
    places = missing_texts(record)
    if not places:
        return record
    check_english(record)
    seed = json.dumps([record.get("tools"), record["trajectory"]], sort_keys=True)
    texts = {path: choose(record, i, random.Random(f"{path} {seed}")) for path, i in places.items()}
    return with_texts(record, places, texts)


def fill_row(record: dict) -> Results:
    """The record without missing texts, and in its source who wrote them. Raises Refused."""
    whole = fill(record)
    if whole is not record:
        whole["source"]["completed_by"] = RULES
    return [("out", whole)]


def check_english(record: dict) -> None:
    """Raises Refused where most letters of the queries are of another script."""
    queries = "".join(turn["content"] for turn in record["trajectory"] if turn["role"] == "user")
    letters = [letter for letter in queries if letter.isalpha()]
    if sum(letter.isascii() for letter in letters) < 0.7 * len(letters):
        raise Refused("rules: a query that is not English")


def choose(record: dict, i: int, chance: random.Random) -> str:
    """A text for turn i: one of the wordings, the first that passes the checks. Raises Refused."""
    options, fault = wordings(record, i), None
    for text in chance.sample(options, len(options)):
        try:
            return check_text(text, record, i)
        except Fault as error:
            fault = error
    if fault:
        raise Refused(f"rules: {fault.kind}", fault.told)
    raise Refused("rules: a text that only a model can write", f"trajectory.{i}.content")


def wordings(record: dict, i: int) -> list[str]:
    """The texts that turn i may have."""
    turns, kind = record["trajectory"], task(record, i)
    calls = [call for turn in this_query(turns, i) for call in turn.get("calls", [])]
    names = listed(called(calls))
    if kind == THINK:
        return [before_calls(record, i) + text for text in thoughts(record, turns[i + 1].get("calls", []))]
    if kind == PLAN:
        return [before_code(record, i) + text for text in plans(record, turns[i + 1]["content"])]
    if kind == GIVE_UP:
        return given_up(names)
    if kind in (ENOUGH, CALLED):
        return enough(record, i, names)
    if kind == NO_CALL:
        return no_call(record, i)
    if kind == NONE_FITS:
        return none_fits(record)
    if kind == CONFIRM:
        return confirmations(record, calls)
    if kind == TELL:
        return reports(last_observed(turns, i), names)
    if kind == SOLVE:
        return solutions(last_observed(turns, i))
    assert kind == REPLY
    return apologies(record, i)


# ---- thoughts before a summary ----


def last_observed(turns: list[dict], i: int) -> str:
    """The last observation before turn i."""
    return next(turn["content"] for turn in reversed(turns[:i]) if turn["role"] == "observation")


def enough(record: dict, i: int, names: str) -> list[str]:
    """All that can be done is done."""
    turns = record["trajectory"]
    if data.domain_of(record) == "math":
        return [
            "The code has run and printed what is needed, so only the answer is left to be stated.",
            "The output settles the problem. No further code is needed.",
            "With this output the problem is solved; the summarizer can state the answer.",
            "Nothing is left to compute. The result that was printed is what the problem asks for.",
        ]
    if turns[i - 1]["role"] != "observation":
        return [
            f"The whole request went to {names}, and no result comes back here. The user can be told so.",
            f"The request is passed on to {names}. Nothing else has to be called.",
            f"With {names} all parts of the request are taken care of. The summarizer can close.",
            f"Everything that was asked for went into {names}, so this step is complete.",
        ]
    if is_empty(turns[i - 1]["content"]):
        return [
            f"{names} found nothing. The user should hear that.",
            f"There is nothing in the answer of {names}, so this is what has to be reported.",
        ]
    if "?" in turns[i + 1]["content"]:
        return [
            f"The answer of {names} is there. It goes to the user, who has to say how to go on.",
            f"There is an answer from {names}. The user should hear it and decide on the next step.",
            f"What {names} returned can be passed on, together with a question to the user.",
        ]
    return [
        f"{names} gave what the user asked for, so no call is left.",
        f"The answer of {names} settles the request. It only has to be told to the user.",
        f"All calls for this request are made. The summarizer can report what {names} returned.",
        f"With the answer of {names} the request is dealt with, and no other function is needed.",
    ]


def is_empty(observation: str) -> bool:
    """Whether a result is an empty list, object or text, or null."""
    try:
        return JSON.decode(observation) in ([], {}, "", None)
    except (ValueError, RecursionError):
        return not observation.strip()


def given_up(names: str) -> list[str]:
    """The last attempt has failed."""
    return [
        f"{names or 'The code'} reported an error, and there is no other way. The user has to be told.",
        f"The attempt with {names or 'the code'} failed, so I give this up. The summarizer can say so.",
        f"An error is all that {names or 'the code'} brought. Further calls would not help the user.",
    ]


ASKS = re.compile(
    r"\?|\bplease (?:provide|tell|confirm|specify|enter|give|let)\b|^confirm\b|\blet me know\b", re.IGNORECASE
)
AGREE = re.compile(
    r"\b(?:confirm|correct|alright|shall i|should i|do you want|would you like|is that (?:ok|right))\b",
    re.IGNORECASE,
)
MORE = re.compile(
    r"\b(?:anything|something) (?:else|more|further)\b|\bany other\b|\bwhat else\b", re.IGNORECASE
)
WHAT = re.compile(r"\b(?:help|assist|do for) you\b|\bi (?:help|assist)\b", re.IGNORECASE)
CLOSE = re.compile(
    r"\b(?:welcome|goodbye|bye|have a (?:\w+ )?(?:day|time|one|trip)|enjoy|glad|no problem|my pleasure)\b",
    re.IGNORECASE,
)


def no_call(record: dict, i: int) -> list[str]:
    """Why a reply that is there follows without a call: read off the reply."""
    reply = record["trajectory"][i + 1]["content"]
    if not ASKS.search(reply):
        return without_question(record, i, reply)
    if MORE.search(reply):
        return [
            "What the user wanted is done for now. I should find out whether more is wanted.",
            "There is no open request, so the user is asked for further wishes.",
            "No call is due. The user may want more, which is worth a question.",
        ]
    if AGREE.search(reply):
        return [
            "Before anything is called the user should agree, so this needs a question first.",
            "It is up to the user to decide here. I should ask and wait for the answer.",
            "No call yet: first it has to be certain that this is what the user wants.",
        ]
    if WHAT.search(reply):
        return [
            "The user has not yet said what is to be done. I should ask for it.",
            "There is no request that a function could serve so far. A question will bring it out.",
            "So far nothing is to be called; what the user needs is still open.",
        ]
    return [
        "Something that a call would need is not said yet. I should ask the user for it.",
        "It is too early for a call, as a detail is missing. The user can give it.",
        "To go on I need to know more from the user, so the next thing is a question.",
        "The request is not complete yet. Asking for the missing part comes first.",
    ]


def without_question(record: dict, i: int, reply: str) -> list[str]:
    """Why a reply that asks nothing follows without a call."""
    if CLOSE.search(reply):
        return [
            "The user is done. A friendly word is all that is needed.",
            "Nothing is to be looked up or done any more; the conversation comes to its end.",
            "This only takes a polite reply and no function.",
        ]
    if any(turn["role"] == "observation" for turn in record["trajectory"][:i]):
        return [
            "The earlier results already hold what the user wants to know, so no new call is needed.",
            "This can be answered from what was found before.",
            "There is no need to call anything again. The conversation has the answer.",
        ]
    return [
        "This can be answered directly, without a call.",
        "No function is needed for this. A reply is enough.",
        "What the user says does not take a call, so it goes to the summarizer.",
    ]


def none_fits(record: dict) -> list[str]:
    """Nothing can be called: another function would be needed, or the user gave too little for one."""
    names = [tool["name"] for tool in record.get("tools", [])]
    if not names:
        return [
            "No function is on offer, so nothing can be called here.",
            "There is no function to call. The user has to be told.",
        ]
    some = listed(names[:4]) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"
    verb = "is" if len(names) == 1 else "are"
    first = purpose(names[0], record)
    return [
        f"What I have {verb} {some}. With what is given, none of it does what the user wants, so I stop.",
        f"The request does not match the functions on offer ({some}). It has to be declined.",
        f"I have looked for a function that serves here, but {some} cannot do this as the request stands.",
        f"No function fits. For one, {names[0]}{first} would not bring what is asked for.",
        "None of the functions on offer can serve this request as it stands. The user should know.",
        f"A call of {listed(names[:2])} would miss what is wanted here, and guessing is no help.",
    ]


# ---- summaries ----


def confirmations(record: dict, calls: list[dict]) -> list[str]:
    """What was called, where no result is known (as in Fig. 11)."""
    names = listed(called(calls))
    reasons = listed([f"{name}{purpose(name, record)}" for name in called(calls)])
    texts = [
        f"For your request I have called {reasons}.",
        f"I have passed your request on to {names}, with what you told me.",
        f"According to your request, I have provided the calls of {names}.",
    ]
    said = [values(call) for call in calls]
    if all(said):
        each = "; ".join(f"{call['name']} with {text}" for call, text in zip(calls, said, strict=True))
        texts += [f"I have made these calls: {each}.", f"This is what I have called for you: {each}."]
    return texts


def reports(observation: str, names: str) -> list[str]:
    """What was observed."""
    if is_error(observation):
        return [
            f"I am sorry, this did not work: {names} reported an error.",
            f"I could not do this, because {names} failed.",
        ]
    if is_empty(observation):
        return [f"{names} found nothing.", f"There is no result from {names}."]
    if not (said := result_in_words(observation)):
        return []
    return [f"Here is the result: {said}.", f"From {names}: {said}.", f"This is what I found: {said}."]


def result_in_words(observation: str) -> str:
    """A result as a list of names and values; "" where it is too long for a sentence."""
    try:
        value = JSON.decode(observation)
    except (ValueError, RecursionError):
        value = observation.strip()
    text = "; ".join(leaves(value))
    return text if len(text) <= LONGEST_RESULT else ""


def leaves(value: object, name: str = "") -> list[str]:
    """The values in JSON, each behind the name of its key."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() for text in leaves(inner, in_words(key))]
    if isinstance(value, list):
        return [text for inner in value for text in leaves(inner, name)]
    said = value if isinstance(value, str) else json.dumps(value)
    return [f"{name} {said}".strip().rstrip(".")]


def solutions(observation: str) -> list[str]:
    """The answer to a problem: what the code has printed last."""
    last = observation.strip().split("\n")[-1]
    if is_error(observation) or not 0 < len(last) < LONGEST_VALUE:
        return []
    return [
        f"The answer is \\boxed{{{last}}}.",
        f"The result is \\boxed{{{last}}}.",
        f"It is \\boxed{{{last}}}.",
    ]


def apologies(record: dict, i: int) -> list[str]:
    """That nothing could be called; not where the data's own thought may lead to another reply."""
    thought = f"trajectory.{i - 1}.content"
    written = [*record["source"].get("missing", []), *record["source"].get("completed", [])]
    if data.domain_of(record) == "math" or thought not in written:
        return []
    return [
        "I am sorry, but none of the functions that I have can do this as you ask it.",
        "I cannot help with this: no function that I can call serves your request as it stands.",
        "Sorry, this is not something that the functions on offer can do with what you have told me.",
        "There is no fitting function for this request, so I have not called any.",
        "I have no function that does this with what you have given me.",
    ]
