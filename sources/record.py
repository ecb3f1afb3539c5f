"""How records are built from the parts of a row, the same for all data sets.

A record's `source` names which of its texts the row did not have ("missing", as paths into the record; the
stage complete writes them), what was left behind ("dropped", counted), and which observations report a fault
("errors").
"""

import re
from collections import Counter
from typing import Any

from formats.calls import JSON
from sources.rows import Refused

# ---- observations that report a fault ----

# Within a line: `\s` over blank lines would be tried anew from each of them.
RAISED = re.compile(
    r"^[^\S\n]*(?:\w+\.)*(\w*(?:Error|Exception|Failed|Interrupt|Exit))(?::|[^\S\n]*$)", re.MULTILINE
)
REPORTED = re.compile(r'\s*(?:error\b|\{\s*"error":\s*"[^"])', re.IGNORECASE)  # the latter: JSON cut short


def is_error(observation: str) -> bool:
    """Does an observation report a failure: by a key `error`, its first word or an exception?"""
    try:
        return has_error(JSON.decode(observation))
    except (ValueError, RecursionError):
        return bool(REPORTED.match(observation) or raised(observation))


def has_error(value: object) -> bool:
    """Look into the result of a call, or each of a list of results."""
    if isinstance(value, list):
        return any(map(has_error, value))
    if isinstance(value, dict):
        inner = [value.get("results"), value.get("response")]
        return bool(value.get("error")) or any(map(has_error, inner))
    return isinstance(value, str) and bool(REPORTED.match(value))


def raised(text: str) -> str | None:
    """The exception that a traceback, or the last line of a text, ends in."""
    where = text if "Traceback" in text else text.strip().rpartition("\n")[2]
    found = RAISED.findall(where)
    return found[-1] if found else None


# ---- tools, texts, records ----


def unwrapped(function: Any) -> Any:
    """A tool or a call without OpenAI's wrapper {"type": "function", "function": ...}.

    In it a tool without parameters may leave them out.
    """
    if isinstance(function, dict) and isinstance(function.get("function"), dict) and "name" not in function:
        return {"parameters": {}} | function["function"]
    return function


def tool_of(name: Any, description: Any, parameters: dict) -> dict:
    """A function's schema; a description that is no text, or empty, is left out."""
    if isinstance(description, str) and description:
        return {"name": name, "description": description, "parameters": parameters}
    return {"name": name, "parameters": parameters}


def unlike(tools: list[dict], dropped: Counter) -> list[dict]:
    """The tools without repetitions; two that share a name only are refused."""
    seen: dict[Any, dict] = {}
    for tool in tools:
        if seen.setdefault(tool["name"], tool) != tool:
            raise Refused("two tools of one name", repr(tool["name"]))
    dropped["tools listed twice"] += len(tools) - len(seen)
    return [*seen.values()]


def outside(name: str, tools: list[dict]) -> Refused:
    """A call of no listed tool: nearly one (hyphens, case, cut names, glued-on brackets), or none at all."""

    def bare(text: str) -> str:
        return re.sub(r"[\W_]", "", text.split("(")[0]).lower()

    called = bare(name)
    for tool in tools:
        known = bare(tool["name"])
        if called and (known.endswith(called) or known in called):
            return Refused("call outside the tool list, nearly inside", name)
    return Refused("call outside the tool list", name)


LEFTOVERS = re.compile(
    r"<functioncall>|<\|endoftext\|>|\[unused1[12]\]|\bNext: (?:executor|summarizer)\b"
    r"|^(?:USER|ASSISTANT|FUNCTION RESPONSE|SYSTEM):",
    re.MULTILINE,
)
# Each of LEFTOVERS holds one of these. To look for them first makes `convert` of ToolBench a fifth faster.
HINTS = (
    "<functioncall>",
    "<|endoftext|>",
    "[unused1",
    "Next: ",
    "USER:",
    "ASSISTANT:",
    "RESPONSE:",
    "SYSTEM:",
)


def said(text: str) -> str:
    """The text without white space around it, refused where it holds a source's marks or our own."""
    if any(hint in text for hint in HINTS):
        if found := LEFTOVERS.search(text):
            raise Refused("markup left in a text", found[0])
    return text.strip()


def record_of(
    domain: str, tools: list[dict], turns: list[dict], missing: list[str], dropped: Counter
) -> dict:
    """A record whose source names what the row lacked, what was left behind, which observations are faults.

    Source.convert adds the data set. Raises Refused for a call outside the tool list that has a result; one
    that has none is left to the stage verify, as another call there makes no result untrue.
    """
    check_listed(turns, tools)
    source: dict[str, Any] = {"missing": missing}
    source["dropped"] = {what: count for what, count in dropped.items() if count}
    observations = [i for i, turn in enumerate(turns) if turn["role"] == "observation"]
    if errors := [f"trajectory.{i}" for i in observations if is_error(turns[i]["content"])]:
        source["errors"] = errors
    record = {"tools": tools} if tools else {}
    return record | {"domain": domain, "trajectory": turns, "source": source}


def check_listed(turns: list[dict], tools: list[dict]) -> None:
    """Raises Refused for a call of no listed tool that has a result."""
    names = {tool["name"] for tool in tools}
    for i, turn in enumerate(turns):
        for call in turn.get("calls", ()):
            if call["name"] not in names and is_observed(turns, i):
                raise outside(call["name"], tools)


def is_observed(turns: list[dict], i: int) -> bool:
    """Whether an observation follows turn i before the next query."""
    return any(turn["role"] == "observation" for turn in turns[i : end_of_query(turns, i)])


def reason(turns: list[dict], missing: list[str], thought: str, following: str) -> None:
    """Append a reasoner turn; one without words is missing."""
    if not thought:
        missing.append(f"trajectory.{len(turns)}.content")
    turns.append({"role": "reasoner", "content": thought, "next": following})


def summarize(turns: list[dict], missing: list[str], answer: str) -> None:
    """Append a summarizer turn; one without words is missing."""
    if not answer:
        missing.append(f"trajectory.{len(turns)}.content")
    turns.append({"role": "summarizer", "content": answer})


def end_of_query(turns: list[dict], i: int) -> int:
    """The number of the next user turn behind turn i, or of the end."""
    return next((j for j in range(i, len(turns)) if turns[j]["role"] == "user"), len(turns))


# ---- dialogues: the parts of a row -> turns, for APIGen, ToolACE and glaive ----

SMALL_TALK = re.compile(r"(?:You're|You are)(?: very| most)? welcome\b", re.IGNORECASE)
AFTER = {  # what may stand before a part; "": nothing
    "user": ("", "call", "result", "answer"),
    "call": ("user", "result"),
    "result": ("call",),
    "answer": ("user", "result"),
}
OUT_OF_ORDER = {"user": "two queries in a row", "result": "result of no call"}


def dialogue(parts: list[tuple[str, Any]], dropped: Counter) -> tuple[list[dict], list[str]]:
    """("user", text), ("call", calls), ("result", text) and ("answer", text) in turn -> turns, missing paths.

    Answers right before a call ("Let me look that up.") are the thought that leads to it, as in ToolBench; no
    source has others, so every other reasoner turn is missing. A round whose calls got no result, or whose
    result no answer, ends with a reasoner and a summarizer turn that are missing too. At the end a query
    without an answer and rounds of mere thanks ("You're welcome!" sums up nothing) are dropped. Raises
    Refused.
    """
    parts = without_idle_end(parts, dropped)
    if not parts:
        raise Refused("no answer")
    turns: list[dict] = []
    missing: list[str] = []
    last, thoughts = "", []
    for i, (kind, value) in enumerate(parts):
        if kind == "answer" and leads_to_call(parts, i):
            thoughts.append(said(value))
            continue
        if last not in AFTER[kind]:
            raise Refused(OUT_OF_ORDER.get(kind, "two answers in a row") if last else "no query", kind)
        if kind == "user":
            if last in ("call", "result"):
                end_round(turns, missing)
            turns.append({"role": "user", "content": filled(value)})
        elif kind == "call":
            reason(turns, missing, "\n\n".join(filter(None, thoughts)), "executor")
            turns.append({"role": "executor", "calls": value})
            thoughts = []
        elif kind == "result":
            turns.append({"role": "observation", "content": value})
        else:
            end_round(turns, missing, filled(value))
        last = kind
    if last in ("call", "result"):
        end_round(turns, missing)
    return turns, missing


def leads_to_call(parts: list[tuple[str, Any]], i: int) -> bool:
    """Whether the answers from part i on are followed by a call."""
    return next((kind for kind, _ in parts[i:] if kind != "answer"), "") == "call"


def without_idle_end(parts: list[tuple[str, Any]], dropped: Counter) -> list[tuple[str, Any]]:
    """The parts up to the last round that is worth learning."""
    while parts:
        kind, value = parts[-1]
        answers_query = len(parts) > 1 and parts[-2][0] == "user"
        if kind == "user":
            parts = parts[:-1]
            dropped["query without an answer"] += 1
        elif kind == "answer" and answers_query and SMALL_TALK.match(value.strip()):
            parts = parts[:-2]
            dropped["small talk at the end"] += 1
        else:
            break
    return parts


def end_round(turns: list[dict], missing: list[str], answer: str = "") -> None:
    """Append the turns that end a round: the reasoner hands over, the summarizer answers."""
    reason(turns, missing, "", "summarizer")
    summarize(turns, missing, answer)


def filled(text: str) -> str:
    """The text as `said`, refused where it is empty."""
    text = said(text)
    if not text:
        raise Refused("empty turn")
    return text
