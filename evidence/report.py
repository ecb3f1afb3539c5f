"""Write docs/evidence.md from the result files alone, byte for byte the same whenever it is asked.

    python -m evidence.report          the text, with the tables in it
    python -m evidence.figures         the pictures beside it

The words stand in evidence/template.md. There a line `<!-- tiny: Table 6 -->` becomes that table of a study.
What has no result yet is left out of a table, and said below it. `<!-- cost: tables -->` is of cost.py.

A share over several seeds is their mean and sample deviation; its interval, and that of a difference, comes
from a bootstrap in two levels, seeds and questions (evaluation/compare.py).
"""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from cli import ArgumentParser, run, write_whole
from evaluation.compare import OverSeeds, draws, mcnemar, over_seeds, resampled, split_verdicts
from evaluation.tables import PAPER, wilson
from evidence import cost
from evidence.plan import RATES, Run, dev_loss, plan
from evidence.similarity import MEASURES
from evidence.study import CATEGORIES, RESULTS, ROOT, read_results
from mor import ROLES

UNSEEN, SEEN = "test-unseen", "test-seen"
HEADLINE = "exact_own", "executor_turns"  # calls exactly right after the reasoner's own words
SHARES = {  # columns: the name of a part and of its whole in a result file
    "calls, own words": HEADLINE,
    "calls": ("exact", "executor_turns"),
    "next role": ("next_role", "reasoner_turns"),
}
MEANS = {  # of BFCL's categories, each with the same weight; the first is the headline
    "mean of all": CATEGORIES,
    "mean of calls": CATEGORIES[:6],
    "mean of no call": CATEGORIES[6:],
}
AIMS = {"simple_python": 55, "multiple": 40, "irrelevance": 60}  # per cent, in the same run
TEMPLATE, REPORT = ROOT / "evidence" / "template.md", ROOT / "docs" / "evidence.md"


# ---- numbers ----


@cache
def all_draws(size: int) -> np.ndarray:
    """How often each question of a file is drawn in each resample; every file of that size meets the same."""
    return np.concatenate([times[0] for times in draws([size])]).astype(float)


def share(result: dict, file: str, part: str, whole: str) -> np.ndarray:
    """A share of right turns in one file of questions, then in each resample of its questions."""
    of_file = result["files"][file]
    questions = np.array([of_file[part], of_file[whole]], dtype=float).T  # [n, 2]
    sums = all_draws(len(questions)) @ questions
    return sums[:, 0] / sums[:, 1]


def loss(result: dict, file: str, role: str | None = None) -> float:
    """Cross-entropy a supervised token, of one role or of all."""
    rows = result["files"][file]["sums"]
    if role:
        rows = [rows[ROLES.index(role)]]
    return sum(row[0] for row in rows) / sum(row[2] for row in rows)


def nearness(result: dict, file: str, role: str) -> float:
    """Levenshtein accuracy of a role's turns."""
    total, turns = result["files"][file]["levenshtein"][role]
    return total / turns


class Study:
    """The runs of a study that have a result, by table and method."""

    def __init__(self, name: str):
        self.results = read_results(name)
        self.runs = list(plan(name, self.results))

    def of(self, table: str) -> dict[str, list[Run]]:
        """Runs with a result, by method, in the order of the plan."""
        found: dict[str, list[Run]] = {}
        for one in self.runs:
            if one.table == table and one.name in self.results:
                found.setdefault(one.method, []).append(one)
        return found

    def whole(self, table: str) -> dict[str, list[dict]]:
        """Results by method, without trainings that broke off."""
        results = {
            method: [self.results[one.name] for one in runs] for method, runs in self.of(table).items()
        }
        return {method: [r for r in each if "failed" not in r] for method, each in results.items()}

    def is_whole(self, table: str, method: str) -> bool:
        """Whether all planned runs of a method have a result."""
        runs = [one for one in self.runs if (one.table, one.method) == (table, method)]
        return all(one.name in self.results for one in runs)

    def missing(self, table: str) -> int:
        """How many runs of a table have no result yet, of those that are known."""
        return sum(one.table == table and one.name not in self.results for one in self.runs)


# ---- tables ----


def markdown(rows: list[list[str]]) -> str:
    """A table as Markdown has it, the first column on the left; without rows nothing."""
    head, *others = rows
    if not others:
        return ""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *others]
    return "".join(f"| {' | '.join(row)} |\n" for row in lines)


def percent(found: OverSeeds) -> str:
    """Mean, deviation over the seeds and interval, as 55.1 ± 2.0 (51.0 to 59.3)."""
    deviation = "" if len(found.values) == 1 else f" ± {100 * found.deviation:.1f}"
    return f"{100 * found.mean:.1f}{deviation} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def points(found: OverSeeds) -> str:
    """A difference in percentage points."""
    return f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def sweep_table(study: Study) -> str:
    """The loss on the development files of each method and rate; the least of a whole row is bold."""
    methods = study.of("sweep")
    rates = [lr for lr in RATES if any(one.lr == lr for runs in methods.values() for one in runs)]
    rows = [["method", *(f"{lr:g}" for lr in rates)]]
    for method, runs in methods.items():
        losses = {one.lr: dev_loss(study.results[one.name]) for one in runs}
        best = min(losses, key=losses.get) if study.is_whole("sweep", method) else None
        cells = []
        for lr in rates:
            text = f"{losses[lr]:.4f}" if lr in losses else ""
            cells.append(f"**{text}**" if lr == best else text)
        rows.append([method, *cells])
    return markdown(rows) + still_missing(study, "sweep")


def methods_table(study: Study, table: str, rivals: dict[str, list[dict]], base: str) -> str:
    """A row for each method: parameters, seeds, shares, loss; the difference of the headline to `base`."""
    rows = [["method", "trained", "seeds", *SHARES, "calls, seen", "loss", f"to {base}"]]
    of_base = {result["seed"]: result for result in rivals.get(base, [])}
    for method, results in rivals.items():
        cells = [f"{results[0]['trained_parameters']:,}", str(len(results))]
        for part, whole in SHARES.values():
            cells.append(percent(over_seeds([share(result, UNSEEN, part, whole) for result in results])))
        cells.append(percent(over_seeds([share(result, SEEN, *HEADLINE) for result in results])))
        cells.append(f"{np.mean([loss(result, UNSEEN) for result in results]):.4f}")
        rows.append([method, *cells, difference(results, of_base) if method != base else ""])
    return markdown(rows) + still_missing(study, table)


def difference(results: list[dict], of_base: dict[int, dict]) -> str:
    """Of the headline to another method, paired by seed and by question."""
    rows = [
        share(result, UNSEEN, *HEADLINE) - share(of_base[result["seed"]], UNSEEN, *HEADLINE)
        for result in results
        if result["seed"] in of_base
    ]
    return points(over_seeds(rows)) if rows else ""


def still_missing(study: Study, table: str) -> str:
    """A line on runs without a result."""
    count = study.missing(table)
    return f"\nWithout a result so far: {count} of the planned runs.\n" if count else ""


def table_6(study: Study) -> str:
    return methods_table(study, "Table 6", study.whole("Table 6"), "LoRA")


def with_rivals(study: Study, table: str, *methods: str) -> dict[str, list[dict]]:
    """A table's results, and those of some methods of Table 6 at the same seeds before them."""
    found = study.whole(table)
    seeds = {result["seed"] for results in found.values() for result in results}
    of_methods = study.whole("Table 6")
    first = {
        method: [result for result in of_methods.get(method, []) if result["seed"] in seeds]
        for method in methods
    }
    return {method: results for method, results in (first | found).items() if results}


def table_4(study: Study) -> str:
    return methods_table(study, "Table 4", with_rivals(study, "Table 4", "MoR"), "MoR")


def table_5(study: Study) -> str:
    return methods_table(study, "Table 5", with_rivals(study, "Table 5", "MoR", "LoRA"), "MoR")


def table_7(study: Study) -> str:
    """The headline by the number of samples, MoR and LoRA side by side."""
    by_samples: dict[int, dict[str, list[dict]]] = {}
    for method, results in study.whole("Table 7").items():
        for result in results:
            samples = int(result["flags"].split("--samples ")[1])
            by_samples.setdefault(samples, {}).setdefault(method, []).append(result)
    rows = [["samples", "seeds", "MoR", "LoRA", "MoR to LoRA", "loss of MoR", "loss of LoRA"]]
    seeds = {
        result["seed"] for rivals in by_samples.values() for results in rivals.values() for result in results
    }
    of_all = study.whole("Table 6")
    whole = {m: [r for r in of_all.get(m, []) if r["seed"] in seeds] for m in ("MoR", "LoRA")}
    for samples, rivals in [*sorted(by_samples.items()), ("all", whole)]:
        if not rivals.get("MoR") or not rivals.get("LoRA"):
            continue
        cells = [
            percent(over_seeds([share(r, UNSEEN, *HEADLINE) for r in rivals[m]])) for m in ("MoR", "LoRA")
        ]
        cells.append(difference(rivals["MoR"], {result["seed"]: result for result in rivals["LoRA"]}))
        cells += [f"{np.mean([loss(r, UNSEEN) for r in rivals[m]]):.4f}" for m in ("MoR", "LoRA")]
        rows.append([str(samples), str(len(rivals["MoR"])), *cells])
    return markdown(rows) + still_missing(study, "Table 7")


def figure_4(study: Study) -> str:
    """Loss and Levenshtein accuracy of each role by the number of LoRAs, means over seeds."""
    runs = study.whole("Fig. 4")
    heads = [*(f"{role}: loss" for role in ROLES), *(f"{role}: near" for role in ROLES)]
    rows = [["LoRAs", "rank", "trained", *heads]]
    counts = sorted({int(method.rsplit(" ", 1)[1]) for method in runs})
    for count in counts:
        of_roles = {role: runs.get(f"{role} alone, {count}", []) for role in ROLES}
        losses, near = [], []
        trained = {f"{result['trained_parameters']:,}" for each in of_roles.values() for result in each}
        for role, results in of_roles.items():
            some = bool(results)
            losses.append(f"{np.mean([loss(r, UNSEEN, role) for r in results]):.4f}" if some else "")
            near.append(f"{100 * np.mean([nearness(r, UNSEEN, role) for r in results]):.1f}" if some else "")
        rows.append([str(count), str(2 * count), *trained, *losses, *near])
    return markdown(rows) + gains(study, counts) + still_missing(study, "Fig. 4")


def gains(study: Study, counts: list[int]) -> str:
    """What part of the loss that is gained from the fewest LoRAs to the most each step gains."""
    rows = [["step", *ROLES, "were it straight in log2"]]
    if not is_figure_4_whole(study):
        return ""
    means = {role: mean_losses(study, role, counts) for role in ROLES}
    octaves = np.log2(counts)
    for i, (few, many) in enumerate(zip(counts, counts[1:], strict=False)):
        cells = [
            f"{100 * (of[i] - of[i + 1]) / (of[0] - of[-1]):.0f} %" for of in (means[role] for role in ROLES)
        ]
        straight = (octaves[i + 1] - octaves[i]) / (octaves[-1] - octaves[0])
        rows.append([f"{few} to {many}", *cells, f"{100 * straight:.0f} %"])
    return "\n" + markdown(rows)


def mean_losses(study: Study, role: str, counts: list[int]) -> list[float]:
    """Of a role that is trained alone, for each number of LoRAs."""
    runs = study.whole("Fig. 4")
    return [float(np.mean([loss(r, UNSEEN, role) for r in runs[f"{role} alone, {n}"]])) for n in counts]


def is_figure_4_whole(study: Study) -> bool:
    """Whether each role has a result for each number of LoRAs."""
    planned = {one.method for one in study.runs if one.table == "Fig. 4"}
    return bool(planned) and planned == {method for method, each in study.whole("Fig. 4").items() if each}


def figure_5(study: Study) -> str:
    """Mean measures of similarity over all linears, with and without the orthogonal loss."""
    rows = [["orthogonal loss", "LoRAs of", *MEASURES, "norm"]]
    for name, results in orthogonal_rivals(study).items():
        found = [result["similarity"] for result in results]
        for role in ROLES:
            measures = [mean_measure([each["roles"][role] for each in found], name) for name in MEASURES]
            norm = np.mean([mean_of(each["norms"][role]) for each in found])
            rows.append([name, f"one role: {role}", *measures, f"{norm:.3f}"])
        between = [mean_measure([each["between"] for each in found], name) for name in MEASURES]
        rows.append([name, "two roles", *between, ""])
    return markdown(rows)


def orthogonal_rivals(study: Study) -> dict[str, list[dict]]:
    """MoR with and without the orthogonal loss, as far as there are results."""
    rivals = {
        "with (MoR)": study.whole("Table 6").get("MoR", []),
        "without": study.whole("Table 4").get("MoR, with balance loss", []),
    }
    return {name: results for name, results in rivals.items() if results}


def mean_measure(columns: list[dict], name: str) -> str:
    """A measure of similarity, the mean over linears and runs."""
    return f"{np.mean([mean_of(of_run[name]) for of_run in columns]):.4f}"


def mean_of(values: list[float | None]) -> float:
    """Over linears; those without a value are left out."""
    return float(np.mean([value for value in values if value is not None]))


# ---- BFCL with a real model ----


def bfcl_lines(result: dict) -> list[dict]:
    """A line for each question of BFCL."""
    found = result["files"]["bfcl"].items()
    return [{"category": category, "valid": valid} for category, each in found for valid in each]


def bfcl_parts(line: dict) -> dict[str, list]:
    """What a line adds to the rows; nothing where the question was not run."""
    return {line["category"]: [] if line["valid"] is None else [(line["valid"], 1)]}


def bfcl_means(over: Callable, mean: Callable) -> dict:
    """The rows of MEANS."""
    return {name: mean([over(category) for category in of]) for name, of in MEANS.items()}


def bfcl_rows(result: dict) -> dict[str, np.ndarray]:
    """Each category and each of MEANS: its share of right questions, then that in every resample."""
    return rows_of(tuple((category, tuple(of)) for category, of in result["files"]["bfcl"].items()))


@cache
def rows_of(answers: tuple) -> dict[str, np.ndarray]:
    """bfcl_rows of what can be looked up again."""
    return resampled(bfcl_lines({"files": {"bfcl": dict(answers)}}), bfcl_parts, bfcl_means)


def compared(study: Study) -> dict[str, list[dict]]:
    """The results of Table 6 that have answers to BFCL, by method."""
    return {
        method: [result for result in results if "bfcl" in result["files"]]
        for method, results in study.whole("Table 6").items()
    }


def categories_table(study: Study) -> str:
    """A row for each category, a column for each run; Wilson's intervals, of a mean the bootstrap's."""
    runs = [(method, result) for method, results in compared(study).items() for result in results]
    names = [method if method == "base" else f"{method}, seed {result['seed']}" for method, result in runs]
    rows, shares = [["BFCL", "questions", "aim", *names]], [bfcl_rows(result) for _, result in runs]
    for category in CATEGORIES if runs else ():
        verdicts = [[v for v in result["files"]["bfcl"][category] if v is not None] for _, result in runs]
        cells = [with_interval(wilson(sum(each), len(each))) for each in verdicts]
        aim = f"{AIMS[category]}" if category in AIMS else ""
        rows.append([category, str(len(verdicts[0])), aim, *cells])
    for name, of in MEANS.items() if runs else ():
        count = sum(len(runs[0][1]["files"]["bfcl"][category]) for category in of)
        rows.append([name, str(count), "", *(percent(over_seeds([share[name]])) for share in shares)])
    return markdown(rows) + still_missing(study, "Table 6")


def with_interval(column) -> str:
    """A share as 35.0 (25.2 to 46.3)."""
    return f"{100 * column.accuracy:.1f} ({100 * column.low:.1f} to {100 * column.high:.1f})"


def differences_table(study: Study) -> str:
    """MoR to the others: by the bootstrap over questions and seeds, by McNemar for each seed."""
    rivals, rows = compared(study), [["MoR to", "seeds", *MEANS, "only MoR right, only the other, p"]]
    for method, results in rivals.items():
        if method == "MoR":
            continue
        pairs = [(mor, other) for mor in rivals.get("MoR", []) for other in results if meet(mor, other)]
        if not pairs:
            continue
        shares = [(bfcl_rows(mor), bfcl_rows(other)) for mor, other in pairs]
        cells = [points(over_seeds([mor[name] - other[name] for mor, other in shares])) for name in MEANS]
        splits = "; ".join(split(mor, other) for mor, other in pairs)
        rows.append([method, str(len(pairs)), *cells, splits])
    return markdown(rows)


def meet(mor: dict, other: dict) -> bool:
    """Whether two results are compared: of one seed, or the other has none."""
    return other["method"] == "base" or mor["seed"] == other["seed"]


def split(mor: dict, other: dict) -> str:
    """How many questions only one of two has right, and McNemar's p."""
    counts = split_verdicts(bfcl_lines(mor), bfcl_lines(other), bfcl_parts).values()
    only_mor, only_other = (sum(column) for column in zip(*counts, strict=True))
    return f"seed {mor['seed']}: {only_mor}, {only_other}, {mcnemar(only_mor, only_other):.4f}"


def budget_table(study: Study) -> str:
    """What each run of Table 6 was given and what it took."""
    head = ["run", "trained", "rate", "steps", "tokens", "supervised", "minutes", "questions, minutes"]
    rows = [[*head, "peak memory, GB", "loss"]]
    for method, results in compared(study).items():
        for result in (result for result in results if "steps" in result):
            numbers = [f"{result[name]:,}" for name in ("steps", "tokens", "supervised_tokens")]
            minutes = [f"{result['seconds'][part] / 60:.0f}" for part in ("train", "evaluate")]
            memory = f"{result['peak_memory_bytes'] / 1e9:.1f}"
            first = [f"{method}, seed {result['seed']}", f"{result['trained_parameters']:,}"]
            rows.append([*first, f"{result['lr']:g}", *numbers, *minutes, memory, f"{dev_loss(result):.4f}"])
    return markdown(rows)


def curve(study: Study) -> dict[str, dict[int, list[dict]]]:
    """Results by method and number of steps, the fewest first; the base is both methods' at 0."""
    found: dict[str, dict[int, list[dict]]] = {}
    base = compared(study).get("base", [])
    for method in ("MoR", "LoRA"):
        results = [*study.whole("curve").get(method, []), *compared(study).get(method, [])]
        by_steps = {0: base} if base else {}
        for result in sorted(results, key=lambda result: result["steps"]):
            by_steps.setdefault(result["steps"], []).append(result)
        found[method] = by_steps
    return found


def curve_table(study: Study) -> str:
    """BFCL by the tokens that a model was trained on."""
    points_of = curve(study)
    rows = [["steps", "tokens", *(f"{method}: {name}" for method in points_of for name in MEANS)]]
    for steps in sorted({steps for by_steps in points_of.values() for steps in by_steps}):
        of_methods = [by_steps.get(steps, []) for by_steps in points_of.values()]
        tokens = max(result.get("tokens", 0) for results in of_methods for result in results)
        cells = [cell for results in of_methods for cell in mean_cells(results)]
        rows.append([str(steps), f"{tokens:,}", *cells])
    return markdown(rows) + still_missing(study, "curve")


def mean_cells(results: list[dict]) -> list[str]:
    """A cell for each of MEANS, over the seeds; empty without a result."""
    shares = [bfcl_rows(result) for result in results]
    return [percent(over_seeds([share[name] for share in shares])) if shares else "" for name in MEANS]


def table_3(study: Study) -> str:
    """GSM8K by the base, and the paper's figures."""
    rows = [["GSM8K", "problems", "right, %"]]
    for results in study.whole("Table 3").values():
        for result in results:
            verdicts = [v for v in result["files"]["maths"]["GSM8K"] if v is not None]
            share = with_interval(wilson(sum(verdicts), len(verdicts)))
            rows.append(["Qwen2.5-Coder-1.5B-Instruct, with Python", str(len(verdicts)), share])
    if len(rows) > 1:
        of_paper = PAPER["qwen2.5-coder-1.5b"]
        for name, figure in zip(of_paper.heads, of_paper.rows["GSM8K"], strict=True):
            rows.append([f"{name} (Qwen2.5-Coder-1.5B)", "1319", f"{figure}"])
    return markdown(rows) + still_missing(study, "Table 3")


TABLES: dict[str, Callable[[Study], str]] = {
    "sweep": sweep_table,
    "Table 4": table_4,
    "Table 5": table_5,
    "Table 6": table_6,
    "Table 7": table_7,
    "Fig. 4": figure_4,
    "Fig. 5": figure_5,
    "categories": categories_table,
    "differences": differences_table,
    "budget": budget_table,
    "curve": curve_table,
    "Table 3": table_3,
}


# ---- the report ----


def report(template: str) -> str:
    """The template with its tables."""
    studies = {path.name: Study(path.name) for path in sorted(RESULTS.glob("*")) if path.is_dir()}

    def table(found: re.Match) -> str:
        study, name = found[1], found[2]
        if study == "cost":
            return markdown(cost.rows()).rstrip("\n")
        text = TABLES[name](studies[study]) if study in studies else ""
        return text.strip("\n") or "Not run yet."

    text = re.sub(r"<!-- (\w+): (.+) -->", table, template)
    return (
        f"<!-- written by `python -m evidence.report` from evidence/template.md and the results -->\n\n{text}"
    )


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="python -m evidence.report", description=__doc__)
    parser.add_argument("--output", type=Path, default=REPORT, metavar="FILE", help="where to write it")
    args = parser.parse_args(argv)
    text = report(TEMPLATE.read_text("utf-8"))
    write_whole(args.output, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"report in {args.output}")


if __name__ == "__main__":
    import sys

    sys.exit(run(main))
