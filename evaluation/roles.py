"""Held-out turns, written role by role and held against their references: Fig. 4.

    python evaluate.py roles --data heldout.jsonl --output results/roles.jsonl
    python evaluate.py score results/roles.jsonl

Every turn of the three roles is written greedily, each after the reference turns before it. The table has for
each role the loss and the accuracy on the tokens of the reference, and how near the written text is to it
(Levenshtein accuracy). Below stand whole turns that are right: the next role that a reasoner names; the calls
of an executor, after the reasoner's words in the reference and after the reasoner's own.

Paper silent: the Levenshtein accuracy is 1 - edit distance / length of the longer text, the mean over turns.
It counts characters, as tokens would make base models incomparable.
"""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

import data
from cli import layout
from engine.heldout import count_turns, retrace, share, spread, verdicts, write_turns
from evaluation.tables import column_cells, reasons_not_run, wilson
from formats.frames import Frame
from model import Transformer
from mor import ROLES

# ---- how near two texts are ----


def similarity(a: str, b: str) -> float:
    """Levenshtein accuracy of one turn (Fig. 4), from 0 to 1; 1 for two empty texts."""
    return 1 - distance(a, b) / max(len(a), len(b), 1)


def distance(a: str, b: str) -> int:
    """Levenshtein's edit distance by the usual table: row j holds the distances of b[:j] from every a[:i].

    numpy makes a row at once, so that two texts of 4,000 characters take 0.07 s.
    """
    letters = np.array([ord(letter) for letter in a])
    columns = np.arange(len(a) + 1)
    row = columns  # a[:i] from "": i letters to put in
    for letter in b:
        above = row
        row = above + 1  # the letter of b is left out
        replaced = above[:-1] + (letters != ord(letter))
        row[1:] = np.minimum(row[1:], replaced)
        # Each further letter of a that is put in costs 1: row[i] = min over k <= i of row[k] + (i - k).
        row = np.minimum.accumulate(row - columns) + columns
    return int(row[-1])


# ---- the suite ----


def read(args: Namespace) -> list[tuple[int, dict]]:
    """--limit records of the file, evenly spread, each with its number in it. Raises UserError."""
    return spread(enumerate(data.read_records(args.data), 1), args.limit)


def play(model: Transformer, frame: Frame, args: Namespace, i: int, question: tuple[int, dict]) -> Callable:
    """The play of one record: all its turns. A record that the model has no positions for is not run."""
    number, record = question
    line = {"id": number, "category": data.domain_of(record), "record": record, "reason": ""}
    example, positions = data.render(record, frame), model.config.max_position_embeddings
    if len(example.input_ids) > positions:
        line["reason"] = f"not run: longer than the model's {positions} positions"
        nothing = {"sums": [[0.0] * 4] * len(ROLES), "turns": []}
        return lambda speak: line | nothing
    retraced = retrace(model, record, frame)

    def perform(speak: Callable) -> dict:
        turns = write_turns(model, retraced, frame, speak, every=True)
        return line | {"sums": retraced.sums.tolist(), "turns": turns}

    return perform


def judge(line: dict) -> dict:
    """levenshtein: how near each turn is to its reference. counts: turns that are right (count_turns)."""
    similarities = [similarity(turn["text"], turn["reference"]) for turn in line["turns"]]
    return {"levenshtein": similarities, "counts": dict(count_turns(line["record"], line["turns"]))}


def parts(line: dict) -> dict:
    """What a record adds to the rows of compare.py, which are those of `table`."""
    near = {role: [] for role in ROLES}
    for turn, value in zip(line["turns"], line["levenshtein"], strict=True):
        near[turn["role"]].append((value, 1))
    found = {}
    for role, (loss, hits, supervised, _) in zip(ROLES, line["sums"], strict=True):
        found[f"{role}: loss"] = [(loss, supervised)]
        found[f"{role}: token accuracy"] = [(hits, supervised)]
        found[f"{role}: Levenshtein accuracy"] = near[role]
    for what in ("loss", "token accuracy", "Levenshtein accuracy"):
        found[f"all: {what}"] = [part for role in ROLES for part in found[f"{role}: {what}"]]
    right = verdicts(line["record"], line["turns"])
    for name, key in (("next role", "next_role"), ("calls", "exact"), ("calls after own words", "exact_own")):
        found[name] = [(verdict, 1) for verdict in right[key]]
    return found


def table(header: dict, lines: list[dict]) -> str:
    """A row for each role and for all, and a row for each kind of turn that is right or wrong."""
    sums = torch.tensor([line["sums"] for line in lines], dtype=torch.float64).sum(dim=0)  # [3, 4]
    near = {role: [] for role in ROLES}
    for line in lines:
        for turn, value in zip(line["turns"], line["levenshtein"], strict=True):
            near[turn["role"]].append(value)
    by_role = [["role", "turns", "loss", "token accuracy", "Levenshtein accuracy"]]
    for i, role in enumerate(ROLES):
        by_role.append(role_row(role, sums[i].tolist(), near[role]))
    by_role.append(role_row("all", sums.sum(dim=0).tolist(), sum(near.values(), [])))

    counts = Counter()
    for line in lines:
        counts.update(line["counts"])
    right = [["turns right", "n", "right", "95 % interval"]]
    right.append(right_row("next role", counts["next_role"], counts["reasoner_turns"]))
    right.append(right_row("calls", counts["exact"], counts["executor_turns"]))
    right.append(right_row("calls after own words", counts["exact_own"], counts["executor_turns"]))
    return f"{layout(by_role)}{reasons_not_run(lines)}\n{layout(right)}"


def role_row(name: str, sums: list[float], near: list[float]) -> list[str]:
    """sums: of a role, as token_losses has them. near: the Levenshtein accuracy of its turns."""
    loss, hits, supervised, _ = sums
    shares = (share(hits, supervised), share(sum(near), len(near)))
    percents = ["-" if value is None else f"{value:.1%}" for value in shares]
    return [name, str(len(near)), f"{loss / supervised:.4f}" if supervised else "-", *percents]


def right_row(name: str, right: int, turns: int) -> list[str]:
    """So many of the turns are right."""
    return [name, *column_cells(wilson(right, turns) if turns else None)]
