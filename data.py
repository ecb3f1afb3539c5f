r"""Trajectories: records and their checks, prompts; to token ids with labels and roles, and back; packing.

One record is one line of JSON (the paper's Fig. 3):

    {"tools": [{"name": "get_weather", "description": "Weather of a city.", "parameters": {"type": "object",
                "properties": {"city": {"type": "string"}}, "required": ["city"]}}],
     "trajectory": [
      {"role": "user", "content": "Weather in Bali?"},
      {"role": "reasoner", "content": "I need get_weather.", "next": "executor"},
      {"role": "executor", "calls": [{"name": "get_weather", "arguments": {"city": "Bali"}}]},
      {"role": "observation", "content": "rain, 86 F"},
      {"role": "reasoner", "content": "That answers it.", "next": "summarizer"},
      {"role": "summarizer", "content": "Rain, 86 F."}]}

Optional: system (in place of the first sentence), domain ("bfcl" or "toolbench": calls; "math": an executor's
content is Python code), source (where it is from), exit_status (how agent.py ended it). `render` makes one
sequence of it. In Llama's frame, with the role that each token belongs to, and `*` where it is trained:

    reasoner      <|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n
                  You can call the functions within the tools tags.\n<tools>\n{"name":...}\n</tools>
                  \nReasoner: study the query and the history; do not answer. ...
    executor      \nExecutor: do what the query and the reasoner say. ... [unused11]Action: NAME ...
    summarizer    \nSummarizer: tell the user the outcome in a few plain words, ...
    reasoner      <|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWeather in Bali?<|eot_id|>
    reasoner      <|start_header_id|>reasoner<|end_header_id|>\n\n
    reasoner    * I need get_weather.\nNext: executor<|eot_id|>
    executor      <|start_header_id|>executor<|end_header_id|>\n\n
    executor    * [unused11]Action: get_weather Arguments: {"city": "Bali"}[unused12]<|eot_id|>
    reasoner      <|start_header_id|>ipython<|end_header_id|>\n\nrain, 86 F<|eot_id|> ...
    summarizer  * Rain, 86 F.<|eot_id|>

Headers, ends of turns and, where they are tokens, [unused11] and [unused12] are written by id;
formats/frames.py has the other families' and sees to it that no text is encoded to any of them.
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from cli import UserError, hanging, open_file, parse_object, terminal_width
from formats import calls
from formats.calls import CLOSE, JSON, KEYWORDS, LIST, OPEN, TEXT, parse_calls
from formats.frames import Frame
from formats.frames import load_frame as load_frame  # for callers: what `render` wants
from formats.prompts import PROMPTS
from mor import ROLES

# ---- records, and what is wrong with them ----

DOMAINS = ("bfcl", "toolbench", "math")
RECORD = calls.object_of(
    {"trajectory": {"type": "array", "items": {"type": "object"}}},
    {
        "tools": LIST,
        "system": TEXT,
        "domain": {"enum": [*DOMAINS]},
        "exit_status": TEXT,
        "source": {"type": ["string", "object"]},
    },
)
FOLLOWS = {  # who may come next; after a reasoner, it is the role that it names
    "user": ["reasoner"],
    "executor": ["observation", "reasoner", "summarizer"],
    "observation": ["reasoner"],
    "summarizer": ["user"],
}


def domain_of(record: dict) -> str:
    """The record's domain; where it names none, "bfcl" with tools and "math" without."""
    return record.get("domain") or ("bfcl" if record.get("tools") else "math")


def read_records(path: str | Path) -> list[dict]:
    """Read and check a JSON Lines file of finished trajectories. Raises UserError: file, line, field."""
    return [read_line(line, f"{path}:{number}") for number, line in numbered_lines(path)]


def numbered_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, each with its number, from 1. Raises UserError."""
    empty = True
    try:
        with open_file(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    empty = False
                    yield number, line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); wanted a JSON Lines file") from None
    if empty:
        raise UserError(f"{path}: is empty; wanted one JSON object per line")


def read_line(line: bytes, where: str) -> dict:
    """Read and check one line. Raises UserError: where, field, got, wanted."""
    record = parse_object(line, where, "one whole JSON object per line, not in a list", JSON)
    if isinstance(record.get("tools"), list):
        record["tools"] = [bare_tool(tool) for tool in record["tools"]]
    check_record(record, where)
    if not _finished(record):
        raise UserError(f"{where}: exit_status: got {record['exit_status']!r}, wanted done; remove the line")
    return record


def bare_tool(tool: object) -> object:
    """A tool without what OpenAI's interfaces put round it; for check_record, whatever it is.

    They write {"type": "function", "function": tool} or, lately, {"type": "function", **tool}, either with
    `strict`, which tells a server how to decode.
    """
    for _ in ("the wrapper", "the tool"):
        if not isinstance(tool, dict):
            break
        if tool.get("type") == "function":
            tool = {key: value for key, value in tool.items() if key != "type"}
        if type(tool.get("strict")) in (bool, type(None)):
            tool = {key: value for key, value in tool.items() if key != "strict"}
        if [*tool] != ["function"]:
            break
        tool = tool["function"]
    if isinstance(tool, dict):  # null says that there is none
        tool = {key: value for key, value in tool.items() if value is not None or key == "name"}
    return tool


def _finished(record: dict) -> bool:
    return record.get("exit_status", "done") == "done"


def check_record(record: dict, where: str) -> None:
    """Check keys, types and the order of turns. Raises UserError: where, field, got, wanted.

    A trajectory ends with a summarizer, unless its exit_status says that it was cut short. Calls are not held
    against the tools (`calls.check_call` does that): a wrong call may stand there with its correction.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where}: got {record!r:.60}, wanted an object")
    try:
        calls.check_plain(record)
        calls.check_value(record, RECORD)
        calls.check_tools(record.get("tools", []), "tools")
        role, expected = "nothing", ["user"]
        for i, turn in enumerate(record["trajectory"]):
            _check_turn(turn, f"trajectory[{i}]", expected, domain_of(record))
            role = turn["role"]
            expected = [turn["next"]] if role == "reasoner" else FOLLOWS[role]
        if role != "summarizer" and (_finished(record) or role == "nothing"):
            raise ValueError(f"trajectory: ends after {role}, wanted {' or '.join(expected)} next")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _check_turn(turn: dict, at: str, expected: list[str], domain: str) -> None:
    role = {"enum": expected}
    if turn.get("role") == "reasoner":
        shape = {"role": role, "content": TEXT, "next": {"enum": [*ROLES[1:]]}}
    elif turn.get("role") == "executor" and "calls" in turn:
        shape = {"role": role, "calls": LIST}
    else:  # an executor's content is code, or a call that could not be read
        shape = {"role": role, "content": TEXT}
    calls.check_value(turn, calls.object_of(shape), at)
    if "calls" in turn:
        if domain not in KEYWORDS:
            raise ValueError(f"{at}.calls: got calls, wanted content with code, as the domain is {domain}")
        calls.check_calls(turn["calls"], f"{at}.calls")


# ---- prompts: the system turn; the words are in formats/prompts.py ----

MARKS = (OPEN, CLOSE)
MARK = re.compile(f"({'|'.join(map(re.escape, MARKS))})")


def system_text(record: dict, prompts: str = "short") -> str:
    """The first sentence and the tools, one a line."""
    domain, tools = domain_of(record), record.get("tools", [])
    words = PROMPTS[prompts][domain]
    text = record.get("system", words.system)
    if tools or domain in KEYWORDS:
        schemas = [json.dumps(tool, ensure_ascii=False, separators=(",", ":")) + "\n" for tool in tools]
        text += words.tools.replace("[doc]", "".join(schemas))
    return text


def role_prompts(domain: str, prompts: str = "short") -> tuple[str, str, str]:
    """p_r, p_e and p_s of Eqs. 2 to 4, in the order of ROLES."""
    words = PROMPTS[prompts][domain]
    return words.reasoner, words.executor, words.summarizer


# ---- render: record -> ids, labels, role ids ----


@dataclass
class Example:
    """Three lists of one length. labels[t] is input_ids[t] where trained, else -100; the loss shifts them.

    Those that engine/dataset.py keeps are arrays, which `add` and `extend` do not take.
    """

    input_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    role_ids: list[int] = field(default_factory=list)

    def add(self, ids: list[int], role: str, trained: bool = False) -> None:
        self.input_ids += ids
        self.labels += ids if trained else [-100] * len(ids)
        self.role_ids += [ROLES.index(role)] * len(ids)

    def extend(self, other: "Example") -> None:
        self.input_ids += other.input_ids
        self.labels += other.labels
        self.role_ids += other.role_ids


def render(record: dict, frame: Frame) -> Example:
    """A checked record as one sequence: the prompt, then turn after turn."""
    example = render_prompt(record, frame)
    for turn in record["trajectory"]:
        example.extend(render_turn(turn, frame, domain_of(record)))
    return example


def render_prompt(record: dict, frame: Frame) -> Example:
    """The system turn: tools, then the prompts, each for its own role (Eqs. 2 to 4)."""
    example = Example()
    example.add(frame.begin + frame.encode(system_text(record, frame.prompts)), "reasoner")
    for role, prompt in zip(ROLES, role_prompts(domain_of(record), frame.prompts), strict=True):
        example.add(frame.encode_parts(MARK.split(f"\n{prompt}"), MARKS), role)
    example.add(frame.ends["system"], "reasoner")
    return example


def render_header(role: str, frame: Frame) -> Example:
    """What opens a turn. User and observation are the reasoner's: it is the one who is always given them."""
    example = Example()
    example.add(frame.headers[role], role if role in ROLES else "reasoner")
    return example


def render_turn(turn: dict, frame: Frame, domain: str) -> Example:
    """Header, content, end of turn. What the three roles say is trained, with the end of their turns."""
    role = turn["role"]
    example = render_header(role, frame)
    if "calls" in turn:
        content = frame.encode_parts(calls.call_parts(turn["calls"], domain), MARKS)
    elif role == "reasoner":
        thought = f"{turn['content']}\n" if turn["content"] else ""
        content = frame.encode(thought + PROMPTS[frame.prompts][domain].ending.format(turn["next"]))
    else:
        content = frame.encode(turn["content"])
    example.add(content + frame.ends[role], role if role in ROLES else "reasoner", trained=role in ROLES)
    return example


# ---- parse: what a role wrote, as a turn ----

NEXT = re.compile(  # curly quotes stand around the line in the paper's prompts
    r"(?:^|\s)[“”]?next:\s{0,4}[\"'*`<“”]{0,3}(executor|summarizer)[\"'*`>.“”\s]*\Z", re.IGNORECASE
)


def parse_turn(role: str, text: str, domain: str) -> dict:
    """The turn that a role's text spells, as `render_turn` takes it; next is None where none is named.

    Raises CallError for an executor's text without readable calls, in a domain that has calls.
    """
    if role == "reasoner":
        content, following = parse_next(text)
        return {"role": role, "content": content, "next": following}
    if role == "executor" and domain in KEYWORDS:
        return {"role": role, "calls": parse_calls(text)}
    return {"role": role, "content": text}


def parse_next(text: str) -> tuple[str, str | None]:
    """Split off a closing `Next: executor` or `Next: summarizer`, in any case, with a full stop or quotes."""
    found = NEXT.search(text)
    if not found:
        return text, None
    return text[: found.start()], found[1].lower()


# ---- packing: examples -> flat batches ----


@dataclass
class Batch:
    """Documents end to end on one token axis: int64 [T] each; lengths of the documents, summing to T."""

    input_ids: Tensor
    labels: Tensor
    role_ids: Tensor
    lengths: list[int]


WINDOW = 64  # batches that are filled together


def pack(lengths: list[int], budget: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices per micro-batch of at most `budget` tokens; every index once; depends on the arguments alone.

    First fit, the longest first, among shuffled neighbours that fill WINDOW batches: full batches, yet random
    ones. An example over the budget gets a batch of its own.
    """
    chance = random.Random(f"{seed}/{epoch}")
    windows: dict[int, list[int]] = {}
    tokens = 0
    for index in chance.sample(range(len(lengths)), len(lengths)):
        tokens += lengths[index]
        windows.setdefault(tokens // (WINDOW * budget), []).append(index)
    batches = [batch for window in windows.values() for batch in first_fit(window, lengths, budget)]
    chance.shuffle(batches)
    return batches


def first_fit(indices: list[int], lengths: list[int], budget: int) -> list[list[int]]:
    """Batches of the indices: the longest first, each into the first batch that has room for it."""
    batches, room = [], []
    for index in sorted(indices, key=lambda i: -lengths[i]):
        with_room = (number for number, left in enumerate(room) if lengths[index] <= left)
        first = next(with_room, len(batches))
        if first == len(batches):
            batches.append([])
            room.append(budget)
        batches[first].append(index)
        room[first] -= lengths[index]
    return batches


def collate(examples: list[Example]) -> Batch:
    """Lay examples end to end; labels stay unshifted."""

    def flat(name: str) -> Tensor:
        return torch.cat([torch.as_tensor(getattr(e, name), dtype=torch.int64) for e in examples])

    return Batch(flat("input_ids"), flat("labels"), flat("role_ids"), [len(e.input_ids) for e in examples])


def targets(batch: Batch) -> Tensor:
    """int64 [T]: at t the label of t + 1, and -100 at the end of each document."""
    shifted = batch.labels.roll(-1)
    shifted[torch.tensor(batch.lengths).cumsum(0) - 1] = -100
    return shifted


# ---- show: an example for the eye ----

MARGIN = 3  # columns
BREAK = "\n" + " " * MARGIN  # where the edge of the terminal breaks a line: no text reaches the margin
COLOURS = {"reasoner": 36, "executor": 33, "summarizer": 35}  # cyan, yellow, magenta


def show(example: Example, frame: Frame, colour: bool | None = None) -> str:
    """The text of an example by role; `e*` in the margin: the executor's, and trained.

    A new line begins after each end of turn. In colour (the default on a terminal) the role is a colour too,
    and what is trained is bold and underlined.
    """
    colour = sys.stdout.isatty() if colour is None else colour

    def paint(text: str, role: str, trained: bool = False) -> str:
        style = "1;4;" if trained else ""
        return f"\033[{style}{COLOURS[role]}m{text}\033[0m" if colour else text

    def kind(t: int) -> tuple[str, bool]:
        return ROLES[example.role_ids[t]], example.labels[t] != -100

    ids, length = example.input_ids, len(example.input_ids)
    counts = [paint(f"{example.role_ids.count(i)} {role}", role) for i, role in enumerate(ROLES)]
    all_trained = sum(label != -100 for label in example.labels)
    out = [f"{length} tokens: {', '.join(counts)}; {all_trained} trained\n"]
    starts = [t for t in range(length) if t == 0 or kind(t) != kind(t - 1) or ids[t - 1] == frame.end]
    for start, stop in pairwise([*starts, length]):
        role, trained = kind(start)
        margin = f"{role[0]}* " if trained else f"{role[0]}  "
        for line in filter(None, visible(frame.decode(ids[start:stop])).split("\n")):
            broken, _ = hanging(line, MARGIN, terminal_width(sys.stdout), MARGIN)
            pieces = broken.split(BREAK)
            out.append(margin + BREAK.join(paint(piece, role, trained) for piece in pieces) + "\n")
    return "".join(out)


def visible(text: str) -> str:
    """Newlines as a sign and a break; other control characters as escapes: none may steer the terminal."""
    escaped = "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)
    return escaped.replace("\n", "⏎\n")
