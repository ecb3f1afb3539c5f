"""evidence/report.py and evidence/figures.py on results made for the purpose."""

import sys
from random import Random

import pytest

from cli import UserError
from evaluation import compare
from evaluation.compare import mcnemar
from evaluation.tables import wilson
from evidence import figures, plan, report, study
from mor import ROLES

LINEARS = [f"model.layers.{i}.{name}" for i in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")]
CHANCES = {"base": 0.1, "full": 0.5, "LoRA": 0.4, "MoR": 0.6}


def roles_file(chance: Random, loss: float) -> dict:
    """As of a file of questions of the tiny study."""
    exact = [chance.randrange(2) for _ in range(12)]
    return {
        "sums": [[loss * 100, 0, 100, 0]] * 3,
        "levenshtein": {role: [9 - loss, 10] for role in ROLES},
        "reasoner_turns": [2] * 12,
        "next_role": [2] * 12,
        "executor_turns": [1] * 12,
        "exact": exact,
        "exact_own": exact,
    }


def similarity(chance: Random) -> dict:
    """As evidence/similarity.py finds it."""

    def columns() -> dict:
        return {name: [chance.uniform(0.001, 0.1) for _ in LINEARS] for name in report.MEASURES}

    shown = {role: [[1.0, 0.02, -0.3], [0.02, 1.0, 0.1], [-0.3, 0.1, 1.0]] for role in ROLES}
    return {
        "shown": {"linear": LINEARS[0], **shown},
        "roles": {role: columns() for role in ROLES},
        "between": columns(),
        "norms": {role: [1.0] * len(LINEARS) for role in ROLES},
        "linears": LINEARS,
    }


def made_up(name: str, one: plan.Run) -> dict:
    """A result of a run, which follows from the run alone."""
    chance = Random(one.name)
    result = {"study": name, "method": one.method, "flags": one.flags, "lr": one.lr, "seed": one.seed}
    result |= {"trained_parameters": 1000, "seconds": {"train": 600, "evaluate": 60}}
    result |= {"supervised_tokens": 5, "peak_memory_bytes": 2e9}
    steps = int(one.flags.split("--steps ")[1].split()[0]) if "--steps" in one.flags else 240
    if one.method != "base":
        result |= {"steps": steps, "tokens": 2000 * steps}
    if name == "smollm2":
        right = CHANCES[one.method] * (1 if one.table == "Table 6" else 0.7)
        answers = {c: [chance.random() < right for _ in range(15)] for c in study.CATEGORIES}
        return result | {"dev_loss": abs(one.lr - 1e-3) + 0.3, "files": {"bfcl": answers}}
    if name == "maths":
        return result | {"files": {"maths": {"GSM8K": [True] * 30 + [False] * 20}}}
    rank = int(one.flags.split("--rank ")[1].split()[0]) if "--rank" in one.flags else 1
    loss = 1 + abs(one.lr - 3e-3) + 0.5 / rank + 0.01 * chance.random()
    names = [f"{one.tested_on}-{kind}" for kind in ("unseen", "seen")]
    return result | {"files": {n: roles_file(chance, loss) for n in names}, "similarity": similarity(chance)}


def fill(name: str, wanted=lambda one: True) -> None:
    """Write made-up results of a study, also of what they add to the plan."""
    while runs := [one for one in study.missing(name, "") if wanted(one)]:
        for one in runs:
            study.write_result(made_up(name, one), study.RESULTS / name / f"{one.name}.json")


@pytest.fixture
def results(monkeypatch, tmp_path):
    """An empty folder of results; few resamples, as they take long."""
    monkeypatch.setattr(compare, "RESAMPLES", compare.AT_ONCE)
    for module in (study, report):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    for cached in (report.all_draws, report.rows_of):
        cached.cache_clear()
    yield tmp_path / "results"
    for cached in (report.all_draws, report.rows_of):
        cached.cache_clear()


def cells(table: str, row: str) -> list[str]:
    """Of the first row with this name."""
    (line, *_) = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


TEMPLATE = "".join(
    f"<!-- {study}: {table} -->\n"
    for study, table in [("cost", "tables"), ("maths", "Table 3"), ("tiny", "Fig. 4"), ("tiny", "sweep")]
    + [("smollm2", name) for name in ("sweep", "budget", "categories", "differences", "curve")]
)


def test_what_has_no_result_says_so_in_a_line(results):
    text = report.report(TEMPLATE)
    assert text.count("Not run yet.\n") == 8 and "Table 6: LoRA, DoRA, full, MoR | 4" in text
    fill("smollm2", lambda one: one.method == "base")
    text = report.report(TEMPLATE)
    assert "| simple_python | 15 | 55 |" in text and "Without a result so far" in text


def test_a_report_is_the_same_byte_for_byte(results, tmp_path):
    fill("smollm2")
    fill("maths")
    texts = []
    for name in ("a.md", "b.md"):
        report.main(["--output", str(tmp_path / name)])
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1] and texts[0].count(b"Not run yet.") == 7


def test_the_report_in_the_repository_is_that_of_its_results():
    assert report.REPORT.read_text("utf-8") == report.report(report.TEMPLATE.read_text("utf-8"))


def test_a_sweep_has_a_bold_cell_when_it_is_whole(results):
    fill("smollm2", lambda one: one.table == "sweep" and not (one.method == "LoRA" and one.lr == 3e-3))
    table = report.sweep_table(report.Study("smollm2"))
    assert "**0.3000**" in cells(table, "MoR") and "**" not in "".join(cells(table, "LoRA"))
    assert cells(table, "LoRA")[3:] == ["0.3007", "0.3000", ""]


def test_categories_and_differences(results):
    fill("smollm2")
    found = report.Study("smollm2")
    table = report.categories_table(found)
    head = cells(table, "BFCL")
    assert head[3:] == ["base", "MoR, seed 1", "MoR, seed 2", "LoRA, seed 1", "LoRA, seed 2", "full, seed 1"]
    mor_1 = next(r for r in found.whole("Table 6")["MoR"] if r["seed"] == 1)
    right = sum(mor_1["files"]["bfcl"]["multiple"])
    share = wilson(right, 15)
    wanted = f"{100 * share.accuracy:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"
    assert cells(table, "multiple")[4] == wanted
    answers = mor_1["files"]["bfcl"]
    mean = sum(sum(answers[c]) for c in study.CATEGORIES) / 15 / 8
    assert cells(table, "mean of all")[4].startswith(f"{100 * mean:.1f} (")
    none = sum(sum(answers[c]) for c in ("irrelevance", "live_irrelevance")) / 15 / 2
    assert cells(table, "mean of no call")[4].startswith(f"{100 * none:.1f} (")
    assert cells(table, "mean of calls")[1] == "90"

    table = report.differences_table(found)
    lora_1 = next(r for r in found.whole("Table 6")["LoRA"] if r["seed"] == 1)
    pairs = [
        pair
        for category in study.CATEGORIES
        for pair in zip(answers[category], lora_1["files"]["bfcl"][category], strict=True)
    ]
    only = [pairs.count((True, False)), pairs.count((False, True))]
    assert f"seed 1: {only[0]}, {only[1]}, {mcnemar(*only):.4f}" in cells(table, "LoRA")[5]
    assert [cells(table, name)[1] for name in ("base", "LoRA", "full")] == ["2", "2", "1"]


def test_the_curve_starts_with_the_base(results):
    fill("smollm2")
    table = report.curve_table(report.Study("smollm2"))
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == ["0", "60", "120", "240"]
    assert cells(table, "0")[2] == cells(table, "0")[5] and cells(table, "240")[1] == "480,000"
    assert " ± " in cells(table, "240")[2] and " ± " not in cells(table, "60")[2]  # two seeds, one seed


def test_maths_beside_the_paper(results):
    fill("maths")
    table = report.table_3(report.Study("maths"))
    assert "| 50 | 60.0 (46.2 to 72.4) |" in table
    assert "| paper: base (Qwen2.5-Coder-1.5B) | 1319 | 54.7 |" in table


def test_samples_end_with_all_of_them(results):
    methods = ("MoR", "LoRA")
    fill("tiny", lambda one: one.table == "sweep" or (one.method in methods and one.seed == 1))
    fill("tiny", lambda one: one.table == "Table 6" and one.method in methods)
    table = report.table_7(report.Study("tiny"))
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:7]]
    assert [[cell.strip() for cell in row] for row in rows] == [
        [samples, "1"] for samples in ("100", "200", "400", "800", "all")
    ]


# ---- pictures ----


def is_of_pictures(one: plan.Run) -> bool:
    if one.table in ("sweep", "Fig. 4"):
        return True
    shown = (("Table 6", "MoR"), ("Table 4", "MoR, with balance loss"))
    return one.seed == 1 and (one.table, one.method) in shown


def test_pictures_of_made_up_results(results, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    fill("smollm2")
    fill("tiny", is_of_pictures)
    for folder in ("a", "b"):
        figures.main(["--output", str(tmp_path / folder)])
    printed = capsys.readouterr().out
    assert "| 8 | 16 |" in printed and "| step | reasoner |" in printed and "| 240 | 480,000 |" in printed
    _, *parts, straight = cells(printed, "1 to 2")  # made up: loss falls as 1 / rank
    assert all(50 < int(part.split()[0]) < 64 for part in parts) and straight == "33 %"
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(f"{name}.{ending}" for name in figures.FIGURES for ending in ("png", "svg"))
    for name in names:
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes() and len(data) < 90_000
    text = (tmp_path / "a" / "curve.svg").read_text("utf-8")
    assert ">MoR<" in text and ">LoRA<" in text and "<dc:date>" not in text


def test_numbers_without_matplotlib(results, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"matplotlib is not installed.*\[figures\]"):
        figures.main(["--output", str(tmp_path / "pictures")])
    assert capsys.readouterr().out.count("Not run yet.") == 3 and not (tmp_path / "pictures").exists()


def test_no_picture_without_enough_results(results, tmp_path):
    pytest.importorskip("matplotlib")
    fill("smollm2", lambda one: one.method == "base")
    figures.main(["--output", str(tmp_path / "pictures")])
    assert not list((tmp_path / "pictures").iterdir())
