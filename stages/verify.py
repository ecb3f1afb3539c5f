"""The stage verify (paper, 3.3, Reliability Verification): the three kinds of fault in what executors do.

    fault                                   found by                           then
    function that is not on offer           a rule                             calls of a second model
    arguments that do not fit, failures     the schema; running the calls,     review
                                            where there is an environment
    other function or value than meant      the calls of a second model        review
    code that gives another output          running it in the sandbox          refused

A fault is {"path", "kind" to count by, "detail"} and, for review, "other": the second model's calls, or None.
Decisions, where the paper and the data formats are silent:

  - Observations that report errors are no faults, because they teach recovery. Nor is a wrong call that was
    answered by an error and mended in a later step; source.recovered lists these.
  - Calls are corrected only where no observation follows: it would be the result of calls that no longer
    stand there. Such a row is refused. (In a review, a person who sees the observation decides.)
  - Completed texts round a corrected call were written with the wrong one in sight and are written again, by
    the second model and without a score (source.rewritten). A text of the data itself that names the wrong
    function refuses the row.
  - The second model gets the functions and the history, without the calls in question and without completed
    thoughts, whose author had seen those calls. Arguments that only repeat a default do not count.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import data
from formats.calls import BEFORE, JSON, check_call, check_calls, parse_calls, same_calls
from sources.record import end_of_query, is_error, is_observed
from sources.rows import Refused
from stages import review
from stages.asking import DATA, Fault, bare_json, consult, quoted, shown, unfenced
from stages.code import code_faults
from stages.complete import complete, completed
from stages.edits import marked, replaced, source_of
from stages.process import Results
from tools.endpoint import Ask, Message
from tools.mock import Tools
from tools.sandbox import Sandbox


class Verdict(NamedTuple):
    verdict: str  # "pass", "review" or "refused"
    record: dict
    faults: list[dict]  # of a refused record the first one says why


def verify(
    record: dict,
    ask: Ask | None = None,
    environment: Tools | None = None,
    python: Callable[[], Sandbox] | None = None,
) -> Verdict:
    """Hold what the executor does against the rules and against what else is given. Raises what `ask` raises.

    environment: runs the calls of functions that it has. python: makes a sandbox, one for each record of the
    domain math, such as partial(Sandbox, wall=10).
    """
    if data.domain_of(record) == "math":
        faults = code_faults(record, python)
        return Verdict("refused" if faults else "pass", record, faults)
    record, found = forgive(record, step_faults(record, environment))
    corrected = [i for i, fault in found.items() if fault["kind"] in TO_CORRECT]
    for i in corrected:
        fault = found.pop(i)
        try:
            record = correct(record, i, fault, ask, environment)
        except Refused as error:
            detail = f"{fault['detail']}; {error.detail}" if error.detail else fault["detail"]
            return Verdict("refused", record, [fault | {"kind": error.reason, "detail": detail}])
    if ask:
        found = second_opinions(record, found, corrected, ask, environment)
    return Verdict("review" if found else "pass", record, list(found.values()))


def requests(record: dict, environment: Tools | None = None) -> Iterator[list[Message]]:
    """What the stage asks first about each step, for a preview. Raises Refused where `verify` refuses."""
    if data.domain_of(record) == "math":
        return
    record, found = forgive(record, step_faults(record, environment))
    corrected = [i for i, fault in found.items() if fault["kind"] in TO_CORRECT]
    for i in corrected:
        check_unobserved(record, i, found[i]["kind"])
        yield correction_request(record, i, found[i])
    for i in steps_to_compare(record, corrected):
        yield other_request(record, i)


# ---- rules ----

UNREADABLE, UNKNOWN = "unreadable call", "function not on offer"
SIMILAR = "function not on offer, but a similar one"
TO_CORRECT = (UNREADABLE, UNKNOWN, SIMILAR)
MISFIT = re.compile(r": (missing|unknown|got)\b")  # in what check_call says
MISFITS = {"missing": "missing argument", "unknown": "unknown argument", "got": "wrong type or value"}


def step_faults(record: dict, environment: Tools | None = None) -> dict[int, dict]:
    """The fault of each executor turn that has one, by number of the turn.

    Of several it is the first function that is not on offer, which no person is to wave through, or else the
    first fault.
    """
    found = {}
    for i, turn in enumerate(record["trajectory"]):
        if "calls" in turn:
            faults = [fault for call in turn["calls"] if (fault := call_fault(call, record, environment))]
            graver = [fault for fault in faults if fault["kind"] in TO_CORRECT]
            if faults:
                found[i] = {"path": f"trajectory.{i}.calls"} | [*graver, *faults][0]
        elif turn["role"] == "executor":
            path = f"trajectory.{i}.content"
            found[i] = {"path": path, "kind": UNREADABLE, "detail": turn["content"][:200]}
    return found


def call_fault(call: dict, record: dict, environment: Tools | None) -> dict | None:
    """The kind and detail of what is wrong with a call; None if nothing is."""
    name, tools = call["name"], record.get("tools", [])
    if detail := check_call(call, tools):
        if any(tool["name"] == name for tool in tools):
            return {"kind": MISFITS[MISFIT.search(detail)[1]], "detail": detail}
        return {"kind": SIMILAR if similar(name, tools) else UNKNOWN, "detail": detail}
    if environment and any(tool["name"] == name for tool in environment.schemas):
        result = environment.call(name, call["arguments"])
        if is_error(result):
            return {"kind": "call that fails when run", "detail": f"{name}: {result[:200]}"}
    return None


def similar(name: str, tools: list[dict]) -> bool:
    """Is one on offer meant? Another spelling, a part of the name, call syntax glued on."""
    meant = letters_of(name.split("(")[0])
    for tool in tools:
        known = letters_of(tool["name"])
        if meant and known and (meant.endswith(known) or known.endswith(meant)):
            return True
    return False


def letters_of(name: str) -> str:
    """Its letters and digits, small."""
    return re.sub(r"[\W_]", "", name).lower()


# ---- recovery from errors ----


def forgive(record: dict, found: dict[int, dict]) -> tuple[dict, dict[int, dict]]:
    """Mark the faulty steps that were answered by an error and mended later, and take them off `found`."""
    mended = [i for i in found if failed(record["trajectory"], i) and mended_later(record, i, found)]
    record = marked(record, "recovered", [found[i]["path"] for i in mended])
    return record, {i: fault for i, fault in found.items() if i not in mended}


def failed(turns: list[dict], i: int) -> bool:
    """Whether the turn behind turn i is an observation that reports an error."""
    behind = turns[i + 1] if i + 1 < len(turns) else {}
    return behind.get("role") == "observation" and is_error(behind["content"])


def mended_later(record: dict, i: int, found: dict[int, dict]) -> bool:
    """Whether a step without a fault follows step i for the same query."""
    turns = record["trajectory"]
    later = [j for j in range(i + 1, end_of_query(turns, i)) if turns[j]["role"] == "executor"]
    return any(j not in found for j in later)


# ---- calls of a second model ----

FORM = 'a JSON list of calls, [{"name": "...", "arguments": {...}}], and nothing else; [] if none serves'
EXECUTOR = f"""\
You call functions on behalf of an agent. You get the functions on offer, each with its JSON schema, and the \
history of a conversation with a user.

{DATA}

Write the calls of the next step: the right functions, every required argument, values as the user and the \
observations give them, optional arguments only where the query asks for them; several calls only if none \
needs the result of another. Answer with {FORM}."""


def other_request(record: dict, i: int, remark: str = "") -> list[Message]:
    """The messages that ask for the calls of step i, and do not show those that stand there."""
    turns, completed = dict(enumerate(record["trajectory"][:i])), source_of(record).get("completed", [])
    for j, turn in enumerate(record["trajectory"][:i]):
        if turn["role"] == "reasoner" and (not turn["content"] or f"trajectory.{j}.content" in completed):
            del turns[j]
    asked = f"Functions and history:\n{shown(record, turns)}\n\n{remark}Answer with {FORM}."
    return [{"role": "system", "content": EXECUTOR}, {"role": "user", "content": asked}]


def other_calls(messages: list[Message], record: dict, ask: Ask, environment: Tools | None) -> list[dict]:
    """The calls that a second model answers with. Raises Refused."""
    fault_of = partial(call_fault, record=record, environment=environment)
    return consult(ask, messages, partial(read_calls, fault_of=fault_of), "second model")


def read_calls(answer: str, fault_of: Callable[[dict], dict | None]) -> list[dict]:
    """Calls without a fault, from a JSON list or the notation of formats/calls.py. Raises Fault."""
    text = unfenced(answer).strip()
    try:
        calls = parse_calls(text) if BEFORE.match(text) else JSON.decode(bare_json(answer))
        if calls != []:
            check_calls(calls, "calls")
    except (ValueError, RecursionError) as error:
        raise Fault("unreadable calls", f"{error}; wanted {FORM}") from None
    for call in calls:
        if fault := fault_of(call):
            raise Fault("faulty calls", fault["detail"])
    return calls


def check_unobserved(record: dict, i: int, kind: str) -> None:
    """Raises Refused where a result follows step i: it would belong to calls that no longer stand there."""
    if is_observed(record["trajectory"], i):
        raise Refused(f"{kind}, and its result follows")


def correction_request(record: dict, i: int, fault: dict) -> list[Message]:
    """`other_request`, and what is wrong. Raises Refused where a text of the data names the function."""
    turns = record["trajectory"]
    offered = [tool["name"] for tool in record.get("tools", [])]
    names = [call["name"] for call in turns[i].get("calls", []) if call["name"] not in offered]
    for turn in replaced(record, i, [])["trajectory"][max(i - 1, 0) : end_of_query(turns, i)]:
        for name in names:
            if name in turn.get("content", ""):
                raise Refused(f"{fault['kind']}, and a text names it", name)
    wrong = f"An earlier attempt was wrong: {quoted(turns[i])}, because {quoted(fault['detail'])}. "
    return other_request(record, i, wrong)


def correct(record: dict, i: int, fault: dict, ask: Ask | None, environment: Tools | None) -> dict:
    """The record with a second model's calls in step i. Raises Refused."""
    check_unobserved(record, i, fault["kind"])
    if not ask:
        raise Refused(fault["kind"])
    calls = other_calls(correction_request(record, i, fault), record, ask, environment)
    if not calls:
        raise Refused(f"{fault['kind']}, and none serves")
    return marked(complete(replaced(record, i, calls), ask), "corrected", [f"trajectory.{i}.calls"])


def steps_to_compare(record: dict, corrected: list[int]) -> list[int]:
    """The steps with calls, but for those kept as faulty and those that have the second model's already."""
    recovered = source_of(record).get("recovered", [])
    steps = [i for i, turn in enumerate(record["trajectory"]) if "calls" in turn]
    return [i for i in steps if i not in corrected and f"trajectory.{i}.calls" not in recovered]


def second_opinions(
    record: dict, found: dict[int, dict], corrected: list[int], ask: Ask, environment: Tools | None
) -> dict[int, dict]:
    """`found` with other calls for its steps, and the steps in which a second model calls otherwise."""
    faults = {}
    for i in steps_to_compare(record, corrected):
        fault, other = found.get(i), None
        try:
            other = other_calls(other_request(record, i), record, ask, environment)
            if not fault:
                fault = disagreement(record, i, other)
        except Refused as error:
            if not fault:
                path = f"trajectory.{i}.calls"
                fault = {"path": path, "kind": error.reason, "detail": error.detail}
        if fault:
            faults[i] = fault | {"other": other}
    return faults


def disagreement(record: dict, i: int, other: list[dict]) -> dict | None:
    """The fault of a step in which the second model calls otherwise."""
    kind = difference(record["trajectory"][i]["calls"], other, record.get("tools", []))
    if not kind:
        return None
    return {"path": f"trajectory.{i}.calls", "kind": kind, "detail": quoted(other)[:200]}


def difference(row: list[dict], other: list[dict], tools: list[dict]) -> str | None:
    """In what the second model's calls differ from the row's, for counting; None if they are the same."""
    if same_calls(without_defaults(row, tools), without_defaults(other, tools)):
        return None
    names, others = sorted(call["name"] for call in row), sorted(call["name"] for call in other)
    if names == others:
        return "second model: other arguments"
    if not other:
        return "second model: no call"
    if set(names) == set(others):
        return "second model: other number of calls"
    return "second model: other functions"


def without_defaults(calls: list[dict], tools: list[dict]) -> list[dict]:
    """The calls without optional arguments that have the value they would have anyway."""
    schemas, out = {tool["name"]: tool.get("parameters", {}) for tool in tools}, []
    for call in calls:
        schema = schemas[call["name"]]
        defaults = {}
        for name, parameter in schema.get("properties", {}).items():
            if "default" in parameter and name not in schema.get("required", []):
                defaults[name] = json.dumps(parameter["default"])  # True is not 1
        given = call["arguments"]
        kept = {name: value for name, value in given.items() if json.dumps(value) != defaults.get(name)}
        out.append({"name": call["name"], "arguments": kept})
    return out


def verify_row(
    record: dict,
    ask: Ask | None,
    model: str,
    decisions: dict[str, dict],
    environment: Tools | None,
    python: Callable[[], Sandbox] | None,
) -> Results:
    """The record with source.verified, or the row that waits for a person. Raises Refused.

    decisions: a person's, by id of the row in the review file. The rest is as in `verify`.
    """
    verdict, record, faults = verify(record, ask, environment, python)
    if verdict == "refused":
        raise Refused(faults[0]["kind"], faults[0]["detail"])
    outcome = None
    if verdict == "review":
        row = review.review_row(record, faults)
        record, outcome = review.decided(row, decisions)
        if outcome == "undecided":
            return [("review", row)]
        if outcome == "dropped in review":
            raise Refused(outcome)
        record = completed(record, ask)  # again, for the calls that a person has put there
    verified = {"model": model if ask else None, "run": bool(environment or python), "review": outcome}
    return [("out", record | {"source": record["source"] | {"verified": verified}})]
