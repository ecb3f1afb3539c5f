"""Fig. 4: held-out turns written role by role and held against their references."""

from argparse import Namespace
from collections import Counter
from collections.abc import Callable

import torch

import data
from engine.heldout import count_turns, retrace, share, spread, write_turns
from engine.loss import token_losses
from evaluation.tables import column_cells, layout, not_run, wilson
from formats.frames import Frame
from model import Transformer
from mor import ROLES

# ---- roles: turns against their references ----


def similarity(a: str, b: str) -> float:
    """Levenshtein accuracy of one turn; of two empty texts 1."""
    return 1 - distance(a, b) / max(len(a), len(b), 1)


def distance(a: str, b: str) -> int:
    """Levenshtein's edit distance by Myers' bit vectors: a row of the table in a dozen operations.

    Row j holds the distances of b[:j] from a[:0], a[:1], ... Bit i of up (down) says that entry i + 1 is one
    more (less) than entry i; of more and less, that it is so against the same entry of the row before.
    """
    if not a:
        return len(b)
    places, full, last = {}, (1 << len(a)) - 1, len(a) - 1
    for i, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << i
    up, down, result = full, 0, len(a)
    for letter in b:
        equal = places.get(letter, 0)
        same = ((equal & up) + up ^ up | equal | down) & full  # entry i + 1 is entry i of the row before
        more, less = down | full & ~(same | up), same & up
        result += (more >> last) - (less >> last)
        more, less = (more << 1 | 1) & full, less << 1 & full
        up, down = less | full & ~(same | more), same & more
    return result


def read_roles(args: Namespace) -> list[tuple[int, dict]]:
    """Records, each with its number in the file."""
    return spread(enumerate(data.read_records(args.data), 1), args.limit)


def play_roles(model: Transformer, frame: Frame, args: Namespace, i: int, question: tuple) -> Callable:
    id, record = question
    line = {"id": id, "category": data.domain_of(record), "record": record, "reason": ""}
    example, positions = data.render(record, frame), model.config.max_position_embeddings
    if len(example.input_ids) > positions:
        reason = f"not run: longer than the model's {positions} positions"
        return lambda speak: line | {"sums": [[0.0] * 4] * 3, "turns": [], "reason": reason}
    with torch.no_grad():
        sums = token_losses(model, [example])[1].tolist()
    read = retrace(model, record, frame)
    return lambda speak: line | {"sums": sums, "turns": write_turns(model, read, frame, speak, every=True)}


def judge_roles(line: dict) -> dict:
    similarities = [similarity(turn["text"], turn["reference"]) for turn in line["turns"]]
    return {"levenshtein": similarities, "counts": dict(count_turns(line["record"], line["turns"]))}


def table_roles(header: dict, lines: list[dict]) -> str:
    sums = torch.tensor([line["sums"] for line in lines], dtype=torch.float64).sum(dim=0)  # [3, 4]
    sums = torch.cat((sums, sums.sum(dim=0, keepdim=True))).tolist()
    rows = [["role", "turns", "loss", "token accuracy", "Levenshtein accuracy"]]
    for role, (loss, hits, supervised, _) in zip((*ROLES, "all"), sums, strict=True):
        pairs = [pair for line in lines for pair in zip(line["turns"], line["levenshtein"], strict=True)]
        near = [value for turn, value in pairs if role in (turn["role"], "all")]
        shares = share(loss, supervised), share(hits, supervised), share(sum(near), len(near))
        figures = zip(shares, (".4f", ".1%", ".1%"), strict=True)
        rows.append([role, str(len(near)), *("-" if x is None else format(x, form) for x, form in figures)])
    counts = sum((Counter(line["counts"]) for line in lines), Counter())
    right = [["turns right", "n", "right", "95 % interval"]]
    for name, key, turns in (
        ("next role", "next_role", "reasoner_turns"),
        ("calls", "exact", "executor_turns"),
        ("calls after own words", "exact_own", "executor_turns"),
    ):
        right.append([name, *column_cells(wilson(counts[key], counts[turns]) if counts[turns] else None)])
    return f"{layout(rows)}{not_run(lines)}\n{layout(right)}"
