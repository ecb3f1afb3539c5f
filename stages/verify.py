"""The stage verify (paper, 3.3, Reliability Verification): the three kinds of fault in what executors do.

    fault                                   found by                           then
    function that is not on offer           a rule                             calls of a second model
    arguments that do not fit, failures     the schema; running the calls,     review
                                            where there is an environment
    other function or value than meant      the calls of a second model, the   review
                                            results of both; of maths, the
                                            reference's or its final answer
    code that fails, is empty or gives      running it in the sandbox          code of a second model
    another output

A fault is {"path", "kind" to count by, "detail"} and, for review, "other": the second model's calls, or None.
Decisions, where the paper and the data formats are silent:

  - Observations that report errors are no faults, because they teach recovery. Nor is a wrong call that was
    answered by an error and mended in a later step; source.recovered lists these.
  - Calls are corrected only where no observation follows: it would be the result of calls that no longer
    stand there. Such a row is refused. (In a review, a person who sees the observation decides.)
  - Completed texts round a corrected call were written with the wrong one in sight and are written again, by
    the second model and without a score (source.rewritten). A text of the data itself that names the wrong
    function refuses the row.
  - Other calls with the same results are no fault (source.agreed lists them). A result counts if it has a
    number that is no status: `success` is what other calls give, too.
  - Code of a second model has to give the output that stands there, as later turns build on it.
  - A completed summary that corrects the calls (Fig. 6) is a disagreement. Where a person accepts the row's
    calls, it becomes a copy of them.
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
from stages import review, rules
from stages.answers import answer_fault, answer_request, reference_of
from stages.asking import DATA, Fault, bare_json, consult, quoted, read_object, shown, unfenced
from stages.code import code_faults
from stages.complete import complete, completed, copy_of, letters_of, this_query
from stages.edits import marked, replaced, source_of
from stages.process import Results
from stages.review import turn_of
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
    references: dict[str, str] | None = None,
) -> Verdict:
    """Hold what the executor does against the rules and against what else is given. Raises what `ask` raises.

    environment: runs the calls of functions that it has. python: makes a sandbox, one for each record of the
    domain math, such as partial(Sandbox, wall=10). references: answers to problems, see `read_references`.
    """
    if data.domain_of(record) == "math":
        return verify_maths(record, ask, python, references or {})
    record, found = forgive(record, step_faults(record, environment))
    corrected = [i for i, fault in found.items() if fault["kind"] in TO_CORRECT]
    for i in corrected:
        fault = found.pop(i)
        try:
            record = correct(record, i, fault, ask, environment)
        except Refused as error:
            detail = f"{fault['detail']}; {error.detail}" if error.detail else fault["detail"]
            return Verdict("refused", record, [fault | {"kind": error.reason, "detail": detail}])
    found = summaries_that_correct(record) | found
    if ask:
        record, found = second_opinions(record, found, corrected, ask, environment)
    return Verdict("review" if found else "pass", record, list(found.values()))


def requests(
    record: dict, environment: Tools | None = None, references: dict[str, str] | None = None
) -> Iterator[list[Message]]:
    """What the stage asks first about each step, for a preview. Raises Refused where `verify` refuses."""
    if data.domain_of(record) == "math":
        if not reference_of(record, references or {}):
            yield answer_request(record)
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
EXAMPLE = '[{"name": "get_forecast", "arguments": {"city": "Oslo"}}]'
EXECUTOR = f"""\
You call functions on behalf of an agent. You get the functions on offer, each with its JSON schema, and the \
history of a conversation with a user.

{DATA}

Write the calls of the next step: the right functions, every required argument, values as the user and the \
observations give them, optional arguments only where the query asks for them; several calls only if none \
needs the result of another. Answer with {FORM}."""


def other_request(record: dict, i: int, remark: str = "") -> list[Message]:
    """The messages that ask for the calls of step i, and do not show those that stand there."""
    asked = f"Functions and history:\n{shown(record, history(record, i))}\n\n{remark}Answer with {FORM}."
    return [{"role": "system", "content": EXECUTOR}, {"role": "user", "content": asked}]


def history(record: dict, i: int) -> dict[int, dict]:
    """The turns before turn i, without thoughts that a model has written."""
    turns, completed = dict(enumerate(record["trajectory"][:i])), source_of(record).get("completed", [])
    for j, turn in enumerate(record["trajectory"][:i]):
        if turn["role"] == "reasoner" and (not turn["content"] or f"trajectory.{j}.content" in completed):
            del turns[j]
    return turns


def other_calls(messages: list[Message], record: dict, ask: Ask, environment: Tools | None) -> list[dict]:
    """The calls that a second model answers with. Raises Refused."""
    fault_of = partial(call_fault, record=record, environment=environment)
    return consult(ask, messages, partial(read_calls, fault_of=fault_of), "second model", EXAMPLE)


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
) -> tuple[dict, dict[int, dict]]:
    """`found` with other calls for its steps, and the steps in which a second model calls otherwise.

    Also the record, which lists the steps in which other calls have the same results.
    """
    faults, agreed = {}, []
    for i in steps_to_compare(record, corrected):
        fault, other = found.get(i), None
        try:
            other = other_calls(other_request(record, i), record, ask, environment)
            if not fault and (fault := disagreement(record, i, other)):
                if environment and same_results(record["trajectory"][i]["calls"], other, environment):
                    agreed.append(fault["path"])
                    fault = None
        except Refused as error:
            if not fault:
                path = f"trajectory.{i}.calls"
                fault = {"path": path, "kind": error.reason, "detail": error.detail}
        if fault:
            faults[i] = fault | {"other": fault.get("other") or other}
    return marked(record, "agreed", agreed), faults


def disagreement(record: dict, i: int, other: list[dict]) -> dict | None:
    """The fault of a step in which the second model calls otherwise."""
    kind = difference(record["trajectory"][i]["calls"], other, record.get("tools", []))
    if not kind:
        return None
    return {"path": f"trajectory.{i}.calls", "kind": kind, "detail": quoted(other)[:200]}


def same_results(row: list[dict], other: list[dict], environment: Tools) -> bool:
    """Whether both give the same when they are run, and it is more than a status."""
    known = {tool["name"] for tool in environment.schemas}
    if any(call["name"] not in known for call in [*row, *other]):
        return False
    results, others = (
        sorted(environment.call(call["name"], call["arguments"]) for call in calls) for calls in (row, other)
    )
    return results == others and all(is_telling(as_value(result)) for result in results)


STATUS = re.compile(r"status|code|success|error|message", re.IGNORECASE)


def is_telling(value: object, key: str = "") -> bool:
    """Whether a result has a number in it that is no status: it belongs to these calls and not to any."""
    if isinstance(value, dict):
        return any(is_telling(inner, name) for name, inner in value.items())
    if isinstance(value, list):
        return any(is_telling(inner, key) for inner in value)
    return not STATUS.search(key) and bool(re.search(r"\d", str(value)))


def as_value(result: str) -> object:
    """The JSON value that a result is, or its text."""
    try:
        return JSON.decode(result)
    except (ValueError, RecursionError):
        return result


def summaries_that_correct(record: dict) -> dict[int, dict]:
    """A fault for the last calls before a completed summary that holds others (Fig. 6, rules 1 to 3)."""
    found = {}
    for j, calls, said in copied_calls(record):
        steps = [i for i in range(j) if "calls" in record["trajectory"][i]]
        if not same_calls(calls, said):
            other = said if len(calls) == len(record["trajectory"][steps[-1]]["calls"]) else None
            path, kind = f"trajectory.{steps[-1]}.calls", "summary corrects the calls"
            fault = {"path": path, "kind": kind, "detail": quoted(said)[:200], "other": other}
            found[steps[-1]] = fault
    return found


def copied_calls(record: dict) -> Iterator[tuple[int, list[dict], list[dict]]]:
    """The completed summaries that hold calls: number of the turn, the executor's calls, the summary's."""
    turns = record["trajectory"]
    for path in source_of(record).get("completed", []):
        j = turn_of(path)
        if turns[j]["role"] == "summarizer" and BEFORE.match(turns[j]["content"]):
            calls = [call for turn in this_query(turns, j) for call in turn.get("calls", [])]
            yield j, calls, parse_calls(turns[j]["content"])


def with_true_copies(record: dict) -> dict:
    """The record with the executor's calls in each summary that is to copy them."""
    turns = list(record["trajectory"])
    for j, calls, _ in copied_calls(record):
        turns[j] = turns[j] | {"content": copy_of(calls, record)}
    return record | {"trajectory": turns}


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


# ---- maths ----

CODE_FORM = 'one JSON object, {"code": "..."}, and nothing else'
CODE_EXAMPLE = quoted({"code": "tickets = 12\nprint(3 * tickets)"})
CODER = f"""\
You write Python on behalf of an agent that solves a problem. You get the history: the problem, and the code \
and outputs so far. The state of the interpreter is kept.

{DATA}

Write the code of the next step. It prints its result. Answer with {CODE_FORM}."""


def verify_maths(
    record: dict, ask: Ask | None, python: Callable[[], Sandbox] | None, references: dict[str, str]
) -> Verdict:
    """Code is run, faulty code asked for anew, then the final answer compared."""
    faults = code_faults(record, python)
    try:
        for _ in record["trajectory"]:  # each time a later step
            if faults and ask and python:
                record = with_other_code(record, faults[0], ask, python)
                faults = code_faults(record, python)
    except Refused as error:
        fault = faults[0]
        faults = [fault | {"detail": f"{fault['detail']}; asked for anew: {error.reason}, {error.detail}"}]
    if faults:
        return Verdict("refused", record, faults)
    try:
        fault = answer_fault(record, references, ask)
    except Refused as error:
        path = f"trajectory.{len(record['trajectory']) - 1}.content"
        fault = {"path": path, "kind": error.reason, "detail": error.detail, "other": None}
    return Verdict("review", record, [fault]) if fault else Verdict("pass", record, [])


def with_other_code(record: dict, fault: dict, ask: Ask, python: Callable[[], Sandbox]) -> dict:
    """The record with a second model's code in the faulty step, which has not that fault. Raises Refused."""
    i = turn_of(fault["path"])
    wrong = f"An earlier attempt was wrong: {quoted(record['trajectory'][i])}, because {quoted(fault)}. "
    asked = f"The history:\n{shown(record, history(record, i))}\n\n{wrong}Answer with {CODE_FORM}."
    messages = [{"role": "system", "content": CODER}, {"role": "user", "content": asked}]

    def read(answer: str) -> dict:
        code = read_object(answer, ["code"])["code"]
        if not isinstance(code, str):
            raise Fault("no code", f'"code" is {quoted(code)[:60]}, wanted a string')
        changed = replaced(record, i, code)
        for left in code_faults(changed, python):
            if turn_of(left["path"]) <= i:
                raise Fault(left["kind"], f"{left['kind']}: {left['detail']}")
        return changed

    changed = consult(ask, messages, read, "second model", CODE_EXAMPLE)
    return marked(complete(changed, ask), "corrected", [f"trajectory.{i}.content"])


def again_completed(record: dict, ask: Ask | None) -> dict:
    """The record with the texts that were emptied, written as the others were. Raises Refused."""
    if not ask and source_of(record).get("completed_by") == rules.RULES:
        return rules.fill(record)
    return completed(record, ask)


def verify_row(
    record: dict,
    ask: Ask | None,
    model: str,
    decisions: dict[str, dict],
    environment: Tools | None,
    python: Callable[[], Sandbox] | None,
    references: dict[str, str] | None = None,
) -> Results:
    """The record with source.verified, or the row that waits for a person. Raises Refused.

    decisions: a person's, by id of the row in the review file. The rest is as in `verify`.
    """
    verdict, record, faults = verify(record, ask, environment, python, references)
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
        record = again_completed(with_true_copies(record), ask)  # for what a person has changed
    verified = {"model": model if ask else None, "run": bool(environment or python), "review": outcome}
    return [("out", record | {"source": record["source"] | {"verified": verified}})]
