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


class Reported(NamedTuple):
    """What the paper reports for one base model, in percent."""

    suite: str
    heads: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]  # by the name that our row has; a figure for each head


def table_2(*figures: tuple[float, float]) -> Reported:
    """BFCL: the base alone and MoRAgent, for each column of Table 2."""
    names = ("Non-live AST", "Non-live Exec", "Live AST", "Relevance", "Average")
    return Reported("bfcl", ("paper: base", "paper: MoRAgent"), dict(zip(names, figures, strict=True)))


PAPER = {
    "llama-3.2-1b-instruct": table_2((21.9, 75.2), (19.2, 80.0), (29.8, 60.7), (38.9, 94.4), (27.5, 77.6)),
    "phi-3.5-mini-instruct": table_2((69.0, 83.0), (57.3, 78.2), (58.2, 72.7), (72.2, 94.4), (64.2, 82.1)),
    "openpangu-embedded-1b": table_2((23.0, 76.9), (23.9, 72.9), (31.5, 64.7), (16.7, 94.4), (23.8, 77.2)),
    "qwen2.5-coder-1.5b": Reported(  # Table 3: the base with Python packages, and without
        "math",
        ("paper: base", "paper: base, no packages", "paper: MoRAgent"),
        {"GSM8K": (54.7, 41.7, 68.5), "MATH": (23.5, 33.5, 45.5)},
    ),
}


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


def reported_for(header: dict) -> Reported | None:
    """The paper's figures for this base and suite; those of an Instruct model are not those of its base."""
    reported = PAPER.get(header["model"].lower())
    return reported if reported and reported.suite == header["suite"] else None


def paper_cells(header: dict, name: str | None = None) -> list[str]:
    """The paper's figures of one row for this base model, if it has any; without a name the row's head."""
    reported = reported_for(header)
    if reported is None:
        return []
    if name is None:
        return [*reported.heads]
    return [f"{figure:.1f}%" for figure in reported.rows.get(name, ())]


def paper_note(header: dict) -> str:
    """A line on how the paper's figures differ from ours, where there are any."""
    reported = reported_for(header)
    if reported is None:
        return ""
    rest = "; its Non-live Exec counts REST, which is not run here" if reported.suite == "bfcl" else ""
    return f"the paper's base was not run with the prompts of the roles{rest}\n"


def reasons_not_run(lines: list[dict]) -> str:
    """A line for each reason not to run a question, with the number of such questions."""
    reasons = Counter(line["reason"] for line in lines if line["reason"].startswith("not run"))
    return "".join(f"{count} {reason}\n" for reason, count in sorted(reasons.items()))
