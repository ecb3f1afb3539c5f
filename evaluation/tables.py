"""What the tables of all benchmarks share: shares with 95 % intervals, and the paper's figures."""

import math
from collections import Counter
from typing import NamedTuple

# ---- columns ----


class Column(NamedTuple):
    """An accuracy from 0 to 1, of n questions, and its 95 % interval."""

    accuracy: float
    n: int
    low: float
    high: float


Z = 1.959964  # two-sided 95 %


def wilson(right: int, n: int) -> Column:
    """The share `right` of n > 0 with Wilson's interval, sound for few questions and near 0 and 1."""
    p, scale = right / n, 1 + Z**2 / n
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    middle = p + Z**2 / (2 * n)
    return Column(p, n, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale))


def mean(parts: list[Column | None]) -> Column | None:
    """The unweighted mean; None if a part is None.

    Parts are independent, so the squares of the distances from accuracy to interval's end add up as variances
    do, each side by itself. (The variance p(1 - p)/n would be 0 for a small category that is all right.)
    """
    if None in parts:
        return None
    k, accuracy = len(parts), sum(part.accuracy for part in parts) / len(parts)
    below = math.sqrt(sum((part.accuracy - part.low) ** 2 for part in parts)) / k
    above = math.sqrt(sum((part.high - part.accuracy) ** 2 for part in parts)) / k
    return Column(accuracy, sum(part.n for part in parts), accuracy - below, accuracy + above)


# What the paper reports, in percent: the base alone, and MoRAgent.
COLUMNS = ("Non-live AST", "Non-live Exec", "Live AST", "Relevance", "Average")
TABLE_2 = {
    "llama-3.2-1b-instruct": ((21.9, 75.2), (19.2, 80.0), (29.8, 60.7), (38.9, 94.4), (27.5, 77.6)),
    "phi-3.5-mini-instruct": ((69.0, 83.0), (57.3, 78.2), (58.2, 72.7), (72.2, 94.4), (64.2, 82.1)),
    "openpangu-embedded-1b": ((23.0, 76.9), (23.9, 72.9), (31.5, 64.7), (16.7, 94.4), (23.8, 77.2)),
}
TABLE_3 = {"qwen2.5-coder-1.5b": {"GSM8K": (54.7, 68.5), "MATH": (23.5, 45.5)}}  # the base with packages
PAPER = TABLE_3 | {name: dict(zip(COLUMNS, row, strict=True)) for name, row in TABLE_2.items()}


# ---- tables ----


def grouped(lines: list[dict], key: str) -> dict[str, list[bool | None]]:
    """The verdicts by a value of their lines."""
    verdicts = {}
    for line in lines:
        verdicts.setdefault(line[key], []).append(line["valid"])
    return verdicts


def share_cells(verdicts: list[bool | None]) -> list[str]:
    """Three cells: how many questions were run, the share that is right, its interval."""
    judged = [verdict for verdict in verdicts if verdict is not None]
    return column_cells(wilson(sum(judged), len(judged)) if judged else None)


def column_cells(column: Column | None) -> list[str]:
    """Three cells: how many questions, the share that is right, its interval."""
    if column is None:
        return ["0", "-", "-"]
    return [str(column.n), f"{column.accuracy:.1%}", f"{column.low:.1%} to {column.high:.1%}"]


def paper_cells(header: dict, name: str | None = None) -> list[str]:
    """The paper's figures of one row for this base model, if it has any; without a name the row's head."""
    model = header["model"].lower()
    for base, rows in PAPER.items():
        if model.startswith(base):
            if name is None:
                return ["paper: base", "paper: MoRAgent"]
            return [f"{figure:.1f}%" for figure in rows.get(name, ())]
    return []


def reasons_not_run(lines: list[dict]) -> str:
    """A line for each reason not to run a question, with the number of such questions."""
    reasons = Counter(line["reason"] for line in lines if line["reason"].startswith("not run"))
    return "".join(f"{count} {reason}\n" for reason, count in sorted(reasons.items()))
