"""evaluation/roles.py: edit distances against the table in plain Python. test_evaluate.py plays the suite."""

import random

import pytest

from evaluation.roles import distance, similarity


def naive_distance(a: str, b: str) -> int:
    """The table of Levenshtein's distance, entry by entry."""
    row = list(range(len(a) + 1))
    for j, letter in enumerate(b, 1):
        above, row = row, [j]
        for i, other in enumerate(a, 1):
            row.append(min(above[i] + 1, row[i - 1] + 1, above[i - 1] + (other != letter)))
    return row[-1]


@pytest.mark.parametrize("a, b, wanted", [("", "", 1), ("", "ab", 0), ("ab", "", 0), ("ab", "abcd", 0.5)])
def test_similarity(a, b, wanted):
    assert similarity(a, b) == wanted


def test_distance_is_that_of_the_plain_table():
    assert distance("kitten", "sitting") == 3
    chance = random.Random(0)
    for _ in range(300):
        a = "".join(chance.choices("abé😀", k=chance.randrange(90)))
        b = "".join(chance.choices("abé😀", k=chance.randrange(90)))
        assert distance(a, b) == naive_distance(a, b), (a, b)
