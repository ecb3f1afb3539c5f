"""Write docs/evidence.md from the result files alone, byte for byte the same whenever it is asked.

    python -m evidence.report          the text, with the tables in it
    python -m evidence.figures         the pictures beside it

The words stand in evidence/template.md. There a line `<!-- tiny: Table 6 -->` becomes that table of a study.
What has no result yet is left out of a table, and said below it.

A share over several seeds is their mean and sample deviation; its interval, and that of a difference, comes
from a bootstrap in two levels, seeds and questions (evaluation/compare.py).
"""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cli import ArgumentParser, run, write_whole
from evaluation.compare import OverSeeds, draws, over_seeds
from evidence.plan import RATES, Run, dev_loss, plan
from evidence.similarity import MEASURES
from evidence.study import RESULTS, ROOT, read_results
from mor import ROLES

UNSEEN, SEEN = "test-unseen", "test-seen"
HEADLINE = "exact_own", "executor_turns"  # calls exactly right after the reasoner's own words
SHARES = {  # columns: the name of a part and of its whole in a result file
    "calls, own words": HEADLINE,
    "calls": ("exact", "executor_turns"),
    "next role": ("next_role", "reasoner_turns"),
}
TEMPLATE, REPORT = ROOT / "evidence" / "template.md", ROOT / "docs" / "evidence.md"


# ---- numbers ----


def share(result: dict, file: str, part: str, whole: str) -> np.ndarray:
    """A share of right turns in one file of questions, then in each resample of its questions."""
    of_file = result["files"][file]
    questions = np.array([of_file[part], of_file[whole]], dtype=float).T  # [n, 2]
    sums = np.concatenate([times[0] @ questions for times in draws([len(questions)])])
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

    def missing(self, table: str) -> int:
        """How many runs of a table have no result yet, of those that are known."""
        return sum(one.table == table and one.name not in self.results for one in self.runs)


# ---- tables ----


def markdown(rows: list[list[str]]) -> str:
    """A table as Markdown has it, the first column on the left."""
    head, *others = rows
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
    """The loss on the development files of each method and rate; the least of a row is bold."""
    methods = study.of("sweep")
    rates = [lr for lr in RATES if any(one.lr == lr for runs in methods.values() for one in runs)]
    rows = [["method", *(f"{lr:g}" for lr in rates)]]
    for method, runs in methods.items():
        losses = {one.lr: dev_loss(study.results[one.name]) for one in runs}
        best = min(losses, key=losses.get)
        cells = []
        for lr in rates:
            text = f"{losses[lr]:.4f}" if lr in losses else ""
            cells.append(f"**{text}**" if lr == best else text)
        rows.append([method, *cells])
    return markdown(rows)


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
    return f"\n{count} of the planned runs have no result yet.\n" if count else ""


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
    of_all = with_rivals(study, "Table 7", "MoR", "LoRA")
    whole = {m: [r for r in of_all.get(m, []) if "--samples" not in r["flags"]] for m in ("MoR", "LoRA")}
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
    rows = [["LoRAs", "rank", *(f"{role}: loss" for role in ROLES), *(f"{role}: near" for role in ROLES)]]
    counts = sorted({int(method.rsplit(" ", 1)[1]) for method in runs})
    for count in counts:
        of_roles = {role: runs.get(f"{role} alone, {count}", []) for role in ROLES}
        losses, near = [], []
        for role, results in of_roles.items():
            some = bool(results)
            losses.append(f"{np.mean([loss(r, UNSEEN, role) for r in results]):.4f}" if some else "")
            near.append(f"{100 * np.mean([nearness(r, UNSEEN, role) for r in results]):.1f}" if some else "")
        rows.append([str(count), str(2 * count), *losses, *near])
    return markdown(rows) + still_missing(study, "Fig. 4")


def figure_5(study: Study) -> str:
    """Mean measures of similarity over all linears, with and without the orthogonal loss."""
    rivals = {
        "with (MoR)": study.whole("Table 6").get("MoR", []),
        "without": study.whole("Table 4").get("MoR, with balance loss", []),
    }
    rows = [["orthogonal loss", "LoRAs of", *MEASURES, "norm"]]
    for name, results in rivals.items():
        if not results:
            continue
        found = [result["similarity"] for result in results]
        for role in ROLES:
            measures = [mean_measure([each["roles"][role] for each in found], name) for name in MEASURES]
            norm = np.mean([mean_of(each["norms"][role]) for each in found])
            rows.append([name, f"one role: {role}", *measures, f"{norm:.3f}"])
        between = [mean_measure([each["between"] for each in found], name) for name in MEASURES]
        rows.append([name, "two roles", *between, ""])
    return markdown(rows)


def mean_measure(columns: list[dict], name: str) -> str:
    """A measure of similarity, the mean over linears and runs."""
    return f"{np.mean([mean_of(of_run[name]) for of_run in columns]):.4f}"


def mean_of(values: list[float | None]) -> float:
    """Over linears; those without a value are left out."""
    return float(np.mean([value for value in values if value is not None]))


TABLES: dict[str, Callable[[Study], str]] = {
    "sweep": sweep_table,
    "Table 4": table_4,
    "Table 5": table_5,
    "Table 6": table_6,
    "Table 7": table_7,
    "Fig. 4": figure_4,
    "Fig. 5": figure_5,
}


# ---- the report ----


def report(template: str) -> str:
    """The template with its tables."""
    studies = {path.name: Study(path.name) for path in sorted(RESULTS.glob("*")) if path.is_dir()}

    def table(found: re.Match) -> str:
        study, name = found[1], found[2]
        return TABLES[name](studies[study]).rstrip("\n") if study in studies else "Not run yet."

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
