"""The review of the pipeline (paper, 3.3): a person decides about the rows that verify.py sets aside.

    review(Path("review.jsonl"), Path("decisions.jsonl"))      # shows what is undecided, a step at a time
    for record, outcome in merge(read_rows(path), read_decisions(decisions)): ...

A row is {"id", "record", "faults"}, as `review_row` makes it, the id a hash of the other two. A decision is

    {"id": ..., "decision": "accept", "drop" or "change", "calls": {"trajectory.2.calls": [...]}}

with the calls that change. It is appended, and on the disk, as soon as the last step of its row is answered,
so the next review goes on where this one ended, however it ended. Of two decisions on a row the later counts.
The observation behind a changed call stays: whoever changes the call has it on the screen.
"""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

from cli import UserError, cut, printable
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
    for number, line in _lines(path):
        where = f"{path}:{number}"
        row = _decode(line, where)
        if set(row) != {"id", "record", "faults"} or not isinstance(row["faults"], list):
            raise UserError(f"{where}: got {line[:60]!r}; wanted id, record, faults, as verify writes them")
        check_record(row["record"], where)
        yield row


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The numbered lines of a file that may be empty: nothing was in doubt, nothing is decided."""
    return iter(()) if path.exists() and not path.stat().st_size else numbered_lines(path)


def _decode(line: bytes, where: str) -> dict:
    try:
        value = JSON.decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON in UTF-8 ({error}); remove the line") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: got {value!r:.60}; wanted an object")
    return value


def read_decisions(path: Path) -> dict[str, dict]:
    """Decisions by id of the row; none without a file. A torn last line does not count. Raises UserError."""
    decisions, forms = {}, {"accept": {"id", "decision"}, "drop": {"id", "decision"}}
    forms["change"] = {"id", "decision", "calls"}
    for number, line in _lines(path) if path.exists() else ():
        if not line.endswith(b"\n"):
            break
        decision = _decode(line, f"{path}:{number}")
        fits = set(decision) == forms.get(str(decision.get("decision")))
        if not fits or not isinstance(decision["id"], str) or not isinstance(decision.get("calls", {}), dict):
            raise UserError(f"{path}:{number}: got {line[:60]!r}; wanted a decision; remove the line")
        decisions[decision["id"]] = decision
    return decisions


def merge(rows: Iterable[dict], decisions: dict[str, dict]) -> Iterator[tuple[dict, str]]:
    """(record, outcome) of each row: accepted, edited, dropped in review, or undecided.

    An edited record has its new calls, and lacks the completed texts that were written for the old ones: they
    are in source.missing again, for complete.complete. Raises UserError for calls that do not fit.
    """
    for row in rows:
        record, decision = row["record"], decisions.get(row["id"])
        if decision is None:
            yield record, "undecided"
        elif decision["decision"] == "change":
            yield changed(record, decision), "edited"
        else:
            yield record, {"accept": "accepted", "drop": "dropped in review"}[decision["decision"]]


def changed(record: dict, decision: dict) -> dict:
    for path, calls in decision["calls"].items():
        try:
            i = turn_of(path)
            if "calls" not in record["trajectory"][i]:
                raise ValueError("no calls stand there")
            check_new(calls, record)
        except (ValueError, LookupError) as error:
            raise UserError(f"decision on row {decision['id']}: {path}: {error}; remove its line") from None
        record = replaced(record, i, calls)
    return marked(record, "edited", list(decision["calls"]))


def turn_of(path: str) -> int:
    return int(path.split(".")[1])


def check_new(calls: list[dict], record: dict) -> None:
    """Raises ValueError where calls have not the form, or do not fit the tools of the record."""
    check_calls(calls, "calls")
    for call in calls:
        if fault := check_call(call, record.get("tools", [])):
            raise ValueError(fault)


# ---- the terminal ----

MENU = {
    "a": "accept the row's calls",
    "o": "take the other calls, the second model's",
    "e": "edit the row's calls as JSON in $EDITOR",
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
    known, counts = read_decisions(decisions), Counter()
    screen = Screen(stdin or sys.stdin, out or sys.stdout)
    rows = {row["id"]: row for row in read_rows(path) if row["id"] not in known}
    with open_decisions(decisions) as file:
        try:
            for number, row in enumerate(rows.values(), 1):
                decision = decide(row, f"{number} of {len(rows)}", screen)
                if decision:
                    append(decision, file)
                counts[decision["decision"] if decision else "skip"] += 1
        except Quit:
            pass
    screen.say(f"{sum(counts.values()) - counts['skip']} rows decided, {decisions} has them")
    return counts


def open_decisions(path: Path) -> BinaryIO:
    """The file, open to append, without the torn line that a crash may have left at its end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return file


def append(decision: dict, file: BinaryIO) -> None:
    file.write(json.dumps(decision, ensure_ascii=False).encode() + b"\n")
    file.flush()
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
        if answer != record["trajectory"][turn_of(fault["path"])]["calls"]:
            calls[fault["path"]] = answer
    if calls:
        return {"id": row["id"], "decision": "change", "calls": calls}
    return {"id": row["id"], "decision": "accept"}


def show_step(record: dict, fault: dict, screen: "Screen") -> None:
    """What one step is judged by: its query and thoughts, the tools, both versions, what followed."""
    i, turns = turn_of(fault["path"]), record["trajectory"]
    start = max(j for j in range(i) if turns[j]["role"] == "user")
    row, other = turns[i]["calls"], fault.get("other")
    involved = {call["name"] for call in [*row, *(other or [])]}
    for turn in turns[start:i]:
        text = "\n".join(lines_of(turn["calls"])) if "calls" in turn else turn["content"]
        screen.show({"user": "query", "reasoner": "thought"}.get(turn["role"], turn["role"]), text)
    for tool in record.get("tools", []):
        if tool["name"] in involved:
            screen.show("tool", json.dumps(tool, ensure_ascii=False))
    rest = [tool["name"] for tool in record.get("tools", []) if tool["name"] not in involved]
    screen.show("other tools", ", ".join(rest) or "none")
    mine, theirs = lines_of(row), lines_of(other or [])
    screen.show("the row's", marks("-", mine, theirs) if other else "\n".join(mine), RED)
    nothing = "no call" if other == [] else "(there is none)"
    screen.show("second's", marks("+", theirs, mine) if other else nothing, GREEN)
    if turns[i + 1 :] and turns[i + 1]["role"] == "observation":
        screen.show("observation", turns[i + 1]["content"])
        screen.show("", "it belongs to the row's calls and stays: change these only if it still fits", YELLOW)
    screen.show("in doubt", f"{fault['kind']}: {fault['detail']}", YELLOW)


def lines_of(calls: list[dict]) -> list[str]:
    """Calls for the eye: a line for each name and each argument."""
    out = []
    for call in calls:
        pairs = call["arguments"].items()
        out += [call["name"], *(f"    {name} = {json.dumps(v, ensure_ascii=False)}" for name, v in pairs)]
    return out


def marks(sign: str, lines: list[str], against: list[str]) -> str:
    """The lines, with a sign before those that the other side has not."""
    return "\n".join(f"{' ' if line in against else sign} {line}" for line in lines)


def answer_step(record: dict, fault: dict, screen: "Screen") -> list[dict] | str:
    """The calls that a person wants in a step, or "d" or "s". Raises Quit."""
    row, other = record["trajectory"][turn_of(fault["path"])]["calls"], fault.get("other")
    draft = json.dumps(row, ensure_ascii=False, indent=2)
    while True:
        answer = screen.ask(PROMPT)
        if answer == "q":
            raise Quit
        if answer == "a":
            return row
        if answer in ("d", "s"):
            return answer
        if answer == "o" and other:
            return other
        if answer == "o":
            screen.say("There are no other calls to take.")
        elif answer == "e":
            before, draft = draft, edit(draft, screen)
            if draft == before:
                screen.say("Nothing has changed.")
                continue
            try:
                calls = JSON.decode(draft)
                check_new(calls, record)
                return calls
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
        self.say(f"{label:<{INDENT}}" + cut(text, LONGEST).replace("\n", "\n" + " " * INDENT), colour)

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
