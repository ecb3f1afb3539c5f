"""evaluation/compare.py: McNemar's test against published values, the bootstrap against plain resampling.

test_evaluate.py plays the suites; here are lines that hold what compare.py reads of them.
"""

import itertools
import math
import random
from statistics import NormalDist, mean, stdev

import numpy as np
import pytest
from test_bfcl import SCORES

from cli import UserError
from evaluation import bfcl, compare, maths


def lines_of(scores: dict[str, list[bool | None]]) -> list[dict]:
    return [{"category": name, "valid": valid} for name, verdicts in scores.items() for valid in verdicts]


def problems(verdicts: list[int], level: str = "") -> list[dict]:
    return [{"category": "GSM8K", "level": level, "type": "", "valid": bool(right)} for right in verdicts]


# ---- McNemar ----


@pytest.mark.parametrize(
    "only_a, only_b, p", [(10, 2, 0.03857), (5, 5, 1), (30, 15, 0.03570), (0, 6, 0.03125), (0, 0, 1)]
)
def test_mcnemar(only_a, only_b, p):
    assert compare.mcnemar(only_a, only_b) == pytest.approx(p, abs=5e-6)
    assert compare.mcnemar(only_b, only_a) == compare.mcnemar(only_a, only_b)


def test_mcnemar_of_thousands_of_questions():
    assert 0 < compare.mcnemar(2500, 2300) < 0.005


# ---- the bootstrap ----


def test_draws_are_with_replacement_within_each_category():
    first, *rest = compare.draws([3, 5])
    assert [times.tolist() for times in first] == [[[1] * 3], [[1] * 5]]
    for i, n in enumerate((3, 5)):
        times = np.concatenate([drawn[i] for drawn in rest])
        assert times.shape == (compare.RESAMPLES, n) == (10_000, n)
        assert (times.sum(axis=1) == n).all()
        assert times.mean(axis=0) == pytest.approx(np.ones(n), abs=0.05)
        assert times.var(axis=0) == pytest.approx(np.full(n, 1 - 1 / n), abs=0.05)
    again = [drawn[1] for drawn in compare.draws([3, 5])]
    assert all((one[1] == other).all() for one, other in zip([first, *rest], again, strict=True))


def test_rows_are_the_columns_of_plain_resampling():
    """The suite's own columns, over all questions and over the questions that a resample has drawn."""
    lines = lines_of(SCORES)
    rows = compare.resampled(lines, bfcl.parts, bfcl.compared)
    judged = {name: [v for v in verdicts if v is not None] for name, verdicts in SCORES.items()}
    judged = {name: verdicts for name, verdicts in judged.items() if verdicts}
    sizes = [len(verdicts) for verdicts in judged.values()]
    first, some, *_ = compare.draws(sizes)
    for k in range(40):
        drawn = [times[0] for times in first] if k == 0 else [times[k - 1] for times in some]
        scores = {}
        for (name, verdicts), times in zip(judged.items(), drawn, strict=True):
            pairs = zip(verdicts, times, strict=True)
            scores[name] = [verdict for verdict, count in pairs for _ in range(int(count))]
        wanted = {name: column.accuracy for name, column in bfcl.columns(scores).items()}
        without = [wanted[name] for name in ("Non-live AST", "Non-live Exec", "Live AST")]
        wanted |= {name: mean(verdicts) for name, verdicts in scores.items()}
        wanted["Average without relevance"] = mean(without)
        assert {name: row[k] for name, row in rows.items()} == pytest.approx(wanted)


def test_a_column_without_its_questions_is_no_row():
    rows = compare.resampled(lines_of(SCORES | {"live_relevance": [None]}), bfcl.parts, bfcl.compared)
    assert not {"Relevance", "Average", "rest"} & rows.keys()
    assert {"Live AST", "Average without relevance"} <= rows.keys()
    rows = compare.resampled(lines_of(SCORES | {"live_parallel": []}), bfcl.parts, bfcl.compared)
    assert not {"Live AST", "Average", "Average without relevance"} & rows.keys()


def row_of(table: str, name: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"{name}  "))
    return line[len(name) :].split()


def test_interval_and_share_are_those_of_a_mean_of_differences():
    """Of 400 questions, as a normal distribution has them; the ends of an unpaired test lie farther apart."""
    chance = random.Random(0)
    a = [chance.random() < 0.5 for _ in range(400)]
    b = [right if chance.random() < 0.8 else chance.random() < 0.7 for right in a]
    table = compare.table(problems(a), problems(b), maths.parts)
    differences = [after - before for before, after in zip(a, b, strict=True)]
    normal = NormalDist(mean(differences), stdev(differences) / math.sqrt(400))
    of_a, of_b, difference, low, to, high, not_above, only_a, only_b, p = row_of(table, "GSM8K")
    assert [of_a, of_b, to] == [f"{mean(a):.1%}", f"{mean(b):.1%}", "to"]
    assert difference == f"{mean(differences):+.1%}"
    assert float(low[:-1]) / 100 == pytest.approx(normal.inv_cdf(0.025), abs=0.004)
    assert float(high[:-1]) / 100 == pytest.approx(normal.inv_cdf(0.975), abs=0.004)
    assert float(not_above) == pytest.approx(normal.cdf(0), abs=0.01)
    assert [int(only_a), int(only_b)] == [differences.count(-1), differences.count(1)]
    assert p == f"{compare.mcnemar(int(only_a), int(only_b)):.4f}"


def test_a_question_that_one_did_not_run_counts_nowhere():
    a, b = {"x": [True, True, False, None]}, {"x": [True, None, True, True]}
    table = compare.table(lines_of(a), lines_of(b), bfcl.parts)
    assert row_of(table, "x")[:3] == ["50.0%", "100.0%", "+50.0%"]
    assert row_of(table, "x")[-3:] == ["0", "1", "1.0000"]


def test_rows_in_the_order_of_the_suites_table():
    lines = problems([1, 0], "Level 5") + problems([1], "Level 1")
    table = compare.table(lines, lines, maths.parts)
    assert [line[:7] for line in table.splitlines()[1:]] == ["GSM8K  ", "Level 1", "Level 5"]
    assert "nan" not in table  # though some resamples have nothing of level 1


# ---- seeds ----


def test_seeds():
    chance = np.random.default_rng(5)
    questions = chance.normal(0.5, 0.1, 1 + compare.RESAMPLES)
    same = compare.over_seeds([questions] * 3)
    assert (same.low, same.high) == pytest.approx(tuple(np.quantile(questions[1:], (0.025, 0.975))))
    assert same.deviation == 0

    values = [0.1, 0.2, 0.6, 0.35]
    apart = compare.over_seeds([np.full(1 + compare.RESAMPLES, value) for value in values])
    assert apart.values == values and apart.mean == pytest.approx(mean(values))
    assert apart.deviation == pytest.approx(stdev(values))
    means = [mean(drawn) for drawn in itertools.product(values, repeat=4)]
    assert (apart.low, apart.high) == pytest.approx(tuple(np.quantile(means, (0.025, 0.975))), abs=0.02)
    assert math.isnan(compare.over_seeds([questions]).deviation)

    both = compare.over_seeds([questions + value for value in values])
    assert both.high - both.low > max(same.high - same.low, apart.high - apart.low)


# ---- refusals ----


@pytest.mark.parametrize(
    "header, ids, words",
    [
        ({"suite": "math"}, "xy", "B: suite: got 'math', A has 'bfcl'; wanted"),
        ({"data": "2"}, "xy", "B: data: got '2', A has '1'; wanted"),
        ({"questions": 3}, "xy", "B: got 2 of 3 questions; finish it"),
        ({}, "yx", "B:2: got question 'y', A has 'x'; wanted"),
    ],
)
def test_files_of_different_questions(header, ids, words):
    headers = [{"suite": "bfcl", "data": "1", "questions": 2}]
    headers.append(headers[0] | header)
    lines = [[{"id": id} for id in each] for each in ("xy", ids)]
    compare.check_same_questions(["A", "B"], headers[:1] * 2, lines[:1] * 2)
    with pytest.raises(UserError) as caught:
        compare.check_same_questions(["A", "B"], headers, lines)
    assert str(caught.value).startswith(words)


def test_heading():
    a = {"model": "tiny", "adapter": "none", "code": "1", "dtype": "float32"}
    text = compare.heading(["x", "y"], [a, a | {"adapter": "f00"}])
    assert text == "A  x: tiny, adapter none\nB  y: tiny, adapter f00\n\n"
    text = compare.heading(["x", "y"], [a, a | {"dtype": "bfloat16"}])
    assert "\nThey differ in dtype as well.\n" in text
