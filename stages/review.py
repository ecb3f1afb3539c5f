"""The stage review (paper, 3.3, "manually reviewed and corrected"): a person decides what is in doubt.

    review(Path("review.jsonl"), Path("decisions.jsonl"))      # shows what is undecided, a step at a time
    record, outcome = decided(row, read_decisions(decisions))

A row is {"id", "record", "faults"}, as `review_row` makes it, the id a hash of the other two. A decision is

    {"id": ..., "decision": "accept", "drop" or "change", "calls": {"trajectory.2.calls": [...]}}

with the calls that change, or a text under "trajectory.5.content" (the answer to a problem). It is appended,
and on the disk, as soon as the last step of its row is answered, so the next review goes on where this one
ended, however it ended. Of two decisions on a row the later counts. The observation behind a changed call
stays: whoever changes the call has it on the screen.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TextIO

from cli import UserError, append, cut, exclusive, hanging, parse_object, printable, terminal_width
from data import check_record, numbered_lines
from formats.calls import JSON, check_call, check_calls
from stages.edits import marked, replaced, source_of

# ---- rows and decisions ----


def review_row(record: dict, faults: list[dict]) -> dict:
    """A row for the review; the same record and faults have the same id."""
    text = json.dumps([record, faults], ensure_ascii=False, sort_keys=True)
    return {"id": hashlib.sha256(text.encode()).hexdigest()[:32], "record": record, "faults": faults}


def read_rows(path: Path) -> Iterator[dict]:
    """The rows of a review file. Raises UserError."""
    for number, line in lines_in(path):
        where, wanted = f"{path}:{number}", "id, record and faults, as verify writes them"
        row = parse_object(line, where, wanted, JSON)
        if set(row) != {"id", "record", "faults"} or not isinstance(row["faults"], list):
            raise UserError(f"{where}: got {line[:60]!r}; wanted {wanted}")
        check_record(row["record"], where)
        yield row


def lines_in(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of a file that may be empty: nothing was in doubt, nothing is decided."""
    if not path.exists() or path.stat().st_size:
        yield from numbered_lines(path)


FORMS = {
    "accept": {"id", "decision"},
    "drop": {"id", "decision"},
    "change": {"id", "decision", "calls"},
}


def read_decisions(path: Path) -> dict[str, dict]:
    """Decisions by id of the row; none without a file. A torn last line does not count. Raises UserError."""
    decisions: dict[str, dict] = {}
    if not path.exists():
        return decisions
    for number, line in lines_in(path):
        if not line.endswith(b"\n"):
            break
        where, wanted = f"{path}:{number}", "a decision, as review writes them; remove the line"
        decision = parse_object(line, where, wanted, JSON)
        complete = set(decision) == FORMS.get(str(decision.get("decision")))
        if not (complete and isinstance(decision["id"], str) and isinstance(decision.get("calls", {}), dict)):
            raise UserError(f"{where}: got {line[:60]!r}; wanted {wanted}")
        decisions[decision["id"]] = decision
    return decisions


def decided(row: dict, decisions: dict[str, dict]) -> tuple[dict, str]:
    """A row's record, and the outcome: accepted, edited, dropped in review, or undecided.

    An edited record has its new calls, and lacks the completed texts that were written for the old ones: they
    are in source.missing again, for the stage complete. Raises UserError for calls that do not fit.
    """
    record, decision = row["record"], decisions.get(row["id"])
    if decision is None:
        return record, "undecided"
    if decision["decision"] == "change":
        return changed(record, decision), "edited"
    return record, {"accept": "accepted", "drop": "dropped in review"}[decision["decision"]]


def changed(record: dict, decision: dict) -> dict:
    """The record with the calls of a decision. Raises UserError."""
    for path, new in decision["calls"].items():
        try:
            old = at(record, path)
            check_new(new, old, record)
        except (ValueError, LookupError) as error:
            raise UserError(f"decision on row {decision['id']}: {path}: {error}; remove its line") from None
        i = turn_of(path)
        if isinstance(new, list):
            record = replaced(record, i, new)
        else:
            turns = record["trajectory"]
            record = record | {"trajectory": [*turns[:i], turns[i] | {"content": new}, *turns[i + 1 :]]}
    return marked(record, "edited", list(decision["calls"]))


def turn_of(path: str) -> int:
    """The number of the turn that a path such as trajectory.2.calls names."""
    return int(path.split(".")[1])


def at(record: dict, path: str) -> list[dict] | str:
    """The calls or the text that a path names. Raises ValueError, LookupError."""
    turn, kind = record["trajectory"][turn_of(path)], path.split(".")[2]
    if kind == "content" and turn["role"] != "summarizer" or kind not in turn:
        raise ValueError("nothing stands there that could be changed")
    return turn[kind]


def check_new(calls: list[dict] | str, old: list[dict] | str, record: dict) -> None:
    """Raises ValueError for calls that have not the form or do not fit the tools, and for an empty text."""
    if isinstance(old, str):
        if not isinstance(calls, str) or not calls.strip():
            raise ValueError(f"got {calls!r:.60}, wanted a text")
        return
    check_calls(calls, "calls")
    for call in calls:
        if fault := check_call(call, record.get("tools", [])):
            raise ValueError(fault)


# ---- the terminal ----

MENU = {
    "a": "accept the row's calls",
    "o": "take the other calls, the second model's",
    "e": "edit the row's calls as JSON, or its answer, in $EDITOR",
    "d": "drop the row",
    "s": "skip the row for now",
    "q": "quit; a row with a step to go stays undecided",
}
PROMPT = "a(ccept) o(ther) e(dit) d(rop) s(kip) q(uit) ?: "
INDENT = 13  # columns of the labels
LONGEST = 4000  # characters shown of one text
BOLD, RED, GREEN, YELLOW = 1, 31, 32, 33


class Quit(Exception):
    """The person has had enough: q, or the end of the input."""


def review(path: Path, decisions: Path, stdin: TextIO | None = None, out: TextIO | None = None) -> Counter:
    """Ask about each undecided row of `path` and append to `decisions`; how often what was decided."""
    screen, counts = Screen(stdin or sys.stdin, out or sys.stdout), Counter()
    undecided = read_rows(path)
    with exclusive(decisions) as file:
        known = read_decisions(decisions)
        rows = {row["id"]: row for row in undecided if row["id"] not in known}
        file.truncate(decisions.read_bytes().rfind(b"\n") + 1)  # without the torn line of a crash
        try:
            for number, row in enumerate(rows.values(), 1):
                decision = decide(row, f"{number} of {len(rows)}", screen)
                if decision:
                    keep(decision, file)
                    counts[decision["decision"]] += 1
                else:
                    counts["skip"] += 1
        except Quit:
            pass
    screen.say(f"{counts.total() - counts['skip']} rows decided, {decisions} has them")
    return counts


def keep(decision: dict, file: FileIO) -> None:
    """Write a decision; when this returns, it is on the disk."""
    append(file, json.dumps(decision, ensure_ascii=False).encode() + b"\n")
    os.fsync(file.fileno())


def decide(row: dict, place: str, screen: "Screen") -> dict | None:
    """The decision on a row, from answers for each of its steps in doubt; None to skip it. Raises Quit."""
    record, calls = row["record"], {}
    source = source_of(record)
    origin = [str(source[key]) for key in ("dataset", "file", "index") if key in source]
    screen.say("")
    screen.show(f"--- {place}", " ".join(origin), BOLD)
    for fault in row["faults"]:
        show_step(record, fault, screen)
        answer = answer_step(record, fault, screen)
        if answer == "d":
            return {"id": row["id"], "decision": "drop"}
        if answer == "s":
            return None
        if answer != at(record, fault["path"]):
            calls[fault["path"]] = answer
    if calls:
        return {"id": row["id"], "decision": "change", "calls": calls}
    return {"id": row["id"], "decision": "accept"}


def show_step(record: dict, fault: dict, screen: "Screen") -> None:
    """What one step is judged by: its query and thoughts, the tools, both versions, what followed."""
    i, turns = turn_of(fault["path"]), record["trajectory"]
    show_history(turns[:i], screen)
    row, other = at(record, fault["path"]), fault.get("other")
    if isinstance(row, str):
        screen.show("the row's", row, RED)
        screen.show("in doubt", f"{fault['kind']}: {fault['detail']}", YELLOW)
        return
    show_tools(record.get("tools", []), [*row, *(other or [])], screen)
    show_versions(lines_of(row), other, screen)
    if turns[i + 1 :] and turns[i + 1]["role"] == "observation":
        screen.show("observation", turns[i + 1]["content"])
        screen.show("", "it belongs to the row's calls and stays: change these only if it still fits", YELLOW)
    screen.show("in doubt", f"{fault['kind']}: {fault['detail']}", YELLOW)


def show_history(turns: list[dict], screen: "Screen") -> None:
    """The turns from the last query on."""
    start = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
    labels = {"user": "query", "reasoner": "thought"}
    for turn in turns[start:]:
        text = "\n".join(lines_of(turn["calls"])) if "calls" in turn else turn["content"]
        screen.show(labels.get(turn["role"], turn["role"]), text)


def show_tools(tools: list[dict], calls: list[dict], screen: "Screen") -> None:
    """The tools that are called, whole, and the names of the others."""
    called = {call["name"] for call in calls}
    for tool in tools:
        if tool["name"] in called:
            screen.show("tool", json.dumps(tool, ensure_ascii=False))
    rest = [tool["name"] for tool in tools if tool["name"] not in called]
    screen.show("other tools", ", ".join(rest) or "none")


def show_versions(row: list[str], other: list[dict] | None, screen: "Screen") -> None:
    """The row's calls beside the second model's; where there are both, with signs before what differs."""
    if other:
        theirs = lines_of(other)
        screen.show("the row's", marks("-", row, theirs), RED)
        screen.show("second's", marks("+", theirs, row), GREEN)
    else:
        screen.show("the row's", "\n".join(row), RED)
        screen.show("second's", "no call" if other == [] else "(there is none)", GREEN)


def lines_of(calls: list[dict]) -> list[str]:
    """Calls for the eye: a line for each name and each argument."""
    lines = []
    for call in calls:
        lines.append(call["name"])
        for name, value in call["arguments"].items():
            lines.append(f"    {name} = {json.dumps(value, ensure_ascii=False)}")
    return lines


def marks(sign: str, lines: list[str], against: list[str]) -> str:
    """The lines, with a sign before those that the other side has not."""
    return "\n".join(f"{' ' if line in against else sign} {line}" for line in lines)


def answer_step(record: dict, fault: dict, screen: "Screen") -> list[dict] | str:
    """The calls or the text that a person wants in a step, or "d" or "s". Raises Quit."""
    row, other = at(record, fault["path"]), fault.get("other")
    draft = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, indent=2)
    while True:
        answer = screen.ask(PROMPT)
        if answer == "q":
            raise Quit
        if answer in ("d", "s"):
            return answer
        if answer == "a":
            return row
        if answer == "o" and other:
            return other
        if answer == "o":
            screen.say("There are no other calls to take.")
        elif answer == "e":
            edited = edit(draft, screen)
            if edited == draft:
                screen.say("Nothing has changed.")
                continue
            draft = edited
            try:
                new = draft if isinstance(row, str) else JSON.decode(draft)
                check_new(new, row, record)
                return new
            except (ValueError, RecursionError) as error:
                screen.show("not taken", f"{error}; e goes on with your text", YELLOW)
        else:
            screen.say("\n".join(f"{letter}  {meaning}" for letter, meaning in MENU.items()))


def edit(text: str, screen: "Screen") -> str:
    """The text as the person's editor leaves it; unchanged if that fails."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "calls.json")
        path.write_text(text + "\n", "utf-8")
        try:
            subprocess.run([*shlex.split(command), str(path)], check=True)
            return path.read_text("utf-8").strip()
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            screen.show("not edited", f"$EDITOR is {command!r}: {error}", YELLOW)
            return text


class Screen:
    """Where a person reads and answers. Text of the data is indented, so that none can pose as a label."""

    def __init__(self, stdin: TextIO, out: TextIO):
        self.stdin, self.out = stdin, out
        self.colour = out.isatty() and not os.environ.get("NO_COLOR")

    def show(self, label: str, text: str, colour: int | None = None) -> None:
        shown, _ = hanging(cut(text, LONGEST), INDENT, terminal_width(self.out), max(INDENT, len(label)))
        self.say(f"{label:<{INDENT}}{shown}", colour)

    def say(self, text: str, colour: int | None = None) -> None:
        text = printable(text)
        print(f"\033[{colour}m{text}\033[0m" if self.colour and colour else text, file=self.out, flush=True)

    def ask(self, prompt: str) -> str:
        """A line in small letters. Raises Quit at the end of the input."""
        print(prompt, end="", file=self.out, flush=True)
        line = self.stdin.readline()
        if not line:
            print(file=self.out)
            raise Quit
        return line.strip().lower()
