"""Two result files of one suite, question by question: is B better than A, or was it chance?

    python evaluate.py compare results/A.jsonl results/B.jsonl

Two tests, both paired, as both files answer the same questions:

    McNemar    of verdicts: how many only A has right, how many only B, and the exact two-sided p of so uneven
               a split where each of these questions is as likely to fall to either
    bootstrap  of every row, also where it is a mean of categories: 10,000 times questions are drawn with
               replacement within each category, the same for both files, and the row is made of them. The
               interval holds the middle 95 % of the differences; `<= 0` is the share of them in which B is
               not above A. (Of a loss, less is better.)

Both speak of these questions as a sample, not of a second training with another seed; `over_seeds` does. Of
many rows some fall below 5 % by chance alone: say beforehand which one counts, or correct for it (Holm).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cli import UserError, layout

RESAMPLES, SEED, INTERVAL = 10_000, 0, (0.025, 0.975)
AT_ONCE = 500  # resamples that are drawn at a time: 20 MB for a category of 5,000 questions

# What a question adds to each row, as the suite's `parts(line)` says: name -> [(part, whole), ...]. A row is
# the sum of its parts over that of its wholes. A part that is True or False is a verdict, with a whole of 1.
Parts = dict[str, list[tuple[float, float]]]


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact two-sided p of McNemar's test, from the numbers of questions that one of two has right."""
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)


# ---- the bootstrap ----


def draws(sizes: list[int]) -> Iterator[list[np.ndarray]]:
    """How often each question is drawn: [resamples, questions] of each category, some resamples at a time.

    In the first of all, every question is drawn once. All follows from the sizes alone, so that two files, or
    the files of several seeds, meet the same draws.
    """
    yield [np.ones((1, size)) for size in sizes]
    generator = np.random.default_rng(SEED)
    for _ in range(RESAMPLES // AT_ONCE):
        yield [generator.multinomial(size, np.full(size, 1 / size), AT_ONCE) for size in sizes]


def totals(lines: list[dict], parts: Callable[[dict], Parts], names: list[str]) -> np.ndarray:
    """Sums of the parts and of the wholes of each row, in every resample: [rows, 2, 1 + RESAMPLES].

    A question that was not run is not drawn.
    """
    categories: dict[str, list[list[tuple[float, float]]]] = {}
    for line in lines:
        if was_run(line, parts):
            categories.setdefault(line["category"], []).append(sums(parts(line), names))
    questions = [np.array(category, dtype=float) for category in categories.values()]  # [n, rows, 2] each
    found = []
    for drawn in draws([len(category) for category in questions]):
        of_each = zip(drawn, questions, strict=True)
        found.append(sum(np.tensordot(times, values, axes=1) for times, values in of_each))
    return np.concatenate(found).transpose(1, 2, 0)


def was_run(line: dict, parts: Callable[[dict], Parts]) -> bool:
    return any(whole for of_row in parts(line).values() for _, whole in of_row)


def sums(found: Parts, names: list[str]) -> list[tuple[float, float]]:
    """Part and whole of a question in each row."""
    of_rows = [found.get(name, []) for name in names]
    return [(sum(part for part, _ in row), sum(whole for _, whole in row)) for row in of_rows]


def row_names(lines: list[dict], parts: Callable[[dict], Parts]) -> list[str]:
    """The rows of all lines: by their place in a line, then by name."""
    places: dict[str, int] = {}
    for line in lines:
        for place, name in enumerate(parts(line)):
            places.setdefault(name, place)
    return sorted(places, key=lambda name: (places[name], name))


def resampled(
    lines: list[dict], parts: Callable[[dict], Parts], columns: Callable | None = None
) -> dict[str, np.ndarray]:
    """Each row of a result file: name -> [1 + RESAMPLES], first its value, then those of the resamples.

    NaN where a resample has nothing of a row. columns(over, mean) makes further rows: of over(*names), rows
    taken together, and of mean([...]); both are None where questions are missing.
    """
    names = row_names(lines, parts)
    total = dict(zip(names, totals(lines, parts, names), strict=True))

    def over(*together: str) -> np.ndarray | None:
        if not all(name in total and total[name][1, 0] for name in together):
            return None
        part, whole = sum(total[name] for name in together)
        with np.errstate(invalid="ignore"):
            return part / whole

    def mean(rows: list[np.ndarray | None]) -> np.ndarray | None:
        return None if any(row is None for row in rows) else sum(rows) / len(rows)

    found = {name: over(name) for name in names}
    if columns:
        found |= columns(over, mean)
    return {name: row for name, row in found.items() if row is not None}


class OverSeeds(NamedTuple):
    """A row over several trainings."""

    values: list[float]  # of each seed
    mean: float
    deviation: float  # of the sample (n - 1); not a number for a single seed
    low: float  # 95 % interval of the mean
    high: float


def over_seeds(rows: list[np.ndarray]) -> OverSeeds:
    """A row of several seeds, each as `resampled` gives it, or differences of two methods, paired by seed.

    The interval is that of a bootstrap in two levels: seeds are drawn with replacement, and questions are.
    The seeds of a resample meet the same questions: drawn anew for each, these would seem to be many more.
    """
    by_seed = np.stack(rows)  # [seeds, 1 + RESAMPLES]
    values, count = by_seed[:, 0], len(by_seed)
    drawn = np.random.default_rng([SEED, 1]).integers(count, size=(count, RESAMPLES))
    means = np.take_along_axis(by_seed[:, 1:], drawn, axis=0).mean(axis=0)
    deviation = values.std(ddof=1) if count > 1 else math.nan
    return OverSeeds(values.tolist(), values.mean(), deviation, *np.nanquantile(means, INTERVAL))


# ---- two files ----


def check_same_questions(paths: list[Path], headers: list[dict], lines: list[list[dict]]) -> None:
    """Raises UserError when two result files are of different questions, or not finished."""
    for key in ("suite", "data"):
        a, b = (header.get(key) for header in headers)
        if a != b:
            got = f"{paths[1]}: {key}: got {b!r}, {paths[0]} has {a!r}"
            raise UserError(f"{got}; wanted results of the same questions, by the same --data and --limit")
    for path, header, of_file in zip(paths, headers, lines, strict=True):
        if len(of_file) != header.get("questions"):
            got = f"{path}: got {len(of_file)} of {header.get('questions')} questions"
            raise UserError(f"{got}; finish it by the command that made it")
    for number, (a, b) in enumerate(zip(*lines, strict=True), 2):
        if a.get("id") != b.get("id"):
            got = f"{paths[1]}:{number}: got question {b.get('id')!r}, {paths[0]} has {a.get('id')!r}"
            raise UserError(f"{got}; wanted the lines in the order in which evaluate.py writes them")


def heading(paths: list[Path], headers: list[dict]) -> str:
    """What A and B are, and in what else they differ."""
    text = ""
    for letter, path, header in zip("AB", paths, headers, strict=True):
        text += f"{letter}  {path}: {header['model']}, adapter {header['adapter']}\n"
    a, b = headers
    other = [key for key in a if a[key] != b.get(key) and key not in ("model", "adapter")]
    if other:
        text += f"They differ in {', '.join(other)} as well.\n"
    return text + "\n"


def split_verdicts(
    a: list[dict], b: list[dict], parts: Callable[[dict], Parts]
) -> dict[str, tuple[int, int]]:
    """Of each row of verdicts: how many only A has right, how many only B. Raises ValueError: not paired."""
    counts: dict[str, Counter] = {}
    for line_a, line_b in zip(a, b, strict=True):
        of_b = parts(line_b)
        for name, of_a in parts(line_a).items():
            for (right_a, _), (right_b, _) in zip(of_a, of_b[name], strict=True):
                if isinstance(right_a, bool):
                    counts.setdefault(name, Counter())[right_a, right_b] += 1
    return {name: (count[True, False], count[False, True]) for name, count in counts.items()}


def table(
    a: list[dict], b: list[dict], parts: Callable[[dict], Parts], columns: Callable | None = None
) -> str:
    """A row for each of the suite's tables; questions that one of both did not run count nowhere.

    Raises ValueError when lines do not pair.
    """
    pairs = [pair for pair in zip(a, b, strict=True) if was_run(pair[0], parts) and was_run(pair[1], parts)]
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    of_a, of_b = resampled(a, parts, columns), resampled(b, parts, columns)
    split = split_verdicts(a, b, parts)
    rows = [["", "A", "B", "B - A", "95 % interval", "<= 0", "only A right", "only B right", "p"]]
    for name in of_a:
        differences = of_b[name] - of_a[name]
        drawn = differences[1:][~np.isnan(differences[1:])]
        low, high = np.quantile(drawn, INTERVAL)
        cells = [spelled(name, value) for value in (of_a[name][0], of_b[name][0])]
        cells.append(spelled(name, differences[0], "+"))
        cells.append(f"{spelled(name, low, '+')} to {spelled(name, high, '+')}")
        cells.append(f"{np.mean(drawn <= 0):.4f}")
        if name in split:
            only_a, only_b = split[name]
            cells += [str(only_a), str(only_b), f"{mcnemar(only_a, only_b):.4f}"]
        rows.append([name, *cells])
    return layout(rows)


def spelled(name: str, value: float, sign: str = "") -> str:
    """A loss is a number, everything else a share."""
    return f"{value:{sign}.4f}" if name.endswith("loss") else f"{value:{sign}.1%}"
