"""evaluation/tables.py: intervals, means, the paper's figures."""

import pytest

from evaluation.tables import PAPER, Column, mean, paper_cells, paper_note, wilson


def test_intervals():
    ends = pytest.approx((0.4902, 0.9433), abs=1e-4)  # as in tables of Wilson's interval
    assert wilson(8, 10)[2:] == ends
    assert wilson(5, 5).high == 1 and 0.5 < wilson(5, 5).low < 0.6
    for n in range(1, 300):  # rounding may not lead out of 0 to 1
        assert 0 <= wilson(0, n).low and wilson(n, n).high <= 1
    one = wilson(60, 100)
    assert mean([one]) == pytest.approx(one)


def test_the_interval_of_a_mean_of_many_questions_is_the_textbooks():
    four = mean([wilson(right * 1000, 10_000) for right in (2, 5, 7, 9)])
    sigma = (sum(p * (1 - p) / 10_000 for p in (0.2, 0.5, 0.7, 0.9)) / 16) ** 0.5
    assert (four.low, four.high) == pytest.approx((0.575 - 1.96 * sigma, 0.575 + 1.96 * sigma), abs=1e-4)


def test_the_papers_average():
    parts = [Column(accuracy, 1, accuracy, accuracy) for accuracy in (0.752, 0.800, 0.607, 0.944)]
    assert round(mean(parts).accuracy, 3) == 0.776


def test_the_papers_average_is_the_mean_of_its_columns():
    """Within the rounding of five figures: a figure copied wrongly would show."""
    for name, reported in PAPER.items():
        if "Average" in reported.rows:
            for figures in zip(*reported.rows.values(), strict=True):
                assert figures[-1] == pytest.approx(sum(figures[:-1]) / 4, abs=0.051), name


def test_the_papers_figures_of_table_2():
    """The base alone, then MoRAgent: Non-live AST, Non-live Exec, Live AST, Relevance, Average."""
    rows = {name: [*zip(*PAPER[name].rows.values(), strict=True)] for name in PAPER}
    assert rows["llama-3.2-1b-instruct"] == [(21.9, 19.2, 29.8, 38.9, 27.5), (75.2, 80.0, 60.7, 94.4, 77.6)]
    assert rows["phi-3.5-mini-instruct"] == [(69.0, 57.3, 58.2, 72.2, 64.2), (83.0, 78.2, 72.7, 94.4, 82.1)]
    assert rows["openpangu-embedded-1b"] == [(23.0, 23.9, 31.5, 16.7, 23.8), (76.9, 72.9, 64.7, 94.4, 77.2)]


def test_the_papers_figures_of_table_3():
    assert PAPER["qwen2.5-coder-1.5b"].rows == {"GSM8K": (54.7, 41.7, 68.5), "MATH": (23.5, 33.5, 45.5)}


@pytest.mark.parametrize("name", [*PAPER])
def test_the_papers_figures_stand_beside_that_base_alone(name):
    """An Instruct model is not its base, nor is a model with a longer name; and each suite has its own."""
    suite = PAPER[name].suite
    header = {"model": name.upper(), "suite": suite}
    assert len(paper_cells(header)) == len(PAPER[name].heads)
    assert "prompts of the roles" in paper_note(header)
    assert ("REST" in paper_note(header)) == (suite == "bfcl")
    others = [{"model": other, "suite": suite} for other in (f"{name}-instruct", f"my-{name}")]
    for other in (*others, header | {"suite": "roles"}):
        assert paper_cells(other) == paper_cells(other, "Average") == []
        assert paper_note(other) == ""
